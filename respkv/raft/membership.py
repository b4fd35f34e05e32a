"""How a replica that has lost what it promised becomes a full member again, and why that is safe.

Raft stands on three promises that every replica keeps on its disk: what it has acknowledged it has; it votes once in
a term; it never goes back to an earlier term. A replica X that lost a part of that may not act as if it had not. Its
*standing* (in the journal, so that no crash can raise it) says how much of a member it is:

| standing   | has lost                        | takes part by                                 | until             |
| ---------- | ------------------------------- | --------------------------------------------- | ----------------- |
| `VOTER`    | nothing                         | everything                                    |                   |
| `LEARNER`  | entries or state                | taking and acknowledging entries, a snapshot  | it has its target |
| `STRANGER` | the journal: term and vote, too | nothing                                       | it knows a bound  |
| `NEW`      | nothing or everything           | nothing                                       | it knows which    |

The rules. n replicas, a majority is m of them; "asked" means by a question put after the loss (each has its number).

*Learner.* Its target is the last index of the log of a leader of its own term (or a later one), as that leader said
when asked. It is a voter again once its own log, durable and verified against the leader of that same term, reaches
the target. Let e be an entry that X had acknowledged before the loss, to a leader of term t. If the leader L that was
asked is of term t, e is in its log, below the target. If L is of a later term: X has not voted since the loss, so m
others elected L, or it was elected before. Everyone who could still commit e needs m - 1 others beside X, and m + m - 1
is more than the n - 1 others: one of those is among L's voters, and Raft's own argument applies to that one: e is in
L's log, or can never be committed. So a voter again has everything that it ever acknowledged and that may be committed.
Acknowledgements meanwhile are true (X has those entries now, and its term only grows), so they may count.

*Stranger.* X may have voted in a term that nobody else has heard of but the candidate, who had that term on its disk
before it asked. So the highest term of *all* others, asked, bounds every term in which X voted or acknowledged
anything. X goes on as a learner in that term, with a vote that counts as given. (Fewer answers would not do: the one
that is missing may be that candidate, and X's old vote may still reach it.) A stranger among the others answers, too:
its candidacies ended with its memory, and where it led, the m - 2 others who elected it beside X know the term.

*New.* X tells the others the life of its journal (`respkv.raft.identity`), and each writes it down before it answers.
A new replica is a voter once more than half of the others know it by this life and none of those asked knows it by
another one; known by another one, it is a stranger. Any two such sets of others have one in common. So if X had ever
been a voter in an earlier life, one of the others that answer knows that life. A fresh cluster of three therefore
starts when all three nodes have met once, and needs no two more than that.

Where a majority has lost its memory, nobody is left who knows: the shard stays without a leader, and says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import structlog

from respkv.raft.group import Clock, Group
from respkv.raft.identity import Identity
from respkv.raft.log import Standing
from respkv.raft.messages import INTRODUCE, INTRODUCED, Message

log = structlog.get_logger()

ASK_EVERY_S = 0.1
COMPLAIN_EVERY_S = 10.0


class Membership:
    """The standing of one replica: asks the others as long as it is not a voter, and answers their questions."""

    def __init__(
        self,
        group: Group,
        others: Iterable[str],
        identity: Identity,
        *,
        send: Callable[[str, Message], object],
        repaired: Callable[[], None] = lambda: None,
    ) -> None:
        self._group = group
        self._others = tuple(others)
        self._identity = identity
        self._send = send
        self._repaired = repaired
        self._question = random.getrandbits(40)
        self._asked_at = float("-inf")
        self._untold = False  # a voter again, and the others take it for a learner
        self._begin()

    def _begin(self) -> None:
        """Only answers to questions from now on count."""
        self._since = self._question + 1
        self._complained_at = Clock.now()
        self._known_by: set[str] = set()
        self._terms: dict[str, int] = {}
        self._target: tuple[int, int] | None = None

    @property
    def standing(self) -> Standing:
        return self._group.log.standing

    def lost(self) -> None:
        """What the replica held is gone (`Group.start_over` was called)."""
        self._begin()
        self._asked_at = float("-inf")

    # -- time

    def tick(self) -> None:
        """To be called every few tens of milliseconds."""
        if self._group.votes:
            if self._untold and self._group.log.state_durable:
                self._untold = False
                for peer in self._others:
                    self.introduce(peer)
            return
        self._check_target()
        now = Clock.now()
        if now - self._asked_at >= ASK_EVERY_S and not self._group.votes:
            self._asked_at = now
            for peer in self._others:
                self.introduce(peer)
        if now - self._complained_at >= COMPLAIN_EVERY_S:
            self._complained_at = now
            silent = [peer for peer in self._others if peer not in self._terms]
            log.warning("replica_waiting", shard=self._group.shard, standing=self.standing.name.lower(), silent=silent)

    def introduce(self, peer: str) -> None:
        """Tells `peer` who this is and asks what it knows; for each new link, too."""
        if self._group.log.state_durable:  # what is claimed must be true after a crash
            self._question += 1
            self._send(peer, (INTRODUCE, self._group.shard, self._question, self._identity.life, int(self.standing)))

    # -- messages

    def receive(self, peer: str, message: Message) -> None:
        if peer not in self._others:
            return
        if message[0] == INTRODUCE:
            self._on_introduce(peer, *message[2:])
        elif self._since <= message[2] <= self._question:
            self._on_introduced(peer, *message[3:])

    def _on_introduce(self, peer: str, question: int, life: str, standing: int) -> None:
        group = self._group
        known_otherwise = self._identity.met(group.shard, peer) not in {None, life} and standing == Standing.NEW
        if not known_otherwise:
            self._identity.meet(group.shard, peer, life)
        if standing == Standing.VOTER:
            group.learners.discard(peer)
        else:
            group.learners.add(peer)
        last = group.log.last_index if group.leader else -1
        self._send(peer, (INTRODUCED, group.shard, question, known_otherwise, group.term, last))

    def _on_introduced(self, peer: str, known_otherwise: bool, term: int, last: int) -> None:
        self._terms[peer] = term
        standing = self.standing
        if standing is Standing.NEW:
            self._on_known(peer, known_otherwise)
        elif standing is Standing.LEARNER and last >= 0:
            self._target = (term, last)
            self._check_target()
        if self.standing is Standing.STRANGER and len(self._terms) == len(self._others):
            self._end_strangeness()

    def _on_known(self, peer: str, known_otherwise: bool) -> None:
        group = self._group
        if known_otherwise:
            log.error("replica_damaged", shard=group.shard, reason=f"{peer} knows an earlier journal of this node")
            group.log.stand(Standing.STRANGER)
            group.adopt_term(group.term)
            return
        self._known_by.add(peer)
        if len(self._known_by) > len(self._others) // 2:
            group.log.stand(Standing.VOTER)
            log.info("replica_founded", shard=group.shard)
            self._untold = True

    def _end_strangeness(self) -> None:
        group = self._group
        term = max(group.term, *self._terms.values())
        group.adopt_term(term)
        group.log.stand(Standing.LEARNER)
        log.info("replica_repairing", shard=group.shard, standing="learner", term=term)

    def _check_target(self) -> None:
        group, target = self._group, self._target
        if self.standing is not Standing.LEARNER or target is None or group.leader_id is None:
            return
        term, index = target
        if group.term == term and min(group.verified, group.log.durable) >= index:
            group.log.stand(Standing.VOTER)
            log.info("replica_repaired", shard=group.shard, index=group.log.last_index, term=term)
            self._repaired()
            self._untold = True
