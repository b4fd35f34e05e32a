"""The pace of a node's entries: as long as each turn brings more writes, they are gathered.

An entry costs the same whatever it holds, on every replica, and a turn costs the same however many shards have one in
it. Clients that were answered together come back together, while those that came in between are being written: two
halves, each of which would find the other under way for ever. So what has been gathered waits for a turn that brings
nothing new, as the loop is busy until then anyway. A client that comes alone does not wait, nor do as many as came
together lately; but now and then they do, as they might be one of the halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from respkv.raft.clock import Clock

PATIENCE_S: Final = 0.0005
TRUSTED: Final = 15  # so often in a row; then they wait as if there might be more
_MORE: Final = 2  # a turn that brings fewer writes brings nothing new


class Pace:
    """`holds`: what can wait is not to be proposed in this turn."""

    def __init__(self, now: Callable[[], float] = Clock.now) -> None:
        self.holds = False
        self._now = now
        self._gathered = 0
        self._step = 0  # how many came together lately
        self._in_a_row = 0  # how often they were taken for all that are to come
        self._until = 0.0

    def look(self, gathered: int) -> None:
        """So many writes wait to be proposed. To be called once per turn, before it proposes anything."""
        complete = gathered >= self._step > 0 and self._in_a_row < TRUSTED
        if complete or gathered < self._gathered + _MORE:
            self.holds = False
            if gathered:
                self._step = max(gathered, self._step - (self._step >> 3))
                self._in_a_row = self._in_a_row + 1 if complete else 0
        elif self._gathered:
            self.holds = self._now() < self._until
        else:
            self.holds = True
            self._until = self._now() + PATIENCE_S
        self._gathered = gathered if self.holds else 0
