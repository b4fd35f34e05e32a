"""A tiny blocking client for the command line: one connection, one command at a time, RESP2.

Not for applications (they use any Redis client) and not for the server.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import hiredis

READ_BYTES: Final = 1 << 16


class ClientError(Exception):
    """The server could not be reached, answered nonsense, or answered with an error (`code` is its first word)."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    password: str = ""
    user: str = ""
    tls: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """From `redis[s]://[[user]:password@]host[:port]` or `host:port`. Raises ValueError(reason).

        With `rediss` the server's certificate must be one that this machine trusts (SSL_CERT_FILE names others).
        """
        parts = urlsplit(url if "://" in url else f"redis://{url}")
        reason = f"must look like redis://[[user]:password@]host:port (or rediss://), not {url!r}"
        try:
            port = parts.port or 6379
        except ValueError:
            raise ValueError(reason) from None
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.path not in ("", "/", "/0"):
            raise ValueError(reason)
        context = ssl.create_default_context() if parts.scheme == "rediss" else None
        return cls(parts.hostname, port, unquote(parts.password or ""), unquote(parts.username or ""), context)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Client:
    """A connection, made at once. Raises ClientError from every method; after that the connection is of no use."""

    def __init__(self, address: Address, timeout_s: float = 2.0) -> None:
        self._reader = hiredis.Reader()
        try:
            self._socket = _connected(address, timeout_s)
        except OSError as error:
            raise ClientError(f"cannot connect to {address}: {error.strerror or error}") from None
        try:
            if address.password:
                self.call("AUTH", *filter(None, (address.user, address.password)))
        except ClientError:
            self.close()
            raise

    def call(self, *args: str | bytes) -> Any:
        """Sends one command and returns its reply: bytes, int, None or a list of these."""
        parts = [arg if isinstance(arg, bytes) else arg.encode() for arg in args]
        try:
            self._socket.sendall(hiredis.pack_command(tuple(parts)))  # type: ignore[arg-type]  # it takes any length
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ClientError("the server closed the connection")
                self._reader.feed(data)
        except OSError as error:
            raise ClientError(f"no answer: {error.strerror or error}") from None
        except hiredis.ProtocolError as error:
            raise ClientError(f"not a Redis server: {error}") from None
        if isinstance(reply, hiredis.ReplyError):
            raise ClientError(str(reply), str(reply).split(" ", 1)[0])
        return reply

    def text(self, *args: str | bytes) -> str:
        """`call` for a reply that is a text."""
        reply = self.call(*args)
        if not isinstance(reply, bytes):
            raise ClientError(f"unexpected answer to {args[0]!r}: {reply!r}")
        return reply.decode(errors="replace")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connected(address: Address, timeout_s: float) -> socket.socket:
    """Raises OSError."""
    plain = socket.create_connection((address.host, address.port), timeout_s)
    if address.tls is None:
        return plain
    try:
        return address.tls.wrap_socket(plain, server_hostname=address.host)
    except OSError:
        plain.close()
        raise


def parse_info(text: str) -> dict[str, str]:
    """The `name:value` lines of INFO."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def parse_shards(info: dict[str, str]) -> dict[int, dict[str, str]]:
    """From INFO's `shard0:role=leader,term=3,...` lines: shard -> field -> value."""
    shards = {}
    for name, value in info.items():
        if name.startswith("shard") and name[5:].isdecimal() and "=" in value:
            pairs = (part.partition("=") for part in value.split(","))
            shards[int(name[5:])] = {field: found for field, _, found in pairs}
    return dict(sorted(shards.items()))
