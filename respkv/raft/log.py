"""One shard's Raft log in memory: what PySyncObj reads and writes, and what of it is on the disk.

The log is a list of `(command, index, term)`, its first element the *base*: the newest entry that was trimmed (or
the empty log's entry 1 of term 0), kept for its index and term alone. Every change is noted as a record for the node's
journal, which writes the records of all shards once per loop turn. `durable` is the highest index whose record has
been fdatasynced; a truncation takes back what a sync under way would otherwise bless.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from pysyncobj.journal import Journal as PySyncObjJournal

from respkv.raft.segment import BASE, ENTRY, LOST, RECORD, STANDING, STATE, TRUNCATE

Entry = tuple[bytes, int, int]

NO_OP = b"\x01"
_UNKNOWN = -1
_pack = RECORD.pack


class Standing(IntEnum):
    """What a replica may do; see `respkv.raft.membership`. The numbers are on the disk."""

    VOTER = 0
    LEARNER = 1  # lost entries: takes and acknowledges new ones, but neither votes nor stands
    STRANGER = 2  # lost term and vote as well: does nothing at all before it knows a bound for them
    NEW = 3  # an empty directory: nothing at all before the others have said whether it was here before


class ShardLog(list[Entry], PySyncObjJournal):  # type: ignore[misc]
    """The log of one shard on this node. Made and owned by `respkv.raft.journal.Journal`."""

    def __init__(self, shard: int, records: list[bytes], dirty: Callable[[ShardLog], None]) -> None:
        super().__init__([(NO_OP, 1, 0)])
        self.shard = shard
        self.term = 0
        self.voted_for: str | None = None
        self.standing = Standing.VOTER
        self.bytes = 0
        self.durable = 1
        self.state_durable = True
        self._state_sequence = 0
        self._records = records
        self._dirty = dirty
        self._clean = True
        self._written: deque[tuple[int, int]] = deque()
        self.durable_base = 1
        self._bases: deque[tuple[int, int]] = deque()

    # -- what PySyncObj calls

    def add(self, command: bytes, idx: int, term: int) -> None:
        self.append((command, idx, term))
        self.bytes += len(command)
        self._note(_pack(ENTRY, self.shard, idx, term, len(command)), command)

    def clear(self) -> None:
        raise AssertionError("the log is replaced by reset(), never cleared")

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802,N803 - the library's names
        self.truncate(self[0][1] + entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802,N803 - the library's names
        raise AssertionError("the library's log compaction is off")

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802,N803 - the library's names
        """Not stored: the commit index is learned anew from a leader's quorum."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - the library's name
        return self[0][1]

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802,N803 - the library's names
        self.term = term
        self.voted_for = votedForNodeId
        vote = (votedForNodeId or "").encode()
        self._note(_pack(STATE, self.shard, 0, term, len(vote)), vote)
        self.state_durable = False
        self._state_sequence = -1

    def getCurrentTerm(self) -> int:  # noqa: N802 - the library's name
        return self.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - the library's name
        return self.voted_for

    def _destroy(self) -> None:
        """The journal outlives its users and is closed by the node."""

    # -- what the rest of respkv.raft calls

    @property
    def last_index(self) -> int:
        return self[-1][1]

    @property
    def base_index(self) -> int:
        return self[0][1]

    def term_at(self, index: int) -> int | None:
        """The term of entry `index`, None if it is not in the log."""
        position = index - self[0][1]
        return self[position][2] if 0 <= position < len(self) else None

    def truncate(self, index: int) -> None:
        """Drops the entries from `index` on."""
        position = index - self[0][1]
        if position <= 0:
            raise AssertionError(f"shard {self.shard}: truncation at {index} would cut the base {self[0][1]}")
        if position >= len(self):
            return
        self.bytes -= sum(len(entry[0]) for entry in self[position:])
        del self[position:]
        self.durable = min(self.durable, index - 1)
        self._written = deque((sequence, min(last, index - 1)) for sequence, last in self._written)
        self._note(_pack(TRUNCATE, self.shard, index, 0, 0))

    def trim(self, index: int) -> None:
        """Makes `index` the base. The caller has seen to it that the state machine's log has it on the disk."""
        if self[0][1] < index <= self[-1][1]:
            self._drop_to(index)
            self._note(_pack(BASE, self.shard, index, self[0][2], 0))

    def reset(self, index: int, term: int) -> None:
        """Replaces the whole log by the base `index` of `term`: a snapshot up to there was installed."""
        if len(self) > 1:
            self._note(_pack(TRUNCATE, self.shard, self[0][1] + 1, 0, 0))
        self[:] = [(NO_OP, index, term)]
        self.bytes = 0
        self.durable = index
        self._written.clear()
        self._note(_pack(BASE, self.shard, index, term, 0))

    def lose(self) -> None:
        """Empties the log: what it was the log of is gone. Term and vote stay."""
        self[:] = [(NO_OP, 1, 0)]
        self.bytes = 0
        self.durable = self.durable_base = 1
        self._written.clear()
        self._bases.clear()
        self._note(_pack(LOST, self.shard, 0, 0, 0))

    def stand(self, standing: Standing) -> None:
        """Changes the standing; as with a vote, nothing that reflects it leaves before it is durable."""
        self.standing = standing
        self._note(_pack(STANDING, self.shard, standing, 0, 0))
        self.state_durable = False
        self._state_sequence = -1

    def checkpoint(self) -> list[bytes]:
        """Records that say the base, the term, the vote and the standing."""
        vote = (self.voted_for or "").encode()
        standing = [_pack(STANDING, self.shard, self.standing, 0, 0)] if self.standing else []
        return [
            *standing,
            _pack(BASE, self.shard, self[0][1], self[0][2], 0),
            _pack(STATE, self.shard, 0, self.term, len(vote)),
            vote,
        ]

    def entries_as_records(self) -> list[bytes]:
        records: list[bytes] = []
        for command, index, term in self[1:]:
            records += (_pack(ENTRY, self.shard, index, term, len(command)), command)
        return records

    def written(self, sequence: int) -> None:
        """All records noted so far went out in frame `sequence`."""
        self._clean = True
        if self._state_sequence < 0:
            self._state_sequence = sequence
        base, last = self[0][1], self[-1][1]
        if last > self.durable:
            self._written.append((sequence, last))
        if base > self.durable_base:
            self._bases.append((sequence, base))

    def synced(self, sequence: int) -> bool:
        """Frames up to `sequence` are on the disk; tells whether that made entries, term or vote durable."""
        while self._bases and self._bases[0][0] <= sequence:
            self.durable_base = self._bases.popleft()[1]
        return self.counted(sequence)

    def counted(self, sequence: int) -> bool:
        """Frames up to `sequence` count as durable, whether they are on the disk or not (`appendfsync` not
        `always`)."""
        written, durable, state = self._written, self.durable, self.state_durable
        if not state and 0 <= self._state_sequence <= sequence:
            self.state_durable = True
        while written and written[0][0] <= sequence:
            self.durable = max(self.durable, written.popleft()[1])
        return self.durable > durable or self.state_durable is not state

    @property
    def has_gap(self) -> bool:
        """During replay: entries before the first one read were in a freed segment, and no base was read yet."""
        return self[0][2] == _UNKNOWN

    def replay(self, kind: int, index: int, term: int, payload: bytes) -> None:
        """Repeats a record read from the disk.

        Raises:
            ValueError: the record does not fit the log.
        """
        if kind == ENTRY:
            if index <= self[0][1] and not self.has_gap:
                return  # a roll-over writes the newest base before the records that were pending
            if index <= self[0][1] or index > self[-1][1] + 1:
                self[:] = [(NO_OP, index - 1, _UNKNOWN)]
                self.bytes = 0
            self._cut(index)
            self.append((payload, index, term))
            self.bytes += len(payload)
        elif kind == STATE:
            self.term = term
            self.voted_for = payload.decode() or None
        elif kind == TRUNCATE:
            self._cut(index)
        elif kind == BASE:
            if self.term_at(index) == term:
                self._drop_to(index)
            elif index > self[0][1]:
                self[:] = [(NO_OP, index, term)]
                self.bytes = 0
            elif index == self[0][1] and self.has_gap:
                self[0] = (NO_OP, index, term)
        elif kind == LOST:
            self[:] = [(NO_OP, 1, 0)]
            self.bytes = 0
        elif kind == STANDING:
            self.standing = Standing(index)
        else:
            raise ValueError(f"unknown record kind {kind}")
        self.durable = self[-1][1]
        self.durable_base = self[0][1]

    def _drop_to(self, index: int) -> None:
        position = index - self[0][1]
        self.bytes -= sum(len(entry[0]) for entry in self[1 : position + 1])
        self[: position + 1] = [(NO_OP, index, self[position][2])]

    def _cut(self, index: int) -> None:
        position = max(1, index - self[0][1])
        self.bytes -= sum(len(entry[0]) for entry in self[position:])
        del self[position:]

    def _note(self, *parts: bytes) -> None:
        self._records.extend(parts)
        if self._clean:
            self._clean = False
            self._dirty(self)

    def __hash__(self) -> int:  # type: ignore[override]  # told apart by identity
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other
