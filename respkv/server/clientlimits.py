"""Clients that take too much: the soft limit of `client-output-buffer-limit normal`, and `maxmemory-clients`.

The hard limit holds at each write (`Connection`), the limits of subscribers in `respkv.server.outbox`. These here are
looked at twice a second, and only while one is set. What counts for the soft limit are the bytes that wait for the
client to read; for `maxmemory-clients`, all that is buffered for it (`respkv.server.buffers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import structlog

from respkv.config import Config
from respkv.config.limits import Limit
from respkv.raft.group import Clock
from respkv.server.buffers import buffers_of

if TYPE_CHECKING:
    from respkv.server.connection import Connection

log = structlog.get_logger()



class ClientLimits:
    """One node's. `evicted` counts clients that had to go because all together took too much."""

    def __init__(self, clients: Mapping[int, Connection]) -> None:
        self.evicted = 0
        self._clients = clients
        self._soft = Limit()
        self._over_since: dict[int, float] = {}
        self._together_bytes = 0

    def configure(self, config: Config) -> None:
        self._soft = config.client_output_buffer.normal
        self._together_bytes = config.maxmemory_clients.of(config.maxmemory_bytes)

    def look(self) -> None:
        if self._soft.soft_bytes and self._soft.soft_s:
            self._end_slow()
        if self._together_bytes:
            self._evict()

    def _end_slow(self) -> None:
        """Closes clients that were above their soft limit for too long."""
        now, over = Clock.now(), {}
        for number, connection in list(self._clients.items()):
            if connection.output_bytes <= self._soft.soft_bytes:
                continue
            over[number] = self._over_since.get(number, now)
            if now - over[number] > self._soft.soft_s:
                log.warning("client_output_soft_limit", client=number, address=connection.session.address)
                connection.abort()
        self._over_since = over

    def _evict(self) -> None:
        """Closes those that take most, until what is left is within the limit."""
        taken = [(buffers_of(connection).total, connection) for connection in self._evictable()]
        excess = sum(size for size, _ in taken) - self._together_bytes
        if excess <= 0:
            return
        for size, connection in sorted(taken, key=lambda each: each[0], reverse=True):
            log.warning("client_evicted", client=connection.session.id, address=connection.session.address, bytes=size)
            connection.abort()
            self.evicted += 1
            excess -= size
            if excess <= 0:
                return

    def _evictable(self) -> Iterable[Connection]:
        return [connection for connection in self._clients.values() if not connection.session.no_evict]
