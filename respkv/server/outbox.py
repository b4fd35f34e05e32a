"""Messages that answer no command: what subscribers, monitors and clients that cache are told.

They gather during a loop turn and leave at its end, one write for each client, behind the replies that the client was
sent or still waits for. So a client never hears of something before the reply that came first, and never of a change
before the old value.

A client that does not take them is disconnected: at once above the hard limit of `client-output-buffer-limit pubsub`,
and when it has been above the soft limit for too long. Nothing else bounds what waits, and nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from respkv.config.limits import Limit
from respkv.raft.group import Clock

if TYPE_CHECKING:
    from respkv.server.connection import Connection

log = structlog.get_logger()


class Outbox:
    """One node's. `wake` asks for an end of turn. `closed` counts the clients that were too slow."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.limit = Limit()
        self.closed = 0
        self._wake = wake
        self._messages: dict[Connection, list[bytes]] = {}
        self._above_since: dict[Connection, float] = {}

    def push(self, connection: Connection, data: bytes) -> None:
        """`data`, encoded for this client, goes out at the end of the turn."""
        messages = self._messages.get(connection)
        if messages is None:
            if not self._messages:
                self._wake()
            messages = self._messages[connection] = []
        messages.append(data)

    def take(self, connection: Connection) -> bytes:
        """What waits for the client, for a reply that must come behind it."""
        return b"".join(self._messages.pop(connection, ()))

    def waiting_bytes(self, connection: Connection) -> int:
        return sum(map(len, self._messages.get(connection, ()))) if self._messages else 0

    def end_turn(self) -> None:
        if not self._messages:
            return
        messages, self._messages = self._messages, {}
        for connection, parts in messages.items():
            connection.push(b"".join(parts))
            self._check(connection)

    def tick(self) -> None:
        """To be called about once a second: who has been too slow for too long?"""
        for connection in list(self._above_since):
            self._check(connection)

    def forget(self, connection: Connection) -> None:
        self._messages.pop(connection, None)
        self._above_since.pop(connection, None)

    def _check(self, connection: Connection) -> None:
        limit, waiting = self.limit, connection.output_bytes
        if limit.hard_bytes and waiting > limit.hard_bytes:
            self._close(connection, "hard", waiting)
        elif limit.soft_bytes and waiting > limit.soft_bytes:
            since = self._above_since.setdefault(connection, Clock.now())
            if Clock.now() - since > limit.soft_s:
                self._close(connection, "soft", waiting)
        else:
            self._above_since.pop(connection, None)

    def _close(self, connection: Connection, which: str, waiting: int) -> None:
        session = connection.session
        log.warning("slow_subscriber", client=session.id, address=session.address, limit=which, waiting_bytes=waiting)
        self.closed += 1
        connection.abort()
