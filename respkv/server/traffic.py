"""How many bytes went to and came from clients: asked of the system (Linux's TCP_INFO), so that nothing is counted for
each read and write. What has not been acknowledged by the client yet is not among the bytes sent. Zeros for other
sockets than TCP's, and where the system cannot tell.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from respkv.server.connection import Connection

_BYTES_ACKED: Final = 120  # where struct tcp_info has tcpi_bytes_acked and, behind it, tcpi_bytes_received
_TCP_INFO_BYTES: Final = 136
_FRESH_S: Final = 1.0

Bytes = tuple[int, int]


def bytes_of(sock: Any) -> Bytes:
    """(received, sent) of one connected socket."""
    try:
        return struct.unpack_from("QQ", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES),
                                  _BYTES_ACKED)[::-1]  # fmt: skip
    except (OSError, struct.error, AttributeError):
        return 0, 0


class Traffic:
    """All clients of a node, those that are gone included."""

    def __init__(self) -> None:
        self._gone: Bytes = (0, 0)
        self._reset_at: Bytes = (0, 0)
        self._read_at = float("-inf")
        self._total: Bytes = (0, 0)
        self._per_s: tuple[float, float] = (0.0, 0.0)

    def gone(self, sock: Any) -> None:
        """A client's connection has ended."""
        self._gone = _sum([self._gone, bytes_of(sock)])

    def total(self, connections: Iterable[Connection]) -> Bytes:
        """(received, sent) since the start, or the last `reset`; read anew at most once a second."""
        now = time.monotonic()
        if (passed_s := now - self._read_at) >= _FRESH_S:
            before, self._total = self._total, _sum([self._gone, *(bytes_of(c.socket) for c in connections)])
            self._per_s = tuple((new - old) / passed_s for old, new in zip(before, self._total, strict=True))  # type: ignore[assignment]
            self._read_at = now
        return self._total[0] - self._reset_at[0], self._total[1] - self._reset_at[1]

    @property
    def kib_per_s(self) -> tuple[float, float]:
        """(received, sent) between the last two times that somebody asked."""
        return self._per_s[0] / 1024, self._per_s[1] / 1024

    def reset(self) -> None:
        self._reset_at = self._total


def _sum(pairs: Iterable[Bytes]) -> Bytes:
    received, sent = zip(*pairs, strict=True)
    return sum(received), sum(sent)
