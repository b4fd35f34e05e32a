"""A client's socket: its names as clients see them, TCP's keep-alive, and its end."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Final

_KEEPIDLE_S_MAX: Final = 32_767  # more is an error of the system's


def address_of(name: Any) -> str:
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{os.fsdecode(name or '?')}:0"


def keep_alive(sock: Any, seconds: int) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if seconds:
        seconds = min(seconds, _KEEPIDLE_S_MAX)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 3))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def hang_up(sock: Any) -> None:
    """Ends the connection although somebody else has its socket, too."""
    with contextlib.suppress(OSError), socket.fromfd(sock.fileno(), sock.family, sock.type) as own:
        own.shutdown(socket.SHUT_RDWR)
