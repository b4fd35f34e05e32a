"""Shares of the loop: what one client has sent must not keep the others waiting.

A command runs to its end. But what a client has sent in one go runs for no longer than `SHARE_S` at a time, and that of
all clients, where there is more of it, for no longer than `TURN_S` in one turn of the loop. What is left waits for the
next turn, first come, first served, and its client is not read meanwhile. The time is looked at behind each piece of a
pipeline, and within one behind every command once one of them was dear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from respkv.server.connection import Connection

FOREVER: Final = float("inf")
SHARE_S: Final = 0.002
TURN_S: Final = 0.02
DEAR_S: Final = 0.00005
"""Of one command. Most take a fifth of it, and asking for the time would cost them a hundredth."""


class Shares:
    """Those of one node's clients. `wake` asks for a turn.

    Attributes:
        spent_s: what clients have had of the present turn.
        dear: whether a command of the client that has its share now was dear.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.spent_s = 0.0
        self.dear = False
        self._wake = wake
        self._waiting: deque[Connection] = deque()

    def until(self, now: float) -> float:
        """When a client that begins now has to stop; not later than now if there is nothing left."""
        return now + min(SHARE_S, TURN_S - self.spent_s)

    def put_off(self, connection: Connection) -> None:
        """Its commands go on in a later turn."""
        self._waiting.append(connection)
        self._wake()

    def begin_turn(self, fault: Callable[[Connection, Exception], None]) -> None:
        """Runs what was put off. `fault` is told of what escapes a client's commands."""
        self.spent_s = 0.0
        for _ in range(len(self._waiting)):
            if self.spent_s >= TURN_S:
                break
            connection = self._waiting.popleft()
            try:
                connection.go_on()
            except Exception as error:  # noqa: BLE001 - a fault of ours costs this client its connection, no more
                fault(connection, error)

    def end_turn(self) -> None:
        if self._waiting:
            self._wake()
