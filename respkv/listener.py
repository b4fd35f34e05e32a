"""Listening sockets that take many connections per loop turn.

libuv (since 1.45) accepts one connection of a listening socket per turn. Under load a turn takes a millisecond or more,
so that the fiftieth of fifty clients that come at once would wait for fifty turns before its first command is read, and
a node of the cluster would wait behind any stranger who floods its port. Here several handles of the loop share each
socket: a turn accepts up to `ACCEPTS_PER_TURN`, and what it does for a single connection stays a few microseconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from respkv.config import ConfigError

ACCEPTS_PER_TURN = 16
HANDSHAKE_S = 10.0  # for TLS


async def listen(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    address: str,
    port: int,
    backlog: int,
    context: ssl.SSLContext | None = None,
) -> list[asyncio.Server]:
    """Listens on `address` (all that it resolves to), with TLS if there is a `context`; close every server of the list.

    Raises ConfigError, which names `bind`, the address and the port.
    """
    handshake_s = HANDSHAKE_S if context is not None else None
    try:
        first = await loop.create_server(
            factory, address, port, backlog=backlog, ssl=context, ssl_handshake_timeout=handshake_s
        )
    except OSError as error:
        raise cannot_listen("bind", f"{address}, port {port}", error) from None
    return [first, *await _share(loop, factory, [first], ACCEPTS_PER_TURN - 1, backlog, context)]


async def relisten(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    servers: Sequence[asyncio.Server],
    backlog: int,
    context: ssl.SSLContext,
) -> list[asyncio.Server]:
    """Goes on listening where `servers` did, with another `context`. Connections are neither refused nor closed."""
    renewed = await _share(loop, factory, servers, ACCEPTS_PER_TURN, backlog, context)
    for server in servers:
        server.close()
    return renewed


async def _share(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    servers: Sequence[asyncio.Server],
    count: int,
    backlog: int,
    context: ssl.SSLContext | None,
) -> list[asyncio.Server]:
    """`count` more handles for each socket of `servers`."""
    handshake_s = HANDSHAKE_S if context is not None else None
    found = []
    for own in {sock.getsockname(): sock for server in servers for sock in server.sockets}.values():
        for _ in range(count):
            shared = socket.fromfd(own.fileno(), own.family, own.type, own.proto)
            found.append(
                await loop.create_server(
                    factory, sock=shared, backlog=backlog, ssl=context, ssl_handshake_timeout=handshake_s
                )
            )
    return found


async def listen_unix(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    path: Path,
    mode: int,
    backlog: int,
) -> asyncio.Server:
    """Listens on a Unix socket at `path`, in the place of what a process that is gone has left there; `mode` are its
    permissions, 0 leaves them to the umask. Raises ConfigError."""
    try:
        _remove_leftover(path)
        server = await loop.create_unix_server(factory, path, backlog=backlog)
        _set_mode(path, mode)
    except OSError as error:
        raise cannot_listen("unixsocket", str(path), error) from None
    return server


def cannot_listen(option: str, place: str, error: OSError) -> ConfigError:
    """What to raise in the place of `error`, whose own text says neither what was asked for nor by which option."""
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror or str(error)  # those below 0 are the resolver's
    return ConfigError(option, f"{place}: {reason}")


def _remove_leftover(path: Path) -> None:
    """Only a socket is removed: whatever else is there was not ours."""
    if path.is_socket():
        path.unlink()


def _set_mode(path: Path, mode: int) -> None:
    if mode:
        path.chmod(mode)
