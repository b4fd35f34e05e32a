"""Who leads: elections with a PreVote, votes that wait for the disk, and the handing over of leadership.

A replica that has heard no leader for its election timeout first asks whether it would win (PreVote: Ongaro's thesis,
9.6), so that one which was away disturbs nobody. No vote of either kind is given while a leader was heard within the
minimum election timeout, nor for that long after a start: leases rely on it. The one exception is the election that a
leader itself asked for (`TIMEOUT_NOW`; thesis, 3.10), which has given up its lease before.
"""

from __future__ import annotations

from collections.abc import Callable

from respkv.raft.clock import NEVER, Clock
from respkv.raft.core import Core
from respkv.raft.messages import ASIDE, PREVOTE, PREVOTED, TIMEOUT_NOW, VOTE, VOTED, Message


class Elections:
    """One replica's part in its group's elections.

    Attributes:
        heard: when a leader was last heard.
        prevotes: the term that this replica asks about and who would vote for it, while it asks.
        stands: whether this replica may become the leader as far as its node is concerned.
        aside: the others that may not. It lasts as long as the link to them.
    """

    def __init__(self, shard: int, core: Core, others: list[str], send: Callable[[str, Message], None]) -> None:
        self.heard = Clock.now() if others else NEVER
        self.prevotes: tuple[int, set[str]] | None = None
        self.stands = True
        self.aside: set[str] = set()
        self._shard = shard
        self._core = core
        self._send = send
        self._votes: set[str] = set()
        self._held: list[tuple[str, Message]] = []
        self._forced_term = -1
        self._giver = ""

    @property
    def giver(self) -> str | None:
        """Who has handed leadership over to this replica for the present term, if anybody has."""
        return self._giver if self._forced_term == self._core.term else None

    def leader_heard(self) -> None:
        self.heard = Clock.now()
        self.prevotes = None  # there is a leader: votes promised meanwhile must not depose it

    @property
    def _sticky(self) -> bool:
        return self._core.leader or Clock.now() - self.heard < self._core.timing.election_min

    # -- standing

    def tick(self, now: float) -> None:
        core = self._core
        if core.election_deadline > now or not (core.votes and self.stands):
            return
        if not core.nodes:
            self._campaign()
            return
        core.election_deadline = now + core.election_timeout_s()
        term = core.term + 1
        self.prevotes = (term, set())
        last = core.log[-1]
        for name in core.nodes:
            self._send(name, (PREVOTE, self._shard, term, last[1], last[2]))

    def _campaign(self) -> None:
        self.prevotes = None
        self._votes.clear()
        self._core.begin_term()

    def on_prevoted(self, name: str, message: Message) -> None:
        core = self._core
        _, _, term, granted = message
        if not granted:
            if term > core.term and not core.leader:
                core.step_down(term)
        elif self.prevotes is not None and self.prevotes[0] == term == core.term + 1:
            voters = self.prevotes[1]
            voters.add(name)
            if (len(voters) + 1) * 2 > len(core.nodes) + 1:
                self._campaign()

    def on_voted(self, name: str, message: Message) -> None:
        if message[2] == self._core.term and name not in self._votes:
            self._votes.add(name)
            self._core.take(name, {"type": "response_vote", "term": message[2]})

    def on_timeout_now(self, name: str, message: Message) -> None:
        core = self._core
        may_stand = core.votes and self.stands
        if message[2] == core.term and core.leader_id == name and not core.leader and may_stand:
            self._forced_term, self._giver = core.term + 1, name
            self._campaign()

    def stand_aside(self) -> None:
        """The node is about to stop: others are not to hand leadership to it, nor it to them if they stop as well."""
        self.stands = False
        for name in self._core.nodes:
            self._send(name, (ASIDE, self._shard))

    def name_heir(self, name: str) -> None:
        """Tells the replica on node `name` to stand at once."""
        self._send(name, (TIMEOUT_NOW, self._shard, self._core.term))

    # -- voting

    def on_prevote(self, name: str, message: Message) -> None:
        core = self._core
        _, _, term, last_index, last_term = message
        last = core.log[-1]
        granted = term > core.term and (last_term, last_index) >= (last[2], last[1]) and not self._sticky
        granted = granted and core.votes
        self._send(name, (PREVOTED, self._shard, term if granted else core.term, granted))

    def on_vote(self, name: str, message: Message) -> None:
        _, _, term, last_index, last_term, forced = message
        if (forced or not self._sticky) and self._core.votes:
            request = {"type": "request_vote", "term": term, "last_log_index": last_index, "last_log_term": last_term}
            self._core.take(name, request)

    # -- what waits for the disk

    def ask(self, name: str, term: int, last_index: int, last_term: int) -> None:
        """The library asks for a vote."""
        self._when_durable(name, (VOTE, self._shard, term, last_index, last_term, term == self._forced_term))

    def vote(self, name: str, term: int) -> None:
        """The library gives its vote."""
        self._when_durable(name, (VOTED, self._shard, term))

    def _when_durable(self, name: str, message: Message) -> None:
        if self._core.log.state_durable:
            self._send(name, message)
        else:
            self._held.append((name, message))

    def durable_moved(self) -> None:
        """Term and vote may be on the disk now."""
        if self._held and self._core.log.state_durable:
            held, self._held = self._held, []
            for name, message in held:
                if message[2] == self._core.term:
                    self._send(name, message)


class Transfer:
    """The handing over of leadership: the target catches up while nothing new is proposed, then it is told to stand."""

    def __init__(self, shard: int, core: Core, send: Callable[[str, Message], None]) -> None:
        self.target: str | None = None
        self._shard = shard
        self._core = core
        self._send = send
        self._until = NEVER
        self._told = False

    def begin(self, target: str) -> bool:
        """Starts it, unless one is under way already or this replica cannot; tells which."""
        core = self._core
        if not core.leader or target not in core.nodes or self.target is not None:
            return False
        self.target = target
        self._told = False
        self._until = Clock.now() + core.timing.election_min
        return True

    @property
    def is_due(self) -> bool:
        """Whether the target has the whole log and was not told yet."""
        target = self.target
        return target is not None and not self._told and self._core.matched(target) == self._core.log[-1][1]

    def tell(self) -> None:
        """Tells the target to stand. The lease must have been given up before."""
        assert self.target is not None
        self._told = True
        self._send(self.target, (TIMEOUT_NOW, self._shard, self._core.term))

    def give_up(self, name: str) -> None:
        """On `name` as the target, if it is."""
        if self.target == name:
            self.target = None

    def expired(self, now: float) -> bool:
        """Gives up on a target that has not taken over in time; tells whether that is so."""
        if self.target is None or now < self._until:
            return False
        self.target = None
        return True
