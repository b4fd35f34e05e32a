"""How many bytes went to and came from clients: asked of the system (Linux's TCP_INFO), so that nothing is counted for
each read and write. What has not been acknowledged by the client yet is not among the bytes sent. Zeros for other
sockets than TCP's, and where the system cannot tell. What goes between nodes, their links count themselves.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from respkv.cluster.peers import Peers

if TYPE_CHECKING:
    from respkv.server.connection import Connection

_BYTES_ACKED: Final = 120  # where struct tcp_info has tcpi_bytes_acked and, behind it, tcpi_bytes_received
_TCP_INFO_BYTES: Final = 136
_FRESH_S: Final = 1.0

Bytes = tuple[int, int]


class Flow(NamedTuple):
    """Bytes, or KiB per second: from and to clients, from and to other nodes."""

    received: float
    sent: float
    peers_received: float
    peers_sent: float


_NOTHING: Final = Flow(0, 0, 0, 0)


def bytes_of(sock: Any) -> Bytes:
    """(received, sent) of one connected socket."""
    try:
        return struct.unpack_from("QQ", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES),
                                  _BYTES_ACKED)[::-1]  # fmt: skip
    except (OSError, struct.error, AttributeError):
        return 0, 0


class Traffic:
    """All clients and links of a node, those that are gone included."""

    def __init__(self, clients: Mapping[int, Connection], peers: Peers) -> None:
        self._clients = clients
        self._peers = peers
        self._gone: Bytes = (0, 0)
        self._reset_at = _NOTHING
        self._read_at = float("-inf")
        self._total = _NOTHING
        self._per_s: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def gone(self, sock: Any) -> None:
        """A client's connection has ended."""
        self._gone = _sum([self._gone, bytes_of(sock)])

    def total(self) -> Flow:
        """Bytes since the start, or the last `reset`; read anew at most once a second."""
        now = time.monotonic()
        if (passed_s := now - self._read_at) >= _FRESH_S:
            before, self._total, self._read_at = self._total, self._read(), now
            self._per_s = tuple((new - old) / passed_s for old, new in zip(before, self._total, strict=True))
        return Flow(*(now - then for now, then in zip(self._total, self._reset_at, strict=True)))

    def _read(self) -> Flow:
        counts = self._peers.counts
        clients = _sum([self._gone, *(bytes_of(connection.socket) for connection in self._clients.values())])
        return Flow(*clients, counts.received_bytes, counts.sent_bytes)

    @property
    def kib_per_s(self) -> Flow:
        """Between the last two times that somebody asked."""
        return Flow(*(rate / 1024 for rate in self._per_s))

    def reset(self) -> None:
        self._reset_at = self._total = self._read()
        self._read_at = time.monotonic()


def _sum(pairs: Iterable[Bytes]) -> Bytes:
    received, sent = zip(*pairs, strict=True)
    return sum(received), sum(sent)
