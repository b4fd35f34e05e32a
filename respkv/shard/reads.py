"""Reads of one shard that could not be answered the moment they came.

They wait here for the lease, for a majority's word that this node still leads (ReadIndex), for the leader's node to
answer, or for a long value to be read. Each is answered once, at its deadline by `-CLUSTERDOWN` at the latest.

A read must not see what its client wrote behind it. So reads that wait on the leader while a batch is about to be
proposed go into that batch; and a batch that is sent to the leader's node takes along the reads of its clients that
have no answer yet. Asked again after the link broke or the leader changed, they would come too late.

Nor must it see less than one before it. So the leader's node is asked by one message at a time: if some of its reads
have to be asked again, because it was too much at once or nobody leads there, none behind them was answered before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from respkv import errors
from respkv.raft.clock import Clock
from respkv.raft.group import Group
from respkv.reply import Reply, RespError
from respkv.shard.batch import Ops
from respkv.shard.border import APPLIED, FAILED, READ, REFUSED, require_count
from respkv.shard.gathering import LONG_BYTES_PER_S
from respkv.shard.long import LongReads, hand_out
from respkv.shard.machine import InDoubt, Machine
from respkv.shard.waiting import Batch, Part, Read, Sink, finish
from respkv.storage.errors import Damaged
from respkv.storage.reading import LongRead

if TYPE_CHECKING:
    from respkv.shard.proposer import Proposer


class _Nobody(Part):
    """Waits for answers that have become pointless."""

    __slots__ = ()

    def put(self, token: int, value: Reply) -> None: ...

    def fail(self, ok: bytes, error: RespError) -> None: ...

    def done(self) -> None: ...


_NOBODY: Final = _Nobody()


def _left(read: Read) -> Read:
    """Stands for a read in what another node was asked when nobody waits for that answer any more."""
    return Read(_NOBODY, read.token, read.args, read.asked_at, math.inf)


def _put_before(batch: Batch, reads: list[Read]) -> None:
    sinks: list[Sink] = [(read.part, read.token) for read in reads]
    ops = Ops([read.args for read in reads])
    batch.runs.insert(0, ops)
    batch.wires.insert(0, ops)
    batch.sinks[:0] = sinks
    batch.parts += [read.part for read in reads]


class _Asked(NamedTuple):
    """What another node was asked: `reads`, in its `term` (-1: whichever that is)."""

    request: int
    name: str
    term: int
    reads: list[Read]


class Reads:
    """The waiting reads of `proposer`'s shard."""

    def __init__(self, proposer: Proposer) -> None:
        self.waiting: list[Read] = []
        self.asked: _Asked | None = None
        self._proposer = proposer
        self._long = LongReads(self._leave_to_others)
        self._asked_at = float("-inf")

    def __bool__(self) -> bool:
        return bool(self.waiting)

    # -- in

    def add(self, part: Part, token: int, args: list[bytes], now: float) -> None:
        """A read whose reply goes to `part.put(token, ...)`, now or later; `now` is the loop's time."""
        proposer = self._proposer
        if not proposer.serves_reads or proposer.machine is None:
            self.wait(part, token, args, now)
            return
        part.pending += 1
        if not self._answer(Read(part, token, args, Clock.now(), now + proposer.timeout_s), proposer.machine):
            # What its connection asks for behind it waits for that, as behind a write.
            proposer.write(part, token, args)
            finish(part)

    def wait(self, part: Part, token: int, args: list[bytes], now: float) -> None:
        """The same for one that cannot be answered now."""
        part.pending += 1
        self.waiting.append(Read(part, token, args, Clock.now(), now + self._proposer.timeout_s))
        self._proposer.wake()

    def add_long(self, part: Part, token: int, args: list[bytes], value: LongRead, now: float) -> None:
        """The same for a GET whose long value was looked up already."""
        part.pending += 1
        self._start(Read(part, token, args, Clock.now(), now + self._proposer.timeout_s), value)

    def _answer(self, read: Read, machine: Machine) -> bool:
        """From the applied state, at once or, a long value, bit by bit; False if an entry has to answer it."""
        try:
            long = machine.long_value(read.args)
            if long is None:
                read.answer(machine.read(read.args))
            else:
                self._start(read, long)
        except InDoubt:
            return False
        except Damaged as damaged:
            self._leave_to_others(read, damaged)
        except OSError as error:  # no descriptor for a long value
            read.answer(errors.unreadable(error.strerror or str(error)))
        return True

    def _start(self, read: Read, value: LongRead) -> None:
        read.part.expect(value.value_bytes)
        self._long.add(read, value)
        self._proposer.wake()

    def _leave_to_others(self, read: Read, damaged: Damaged) -> None:
        """What is damaged here waits for another replica to answer it."""
        if self._proposer.others:
            self.waiting.append(read)
        else:
            read.answer(errors.damaged(str(damaged)))

    # -- here

    def advance_long(self) -> None:
        """Reads the next pieces of a long value, if one is being read."""
        if self._long:
            self._long.advance()
            self._proposer.wake()

    def serve(self, group: Group) -> None:
        """On the leader: answers what may be answered now, and asks the majority about the rest."""
        proposer = self._proposer
        assert proposer.machine is not None
        if not group.readable:
            return
        if proposer.has_lease:
            ready, self.waiting = self.waiting, []
        else:
            confirmed = group.confirmed if proposer.others else Clock.now()
            ready = [read for read in self.waiting if read.asked_at <= confirmed]
            self.waiting = [read for read in self.waiting if read.asked_at > confirmed]
            newest = max((read.asked_at for read in self.waiting), default=self._asked_at)
            if newest > self._asked_at:
                self._asked_at = Clock.now()
                group.confirm()
        for_the_log: list[Read] = []
        clients: set[Any] = set()
        for read in ready:
            if (clients and read.part.client in clients) or not self._answer(read, proposer.machine):
                clients.add(read.part.client)
                for_the_log.append(read)
        if for_the_log:  # before what was written behind them; and what is read behind them waits for that
            for read in for_the_log:
                read.part.joined.append(proposer)
            proposer.put_first(self._batch_of(for_the_log))

    def as_batch(self) -> Batch:
        """All that waits, to be answered when the entry it goes into is applied."""
        reads, self.waiting = self.waiting, []
        for read in reads:  # what is read behind them waits for that, too
            read.part.joined.append(self._proposer)
        return self._batch_of(reads)

    def _batch_of(self, reads: list[Read]) -> Batch:
        batch = Batch([], [], [], self._proposer.ok, min(read.deadline for read in reads), 0)
        _put_before(batch, reads)
        return batch

    def join_those_of(self, batch: Batch) -> None:
        """Moves into `batch`, before its writes, the reads of its clients that have no answer yet."""
        asked = self.asked.reads if self.asked is not None else []
        if not self.waiting and not asked:
            return
        clients = {part.client for part in batch.parts}
        moved: list[Read] = []
        for place, read in enumerate(asked):
            if read.part.client in clients:
                moved.append(read)
                asked[place] = _left(read)
        moved += [read for read in self.waiting if read.part.client in clients]
        self.waiting = [read for read in self.waiting if read.part.client not in clients]
        if moved:
            _put_before(batch, moved)

    # -- from the leader's node

    def forward(self, name: str, term: int, request: int) -> bool:
        """Asks node `name`, once it has answered what it was asked before; False if there is no link to it."""
        if self.asked is not None:
            if (self.asked.name, self.asked.term) == (name, term):
                return True
            self.recall()
        proposer, reads = self._proposer, self.waiting
        if not proposer.send(name, (READ, proposer.shard, request, term, [read.args for read in reads])):
            return False
        self.waiting = []
        self.asked = _Asked(request, name, term, reads)
        return True

    def on_done(self, request: int, status: int, content: Any, parts: list[bytes] | None = None) -> None:
        """The answer to `request`. Raises BadMessage: nothing has changed."""
        if parts:
            hand_out(content, parts)
        if self.asked is None or self.asked.request != request:
            return
        name, reads = self.asked.name, self.asked.reads
        if status == APPLIED:
            require_count(content, len(reads), least=1)
        self.asked = None
        if self.waiting:
            self._proposer.wake()
        if status == REFUSED:
            self._proposer.refused(name, content)
            self._ask_again(reads)
            return
        if status == FAILED:
            content = [content] * len(reads)
        for read, value in zip(reads, content, strict=False):
            read.answer(value)
        if len(content) < len(reads):  # the rest would have been too much at once
            self._ask_again(reads[len(content) :])

    def _ask_again(self, reads: list[Read]) -> None:
        self.waiting = [read for read in reads if read.part is not _NOBODY] + self.waiting
        self._proposer.wake()

    def on_later(self, request: int, value_bytes: int) -> None:
        """A value of this size is on its way."""
        if self.asked is not None and self.asked.request == request:
            for read in self.asked.reads:
                read.deadline += value_bytes / LONG_BYTES_PER_S

    def link_lost(self, peer: str) -> None:
        """What node `peer` was asked is asked again."""
        if self.asked is not None and self.asked.name == peer:
            self.recall()

    def recall(self) -> None:
        """Another node leads now, perhaps this one, or the link is gone: what was asked waits to be asked again."""
        if self.asked is not None:
            reads, self.asked = self.asked.reads, None
            self._ask_again(reads)

    def tick(self, now: float) -> None:
        """Ends what has waited too long, and asks the leader that there is now what was asked of another."""
        leader, asked, late = self._proposer.leader(), self.asked, []
        if asked is not None:
            late = [read for read in asked.reads if read.deadline <= now]
            if late:
                asked.reads[:] = [_left(read) if read.deadline <= now else read for read in asked.reads]
            if all(read.part is _NOBODY for read in asked.reads):
                self.asked = None
            elif leader is not None and leader != (asked.name, asked.term):
                self.recall()
        late += [read for read in self.waiting if read.deadline <= now]
        self.waiting = [read for read in self.waiting if read.deadline > now]
        for read in late:
            read.answer(errors.cluster_down())
