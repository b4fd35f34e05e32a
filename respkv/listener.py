"""Listening sockets that take many connections per loop turn.

libuv (since 1.45) accepts one connection of a listening socket per turn. Under load a turn takes a millisecond or more,
so that the fiftieth of fifty clients that come at once would wait for fifty turns before its first command is read, and
a node of the cluster would wait behind any stranger who floods its port. Here several handles of the loop share each
socket: a turn accepts up to `ACCEPTS_PER_TURN`, and what it does for a single connection stays a few microseconds.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

ACCEPTS_PER_TURN = 16


async def listen(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    address: str,
    port: int,
    backlog: int,
) -> list[asyncio.Server]:
    """Listens on `address` (all that it resolves to); close every server of the list. Raises OSError."""
    servers = [await loop.create_server(factory, address, port, backlog=backlog)]
    for own in servers[0].sockets:
        for _ in range(ACCEPTS_PER_TURN - 1):
            shared = socket.fromfd(own.fileno(), own.family, own.type, own.proto)
            servers.append(await loop.create_server(factory, sock=shared, backlog=backlog))
    return servers


async def listen_unix(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    path: Path,
    mode: int,
    backlog: int,
) -> asyncio.Server:
    """Listens on a Unix socket at `path`, in the place of what a process that is gone has left there; `mode` are its
    permissions, 0 leaves them to the umask. Raises OSError."""
    _remove_leftover(path)
    server = await loop.create_unix_server(factory, path, backlog=backlog)
    _set_mode(path, mode)
    return server


def _remove_leftover(path: Path) -> None:
    """Only a socket is removed: whatever else is there was not ours."""
    if path.is_socket():
        path.unlink()


def _set_mode(path: Path, mode: int) -> None:
    if mode:
        path.chmod(mode)
