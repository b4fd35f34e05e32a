"""Where a shard's leader should be.

In general on the first of the shard's replicas: that spreads the leaders over the nodes. But clients that know one
address only ask all they have at one node, and each command for a leader elsewhere costs a message there and back. So a
leader goes to where nearly all of its shard's commands come from, and returns once that is over.

Clients of the cluster view ask the leader, wherever it is, so each of their commands speaks for the preferred replica.
"""

from __future__ import annotations

from collections.abc import Mapping

BUSY_PER_S = 500  # commands; whom fewer ask may as well stay
NEARLY_ALL = 0.75  # of the commands bring the leader,
MOST = 0.5  # and that many keep it
LOOKS = 2  # that must agree
QUIET_S = 10.0


class Placement:
    """Follows the commands for a shard, as far as this node sees them: all on the leader, its own clients' elsewhere.

    Args:
        replicas: node ids; the first is the preferred leader.
        now: the time, in seconds.
    """

    def __init__(self, replicas: tuple[str, ...], now: float) -> None:
        self.home = replicas[0]
        self._replicas = replicas
        self._looked_at = now
        self._busy_at = now
        self._next = self.home
        self._agreed = 0

    def look(self, asked: Mapping[str, int], now: float) -> None:
        """`asked` tells how many commands came by way of each node since the last look, about a second ago."""
        elapsed_s, self._looked_at = now - self._looked_at, now
        total = sum(asked.values())
        if total < BUSY_PER_S * elapsed_s or total == 0:
            if now - self._busy_at >= QUIET_S:
                self.settle()
            return
        self._busy_at = now
        wanted = self._wanted(asked, total)
        if wanted != self._next:
            self._next, self._agreed = wanted, 0
        self._agreed += 1
        if self._agreed >= LOOKS:
            self.home = wanted

    def settle(self) -> None:
        """The leader belongs on the preferred replica."""
        self.home = self._next = self._replicas[0]
        self._agreed = 0

    def _wanted(self, asked: Mapping[str, int], total: int) -> str:
        busiest = max(asked, key=asked.__getitem__)
        if asked[busiest] >= NEARLY_ALL * total and busiest in self._replicas:
            return busiest
        return self.home if asked.get(self.home, 0) >= MOST * total else self._replicas[0]
