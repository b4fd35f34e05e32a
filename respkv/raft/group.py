"""One replica of one shard's Raft group: PySyncObj's algorithm, driven by our loop, hardened from outside.

PySyncObj 0.3.17 keeps terms, votes, roles, the log and the followers' indexes. This module, the only one that touches
its private names, decides what the library gets to see and when its answers leave the node:

1. An acknowledgement or a vote leaves only when the entries, term and vote that it reflects are fdatasynced; the
   leader's own entries count for the commit index only then, too.
2. Every acknowledgement carries its term; one of another term is dropped. A higher term makes a leader step down.
3. An `APPEND` whose entries are in the log never truncates; only a conflicting entry does, never at or below the
   applied index. The commit index never passes what was verified against the leader's log.
4. Elections start with a PreVote (Ongaro's thesis, 9.6); no vote is given while a leader was heard within the minimum
   election timeout, nor for that long after a start. A leader that no majority answers for one election timeout steps
   down.
5. The lease runs from the send time of the newest `APPEND` that a majority answered (thesis, 6.4.1), over
   `CLOCK_BOOTTIME`, shortened by `DRIFT`; no read is served before the leader's own first entry is applied.
6. Sending is windowed: at most `WINDOW_BYTES` unacknowledged per follower, in messages of about `MESSAGE_BYTES`.
7. Committed entries are applied one by one in order by `apply`; an exception that escapes it is fatal to the node.

Left to others: bytes and disk (`journal`), connections (`send`), snapshots' content (`snapshot`), pending clients
(shard.proposer).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pysyncobj.syncobj as library
import structlog
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal as PySyncObjJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from respkv.raft.log import Entry, ShardLog, Standing
from respkv.raft.messages import ACK, APPEND, PREVOTE, PREVOTED, TIMEOUT_NOW, VOTE, VOTED, Message

log = structlog.get_logger()

DRIFT = 0.9  # a lease lasts this part of the minimum election timeout
WINDOW_BYTES = 8 << 20
MESSAGE_BYTES = 1 << 20
APPLY_BYTES = 8 << 20  # applied per pump, so that catching up does not hold the loop

_NEVER = float("-inf")
_HUGE = 1 << 60


class Clock:
    """The time that elections and leases run on, in seconds; tests replace `now`."""

    now: Callable[[], float] = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))


def _install_seams() -> None:
    """Points the library at our clock and lets a `Journal` object stand where it expects a file name.

    Raises:
        RuntimeError: not the release that this module was written against.
    """
    if library.VERSION != "0.3.17":
        raise RuntimeError(f"respkv needs pysyncobj 0.3.17, found {library.VERSION}")
    create_journal = library.createJournal
    library.createJournal = lambda name: name if isinstance(name, PySyncObjJournal) else create_journal(name)
    library.monotonicTime = lambda: Clock.now()  # noqa: PLW0108 - looked up at each call: tests replace it


_install_seams()


class LogDivergence(Exception):
    """A leader contradicts an entry that was already applied: no state here can be trusted. Fatal to the node."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. The maximum election timeout is twice the minimum."""

    election_min: float = 0.5
    heartbeat: float = 0.1


class _NoPoller:
    def poll(self, timeout: float) -> None: ...

    def subscribe(self, *args: object) -> None: ...

    def unsubscribe(self, *args: object) -> None: ...


class _DurableMatch(dict[Node, int]):
    """The followers' match indexes as the library's tick sees them: never beyond what is durable here."""

    def __init__(self, shard_log: ShardLog) -> None:
        super().__init__()
        self._log = shard_log

    def __getitem__(self, node: Node) -> int:
        return min(super().__getitem__(node), self._log.durable)


class _Outbox(Transport):  # type: ignore[misc]
    """The library's way out: every message it sends passes through `Group.outgoing`."""

    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.outgoing: Callable[[Node, dict[str, Any]], None]

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.outgoing(node, message)
        return True


class _Window:
    """What one follower was sent and has not acknowledged."""

    __slots__ = ("bytes", "sent")

    def __init__(self) -> None:
        self.sent: deque[tuple[int, int]] = deque()
        self.bytes = 0

    def add(self, last_index: int, size: int) -> None:
        self.sent.append((last_index, size))
        self.bytes += size

    def acknowledged(self, index: int) -> None:
        while self.sent and self.sent[0][0] <= index:
            self.bytes -= self.sent.popleft()[1]

    def clear(self) -> None:
        self.sent.clear()
        self.bytes = 0


class Group(SyncObj):  # type: ignore[misc]
    """A shard's replica on this node.

    Args:
        shard: the shard's number, sent with every message.
        node: this node's id; `others`: the other replicas' ids.
        shard_log: the shard's log from the node's journal.
        applied: the index that the state machine's own log holds; replication resumes behind it.
        apply: called as `apply(index, term, command)` for each committed entry.
        send: called as `send(node_id, message)`; may drop.
        wake: asks for a `pump` in this loop turn.
        role_changed: called after leadership was gained or lost.
        eager: stand for election first (the shard's preferred leader).
        lease: trust the lease; if not, `lease_until` stays in the past and reads wait for `confirmed`.
    """

    _SyncObj__noopIDx: int | None

    def __init__(
        self,
        shard: int,
        node: str,
        others: Iterable[str],
        shard_log: ShardLog,
        applied: int,
        *,
        apply: Callable[[int, int, bytes], None],
        send: Callable[[str, Message], None],
        wake: Callable[[], None],
        role_changed: Callable[[], None] = lambda: None,
        timing: Timing = Timing(),
        eager: bool = True,
        lease: bool = True,
    ) -> None:
        self.shard = shard
        self.id = node
        self.log = shard_log
        self.timing = timing
        self.leader: bool = False
        self.lease_until = _NEVER
        self.confirmed = _NEVER
        self.transferring: str | None = None
        self.snapshot_wanted: set[str] = set()
        self.learners: set[str] = set()
        self._apply = apply
        self._send = send
        self._wake = wake
        self._role_changed = role_changed
        self._nodes = {name: Node(name) for name in others}
        self._windows = {name: _Window() for name in self._nodes}
        self._answered = dict.fromkeys(self._nodes, _NEVER)
        self._held_acks: dict[str, tuple[int, int, float]] = {}
        self._held_votes: list[tuple[str, Message]] = []
        self._votes: set[str] = set()
        self._prevotes: tuple[int, set[str]] | None = None
        self._heard = Clock.now() if self._nodes else _NEVER
        self._verified = 0
        self._echo = 0.0
        self._reject: int | None = None
        self._forced_term = -1
        self._uses_lease = lease
        self._lease_lost_term = -1
        self._transfer_until = _NEVER
        self._transfer_sent = False
        self._ticked_at = Clock.now()
        self._outbox = _Outbox()
        self._outbox.outgoing = self._outgoing
        super().__init__(
            Node(node), list(self._nodes.values()), self._configuration(), transport=self._outbox, nodeClass=Node
        )
        self._poller = _NoPoller()
        match = _DurableMatch(shard_log)
        self._SyncObj__raftMatchIndex = match
        self._match: dict[Node, int] = match
        self._SyncObj__raftLastApplied = self._SyncObj__raftCommitIndex = max(1, applied)
        wait = timing.election_min * (1.05 if eager else 2.0) if self._nodes else 0.0
        self._SyncObj__raftElectionDeadline = Clock.now() + wait

    def _configuration(self) -> SyncObjConf:
        timing = self.timing
        return SyncObjConf(
            autoTick=False,
            journalFile=self.log,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=timing.heartbeat,
            appendEntriesBatchSizeBytes=_HUGE,
            raftMinTimeout=timing.election_min,
            raftMaxTimeout=timing.election_min * 2,
            connectionTimeout=timing.election_min * 8,
            leaderFallbackTimeout=timing.election_min,
            logCompactionMinEntries=_HUGE,
            logCompactionMinTime=_HUGE,
            commandsWaitLeader=False,
            onStateChanged=self._state_changed,
        )

    # -- what a caller may ask

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def applied(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def commit(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def leader_id(self) -> str | None:
        """The leader as far as this replica knows."""
        node: Node | None = self._SyncObj__raftLeader
        return str(node.id) if node is not None else None

    @property
    def readable(self) -> bool:
        """Leader, and its own first entry is applied: its state holds everything ever acknowledged before it led."""
        return self.leader and self._SyncObj__noopIDx is not None and self.applied >= self._SyncObj__noopIDx

    @property
    def votes(self) -> bool:
        """Whether this replica may vote and stand for election (see `respkv.raft.membership`)."""
        return self.log.standing is Standing.VOTER

    @property
    def verified(self) -> int:
        """The index up to which the log is known to be that of the leader of this term."""
        return self._verified

    def lag(self) -> dict[str, int]:
        """On a leader: entries that each follower has not acknowledged."""
        last = self.log[-1][1]
        if not self.leader:
            return {}
        return {name: last - dict.get(self._match, node, 0) for name, node in self._nodes.items()}

    def is_connected(self, name: str) -> bool:
        return self._nodes[name] in self._SyncObj__connectedNodes

    # -- what a caller may do

    def propose(self, command: bytes) -> int:
        """Appends an entry to the leader's log and returns its index; `apply` will be called with it, or with another
        entry of that index and a different term, or never."""
        index = self.log[-1][1] + 1
        self.log.add(command, index, self.term)
        return index

    def confirm(self) -> None:
        """Asks the followers at once whether this replica still leads; `confirmed` moves when a majority has
        answered."""
        if self.leader:
            self._SyncObj__sendAppendEntries()

    def transfer(self, target: str) -> None:
        """Hands leadership over as soon as `target` holds the whole log; meanwhile nothing should be proposed."""
        if self.leader and target in self._nodes and self.transferring is None:
            self.transferring = target
            self._transfer_sent = False
            self._transfer_until = Clock.now() + self.timing.election_min
            self._wake()

    def connected(self, name: str) -> None:
        node = self._nodes[name]
        self._windows[name].clear()
        if self.leader:
            self._next[node] = (dict.get(self._match, node, 0) or self.log[-1][1]) + 1
        self._outbox._onNodeConnected(node)

    def disconnected(self, name: str) -> None:
        self._windows[name].clear()
        self._held_acks.pop(name, None)
        self._outbox._onNodeDisconnected(self._nodes[name])

    def installed(self, index: int, term: int) -> None:
        """The state machine was replaced by a snapshot up to `index`: the log starts over behind it, or keeps what it
        has behind it and may have acknowledged (Raft, figure 13, step 6)."""
        if self.log.term_at(index) == term:
            self.log.trim(index)
            self.log.durable = max(self.log.durable, index)
        else:
            self.log.reset(index, term)
            self._verified = index
        self._SyncObj__raftLastApplied = self._SyncObj__raftCommitIndex = index
        self._wake()

    def start_over(self) -> None:
        """The state machine has lost its state: log and state begin anew, without a voice (see `membership`)."""
        if self.leader:
            heirs = [name for name in self._nodes if self.is_connected(name) and name not in self.learners]
            if heirs:
                heir = max(heirs, key=lambda name: dict.get(self._match, self._nodes[name], 0))
                self._send(heir, (TIMEOUT_NOW, self.shard, self.term))
            self._SyncObj__setState(library._RAFT_STATE.FOLLOWER)  # the vote for itself stays
            self._SyncObj__raftLeader = None
        self.log.lose()
        if self.votes:
            self.log.stand(Standing.LEARNER)
        self._SyncObj__raftLastApplied = self._SyncObj__raftCommitIndex = 1
        self._verified = 0
        self._reject = None
        self._prevotes = None
        self._held_acks.clear()
        self._wake()

    def adopt_term(self, term: int) -> None:
        """Goes on in `term`, in which it may have voted already."""
        self._SyncObj__setCurrentTerm(term, "?")

    # -- time

    def tick(self) -> None:
        """Elections, heartbeats and timeouts; to be called every few tens of milliseconds."""
        now = Clock.now()
        stalled, self._ticked_at = now - self._ticked_at, now
        if stalled > self.timing.election_min / 2:
            self._forgive(stalled)
            return
        if not self.leader:
            if self._SyncObj__raftElectionDeadline <= now and self.votes:
                self._stand(now)
            return
        if self._nodes:
            self._onTick(0.0)
        if self.transferring is not None and now >= self._transfer_until:
            self.transferring = None
            self._wake()

    def _forgive(self, stalled: float) -> None:
        """This process stood still (a very large entry, a stopped machine): what came meanwhile is still to be read.

        Standing for election and stepping down wait for that; the lease does not.
        """
        now = Clock.now()
        patience = now + self.timing.election_min / 2
        self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, patience)
        for node, at in self._SyncObj__lastResponseTime.items():
            self._SyncObj__lastResponseTime[node] = min(now, at + stalled)

    def _stand(self, now: float) -> None:
        """The election timeout has passed: ask whether an election would be won before disturbing anybody."""
        if not self._nodes:
            self._campaign()
            return
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        term = self.term + 1
        self._prevotes = (term, set())
        last = self.log[-1]
        for name in self._nodes:
            self._send(name, (PREVOTE, self.shard, term, last[1], last[2]))

    def _campaign(self) -> None:
        self._prevotes = None
        self._votes.clear()
        self._SyncObj__raftElectionDeadline = _NEVER
        self._onTick(0.0)
        # A lone replica wins at once, and the library commits what its disk does not have yet.
        self._SyncObj__raftCommitIndex = min(self._SyncObj__raftCommitIndex, self.log.durable)

    def _state_changed(self, _old: int, new: int) -> None:
        leader = new == library._RAFT_STATE.LEADER
        if leader is self.leader:
            return
        self.leader = leader
        self._SyncObj__noopIDx = None
        self.lease_until = self.confirmed = _NEVER
        self.transferring = None
        self.snapshot_wanted.clear()
        self._answered = dict.fromkeys(self._nodes, _NEVER)
        for window in self._windows.values():
            window.clear()
        self._role_changed()
        self._wake()

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
            self._move_commit()
        if self._SyncObj__raftCommitIndex > self._SyncObj__raftLastApplied:
            self._apply_committed()

    def feed(self) -> None:
        """On a leader: sends followers the entries that they lack."""
        if self.leader:
            last = self.log[-1][1]
            for name, node in self._nodes.items():
                if self._next[node] <= last and node in self._SyncObj__connectedNodes:
                    self._feed(name, node, Clock.now(), heartbeat=False)
            if self.transferring is not None:
                self._try_transfer()

    def _move_commit(self) -> None:
        shard_log = self.log
        indexes = [shard_log.durable]
        indexes += dict.values(self._match)
        indexes.sort()
        index = indexes[(len(indexes) - 1) // 2]
        if index > self._SyncObj__raftCommitIndex and shard_log.term_at(index) == self._SyncObj__raftCurrentTerm:
            self._SyncObj__raftCommitIndex = index

    def _apply_committed(self) -> None:
        shard_log, apply, budget = self.log, self._apply, APPLY_BYTES
        index, commit, base = self._SyncObj__raftLastApplied, self._SyncObj__raftCommitIndex, shard_log[0][1]
        while index < commit and budget > 0:
            index += 1
            command, _, term = shard_log[index - base]
            apply(index, term, command)
            self._SyncObj__raftLastApplied = index
            budget -= len(command)
        if index < commit:
            self._wake()
        if self.leader and self.lease_until == _NEVER:
            self._refresh_lease()

    def durable_moved(self) -> None:
        """More of the log, or the term and vote, are on the disk: what waited for that may leave."""
        if self._held_votes and self.log.state_durable:
            held, self._held_votes = self._held_votes, []
            for name, message in held:
                if message[2] == self.term:
                    self._send(name, message)
        for name, (next_index, term, sent) in list(self._held_acks.items()):
            if term != self.term:
                del self._held_acks[name]
            elif self.log.state_durable:
                durable_next = min(self.log.durable, self._verified) + 1
                if durable_next >= next_index:
                    del self._held_acks[name]
                self._send(name, (ACK, self.shard, term, min(durable_next, next_index), True, False, sent))
        self._wake()

    def _try_transfer(self) -> None:
        assert self.transferring is not None
        node = self._nodes[self.transferring]
        if dict.get(self._match, node, 0) == self.log[-1][1] and not self._transfer_sent:
            self._transfer_sent = True
            self._lease_lost_term = self.term
            self.lease_until = _NEVER
            self._send(self.transferring, (TIMEOUT_NOW, self.shard, self.term))

    # -- sending

    @property
    def _next(self) -> dict[Node, int]:
        return self._SyncObj__raftNextIndex  # type: ignore[no-any-return]

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - replaces the library's, which has no flow control
        """A heartbeat to every follower, with the entries that it lacks."""
        now = Clock.now()
        self._SyncObj__newAppendEntriesTime = now + self.timing.heartbeat
        for name, node in self._nodes.items():
            if node in self._SyncObj__connectedNodes:
                self._feed(name, node, now, heartbeat=True)

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802 - replaces the library's, which swallows exceptions
        return False

    def _feed(self, name: str, node: Node, now: float, *, heartbeat: bool) -> None:
        shard_log, window = self.log, self._windows[name]
        base, last, next_index = shard_log[0][1], shard_log[-1][1], self._next[node]
        if next_index <= base:
            self.snapshot_wanted.add(name)
            if heartbeat:
                self._append(name, base, shard_log[0][2], now, [])
            return
        self.snapshot_wanted.discard(name)
        while next_index <= last and window.bytes < WINDOW_BYTES:
            entries, size = _take(shard_log, next_index - base)
            self._append(name, next_index - 1, shard_log[next_index - 1 - base][2], now, entries)
            next_index += len(entries)
            window.add(next_index - 1, size)
            self._next[node] = next_index
            heartbeat = False
        if heartbeat:
            if window.bytes >= WINDOW_BYTES:  # it may overtake a long message: say only what the follower has
                next_index = max(dict.get(self._match, node, 0), base) + 1
            self._append(name, next_index - 1, shard_log[next_index - 1 - base][2], now, [])

    def _append(self, name: str, prev_index: int, prev_term: int, now: float, entries: list[Entry]) -> None:
        # Not the commit index: no follower may apply, and its node answer, what a read under our lease does not see
        # yet.
        commit = self._SyncObj__raftLastApplied
        term = self._SyncObj__raftCurrentTerm
        self._send(name, (APPEND, self.shard, term, commit, prev_index, prev_term, now, entries))

    def _outgoing(self, node: Node, message: dict[str, Any]) -> None:
        """What the library wants to send, turned into our messages, held back until the disk has what it reflects."""
        name, kind = node.id, message["type"]
        if kind == "next_node_idx":
            self._acknowledge(name, message["next_node_idx"])
        elif kind == "request_vote":
            term = message["term"]
            forced = term == self._forced_term
            self._vote_out(name, (VOTE, self.shard, term, message["last_log_index"], message["last_log_term"], forced))
        elif kind == "response_vote":
            self._vote_out(name, (VOTED, self.shard, message["term"]))

    def _vote_out(self, name: str, message: Message) -> None:
        if self.log.state_durable:
            self._send(name, message)
        else:
            self._held_votes.append((name, message))

    def _acknowledge(self, name: str, next_index: int) -> None:
        term, sent = self.term, self._echo
        if self._reject is not None:
            if self.log.state_durable:
                self._send(name, (ACK, self.shard, term, self._reject, False, True, sent))
            return
        next_index = min(next_index, self._verified + 1)
        durable = self.log.durable
        if self.log.state_durable and next_index - 1 <= durable:
            self._held_acks.pop(name, None)
            self._send(name, (ACK, self.shard, term, next_index, True, False, sent))
            return
        held = self._held_acks.get(name)
        self._held_acks[name] = (next_index, term, sent)
        if held is not None and held[0] == next_index and self.log.state_durable:
            # A heartbeat while the disk is slow: say that we are alive, and how far the disk is.
            self._send(name, (ACK, self.shard, term, min(durable, self._verified) + 1, True, False, sent))

    # -- receiving

    def receive(self, name: str, message: Message) -> None:
        """Takes a message of the replica on node `name`. Messages of strangers are dropped.

        Raises:
            LogDivergence: the sender contradicts an applied entry; the node must stop.
        """
        node = self._nodes.get(name)
        if node is not None and self.log.standing <= Standing.LEARNER:
            _RECEIVERS[message[0]](self, name, node, message)
            self._wake()

    def _sticky(self) -> bool:
        return self.leader or Clock.now() - self._heard < self.timing.election_min

    def _on_append(self, name: str, node: Node, message: Message) -> None:
        _, _, term, commit, prev, prev_term, sent, entries = message
        if term < self.term:
            self._send(name, (ACK, self.shard, self.term, 0, False, False, sent))
            return
        if term > self.term or self.leader_id != name:
            self._verified = 0
        self._heard = Clock.now()
        self._prevotes = None  # there is a leader: votes promised meanwhile must not depose it
        self._echo = sent
        shard_log = self.log
        base, last = shard_log[0][1], shard_log[-1][1]
        if prev < base:  # trimmed here, so committed, so the same
            skip = base - prev
            prev, prev_term, entries = base, shard_log[0][2], entries[skip:]
        self._reject = None
        if prev > last or shard_log[prev - base][2] != prev_term:
            self._reject = self._where_to_resume(prev)
            entries, commit = [], 0
        else:
            self._verified = max(self._verified, prev + len(entries))
            commit = min(commit, self._verified)
            entries = self._new_entries(entries)
        previous = shard_log[entries[0][1] - 1 - base if entries else -1]
        self._outbox._onMessageReceived(
            node,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": previous[1],
                "prevLogTerm": previous[2],
                "entries": entries,
            },
        )

    def _new_entries(self, entries: list[Entry]) -> list[Entry]:
        """The part of matching `entries` that the log lacks; the library truncates from its first element on."""
        shard_log = self.log
        base, last = shard_log[0][1], shard_log[-1][1]
        for position, entry in enumerate(entries):
            index = entry[1]
            if index > last:
                return entries[position:]
            if shard_log[index - base][2] != entry[2]:
                if index <= self.applied:
                    raise LogDivergence(f"shard {self.shard}: the leader's entry {index} contradicts an applied one")
                return entries[position:]
        return []

    def _where_to_resume(self, prev: int) -> int:
        """The index from which the leader should send: behind our log, or where the conflicting term began."""
        shard_log = self.log
        base, last = shard_log[0][1], shard_log[-1][1]
        if prev > last:
            return last + 1
        if prev <= self.applied:
            raise LogDivergence(f"shard {self.shard}: the leader's entry {prev} contradicts an applied one")
        term = shard_log[prev - base][2]
        while prev > base + 1 and shard_log[prev - 1 - base][2] == term and prev - 1 > self.applied:
            prev -= 1
        return prev

    def _on_ack(self, name: str, node: Node, message: Message) -> None:
        _, _, term, next_index, success, reset, sent = message
        if term > self.term:
            self._step_down(term)
            return
        if term != self.term or not self.leader or next_index > self.log[-1][1] + 1 or not (success or reset):
            return
        next_before, match_before = self._next[node], dict.get(self._match, node, 0)
        self._outbox._onMessageReceived(
            node, {"type": "next_node_idx", "next_node_idx": next_index, "success": success, "reset": reset}
        )
        if success:
            self._windows[name].acknowledged(next_index - 1)
            self._next[node] = max(self._next[node], next_before)
            self._match[node] = max(dict.get(self._match, node, 0), match_before)
        elif reset:
            self._windows[name].clear()
            if name in self.learners:  # it has less than it had when it acknowledged that
                self._match[node] = 0
            self._next[node] = max(next_index, dict.get(self._match, node, 0) + 1)
        if sent > self._answered[name]:
            self._answered[name] = sent
            self._refresh_lease()

    def _refresh_lease(self) -> None:
        """`confirmed` is the newest send time that a majority (this replica included) has answered."""
        others = sorted(self._answered.values(), reverse=True)
        needed = (len(others) + 1) // 2
        self.confirmed = others[needed - 1] if needed else Clock.now()
        if self._uses_lease and self.readable and self._lease_lost_term != self.term:
            self.lease_until = self.confirmed + self.timing.election_min * DRIFT if needed else float("inf")

    def _step_down(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(library._RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None

    def _on_vote(self, name: str, node: Node, message: Message) -> None:
        _, _, term, last_index, last_term, forced = message
        if (self._sticky() and not forced) or not self.votes:
            return
        request = {"type": "request_vote", "term": term, "last_log_index": last_index, "last_log_term": last_term}
        self._outbox._onMessageReceived(node, request)

    def _on_voted(self, name: str, node: Node, message: Message) -> None:
        if message[2] == self.term and name not in self._votes:
            self._votes.add(name)
            self._outbox._onMessageReceived(node, {"type": "response_vote", "term": message[2]})

    def _on_prevote(self, name: str, node: Node, message: Message) -> None:
        _, _, term, last_index, last_term = message
        last = self.log[-1]
        granted = term > self.term and (last_term, last_index) >= (last[2], last[1]) and not self._sticky()
        granted = granted and self.votes
        self._send(name, (PREVOTED, self.shard, term if granted else self.term, granted))

    def _on_prevoted(self, name: str, node: Node, message: Message) -> None:
        _, _, term, granted = message
        if not granted:
            if term > self.term and not self.leader:
                self._step_down(term)
        elif self._prevotes is not None and self._prevotes[0] == term == self.term + 1:
            voters = self._prevotes[1]
            voters.add(name)
            if (len(voters) + 1) * 2 > len(self._nodes) + 1:
                self._campaign()

    def _on_timeout_now(self, name: str, node: Node, message: Message) -> None:
        if message[2] == self.term and self.leader_id == name and not self.leader and self.votes:
            self._forced_term = self.term + 1
            self._campaign()


def _take(shard_log: ShardLog, position: int) -> tuple[list[Entry], int]:
    """Entries from `position` on for one message, and their bytes."""
    end, size = position, 0
    while end < len(shard_log) and (size < MESSAGE_BYTES or end == position):
        size += len(shard_log[end][0]) + 32
        end += 1
    return shard_log[position:end], size


_RECEIVERS: dict[int, Callable[[Group, str, Node, Message], None]] = {
    APPEND: Group._on_append,
    ACK: Group._on_ack,
    VOTE: Group._on_vote,
    VOTED: Group._on_voted,
    PREVOTE: Group._on_prevote,
    PREVOTED: Group._on_prevoted,
    TIMEOUT_NOW: Group._on_timeout_now,
}
