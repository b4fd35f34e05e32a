"""Reads of one shard that could not be answered the moment they came.

They wait here for the lease, for a majority's word that this node still leads (ReadIndex), for the leader's node to
answer, or for a long value to be read. Each is answered once, at its deadline by `-CLUSTERDOWN` at the latest.

A read must not see what its client wrote behind it. So reads that wait on the leader while a batch is about to be
proposed go into that batch; and a batch that is sent to the leader's node takes along the reads of its clients that
have no answer yet. Asked again after the link broke or the leader changed, they would come too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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


def _put_before(batch: Batch, reads: list[Read]) -> None:
    sinks: list[Sink] = [(read.part, read.token) for read in reads]
    batch.runs.insert(0, Ops([read.args for read in reads]))
    batch.sinks[:0] = sinks
    batch.parts += [read.part for read in reads]


class Reads:
    """The waiting reads of `proposer`'s shard."""

    def __init__(self, proposer: Proposer) -> None:
        self.waiting: list[Read] = []
        self.forwarded: dict[int, tuple[str, list[Read]]] = {}
        self._proposer = proposer
        self._long = LongReads(self._leave_to_others)
        self._asked_at = float("-inf")

    def __bool__(self) -> bool:
        return bool(self.waiting)

    # -- in

    def add(self, part: Part, token: int, args: list[bytes], now: float) -> None:
        """A read whose reply goes to `part.put(token, ...)`, now or later; `now` is the loop's time."""
        proposer = self._proposer
        part.pending += 1
        read = Read(part, token, args, Clock.now(), now + proposer.timeout_s)
        if proposer.serves_reads and proposer.machine is not None:
            self._answer(read, proposer.machine)
        else:
            self.waiting.append(read)
            proposer.wake()

    def add_long(self, part: Part, token: int, args: list[bytes], value: LongRead, now: float) -> None:
        """The same for a GET whose long value was looked up already."""
        part.pending += 1
        self._start(Read(part, token, args, Clock.now(), now + self._proposer.timeout_s), value)

    def _answer(self, read: Read, machine: Machine) -> None:
        """From the applied state, at once or, a long value, bit by bit."""
        try:
            long = machine.long_value(read.args)
            if long is None:
                read.answer(machine.read(read.args))
                return
        except InDoubt:
            self._leave_to_the_log(read)
            return
        except Damaged as damaged:
            self._leave_to_others(read, damaged)
            return
        self._start(read, long)

    def _start(self, read: Read, value: LongRead) -> None:
        read.part.expect(value.value_bytes)
        self._long.add(read, value)
        self._proposer.wake()

    def _leave_to_the_log(self, read: Read) -> None:
        """It is answered by an entry. What its connection asks for behind it waits for that, as behind a write."""
        self._proposer.write(read.part, read.token, read.args)
        finish(read.part)

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
        for read in ready:
            self._answer(read, proposer.machine)

    def as_batch(self) -> Batch:
        """All that waits, to be answered when the entry it goes into is applied."""
        reads, self.waiting = self.waiting, []
        batch = Batch([], [], [], self._proposer.ok, min(read.deadline for read in reads), 0)
        _put_before(batch, reads)
        return batch

    def join_those_of(self, batch: Batch) -> None:
        """Moves into `batch`, before its writes, the reads of its clients that have no answer yet."""
        if not self.waiting and not self.forwarded:
            return
        clients = {part.client for part in batch.parts}
        moved: list[Read] = []
        for _, asked in self.forwarded.values():
            for place, read in enumerate(asked):
                if read.part.client in clients:
                    moved.append(read)
                    asked[place] = Read(_NOBODY, read.token, read.args, read.asked_at, read.deadline)
        moved += [read for read in self.waiting if read.part.client in clients]
        self.waiting = [read for read in self.waiting if read.part.client not in clients]
        if moved:
            _put_before(batch, moved)

    # -- from the leader's node

    def forward(self, name: str, term: int, request: int) -> bool:
        """Asks node `name`; False if there is no link to it."""
        proposer, reads = self._proposer, self.waiting
        if not proposer.send(name, (READ, proposer.shard, request, term, [read.args for read in reads])):
            return False
        self.waiting = []
        self.forwarded[request] = (name, reads)
        return True

    def on_done(self, request: int, status: int, content: Any, parts: list[bytes] | None = None) -> None:
        """The answer to `request`. Raises BadMessage: nothing has changed."""
        if parts:
            hand_out(content, parts)
        if request not in self.forwarded:
            return
        _, reads = self.forwarded[request]
        if status == APPLIED:
            require_count(content, len(reads), least=1)
        del self.forwarded[request]
        if status == REFUSED:
            self._proposer.note_hint(content)
            self._ask_again(reads)
            return
        if status == FAILED:
            content = [content] * len(reads)
        for read, value in zip(reads, content, strict=False):
            read.answer(value)
        if len(content) < len(reads):  # the rest would have been too much at once
            self._ask_again(reads[len(content) :])

    def _ask_again(self, reads: list[Read]) -> None:
        self.waiting = reads + self.waiting
        self._proposer.wake()

    def on_later(self, request: int, value_bytes: int) -> None:
        """A value of this size is on its way."""
        _, reads = self.forwarded.get(request, ("", []))
        for read in reads:
            read.deadline += value_bytes / LONG_BYTES_PER_S

    def link_lost(self, peer: str) -> None:
        """What node `peer` was asked is asked again."""
        for request in [r for r, (name, _) in self.forwarded.items() if name == peer]:
            self.waiting = self.forwarded.pop(request)[1] + self.waiting

    def recall(self) -> None:
        """This node leads now: what others were asked is answered here."""
        asked = [read for _, reads in self.forwarded.values() for read in reads]
        self.forwarded.clear()
        self.waiting = asked + self.waiting

    def tick(self, now: float) -> None:
        """Ends what has waited too long."""
        late = [read for read in self.waiting if read.deadline <= now]
        if late:
            self.waiting = [read for read in self.waiting if read.deadline > now]
        for request in [r for r, (_, reads) in self.forwarded.items() if reads and reads[0].deadline <= now]:
            late += self.forwarded.pop(request)[1]
        for read in late:
            read.answer(errors.cluster_down())
