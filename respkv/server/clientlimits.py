"""Clients that take too much: of `client-output-buffer-limit` the soft limits, and `maxmemory-clients`.

Hard limits hold at each write (`Connection`). The others are looked at `LOOKS_PER_S` times a second, and only while one
is set. What counts for a client are the bytes that wait for it to read, and those it has sent of an unfinished command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import structlog

from respkv.config import Config
from respkv.config.values import OutputLimit
from respkv.raft.group import Clock

if TYPE_CHECKING:
    from respkv.server.connection import Connection

log = structlog.get_logger()

LOOKS_PER_S: Final = 2


class ClientLimits:
    """One node's. `evicted` counts clients that had to go because all together took too much."""

    def __init__(self, clients: Mapping[int, Connection], class_of: Callable[[Connection], str]) -> None:
        self.evicted = 0
        self._clients = clients
        self._class_of = class_of
        self._soft: dict[str, OutputLimit] = {}
        self._over_since: dict[int, float] = {}
        self._together_bytes = 0

    def configure(self, config: Config) -> None:
        limits = {"normal": config.client_output_buffer.normal, "pubsub": config.client_output_buffer.pubsub}
        self._soft = {name: limit for name, limit in limits.items() if limit.soft and limit.soft_s}
        self._together_bytes = config.maxmemory_clients.of(config.maxmemory_bytes)

    def look(self) -> None:
        if self._soft:
            self._end_slow()
        if self._together_bytes:
            self._evict()

    def _end_slow(self) -> None:
        """Closes clients that were above their soft limit for too long."""
        now, over = Clock.now(), {}
        for number, connection in list(self._clients.items()):
            limit = self._soft.get(self._class_of(connection))
            if limit is None or connection.output_bytes <= limit.soft:
                continue
            over[number] = self._over_since.get(number, now)
            if now - over[number] > limit.soft_s:
                log.warning("client_output_soft_limit", client=number, address=connection.session.address)
                connection.abort()
        self._over_since = over

    def _evict(self) -> None:
        """Closes those that take most, until what is left is within the limit."""
        taken = [(_bytes_of(connection), connection) for connection in self._evictable()]
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


def _bytes_of(connection: Connection) -> int:
    return connection.input_bytes + connection.output_bytes


def every_client_is_normal(connection: Connection) -> str:
    return "normal"
