"""PySyncObj 0.3.17 under plain names: the only module that touches the library's private ones.

The library keeps terms, votes, roles, the log and the followers' indexes; `Core` lends it our clock and our log, hands
it the messages that `respkv.raft` has checked (`take`), and gets every message that it wants to send (`outgoing`).
What it does not do well is switched off here and done by others: sending entries (`sending`), applying (`group`), its
compaction, its dump file, its threads and sockets.

A release of the library in which a name that we use is missing, or any other release, is refused at the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal as PySyncObjJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from respkv.raft.clock import NEVER, Clock, Timing
from respkv.raft.log import ShardLog, Standing

RELEASE = "0.3.17"
MODULE_NAMES = ("VERSION", "createJournal", "monotonicTime", "_RAFT_STATE")
METHODS = (
    "_onTick",
    "_SyncObj__applyLogEntries",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
)
TRANSPORT_METHODS = ("_onMessageReceived", "_onNodeConnected", "_onNodeDisconnected")
FIELDS = (
    "_poller",
    "_SyncObj__connectedNodes",
    "_SyncObj__lastResponseTime",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__noopIDx",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
)
_HUGE = 1 << 60


def _check(where: object, names: Iterable[str]) -> None:
    missing = [name for name in names if not hasattr(where, name)]
    if missing:
        raise RuntimeError(f"respkv needs pysyncobj {RELEASE}; this one lacks {', '.join(missing)}")


def check_library() -> None:
    """Raises RuntimeError if the library is not the release that this module was written against."""
    _check(library, MODULE_NAMES)
    if library.VERSION != RELEASE:
        raise RuntimeError(f"respkv needs pysyncobj {RELEASE}, found {library.VERSION}")
    _check(SyncObj, METHODS)
    _check(Transport, TRANSPORT_METHODS)


def _install_seams() -> None:
    """Points the library at our clock and lets a `Journal` object stand where it expects a file name."""
    create_journal = library.createJournal
    library.createJournal = lambda name: name if isinstance(name, PySyncObjJournal) else create_journal(name)
    library.monotonicTime = lambda: Clock.now()  # noqa: PLW0108 - looked up at each call: tests replace it


check_library()
_install_seams()


class _NoPoller:
    def poll(self, timeout: float) -> None: ...

    def subscribe(self, *args: object) -> None: ...

    def unsubscribe(self, *args: object) -> None: ...


class _Named(str, Node):  # type: ignore[misc]
    """A node that is hashed and compared as its id is. The library's own do so in Python, at each look into a table of
    followers."""

    __slots__ = ()

    id = property(attrgetter("_id"))


class _DurableMatch(dict[Node, int]):
    """The followers' match indexes as the library's tick sees them: never beyond what is durable here."""

    def __init__(self, shard_log: ShardLog) -> None:
        super().__init__()
        self._log = shard_log

    def __getitem__(self, node: Node) -> int:
        return min(super().__getitem__(node), self._log.durable)


class _Outbox(Transport):  # type: ignore[misc]
    """The library's way out: every message it sends passes through `Core.outgoing`."""

    def __init__(self, core: Core) -> None:
        super().__init__(None, None, None)
        self._core = core

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self._core.outgoing(node.id, message)
        return True


class Core(SyncObj):  # type: ignore[misc]
    """The library's object for one shard.

    Args:
        node: this node's id; `others`: the other replicas' ids.
        shard_log: the shard's log from the node's journal.
        applied: the index that the state machine's own log holds; replication resumes behind it.
        timing: of elections and heartbeats.
        first_election_s: after how long this replica stands for election if it hears of no leader.
    """

    _SyncObj__connectedNodes: set[Node]
    _SyncObj__noopIDx: int | None
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLastApplied: int
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftNextIndex: dict[Node, int]

    def __init__(
        self,
        node: str,
        others: Iterable[str],
        shard_log: ShardLog,
        applied: int,
        timing: Timing,
        first_election_s: float,
    ) -> None:
        self.id = node
        self.log = shard_log
        self.timing = timing
        self.leader: bool = False
        self.nodes: dict[str, Node] = {name: _Named(name) for name in others}
        self.learners: set[str] = set()
        self._outbox = _Outbox(self)
        super().__init__(
            _Named(node), list(self.nodes.values()), self._configuration(), transport=self._outbox, nodeClass=_Named
        )
        _check(self, FIELDS)
        self._poller = _NoPoller()
        match = _DurableMatch(shard_log)
        self._SyncObj__raftMatchIndex = match
        self._match: dict[Node, int] = match
        self.jump_to(max(1, applied))
        self.election_deadline = Clock.now() + first_election_s

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

    # -- what the rest of respkv.raft gives

    def outgoing(self, name: str, message: dict[str, Any]) -> None:
        """The library wants to send `message` to the replica on node `name`."""
        raise NotImplementedError

    def heartbeat(self) -> None:
        """The library wants every follower to hear of its leader now."""
        raise NotImplementedError

    def role_turned(self) -> None:
        """Leadership (`leader`) was gained or lost."""
        raise NotImplementedError

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - replaces the library's, which has no flow control
        self.heartbeat()

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802 - replaces the library's, which swallows exceptions
        return False

    def _state_changed(self, _old: int, new: int) -> None:
        leader = new == library._RAFT_STATE.LEADER
        if leader is not self.leader:
            self.leader = leader
            self._SyncObj__noopIDx = None
            self.role_turned()

    # -- what the library knows

    @property
    def term(self) -> int:
        return self._SyncObj__raftCurrentTerm

    @property
    def votes(self) -> bool:
        """Whether this replica may vote and stand for election (see `respkv.raft.membership`)."""
        return self.log.standing is Standing.VOTER

    @property
    def commit(self) -> int:
        return self._SyncObj__raftCommitIndex

    @property
    def applied(self) -> int:
        return self._SyncObj__raftLastApplied

    @applied.setter
    def applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    @property
    def leader_id(self) -> str | None:
        """The leader as far as this replica knows."""
        node = self._SyncObj__raftLeader
        return str(node.id) if node is not None else None

    @property
    def readable(self) -> bool:
        """Leader, and its own first entry is applied: its state holds everything ever acknowledged before it led."""
        return self.leader and self._SyncObj__noopIDx is not None and self.applied >= self._SyncObj__noopIDx

    @property
    def next(self) -> dict[Node, int]:
        """On a leader: the index of the entry that each follower gets next."""
        return self._SyncObj__raftNextIndex

    def matched(self, name: str) -> int:
        """On a leader: the highest index that the follower on node `name` is known to have on its disk."""
        return dict.get(self._match, self.nodes[name], 0)

    def raise_match(self, name: str, index: int) -> None:
        self._match[self.nodes[name]] = max(self.matched(name), index)

    def forget_match(self, name: str) -> None:
        """The replica on node `name` has less than it has acknowledged."""
        self._match[self.nodes[name]] = 0

    @property
    def connected_nodes(self) -> set[Node]:
        return self._SyncObj__connectedNodes

    def is_connected(self, name: str) -> bool:
        return self.nodes[name] in self.connected_nodes

    @property
    def election_deadline(self) -> float:
        return self._SyncObj__raftElectionDeadline

    @election_deadline.setter
    def election_deadline(self, at: float) -> None:
        self._SyncObj__raftElectionDeadline = at

    # -- what it is made to do

    def take(self, name: str, message: dict[str, Any]) -> None:
        """Gives the library a message, as if the replica on node `name` had sent it so."""
        self._outbox._onMessageReceived(self.nodes[name], message)

    def link_up(self, name: str) -> None:
        self._outbox._onNodeConnected(self.nodes[name])

    def link_down(self, name: str) -> None:
        self._outbox._onNodeDisconnected(self.nodes[name])

    def lead_on(self) -> None:
        """The library's own tick: a leader sends heartbeats when they are due, and steps down when no majority has
        answered for one election timeout."""
        self._onTick(0.0)

    def begin_term(self) -> None:
        """Stands for election in the next term at once."""
        self.election_deadline = NEVER
        self._onTick(0.0)
        # A lone replica wins at once, and the library commits what its disk does not have yet.
        self._SyncObj__raftCommitIndex = min(self._SyncObj__raftCommitIndex, self.log.durable)

    def election_timeout_s(self) -> float:
        """A random time between the minimum and the maximum."""
        return float(self._SyncObj__generateRaftTimeout())

    def step_down(self, term: int) -> None:
        """`term` exists: nobody leads in it as far as is known here."""
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(library._RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None

    def resign(self) -> None:
        """Gives up leadership within the term: the vote for itself stays."""
        self._SyncObj__setState(library._RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None

    def adopt_term(self, term: int) -> None:
        """Goes on in `term`, in which it may have voted already."""
        self._SyncObj__setCurrentTerm(term, "?")

    def beat_next_at(self, at: float) -> None:
        """When the library is to ask for the next heartbeat."""
        self._SyncObj__newAppendEntriesTime = at

    def forgive(self, stalled_s: float) -> None:
        """The followers could not be heard for the last `stalled_s`; that is not theirs to answer for."""
        now = Clock.now()
        for node, at in self._SyncObj__lastResponseTime.items():
            self._SyncObj__lastResponseTime[node] = min(now, at + stalled_s)

    def move_commit(self) -> None:
        """On a leader: commits what a majority, this replica included, has on its disk (only entries of its own term
        are counted: Raft, figure 8)."""
        shard_log = self.log
        indexes = [shard_log.durable]
        indexes += dict.values(self._match)
        indexes.sort()
        index = indexes[(len(indexes) - 1) // 2]
        if index > self._SyncObj__raftCommitIndex and shard_log.term_at(index) == self._SyncObj__raftCurrentTerm:
            self._SyncObj__raftCommitIndex = index

    def jump_to(self, index: int) -> None:
        """The state machine holds everything up to `index`, and that is committed."""
        self._SyncObj__raftLastApplied = self._SyncObj__raftCommitIndex = index
