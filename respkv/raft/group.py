"""One replica of one shard's Raft group: PySyncObj's algorithm, driven by our loop, hardened from outside.

The library (`core`) keeps terms, votes, roles, the log and the followers' indexes. Around it, each in its own module,
stands what decides what it gets to see and when its answers leave the node:

1. An acknowledgement or a vote leaves only when the entries, term and vote that it reflects are fdatasynced; the
   leader's own entries count for the commit index only then, too (`receiving`, `elections`, `core`).
2. Every acknowledgement carries its term; one of another term is dropped. A higher term makes a leader step down.
3. An `APPEND` whose entries are in the log never truncates; only a conflicting entry does, never at or below the
   applied index. The commit index never passes what was verified against the leader's log (`receiving`).
4. Elections start with a PreVote (Ongaro's thesis, 9.6); no vote is given while a leader was heard within the minimum
   election timeout, nor for that long after a start (`elections`). A leader that no majority answers for one election
   timeout steps down.
5. The lease runs from the send time of the newest `APPEND` that a majority answered (thesis, 6.4.1), over
   `CLOCK_BOOTTIME`, shortened by `DRIFT`; no read is served before the leader's own first entry is applied (`lease`).
6. Sending is windowed: at most `WINDOW_BYTES` unacknowledged per follower, in messages of about `MESSAGE_BYTES`
   (`sending`).
7. Committed entries are applied one by one in order by `apply`; an exception that escapes it is fatal to the node.
8. A long command is appended, sent and applied in pieces (`long`), so that nobody else waits for it.

Left to others: bytes and disk (`journal`), connections (`send`), snapshots' content (`snapshot`), pending clients
(shard.proposer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from respkv.raft.clock import DEFAULT_TIMING, DRIFT, NEVER, Clock, Timing
from respkv.raft.core import Core
from respkv.raft.elections import Elections, Transfer
from respkv.raft.lease import Lease
from respkv.raft.log import ShardLog, Standing
from respkv.raft.long import LAST, PIECE, PIECE_BYTES, LongAppend, collect
from respkv.raft.messages import ACK, APPEND, ASIDE, PREVOTE, PREVOTED, TIMEOUT_NOW, VOTE, VOTED, Message
from respkv.raft.receiving import LogDivergence, Receiving
from respkv.raft.sending import MESSAGE_BYTES, WINDOW_BYTES, Sending

__all__ = ["DRIFT", "MESSAGE_BYTES", "WINDOW_BYTES", "Clock", "Group", "LogDivergence", "Timing"]

APPLY_BYTES = 8 << 20  # applied per pump, so that catching up does not hold the loop

ApplyLong = Callable[[int, int, bytes, list[memoryview]], bool]


class Group(Core):
    """A shard's replica on this node.

    Args:
        shard: the shard's number, sent with every message.
        node: this node's id; `others`: the other replicas' ids.
        shard_log: the shard's log from the node's journal.
        applied: the index that the state machine's own log holds; replication resumes behind it.
        apply: called as `apply(index, term, command)` for each committed entry.
        apply_long: called as `apply_long(index, term, head, body)` for each long command that is committed, in each
            pump until it returns True; it asks for pumps itself.
        send: called as `send(node_id, message)`; may drop.
        wake: asks for a `pump` in this loop turn.
        role_changed: called after leadership was gained or lost.
        eager: stand for election first (the shard's preferred leader).
        lease: trust the lease; if not, `lease_until` stays in the past and reads wait for `confirmed`.

    Attributes:
        lease_until: on a leader, reads may be served until then.
        confirmed: the newest moment at which a majority is known to have followed this leader.
    """

    def __init__(
        self,
        shard: int,
        node: str,
        others: Iterable[str],
        shard_log: ShardLog,
        applied: int,
        *,
        apply: Callable[[int, int, bytes], None],
        apply_long: ApplyLong | None = None,
        send: Callable[[str, Message], None],
        wake: Callable[[], None],
        role_changed: Callable[[], None] = lambda: None,
        timing: Timing = DEFAULT_TIMING,
        eager: bool = True,
        lease: bool = True,
    ) -> None:
        others = list(others)
        self.shard = shard
        self.lease_until = NEVER
        self.confirmed = NEVER
        self._apply = apply
        self._apply_long = apply_long
        self._appending: LongAppend | None = None
        self._wake = wake
        self._role_changed = role_changed
        self._ticked_at = Clock.now()
        # The parts come first: the library's constructor looks at every property of the object.
        self.sending = Sending(shard, self, others, send)
        self.receiving = Receiving(shard, self, send)
        self.elections = Elections(shard, self, others, send)
        self.lease = Lease(others, timing.election_min, used=lease)
        self._transfer = Transfer(shard, self, send)
        first_election_s = timing.election_min * (1.05 if eager else 2.0) if others else 0.0
        super().__init__(node, others, shard_log, applied, timing, first_election_s)

    # -- what a caller may ask

    @property
    def transferring(self) -> str | None:
        """The replica to which leadership is being handed over; meanwhile nothing should be proposed."""
        return self._transfer.target

    @property
    def snapshot_wanted(self) -> set[str]:
        """On a leader: the followers that need entries which are trimmed."""
        return self.sending.snapshot_wanted

    @property
    def verified(self) -> int:
        """The index up to which the log is known to be that of the leader of this term."""
        return self.receiving.verified

    def lag(self) -> dict[str, int]:
        """On a leader: entries that each follower has not acknowledged."""
        last = self.log[-1][1]
        return {name: last - self.matched(name) for name in self.nodes} if self.leader else {}

    def may_lead(self, name: str) -> bool:
        """On a leader: whether another replica could take over, once it has the whole log."""
        return self.is_connected(name) and name not in self.learners and name not in self.elections.aside

    # -- what a caller may do

    def propose(self, command: bytes) -> int:
        """Appends an entry to the leader's log and returns its index; `apply` will be called with it, or with another
        entry of that index and a different term, or never."""
        if len(command) > PIECE_BYTES:
            return self.propose_long([command], b"")
        if self._appending is not None:
            self._finish_appending()
        index = self.log[-1][1] + 1
        self.log.add(command, index, self.term)
        return index

    def propose_long(self, body: Iterable[bytes], head: bytes) -> int:
        """Begins to append a long command; returns the index that its last entry will have.

        While `appending` is true nothing else should be proposed: it would cost the patience.
        """
        if self._appending is not None:
            self._finish_appending()
        self._appending = LongAppend(body, head)
        self._wake()
        return self._appending.index_behind(self.log[-1][1])

    def _finish_appending(self) -> None:
        assert self._appending is not None
        self._appending.finish(self.log, self.term)
        self._appending = None

    @property
    def appending(self) -> bool:
        """Whether a long command is not wholly in the log yet."""
        return self._appending is not None

    def confirm(self) -> None:
        """Asks the followers at once whether this replica still leads; `confirmed` moves when a majority has
        answered."""
        if self.leader:
            self.sending.heartbeat()

    def transfer(self, target: str) -> None:
        """Hands leadership over as soon as `target` holds the whole log; meanwhile nothing should be proposed."""
        if self._transfer.begin(target):
            self._wake()

    def connected(self, name: str) -> None:
        self.sending.link_up(name)
        self.link_up(name)

    def disconnected(self, name: str) -> None:
        self.sending.link_down(name)
        self.receiving.link_down(name)
        self.elections.aside.discard(name)
        self.link_down(name)

    def installed(self, index: int, term: int) -> None:
        """The state machine was replaced by a snapshot up to `index`: the log starts over behind it, or keeps what it
        has behind it and may have acknowledged (Raft, figure 13, step 6)."""
        if self.log.term_at(index) == term:
            self.log.trim(index)
            self.log.durable = max(self.log.durable, index)
        else:
            self.log.reset(index, term)
            self.receiving.verified = index
        self.jump_to(index)
        self._wake()

    def start_over(self) -> None:
        """The state machine has lost its state: log and state begin anew, without a voice (see `membership`)."""
        if self.leader:
            heirs = [name for name in self.nodes if self.may_lead(name)]
            if heirs:
                self.elections.name_heir(max(heirs, key=self.matched))
            self.resign()
        self.log.lose()
        if self.votes:
            self.log.stand(Standing.LEARNER)
        self.jump_to(1)
        self.receiving.start_over()
        self.elections.prevotes = None
        self._wake()

    # -- time

    def tick(self) -> None:
        """Elections, heartbeats and timeouts; to be called every few tens of milliseconds."""
        now = Clock.now()
        stalled_s, self._ticked_at = now - self._ticked_at, now
        if stalled_s > self.timing.election_min / 2:
            self._look_around_first(stalled_s)
            return
        if not self.leader:
            self.elections.tick(now)
            return
        if self.nodes:
            self.lead_on()
            self.sending.tell()
        if self._transfer.expired(now):
            self._wake()

    def _look_around_first(self, stalled_s: float) -> None:
        """This process stood still (a very large entry, a stopped machine): what came meanwhile is still to be read.

        Standing for election and stepping down wait for that; the lease does not.
        """
        self.election_deadline = max(self.election_deadline, Clock.now() + self.timing.election_min / 2)
        self.forgive(stalled_s)

    # -- the pump: once per loop turn in which something happened

    def pump(self) -> None:
        """`advance`, then `feed`.

        Raises:
            Exception: whatever escaped `apply`; the node must stop.
        """
        self.advance()
        self.feed()

    def advance(self) -> None:
        """Moves the commit index and applies what is committed. Raises what escapes `apply`."""
        if self.leader:
            self.move_commit()
        self.apply_committed()

    def promise(self, index: int) -> None:
        """Committed entries up to `index` are answered before they are applied: the lease rests until then, so that
        followers may apply them."""
        self.lease_until = NEVER
        self.sending.promised = index

    def feed(self) -> None:
        """On a leader: sends followers the entries that they lack."""
        if self.leader:
            if self._appending is not None and self._transfer.target is None:
                self._append_long(self._appending)
            self.sending.feed()
            if self._transfer.target is not None and self._transfer.is_due:
                self._give_up_lease()
                self._transfer.tell()

    def _append_long(self, long: LongAppend) -> None:
        over, more = long.advance(self.log, self.term, self.commit)
        if over:
            self._appending = None
        if over or more:
            self._wake()

    def apply_committed(self) -> None:
        """Applies what is committed, or a good part of it. Raises what escapes `apply`."""
        if self.commit == self.applied:
            return
        shard_log, apply, budget = self.log, self._apply, APPLY_BYTES
        index, commit, base = self.applied, self.commit, shard_log[0][1]
        while index < commit:
            if budget <= 0:
                self._wake()
                break
            command, _, term = shard_log[index + 1 - base]
            if command[0] < PIECE:
                apply(index + 1, term, command)
            elif command[0] == LAST and not self._finish_long(index + 1, term):
                break  # what it waits for wakes this replica
            index += 1
            self.applied = index
            budget -= len(command)
        if self.leader and self.lease_until == NEVER:
            self._refresh_lease()

    def _finish_long(self, index: int, term: int) -> bool:
        """Applies a slice of a long command; tells whether it is done."""
        head, body = collect(self.log, index)
        if not head:
            self._apply(index, term, b"".join(body))
            return True
        assert self._apply_long is not None
        return self._apply_long(index, term, head, body)

    def durable_moved(self) -> None:
        """More of the log, or the term and vote, are on the disk: what waited for that may leave."""
        self.elections.durable_moved()
        self.receiving.durable_moved()
        if self.leader and self._has_work():
            self._wake()

    # -- the lease

    def _refresh_lease(self) -> None:
        self.confirmed = self.lease.confirmed()
        if self.readable:
            until = self.lease.until(self.term, self.confirmed)
            self.lease_until = self.lease_until if until is None else until

    def _give_up_lease(self) -> None:
        self.lease.give_up(self.term)
        self.lease_until = NEVER

    # -- what the library says

    def outgoing(self, name: str, message: dict[str, Any]) -> None:
        """What the library wants to send, turned into our messages, held back until the disk has what it reflects."""
        kind = message["type"]
        if kind == "next_node_idx":
            self.receiving.acknowledge(name, message["next_node_idx"])
        elif kind == "request_vote":
            self.elections.ask(name, message["term"], message["last_log_index"], message["last_log_term"])
        elif kind == "response_vote":
            self.elections.vote(name, message["term"])

    def heartbeat(self) -> None:
        self.sending.heartbeat()

    def role_turned(self) -> None:
        self.lease_until = self.confirmed = NEVER
        self.lease.start_over()
        self._transfer.target = None
        self._appending = None
        self.sending.start_over()
        self._role_changed()
        self._wake()

    # -- what the others say

    def receive(self, name: str, message: Message) -> None:
        """Takes a message of the replica on node `name`. Messages of strangers are dropped.

        Raises:
            LogDivergence: the sender contradicts an applied entry; the node must stop.
        """
        if name in self.nodes and self.log.standing <= Standing.LEARNER:
            _RECEIVERS[message[0]](self, name, message)
            if message[0] != ACK or not self.leader:  # a leader looks whether anything comes of it
                self._wake()

    def _on_append(self, name: str, message: Message) -> None:
        if message[2] < self.term:
            self.receiving.refuse(name, message[6])
            return
        self.elections.leader_heard()
        self.receiving.on_append(name, message)

    def _on_ack(self, name: str, message: Message) -> None:
        _, _, term, next_index, success, reset, sent = message
        if term > self.term:
            self.step_down(term)
            return
        if term != self.term or not self.leader or next_index > self.log[-1][1] + 1 or not (success or reset):
            return
        self.sending.acknowledged(name, next_index, sent, success=success, reset=reset)
        has_lease = self.lease_until > Clock.now()
        if self.lease.answered(name, sent):
            self._refresh_lease()
        if self._has_work() or self.next[self.nodes[name]] <= self.log[-1][1] or not has_lease:
            self._wake()

    def _on_aside(self, name: str) -> None:
        self.elections.aside.add(name)
        self._transfer.give_up(name)

    def _has_work(self) -> bool:
        """On a leader, after more of the log is known to be on a disk: whether anything comes of that. What makes no
        majority is not worth a pump."""
        self.move_commit()
        return self.commit > self.applied or self._appending is not None or self._transfer.target is not None


_RECEIVERS: dict[int, Callable[[Group, str, Message], None]] = {
    APPEND: Group._on_append,
    ACK: Group._on_ack,
    VOTE: lambda group, name, message: group.elections.on_vote(name, message),
    VOTED: lambda group, name, message: group.elections.on_voted(name, message),
    PREVOTE: lambda group, name, message: group.elections.on_prevote(name, message),
    PREVOTED: lambda group, name, message: group.elections.on_prevoted(name, message),
    TIMEOUT_NOW: lambda group, name, message: group.elections.on_timeout_now(name, message),
    ASIDE: lambda group, name, _: group._on_aside(name),
}
