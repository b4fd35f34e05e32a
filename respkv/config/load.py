"""Brings flags, environment, file and defaults together into one checked `Config`."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from respkv.config.tree import ENVIRONMENT_PREFIX, Cluster, ClusterNode, Config, options
from respkv.config.values import HOST, NODE_ID, PORT, PORT_OR_ZERO, Parser, shown

CLUSTER_PORT_OFFSET: Final = 1_000
PEER_PORT_OFFSET: Final = 10_000
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 (never bound here)
NODES: Final = "cluster.nodes"
_NODE_KEYS: Final = {"id": NODE_ID, "host": HOST, "port": PORT, "cluster-port": PORT_OR_ZERO, "peer-port": PORT_OR_ZERO}
_NODE_TEXT: Final = re.compile(r"([^=]+)=(\[[^]]+\]|[^:]+):([0-9]+)")


class ConfigError(ValueError):
    """A configuration that cannot be used. `option` is the name as the user wrote it, str() the whole line."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


def load(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Config:
    """The configuration from all sources. `flags` are texts by flag name without dashes: `{"cluster-port": "8001"}`.

    `environ` is the process's own if not given. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_environment(os.environ if environ is None else environ))
    values.update(_from_flags(flags or {}))
    return dataclasses.replace(_resolve(values), file=file)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(file), (error.strerror or str(error)).lower()) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"not valid TOML: {error}") from None
    cluster = tables.pop("cluster", {})
    if not isinstance(cluster, dict):
        raise ConfigError(f"{file}: cluster", f"must be a table, not {shown(cluster)}")
    raw = tables | {f"cluster.{key}": value for key, value in cluster.items()}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        written = f"{file}: {name}"
        if name == NODES:
            values[name] = _nodes_from_tables(written, value)
            continue
        if name not in options():
            raise ConfigError(written, "unknown option" + did_you_mean(name, [*options(), NODES]))
        parsed = _parse(written, options()[name].parse, value)
        values[name] = file.parent / parsed if isinstance(parsed, Path) else parsed
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {option.variable: name for name, option in options().items()}
    names[ENVIRONMENT_PREFIX + "CLUSTER_NODES"] = NODES
    given = {key: value for key, value in environ.items() if key.startswith(ENVIRONMENT_PREFIX)}
    given.pop(ENVIRONMENT_PREFIX + "CONFIG", None)  # the file's name, read by the command line
    return _from_texts(given, names, "")


def _from_flags(flags: Mapping[str, str]) -> dict[str, Any]:
    names = {option.flag[2:]: name for name, option in options().items()}
    names["cluster-nodes"] = NODES
    return _from_texts(flags, names, "--")


def _from_texts(given: Mapping[str, str], names: Mapping[str, str], dashes: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in given.items():
        written = dashes + key
        if key not in names:
            raise ConfigError(written, "unknown option" + did_you_mean(key, names, dashes))
        if names[key] == NODES:
            values[NODES] = _nodes_from_text(written, value)
        else:
            values[names[key]] = _parse(written, options()[names[key]].parse, value)
    return values


def did_you_mean(name: str, known: Iterable[str], dashes: str = "") -> str:
    """`, did you mean port?` if a known name is close, else nothing."""
    names = list(known)
    close = [f"cluster.{name}"] if f"cluster.{name}" in names else difflib.get_close_matches(name, names, n=1)
    return f", did you mean {dashes}{close[0]}?" if close else ""


def _parse(written: str, parse: Parser, value: object) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(written, str(error)) from None


def _nodes_from_tables(written: str, tables: object) -> tuple[ClusterNode, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(written, "must be written as [[cluster.nodes]] tables")
    nodes = []
    for number, table in enumerate(tables, 1):
        place = f"{written} {number}"
        for key in table:
            if key not in _NODE_KEYS:
                raise ConfigError(f"{place}: {key}", "unknown option" + did_you_mean(key, _NODE_KEYS))
        for key in ("id", "host", "port"):
            if key not in table:
                raise ConfigError(f"{place}: {key}", "must be given")
        found = {
            key.replace("-", "_"): _parse(f"{place}: {key}", parse, table.get(key, 0))
            for key, parse in _NODE_KEYS.items()
        }
        nodes.append(_with_ports(place, ClusterNode(**found)))
    return tuple(nodes)


def _nodes_from_text(written: str, nodes: str) -> tuple[ClusterNode, ...]:
    """`n1=10.0.0.1:6379,n2=10.0.0.2:6379`; the other ports follow from the first."""
    found = []
    for part in filter(None, nodes.split(",")):
        match = _NODE_TEXT.fullmatch(part.strip())
        if not match:
            raise ConfigError(written, f"must be id=host:port,id=host:port,..., not {shown(part)}")
        name = _parse(written, NODE_ID, match[1])
        host = _parse(written, HOST, match[2].strip("[]"))
        found.append(_with_ports(written, ClusterNode(name, host, _parse(written, PORT, match[3]), 0, 0)))
    return tuple(found)


def _with_ports(written: str, node: ClusterNode) -> ClusterNode:
    """The node with the ports that are 0 worked out from its first one."""
    cluster_port = node.cluster_port or node.port + CLUSTER_PORT_OFFSET
    peer_port = node.peer_port or node.port + PEER_PORT_OFFSET
    for name, port in (("cluster-port", cluster_port), ("peer-port", peer_port)):
        if port > 65535:
            raise ConfigError(written, f"port {node.port} leaves no room for {name} ({port}); set {name}")
    if len({node.port, cluster_port, peer_port}) != 3:
        raise ConfigError(written, f"ports must differ, not {node.port}, {cluster_port} and {peer_port}")
    return dataclasses.replace(node, cluster_port=cluster_port, peer_port=peer_port)


def _resolve(values: dict[str, Any]) -> Config:
    """From the values given to the whole configuration: what is left open follows from this node's entry, else is the
    default; then checks what concerns more than one option.
    """
    nodes: tuple[ClusterNode, ...] = values.pop(NODES, ())
    known = options()
    own = {known[name].field: value for name, value in values.items() if "." not in name}
    cluster = {known[name].field: value for name, value in values.items() if "." in name}
    node_id = own.get("node", Config.node)
    if nodes:
        _check_nodes(nodes)
        mine = next((node for node in nodes if node.id == node_id), None)
        if mine is None:
            listed = ", ".join(node.id for node in nodes)
            raise ConfigError("node", f"{node_id!r} is not among cluster.nodes ({listed})")
        own.setdefault("bind", mine.host)
    else:
        address = own.get("bind", Config.bind).split()[0]
        host = "127.0.0.1" if address in _EVERYWHERE else address
        ports = (own.get("port", Config.port), own.get("cluster_port", 0), own.get("peer_port", 0))
        mine = _with_ports("port", ClusterNode(node_id, host, *ports))
        nodes = (mine,)
    for field in ("port", "cluster_port", "peer_port"):
        own[field] = own.get(field) or getattr(mine, field)
    config = Config(**own, cluster=Cluster(**cluster, nodes=nodes))
    _check(config)
    return config


def _check_nodes(nodes: tuple[ClusterNode, ...]) -> None:
    ids: set[str] = set()
    taken: dict[tuple[str, int], str] = {}
    for node in nodes:
        if node.id in ids:
            raise ConfigError(NODES, f"two nodes have the id {node.id!r}")
        ids.add(node.id)
        for port in (node.port, node.cluster_port, node.peer_port):
            other = taken.setdefault((node.host, port), node.id)
            if other != node.id:
                raise ConfigError(NODES, f"{other} and {node.id} both use {node.host}:{port}")


def _check(config: Config) -> None:
    cluster = config.cluster
    if cluster.replicas > len(cluster.nodes):
        raise ConfigError(
            "cluster.replicas", f"{cluster.replicas} replicas need as many nodes, not {len(cluster.nodes)}"
        )
    if len(cluster.nodes) > 1 and not cluster.secret:
        raise ConfigError("cluster.secret", "must be set, the same on every node, when there are several nodes")
    if config.heartbeat_ms * 2 > config.election_timeout_ms:
        raise ConfigError(
            "heartbeat-ms",
            f"must be at most half of election-timeout-ms ({config.election_timeout_ms}), not {config.heartbeat_ms}",
        )
    ports: dict[int, str] = {}
    for name in ("port", "cluster-port", "peer-port", "metrics-port", "tls-port", "tls-cluster-port"):
        port = getattr(config, name.replace("-", "_"))
        other = ports.setdefault(port, name)
        if port and other != name and name != f"tls-{other}":
            raise ConfigError(name, f"{port} is already the {other}")
