"""The proposer: gathers what clients write to one shard in a loop turn, gets it into the log, and tells them how it
ended.

On the leader a batch becomes one Raft entry, together with the batches that other nodes forwarded; elsewhere it goes
to the leader's node as one message. At most `IN_FLIGHT_MAX` entries (or forwarded batches) are under way; what comes
meanwhile gathers.

Order: batches of one node are appended in the order in which they were gathered. A forwarded batch names the term it
was meant for and is refused in any other, so that after a refusal no later batch of the same term can slip in front.

Outcome, exactly one for each batch:

- *applied*: its entry was applied here, or the leader says so, or (if the leader is gone) this node's own replica
  applies an entry that carries the batch.
- *not applied for sure*: never proposed; refused; or an entry of a later term was applied here, which shows that the
  log has no place for it any more. It is proposed again until its deadline; then the client gets `-CLUSTERDOWN`, not
  applied.
- *unknown* at the deadline: `-TIMEOUT`, may have been applied. It is never proposed again.

Reads are served from the leader's applied state under its lease, or after a majority has confirmed it. Reads that wait
on the leader while a batch is about to be proposed go into that batch, so that they keep their place.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

import structlog

from respkv import errors
from respkv.cluster.peers import Parts
from respkv.cluster.topology import Shard
from respkv.raft.group import Clock, Group
from respkv.reply import LongBulk, RespError
from respkv.shard.batch import Entry, Ops, Puts, count_ops, decode_entry, encode_entry, encode_runs
from respkv.shard.border import (
    APPLIED,
    FAILED,
    FORWARD,
    FORWARD_LONG,
    FORWARDED,
    READ,
    READ_DONE,
    READ_LATER,
    REFUSED,
    check,
    check_commands,
    checked_long_runs,
    checked_runs,
    require_count,
)
from respkv.shard.long import (
    LONG_BYTES,
    LongApply,
    LongEntry,
    LongReads,
    LongRun,
    Offload,
    decode_head,
    encode_head,
    hand_out,
    run_here,
    split_columns,
)
from respkv.shard.machine import Machine, Watcher, wall_ms
from respkv.shard.waiting import Batch, Part, Read, Sink, finish
from respkv.storage.errors import Damaged
from respkv.storage.reading import LongRead
from respkv.storage.record import encode_puts

log = structlog.get_logger()

IN_FLIGHT_MAX = 2
ENTRY_BYTES_MAX = 16 << 20  # a batch closes at this size; one client's read may go beyond it

REPLY_BYTES_MAX = 4 << 20  # a message of replies to forwarded reads ends when it has more
LONG_BYTES_PER_S = 8 << 20  # a batch has a second more for as many bytes

GetPlain = Callable[[int, bytes], bytes | Literal[False] | None]


class _NoLease:
    """Stands for the group on a node without a replica."""

    lease_until = float("-inf")


def _raise(error: BaseException) -> None:
    raise error


def _not_here(slot: int, key: bytes) -> Literal[False]:
    return False


class _Forwarded(Part):
    """Another node's batch or reads: its outcome goes back as one message."""

    __slots__ = ("_kind", "_peer", "_proposer", "_request", "_values", "failed", "value_bytes")

    def __init__(self, proposer: Proposer, peer: str, kind: int, request: int, count: int) -> None:
        super().__init__()
        self._proposer = proposer
        self._peer = peer
        self._kind = kind
        self._request = request
        self._values: list[Any] = [None] * count
        self.value_bytes = 0
        self.failed: RespError | None = None

    def put(self, token: int, value: Any) -> None:
        self._values[token] = value
        if type(value) is bytes:
            self.value_bytes += len(value)

    def cut(self, count: int) -> None:
        """No more than the first `count` are answered now."""
        del self._values[count:]

    def fail(self, ok: bytes, error: RespError) -> None:
        self.failed = error

    def expect(self, value_bytes: int) -> None:
        self._proposer.send(self._peer, (READ_LATER, self._proposer.shard, self._request, value_bytes))

    def done(self) -> None:
        status, content = (APPLIED, self._values) if self.failed is None else (FAILED, self.failed)
        message = (self._kind, self._proposer.shard, self._request, status, content)
        parts = Parts(part for value in self._values if isinstance(value, LongBulk) for part in value.parts)
        self._proposer.send(self._peer, (*message, parts) if parts else message)


class Proposer:
    """One shard as this node's clients see it.

    Connections append plain puts, `(slot, key, value)`, to `puts` after `join`; everything else goes through `write`
    and `read`. `ok` is the object that stands for the reply of such a put until its batch has its outcome.
    """

    def __init__(
        self,
        shard: Shard,
        node: str,
        group: Group | None,
        machine: Machine | None,
        *,
        send: Callable[[str, Any], bool],
        wake: Callable[[], None],
        now: Callable[[], float],
        offload: Offload = run_here,
        fatal: Callable[[BaseException], None] = _raise,
    ) -> None:
        self.shard = shard.id
        self.group = group
        self.lease: Group | _NoLease = group or _NoLease()
        self._watcher: Watcher | None = None
        self.use(machine)
        self.ok = bytes(bytearray(b"+OK\r\n"))  # an object of its own: told apart by identity
        self.puts: list[tuple[int, bytes, bytes]] = []  # always this list: others hold its `append`
        self.part: Part | None = None
        self.refusal: RespError | None = None
        self.send = send
        self.wake = wake
        self.timeout_s = 5.0
        self.pending_bytes = 0
        self.proposed = 0
        self.expired = 0
        self.expiring = False
        self._node = node
        self._replicas = shard.replicas
        self._now = now
        self._runs: list[LongRun] = []
        self._ops: list[list[bytes]] | None = None
        self._sinks: list[Sink] = []
        self._parts: list[Part] = []
        self._body: list[bytes] = []
        self._bytes = 0
        self._since = 0.0
        self._queue: list[Batch] = []
        self._proposals: dict[int, tuple[int, list[Batch]]] = {}
        self._entries_by_index: dict[int, Entry] = {}
        self._forwards: dict[int, Batch] = {}
        self._reads: list[Read] = []
        self._read_forwards: dict[int, tuple[str, list[Read]]] = {}
        self._long_apply = LongApply(offload, wake, fatal)
        self._long_reads = LongReads(self._leave_to_others)
        self._sequence = 0
        self._request = random.getrandbits(48)
        self._hint: tuple[str, int] = (shard.replicas[0], -1)
        self._asked_at = float("-inf")
        self._led_in = -1
        self._applied_term = 0

    def use(self, machine: Machine | None) -> None:
        """The state to read from and to apply to (None: this node holds no replica)."""
        self.machine = machine
        if machine is not None:
            machine.watcher = self._watcher
        self.get_plain: GetPlain = machine.get_plain if machine is not None else _not_here

    def watch(self, watcher: Watcher | None) -> None:
        """`watcher` is told what is applied here from now on."""
        self._watcher = watcher
        if self.machine is not None:
            self.machine.watcher = watcher

    def avoid_plain_reads(self) -> None:
        """Until the next `use`: a read of this state may fail, and only the long way leaves it to another replica."""
        self.get_plain = _not_here

    @property
    def leads(self) -> bool:
        return self.group is not None and self.group.leader

    # -- clients write and read

    def join(self, part: Part) -> None:
        """`part` is about to add to the batch being gathered; it will be told when that has its outcome."""
        if not self._parts:
            self._since = self._now()
            if len(self._proposals) < IN_FLIGHT_MAX:  # else the next one's end is what to wait for
                self.wake()
        self.part = part
        part.pending += 1
        part.joined.append(self)
        self._parts.append(part)
        self._bytes += part.size
        self.pending_bytes += part.size

    def write(self, part: Part, token: int, args: list[bytes]) -> None:
        """Adds a command in its place; its reply goes to `part.put(token, ...)`. `args[0]` is upper case."""
        if self.part is not part:
            self.join(part)
        if self.puts:
            self._close_puts()
        if self._ops is None:
            self._ops = []
            self._runs.append(Ops(self._ops))
        self._ops.append(args)
        self._sinks.append((part, token))

    @property
    def serves_reads(self) -> bool:
        """Whether a read may be answered from the applied state at this moment."""
        group = self.group
        return group is not None and group.lease_until > Clock.now()

    def read(self, part: Part, token: int, args: list[bytes]) -> None:
        """A read-only command whose reply goes to `part.put(token, ...)`, now or later."""
        part.pending += 1
        read = Read(part, token, args, Clock.now(), self._now() + self.timeout_s)
        if self.serves_reads and self.machine is not None:
            self._answer(read, self.machine)
            return
        self._reads.append(read)
        self.wake()

    def read_long(self, part: Part, token: int, args: list[bytes], value: LongRead) -> None:
        """The same for a GET whose long value was looked up already."""
        part.pending += 1
        part.expect(value.value_bytes)
        read = Read(part, token, args, Clock.now(), self._now() + self.timeout_s)
        self._long_reads.add(read, value)
        self.wake()

    def _answer(self, read: Read, machine: Machine) -> None:
        """From the applied state, at once or, a long value, bit by bit."""
        try:
            long = machine.long_value(read.args)
            if long is None:
                read.answer(machine.read(read.args))
                return
        except Damaged as damaged:
            self._leave_to_others(read, damaged)
            return
        read.part.expect(long.value_bytes)
        self._long_reads.add(read, long)
        self.wake()

    def _leave_to_others(self, read: Read, damaged: Damaged) -> None:
        """What is damaged here waits for another replica to answer it."""
        if self._replicas[1:]:
            self._reads.append(read)
        else:
            read.answer(errors.damaged(str(damaged)))

    # -- once per loop turn

    def pump(self) -> None:
        """Proposes or forwards what was gathered, and serves the reads that may be served."""
        group = self.group
        if group is not None:
            leads_in = group.term if group.leader else -1
            if leads_in != self._led_in:
                self._led_in = leads_in
                self._give_back(leads_in)
        if group is None:
            if self._parts or self._queue or self._reads:
                self._forward_all()
            return
        group.advance()
        if group.leader:
            if self._reads:
                self._serve_reads(group)
            if (self._parts or self._queue) and group.transferring is None and self._may_propose(group):
                self._seal()
                if self._queue[0].body:
                    self._propose_long(group)
                else:
                    self._propose(group)
            group.feed()
        elif self._parts or self._queue or self._reads:
            self._forward_all()
        if self._long_reads:
            self._long_reads.advance()
            self.wake()

    def _may_propose(self, group: Group) -> bool:
        within = len(self._proposals) < IN_FLIGHT_MAX and not group.appending
        return within and not self._older_under_way(group.term)

    def _older_under_way(self, term: int) -> bool:
        """A batch of an earlier term has no outcome yet: later ones must not overtake it."""
        return any(batch.term != term for batch in self._forwards.values()) or any(
            proposal[0] != term for proposal in self._proposals.values()
        )

    def _close_puts(self) -> None:
        """Makes runs of the puts gathered so far."""
        slots, keys, values = map(list, zip(*self.puts, strict=True))
        self.puts.clear()
        self._ops = None
        if max(map(len, values)) < LONG_BYTES:
            self._runs.append(Puts(slots, keys, *encode_puts(keys, values)))
            return
        runs, body = split_columns(slots, keys, values)
        self._runs += runs
        self._body += body
        body_bytes = sum(map(len, body))
        self._bytes += body_bytes
        self.pending_bytes += body_bytes

    def _seal(self) -> None:
        """Moves what was gathered to the end of the queue."""
        if not self._parts:
            return
        if self.puts:
            self._close_puts()
        deadline = self._since + self.timeout_s + self._bytes / LONG_BYTES_PER_S
        batch = Batch(self._runs, self._sinks, self._parts, self.ok, deadline, self._bytes)
        batch.body = self._body
        self._sequence += 1
        batch.sequence = self._sequence
        self._queue.append(batch)
        self._runs, self._sinks, self._parts, self._ops, self._body = [], [], [], None, []
        self._bytes, self.part = 0, None

    def _take(self) -> list[Batch]:
        """The next batches for one entry."""
        self._seal()
        queue, size, count = self._queue, 0, 0
        while count < len(queue) and (size < ENTRY_BYTES_MAX or count == 0):
            if queue[count].body:  # gets an entry of its own
                break
            size += queue[count].bytes
            count += 1
        batches, self._queue = queue[:count], queue[count:]
        return batches

    def _propose(self, group: Group) -> None:
        batches = self._take()
        if self._reads:
            batches.insert(0, self._reads_as_batch())
        term = group.term
        origins, runs, first = [], [], 0
        for batch in batches:
            runs += batch.runs
            ops = len(batch.sinks)
            if batch.origin is not None:
                origins.append((batch.origin, batch.request, first, ops))
            first += ops
            batch.term = term
        entry = Entry(wall_ms(), random.getrandbits(63), origins, runs)
        index = group.propose(encode_entry(entry))
        self._proposals[index] = (term, batches)
        self._entries_by_index[index] = entry
        self.proposed += 1

    def _propose_long(self, group: Group) -> None:
        batch = self._queue.pop(0)
        batch.term = group.term
        origins = [] if batch.origin is None else [(batch.origin, batch.request, 0, len(batch.sinks))]
        head = encode_head(LongEntry(wall_ms(), random.getrandbits(63), origins, batch.runs))
        index = group.propose_long(batch.body, head)
        self._proposals[index] = (group.term, [batch])
        self.proposed += 1

    def _reads_as_batch(self) -> Batch:
        reads, self._reads = self._reads, []
        sinks: list[Sink] = [(read.part, read.token) for read in reads]
        deadline = min(read.deadline for read in reads)
        ops = Ops([read.args for read in reads])
        return Batch([ops], sinks, [read.part for read in reads], self.ok, deadline, 0)

    # -- the group applies

    def apply(self, index: int, term: int, command: bytes) -> None:
        """Called by the group for each committed entry. What escapes is fatal to the node."""
        machine = self.machine
        assert machine is not None
        proposal = self._proposals.pop(index, None)
        entry = self._entries_by_index.pop(index, None)
        if proposal is not None and proposal[0] != term:
            self._requeue(proposal[1])
            proposal = entry = None
        if command[0] != 0:
            machine.apply_nothing(index, term)
        else:
            self._apply_entry(index, term, entry, command, proposal[1] if proposal else None)
        if term > self._applied_term:
            self._applied_term = term
            self._resolve_older(term)

    def apply_long(self, index: int, term: int, head: bytes, body: list[memoryview]) -> bool:
        """As `apply`, for a long entry: writes a slice of it and tells whether that was the last."""
        machine = self.machine
        assert machine is not None
        entry = decode_head(head)
        replies = self._long_apply.advance(lambda: machine.apply_in_slices(index, term, entry, body))
        if replies is None:
            return False
        proposed_in, batches = self._proposals.pop(index, (term, []))
        if proposed_in != term:
            self._requeue(batches)
            batches = []
        for batch in batches:
            self._settle(batch, replies)
        for node, request, _, _ in entry.origins:
            if node == self._node and request in self._forwards:
                self._settle(self._forwards.pop(request), replies)
        if term > self._applied_term:
            self._applied_term = term
            self._resolve_older(term)
        self.wake()
        return True

    def _apply_entry(
        self, index: int, term: int, entry: Entry | None, command: bytes, batches: list[Batch] | None
    ) -> None:
        assert self.machine is not None
        if entry is None:
            entry = decode_entry(command)
        try:
            replies = self.machine.apply(index, term, entry)
        except Damaged:
            for batch in batches or ():
                self._fail(batch, errors.timeout("this replica's data are damaged"))
            raise
        if batches is not None:
            first = 0
            for batch in batches:
                ops = len(batch.sinks)
                self._settle(batch, replies[first : first + ops])
                first += ops
        elif entry.origins and self._forwards:
            for node, request, first, ops in entry.origins:
                if node == self._node and request in self._forwards:
                    batch = self._forwards.pop(request)
                    self._mark_overtaken(batch)
                    self._settle(batch, replies[first : first + ops])

    def _mark_overtaken(self, batch: Batch) -> None:
        """`batch` may have been applied: of those before it, the ones that were lost must not be proposed after it."""
        for earlier in self._forwards.values():
            earlier.overtaken = earlier.overtaken or (earlier.lost and earlier.sequence < batch.sequence)

    def _settle(self, batch: Batch, replies: list[Any]) -> None:
        self.pending_bytes -= batch.bytes
        batch.applied(replies)

    def _fail(self, batch: Batch, error: RespError) -> None:
        self.pending_bytes -= batch.bytes
        batch.fail(error)

    def _resolve_older(self, term: int) -> None:
        """An entry of `term` was applied: what was meant for earlier terms and was not applied by now never will be."""
        lost: list[Batch] = []
        for index in [i for i, proposal in self._proposals.items() if proposal[0] < term]:
            lost += self._proposals.pop(index)[1]
            self._entries_by_index.pop(index, None)
        for request in [r for r, batch in self._forwards.items() if 0 <= batch.term < term]:
            lost.append(self._forwards.pop(request))
        self._requeue(lost)

    def _requeue(self, batches: list[Batch]) -> None:
        """Batches that were not applied for sure: in their old order, before everything gathered later."""
        mine: list[Batch] = []
        for batch in batches:
            batch.term = -1
            if batch.origin is not None:
                self._refuse(batch)
            elif batch.overtaken:
                self._fail(batch, errors.cluster_down("the link to the leader broke"))
            else:
                batch.lost = False
                mine.append(batch)
        if mine:
            self._queue = sorted(mine + self._queue, key=lambda batch: batch.sequence)
            self.wake()

    def _give_back(self, leads_in: int) -> None:
        """The role or the term has changed: what other nodes forwarded for an earlier term is refused for good."""
        stale = [batch for batch in self._queue if batch.origin is not None and batch.term != leads_in]
        for batch in stale:
            self._queue.remove(batch)
            self._refuse(batch)

    def _refuse(self, batch: Batch) -> None:
        """Gives a batch back to the node that forwarded it."""
        self.pending_bytes -= batch.bytes
        if batch.origin is not None:
            self.send(batch.origin, (FORWARDED, self.shard, batch.request, REFUSED, self.leader()))

    # -- reads that have to wait

    def _serve_reads(self, group: Group) -> None:
        assert self.machine is not None
        if not group.readable:
            return
        if self.serves_reads:
            ready, self._reads = self._reads, []
        else:
            confirmed = group.confirmed if self._replicas[1:] else Clock.now()
            ready = [read for read in self._reads if read.asked_at <= confirmed]
            self._reads = [read for read in self._reads if read.asked_at > confirmed]
            newest = max((read.asked_at for read in self._reads), default=self._asked_at)
            if newest > self._asked_at:
                self._asked_at = Clock.now()
                group.confirm()
        for read in ready:
            self._answer(read, self.machine)

    # -- forwarding

    def leader(self) -> tuple[str, int] | None:
        """The node that leads, as far as is known here, and its term (-1: not known)."""
        group = self.group
        if group is None:
            return self._hint
        leader = group.leader_id
        return None if leader is None else (leader, group.term)

    def _forward_all(self) -> None:
        leader = self.leader()
        if leader is None or leader[0] == self._node:
            return
        name, term = leader
        if self._reads:
            self._forward_reads(name, term)
        limit = IN_FLIGHT_MAX if self.group is not None else 1
        while (self._parts or self._queue) and len(self._forwards) < limit and not self._older_under_way(term):
            if not self._forward_batch(name, term):
                return

    def _forward_batch(self, name: str, term: int) -> bool:
        self._seal()
        batch = self._queue[0]
        self._request += 1
        message: tuple[Any, ...] = (FORWARD, self.shard, self._request, term, encode_runs(batch.runs))
        if batch.body:
            message = (FORWARD_LONG, *message[1:], Parts(batch.body))
        if not self.send(name, message):
            self._no_link_to(name)
            return False
        del self._queue[0]
        batch.term, batch.target = term, name
        self._forwards[self._request] = batch
        return True

    def _forward_reads(self, name: str, term: int) -> None:
        self._request += 1
        reads = self._reads
        if self.send(name, (READ, self.shard, self._request, term, [read.args for read in reads])):
            self._reads = []
            self._read_forwards[self._request] = (name, reads)
        else:
            self._no_link_to(name)

    def _no_link_to(self, name: str) -> None:
        """A node without a replica asks the next one, at the next tick: it has only hints to go by."""
        if self.group is None and self._hint[0] == name:
            self._note_hint(None)

    # -- what other nodes send

    def receive(self, peer: str, message: Any) -> None:
        """A message of the proposer of the same shard on node `peer`.

        Raises:
            BadMessage: nothing has changed; the link to `peer` is to be broken.
        """
        check(message)
        kind, _, request, *rest = message
        if kind in {FORWARD, FORWARD_LONG}:
            self._on_forward(peer, request, *rest)
        elif kind == FORWARDED:
            self._on_forwarded(request, *rest)
        elif kind == READ:
            self._on_read(peer, request, *rest)
        elif kind == READ_DONE:
            self._on_read_done(request, *rest)
        elif kind == READ_LATER:
            self._on_read_later(request, *rest)

    def _leads_in(self, term: int) -> bool:
        group = self.group
        return group is not None and group.leader and term in (-1, group.term)

    def _on_forward(self, peer: str, request: int, term: int, encoded: bytes, body: list[bytes] | None = None) -> None:
        if not self._leads_in(term):
            self.send(peer, (FORWARDED, self.shard, request, REFUSED, self.leader()))
            return
        if self.refusal is not None:
            self.send(peer, (FORWARDED, self.shard, request, FAILED, self.refusal))
            return
        assert self.machine is not None
        can = self.machine.can_apply
        runs: list[Any] = checked_long_runs(encoded, body, can) if body else checked_runs(encoded, can)
        part = _Forwarded(self, peer, FORWARDED, request, count_ops(runs))
        part.pending = 1
        sinks: list[Sink] = [(part, token) for token in range(count_ops(runs))]
        size = len(encoded) + sum(map(len, body or ()))
        deadline = self._now() + self.timeout_s + size / LONG_BYTES_PER_S
        batch = Batch(runs, sinks, [part], self.ok, deadline, size)
        batch.body = body or []
        batch.origin, batch.request = peer, request
        batch.term = self.group.term if self.group is not None else -1
        self._seal()
        self._sequence += 1
        batch.sequence = self._sequence
        self.pending_bytes += batch.bytes
        self._queue.append(batch)
        self.wake()

    def _on_forwarded(self, request: int, status: int, content: Any, parts: list[bytes] | None = None) -> None:
        if parts:
            hand_out(content, parts)
        batch = self._forwards.get(request)
        if batch is None:
            return
        if status == APPLIED:
            require_count(content, len(batch.sinks))
        del self._forwards[request]
        if status != REFUSED:
            self._mark_overtaken(batch)
        if status == APPLIED:
            self._settle(batch, content)
        elif status == REFUSED:
            self._note_hint(content)
            self._requeue([batch])
        else:
            self._fail(batch, content)
        self.wake()

    def _on_read(self, peer: str, request: int, term: int, commands: list[list[bytes]]) -> None:
        if not self._leads_in(term):
            self.send(peer, (READ_DONE, self.shard, request, REFUSED, self.leader()))
            return
        assert self.machine is not None
        check_commands(commands, self.machine.can_read)
        part = _Forwarded(self, peer, READ_DONE, request, len(commands))
        part.pending = 1
        for token, args in enumerate(commands):
            if part.value_bytes > REPLY_BYTES_MAX:
                part.cut(token)
                break
            self.read(part, token, args)
        finish(part)

    def _on_read_done(self, request: int, status: int, content: Any, parts: list[bytes] | None = None) -> None:
        if parts:
            hand_out(content, parts)
        if request not in self._read_forwards:
            return
        _, reads = self._read_forwards[request]
        if status == APPLIED:
            require_count(content, len(reads), least=1)
        del self._read_forwards[request]
        if status == REFUSED:
            self._note_hint(content)
            self._reads = reads + self._reads
            self.wake()
            return
        if status == FAILED:
            content = [content] * len(reads)
        for read, value in zip(reads, content, strict=False):
            read.answer(value)
        if len(content) < len(reads):  # the rest would have been too much at once: it is asked again
            self._reads = reads[len(content) :] + self._reads
            self.wake()

    def _on_read_later(self, request: int, value_bytes: int) -> None:
        _, reads = self._read_forwards.get(request, ("", []))
        for read in reads:
            read.deadline += value_bytes / LONG_BYTES_PER_S

    def _note_hint(self, hint: Any) -> None:
        if hint is not None:
            self._hint = (hint[0], -1)
        elif self.group is None:
            following = self._replicas.index(self._hint[0]) + 1 if self._hint[0] in self._replicas else 0
            self._hint = (self._replicas[following % len(self._replicas)], -1)

    def installed(self) -> None:
        """A snapshot replaced the state: what it holds of the batches under way cannot be told."""
        for _, batches in self._proposals.values():
            for batch in batches:
                self._fail(batch, errors.timeout("this replica was replaced by a snapshot"))
        for batch in self._forwards.values():
            self._fail(batch, errors.timeout("this replica was replaced by a snapshot"))
        self._proposals.clear()
        self._entries_by_index.clear()
        self._forwards.clear()

    def link_lost(self, peer: str) -> None:
        """The link to node `peer` broke: what it was asked may or may not have been done."""
        for request in [r for r, (name, _) in self._read_forwards.items() if name == peer]:
            self._reads = self._read_forwards.pop(request)[1] + self._reads
        for batch in self._forwards.values():
            batch.lost = batch.lost or batch.target == peer
        if self.group is None and peer == self._hint[0]:
            self._note_hint(None)
            forwards, self._forwards = self._forwards, {}
            for batch in forwards.values():
                self._fail(batch, errors.timeout("the leader's node was lost"))
        self.wake()

    # -- time

    def tick(self) -> None:
        """Ends what has waited too long; to be called a few times per second."""
        now = self._now()
        if self._parts and self._since + self.timeout_s <= now:
            self._seal()
        for batch in [b for b in self._queue if b.deadline <= now]:
            self._queue.remove(batch)
            self._fail(batch, errors.cluster_down())
        for request in [r for r, batch in self._forwards.items() if batch.deadline <= now]:
            self._fail(self._forwards.pop(request), errors.timeout())
        for index in [i for i, (_, batches) in self._proposals.items() if batches and batches[0].deadline <= now]:
            term, batches = self._proposals[index]
            self._proposals[index] = (term, [])
            for batch in batches:
                self._fail(batch, errors.timeout())
        self._tick_reads(now)
        if self._queue or self._parts or self._reads:
            self.wake()

    def _tick_reads(self, now: float) -> None:
        late = [read for read in self._reads if read.deadline <= now]
        if late:
            self._reads = [read for read in self._reads if read.deadline > now]
        for request in [r for r, (_, reads) in self._read_forwards.items() if reads and reads[0].deadline <= now]:
            late += self._read_forwards.pop(request)[1]
        for read in late:
            read.answer(errors.cluster_down())

    def let_go(self) -> None:
        """The state is about to be closed: nothing more is written to it."""
        self._long_apply.drop()

    def remove_expired(self, limit: int = 256) -> None:
        """On a leader: proposes the removal of keys whose expiry has passed."""
        if self.group is None or not self.group.readable or self.machine is None or self.expiring:
            return
        keys = self.machine.due(limit)
        if keys:
            self.expiring = True
            part = _Expiry(self)
            self.write(part, 0, [b"\0expire", *keys])


class _Expiry(Part):
    """Waits for the removal of expired keys that the proposer itself has asked for, and counts them."""

    __slots__ = ("_proposer",)

    def __init__(self, proposer: Proposer) -> None:
        super().__init__()
        self._proposer = proposer

    def put(self, token: int, value: Any) -> None:
        if isinstance(value, int):
            self._proposer.expired += value

    def fail(self, ok: bytes, error: RespError) -> None:
        """It will be proposed again if it is still needed."""

    def done(self) -> None:
        self._proposer.expiring = False
