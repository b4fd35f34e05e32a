"""TLS for clients and between nodes: contexts from the configuration, checked before they replace others.

| option                               | what for                                                               |
| ------------------------------------ | ---------------------------------------------------------------------- |
| `tls-cert-file`, `tls-key-file`      | this node's certificate, towards clients and towards other nodes       |
| `tls-ca-cert-file`, `tls-ca-cert-dir` | who signs the certificates of clients and of other nodes              |
| `tls-auth-clients`                   | whether a client must show a certificate: `yes`, `no`, or `optional`   |
| `tls-protocols`, `tls-ciphers`       | what may be spoken                                                     |

Nodes always show each other certificates, signed by a common authority; names in them are not compared, as the secret
of the cluster tells who belongs to it. A file that is given for both ends needs both usages, or none, in its
extensions.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from respkv.config import Config, ConfigError

_VERSIONS: Final = {
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}


def is_used(config: Config) -> bool:
    return bool(config.tls_port or config.tls_cluster_port or config.tls_cluster)


def options_of(config: Config) -> tuple[object, ...]:
    """All that a context depends on."""
    return tuple(getattr(config, name) for name in vars(config) if name.startswith("tls_"))


def for_clients(config: Config) -> ssl.SSLContext:
    """What listens for clients. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, config)
    if config.tls_auth_clients != "no":
        context.verify_mode = ssl.CERT_REQUIRED if config.tls_auth_clients == "yes" else ssl.CERT_OPTIONAL
        _trust(context, config)
    return context


def for_peers(config: Config, *, dials: bool) -> ssl.SSLContext:
    """What speaks with other nodes. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT if dials else ssl.PROTOCOL_TLS_SERVER, config)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    _trust(context, config)
    return context


def for_tools(config: Config) -> ssl.SSLContext | None:
    """What the command line needs to speak with the standalone view of a node of this configuration; None: nothing.

    Raises ConfigError.
    """
    if config.tls_port != config.port:
        return None
    context = _context(ssl.PROTOCOL_TLS_CLIENT, config)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if config.tls_ca_cert_file is not None or config.tls_ca_cert_dir is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, config)
    return context


class PeerContexts(NamedTuple):
    """What speaks with other nodes: when one dials, and when it is dialed."""

    dials: ssl.SSLContext
    listens: ssl.SSLContext


def peer_contexts(config: Config) -> PeerContexts | None:
    """None: nodes do not speak TLS. Raises ConfigError."""
    if not config.tls_cluster:
        return None
    return PeerContexts(for_peers(config, dials=True), for_peers(config, dials=False))


def check(config: Config) -> None:
    """Raises ConfigError if what the configuration asks for cannot be."""
    if config.tls_port or config.tls_cluster_port:
        for_clients(config)
    peer_contexts(config)


def _context(protocol: int, config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    wanted = sorted(_VERSIONS[word.lower()] for word in config.tls_protocols.split())
    context.minimum_version, context.maximum_version = wanted[0], wanted[-1]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if config.tls_ciphers:
        _load("tls-ciphers", config.tls_ciphers, lambda: context.set_ciphers(config.tls_ciphers))
    certificate, key = config.tls_cert_file, config.tls_key_file
    if certificate is None:
        raise ConfigError("tls-cert-file", "must be given for TLS")
    _check_readable("tls-cert-file", certificate)
    _check_readable("tls-key-file", key)
    _load("tls-cert-file", certificate, lambda: context.load_cert_chain(certificate, key, config.tls_key_file_pass))
    return context


def _trust(context: ssl.SSLContext, config: Config) -> None:
    file, directory = config.tls_ca_cert_file, config.tls_ca_cert_dir
    if file is None and directory is None:
        raise ConfigError("tls-ca-cert-file", "must be given to check certificates (tls-auth-clients, tls-cluster)")
    _check_readable("tls-ca-cert-file", file)
    if directory is not None and not directory.is_dir():
        raise ConfigError("tls-ca-cert-dir", f"{directory}: no such directory")
    _load("tls-ca-cert-file", file or directory, lambda: context.load_verify_locations(file, directory))


def _check_readable(option: str, file: Path | None) -> None:
    try:
        if file is not None:
            file.open("rb").close()
    except OSError as error:
        raise ConfigError(option, f"{file}: {error.strerror}") from None


def _load(option: str, value: object, load: Callable[[], object]) -> None:
    try:
        load()
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error.args[0]
        raise ConfigError(option, f"{value} cannot be used: {reason}") from None
