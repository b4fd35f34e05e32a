"""One command on its own connection, for the harness's questions to servers; the load itself comes from load.c.

It gives scalars only: an aggregate reply comes back as hiredis built it.
"""

import socket
from collections.abc import Iterable

import hiredis

HOST = "127.0.0.1"
READ_BYTES = 1 << 16


class ServerError(Exception):
    """The server could not be reached in time, hung up, or answered with an error."""


def ask(port: int, *args: str, timeout_s: float = 5.0) -> object:
    """The reply to one command; text replies as str. Raises ServerError."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s) as sock:
            sock.sendall(_pack(*args))
            return _read_reply(sock)
    except OSError as error:
        raise ServerError(f"port {port}: {error}") from error


def ask_info(port: int, section: str) -> dict[str, str]:
    """`INFO section` as field and value, in the server's order."""
    lines = str(ask(port, "INFO", section)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def fill_keys(port: int, keyspace: int, value_bytes: int, keys_per_batch: int = 1000) -> None:
    """SET every key that load.c can ask for, without load.c. Raises ServerError."""
    value = "x" * value_bytes
    try:
        with socket.create_connection((HOST, port), timeout=30) as sock:
            for first in range(0, keyspace, keys_per_batch):
                keys = range(first, min(first + keys_per_batch, keyspace))
                sock.sendall(b"".join(_pack("SET", f"key:{key:012d}", value) for key in keys))
                _read_replies(sock, len(keys))
    except OSError as error:
        raise ServerError(f"port {port}: {error}") from error


def fields(text: str) -> dict[str, str]:
    """`role=leader,term=3` as a dict."""
    return dict(_pairs(text.split(",")))


def _pack(*args: str) -> bytes:
    """The command as RESP; hiredis.pack_command has no usable type."""
    parts = [arg.encode() for arg in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _pairs(items: Iterable[str]) -> Iterable[tuple[str, str]]:
    for item in items:
        name, _, value = item.partition("=")
        yield name, value


def _read_reply(sock: socket.socket) -> object:
    return _read_replies(sock, 1)[0]


def _read_replies(sock: socket.socket, count: int) -> list[object]:
    reader = hiredis.Reader(encoding="utf-8", errors="replace")
    replies: list[object] = []
    while len(replies) < count:
        # False is hiredis's "need more bytes"; no RESP2 reply is a bool.
        reply = reader.gets()
        if reply is False:
            data = sock.recv(READ_BYTES)
            if not data:
                raise ServerError("the server closed the connection")
            reader.feed(data)
        elif isinstance(reply, hiredis.ReplyError):
            raise ServerError(str(reply))
        else:
            replies.append(reply)
    return replies
