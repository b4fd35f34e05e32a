"""Where a shard's leader should be.

In general on the first of the shard's replicas: that spreads the leaders over the nodes. But clients that know one
address only ask all they have at one node, and each command for a leader elsewhere costs a message there and back. So a
leader goes to where nearly all of its shard's commands come from, and returns once that is over.

Clients of the cluster view ask the leader, wherever it is, so each of their commands speaks for the preferred replica.

Only a leader sees all commands, so each begins to judge anew, and stays where it is until it knows better. Whoever has
handed leadership over does not get it back at once: it may be about to stop, or of another opinion.
"""

from __future__ import annotations

from collections.abc import Mapping

BUSY_PER_S = 500  # commands; whom fewer ask may as well stay
NEARLY_ALL = 0.75  # of the commands bring the leader,
MOST = 0.5  # and that many keep it
LOOK_S = 1.0
LOOKS = 2  # in a row that must agree
QUIET_S = 5.0  # until a leader whom few ask returns
REST_S = 10.0


class Placement:
    """The judgement of one replica while it leads. Times are in seconds of any one clock.

    Args:
        replicas: node ids; the first is the preferred leader.

    Attributes:
        home: the node on which the leader should be.
    """

    def __init__(self, replicas: tuple[str, ...]) -> None:
        self.home = replicas[0]
        self._replicas = replicas
        self._followed = False  # `home` was chosen for its clients
        self._next = self.home
        self._agreed = 0
        self._looked_at = self._busy_at = 0.0
        self._rest_until: dict[str, float] = {}

    def begin(self, node: str, giver: str | None, now: float) -> None:
        """The replica, on `node`, leads from now on; `giver` is who has handed that over, if anybody has."""
        self.home = node
        self._followed = False
        self._agreed = 0
        self._looked_at = self._busy_at = now
        self._rest_until = {} if giver is None else {giver: now + REST_S}

    def is_due(self, now: float) -> bool:
        """Whether it is time to look again."""
        return now - self._looked_at >= LOOK_S

    def look(self, asked: Mapping[str, int], now: float) -> None:
        """`asked` tells how many commands came by way of each node since the last look."""
        elapsed_s, self._looked_at = now - self._looked_at, now
        total = sum(asked.values())
        if total < BUSY_PER_S * elapsed_s or total == 0:
            self._agreed = 0
            if now - self._busy_at >= QUIET_S:
                self.settle()
            return
        self._busy_at = now
        busiest = max(asked, key=asked.__getitem__)
        follows = asked[busiest] >= NEARLY_ALL * total and busiest in self._replicas
        if not follows and self._followed and asked.get(self.home, 0) >= MOST * total:
            self._agreed = 0
            return
        wanted = busiest if follows else self._replicas[0]
        if wanted != self._next:
            self._next, self._agreed = wanted, 0
        self._agreed += 1
        if self._agreed >= LOOKS:
            self.home, self._followed = wanted, follows

    def settle(self) -> None:
        """The leader belongs on the preferred replica."""
        self.home, self._followed, self._agreed = self._replicas[0], False, 0

    def rests(self, now: float) -> bool:
        """Whether `home` is not to be handed leadership for a while."""
        return now < self._rest_until.get(self.home, now)

    def tried(self, now: float) -> None:
        """`home` is being handed leadership; if that fails it has a rest."""
        self._rest_until[self.home] = now + REST_S
