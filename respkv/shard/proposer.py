"""The proposer: gathers what clients write to one shard in a loop turn, gets it into the log, and tells them how it
ended.

On the leader a batch becomes one Raft entry, together with the batches that other nodes forwarded; elsewhere it goes
to the leader's node as one message. At most `IN_FLIGHT_MAX` entries (or forwarded batches) are under way, and another
one only if it holds as much as they do; what comes meanwhile gathers, and so does what comes while clients are still
sending (`respkv.shard.pace`).

Order: batches of one node are appended in the order in which they were gathered. A forwarded batch names the term it
was meant for and is refused in any other, so that after a refusal no later batch of the same term can slip in front.

What can become of a batch, and how that is found out, is told in `respkv.shard.outcomes`.

Reads are served from the leader's applied state under its lease, or after a majority has confirmed it
(`respkv.shard.reads`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from respkv import errors
from respkv.cluster.frames import Parts
from respkv.cluster.slots import slot_of
from respkv.cluster.topology import Shard
from respkv.raft.group import Clock, Group
from respkv.reply import RespError
from respkv.shard.batch import Entry, Guarded, Puts, count_ops, decode_entry, encode_entry, encode_runs
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
    LongApply,
    LongEntry,
    Offload,
    count_commands,
    decode_head,
    encode_head,
    hand_out,
    run_here,
)
from respkv.shard.machine import Machine, Watcher, wall_ms
from respkv.shard.outcomes import Outcomes
from respkv.shard.pace import Pace
from respkv.shard.reads import Reads
from respkv.shard.requests import Expiry, Forwarded
from respkv.shard.waiting import Batch, Part, Sink, finish, tell_slow
from respkv.storage.cache import ReadCache
from respkv.storage.errors import Damaged
from respkv.storage.reading import LongRead

IN_FLIGHT_MAX = 3
ENTRY_BYTES_MAX = 16 << 20  # a batch closes at this size; one client's read may go beyond it
HELD_BYTES_MAX = 64 << 10  # what is longer is worth an entry
FORESEEN_MAX = 16  # entries kept as they were decoded for the border, until they are applied
REPLY_BYTES_MAX = 4 << 20  # a message of replies to forwarded reads ends when it has more

GetPlain = Callable[[int, bytes], bytes | Literal[False] | None]
Told = Callable[[bytes | None], None]


class _NoLease:
    """Stands for the group on a node without a replica."""

    lease_until = float("-inf")


def _raise(error: BaseException) -> None:
    raise error


def _not_here(slot: int, key: bytes) -> Literal[False]:
    return False


class Proposer(Outcomes):
    """One shard as this node's clients see it: they `join`, `write` and `read`."""

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
        pace: Pace | None = None,
    ) -> None:
        super().__init__(shard, send=send, wake=wake, now=now)
        self._pace = pace or Pace()
        self.group = group
        self.lease: Group | _NoLease = group or _NoLease()
        self._watcher: Watcher | None = None
        self.cache = ReadCache(0)
        self.use(machine)
        self.refusal: RespError | None = None
        self.on_slow: Callable[[Part, list[bytes], float], None] = lambda part, args, seconds: None
        self.proposed = 0
        self.expired = 0
        self.expiry_cut = 0  # how often more had expired than one removal takes
        self.expiring = False
        self.expires_actively = True
        self.asked_by: Counter[str] = Counter()  # commands that each other node has forwarded
        self._node = node
        self.others = len(shard.replicas) > 1
        self._reads = Reads(self)
        self._long_apply = LongApply(offload, wake, fatal)
        self._request = random.getrandbits(48)
        self._hint: tuple[str, int] = (shard.replicas[0], -1)
        self._led_in = -1
        self._answered = 0
        self._applied_term = 0
        self._foreseen: dict[int, tuple[bytes, Entry]] = {}

    def use(self, machine: Machine | None) -> None:
        """The state to read from and to apply to (None: this node holds no replica)."""
        self.machine = machine
        if machine is not None:
            machine.watcher = self._watcher
        if machine is None:
            self.read_by(_not_here)
        else:
            self.read_by(machine.get_plain, machine.cache)

    def read_by(self, get_plain: GetPlain, cache: ReadCache | None = None) -> None:
        """How plain values are read from now on, and which of them need not be read: none without a `cache`."""
        told, self.cache.told = self.cache.told, None
        self.get_plain = get_plain
        self.cache = ReadCache(0) if cache is None else cache
        self.tell_of_cache(told)

    def tell_of_cache(self, told: Told | None) -> None:
        """`told` hears of every value that is at hand no longer (`ReadCache.told`), beginning with all of them."""
        self.cache.told = told
        if told is not None:
            told(None)

    def watch(self, watcher: Watcher | None) -> None:
        """`watcher` is told what is applied here from now on."""
        self._watcher = watcher
        if self.machine is not None:
            self.machine.watcher = watcher

    def avoid_plain_reads(self) -> None:
        """Until the next `use`: a read of this state may fail, and only the long way leaves it to another replica."""
        self.read_by(_not_here)

    @property
    def leads(self) -> bool:
        return self.group is not None and self.group.leader

    # -- clients write and read

    @property
    def has_lease(self) -> bool:
        """Whether the applied state is the newest at this moment."""
        group = self.group
        return group is not None and group.lease_until > Clock.now()

    @property
    def serves_reads(self) -> bool:
        """Whether a read that comes now may be answered from the applied state: none that came before it waits."""
        return self.serves_reads_at(Clock.now())

    def serves_reads_at(self, now: float) -> bool:
        """The same for who has just looked at the clock."""
        return self.lease.lease_until > now and not self._reads

    def begun(self) -> None:
        if len(self._proposals) < IN_FLIGHT_MAX:  # else the next one's end is what to wait for
            self.wake()

    def read(self, part: Part, token: int, args: list[bytes]) -> None:
        """A read-only command whose reply goes to `part.put(token, ...)`, now or later."""
        self._reads.add(part, token, args, self._now())

    def read_later(self, part: Part, token: int, args: list[bytes]) -> None:
        """The same where it is known that this one cannot be answered now."""
        self._reads.wait(part, token, args, self._now())

    def read_long(self, part: Part, token: int, args: list[bytes], value: LongRead) -> None:
        """The same for a GET whose long value was looked up already."""
        self._reads.add_long(part, token, args, value, self._now())

    # -- once per loop turn

    def pump(self) -> None:
        """Proposes or forwards what was gathered, and serves the reads that may be served."""
        group = self.group
        if group is not None:
            leads_in = group.term if group.leader else -1
            if leads_in != self._led_in:
                self._led_in = leads_in
                self._give_back(leads_in)
                if group.leader:
                    self._reads.recall()
                if self.machine is not None:
                    self.machine.watches.clear()
        if group is None:
            if self._parts or self._queue or self._reads:
                self._forward_all()
            return
        if group.leader:
            if self._parts and not (self._proposals or self._reads) and self._waits():
                return  # for there is nothing else to do
            group.move_commit()
            if not self._answer_puts(group):
                group.apply_committed()
            if self._reads:
                self._reads.serve(group)
            if (self._parts or self._queue) and group.transferring is None and self._may_propose(group):
                self._close_batch()
                if self._queue[0].body and not self._reads:
                    self._propose_long(group)
                else:
                    self._propose(group)
            group.feed()
        elif self._parts or self._queue or self._reads:
            self._forward_all()
        self._reads.advance_long()

    def _answer_puts(self, group: Group) -> bool:
        """Answers what is committed if it is plain puts, whose replies are known, and leaves applying it to `catch_up`.

        Not if anybody wants to read, or to know what is written, before that.
        """
        machine = self.machine
        assert machine is not None
        if self._reads or self._watcher is not None or machine.watches.stamps:
            return False
        entries, proposals = self._entries_by_index, self._proposals
        answered = range(max(group.applied, self._answered) + 1, group.commit + 1)
        for index in answered:
            entry = entries.get(index)
            if entry is None or index not in proposals or proposals[index][0] != group.term:
                return False
            for run in entry.runs:
                if type(run) is not Puts:
                    return False
        if answered:
            self._answered = group.commit
            group.promise(group.commit)
            for index in answered:
                for batch in proposals.pop(index)[1]:
                    self._settle(batch, [])
        return True

    def conclude(self) -> None:
        """Answers what this node alone has made durable, behind `pump` in the same turn. Raises what escapes
        applying."""
        group = self.group
        if group is not None and group.leader and not self.others:
            group.move_commit()
            if not self._answer_puts(group):
                group.apply_committed()

    @property
    def is_through(self) -> bool:
        """Whether nothing of what came to this node alone waits for another turn."""
        group = self.group
        if group is None or not group.leader or self.others or group.appending:
            return False
        return not (self._parts or self._queue or self._reads) and group.commit == max(group.applied, self._answered)

    def catch_up(self) -> None:
        """Applies what `pump` has answered, and what others lead to: to be called in the same turn, when the answers
        have left and before any client's command is run. Raises what escapes applying."""
        answered, self._answered = self._answered, 0
        group = self.group
        if group is None:
            return
        if not group.leader:
            group.apply_committed()
        while group.applied < answered:
            group.apply_committed()

    def _may_propose(self, group: Group) -> bool:
        return not group.appending and self._has_room(len(self._proposals), group.term) and not self._waits()

    def _has_room(self, under_way: int, term: int) -> bool:
        """Whether another batch may leave beside so many."""
        limit = IN_FLIGHT_MAX if self.group is not None else 1
        if under_way >= limit or self._older_under_way(term):
            return False
        return under_way == 0 or self._is_worth_an_entry()

    def _is_worth_an_entry(self) -> bool:
        """Whether as much waits as is under way: an entry costs the same whatever it holds, so less waits for more.

        Not for what was lost on its way, of which nobody may tell for long.
        """
        gathered = self._bytes + sum(batch.bytes for batch in self._queue)
        lost = sum(batch.bytes for batch in self._forwards.values() if batch.lost)
        return 2 * gathered >= self.pending_bytes - lost

    def _waits(self) -> bool:
        """Whether what was gathered here is left for the next turn."""
        if not self._pace.holds or self._queue or self._bytes >= HELD_BYTES_MAX:
            return False
        self.wake()
        return True

    def _take(self) -> list[Batch]:
        """The next batches for one entry."""
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
        if not self._may_go(batches):
            self._queue = batches + self._queue
            return
        if self._reads:
            batches.insert(0, self._reads.as_batch())
        term = group.term
        origins, runs, wires, first = [], [], [], 0
        for batch in batches:
            runs += batch.runs
            wires += batch.wires
            ops = len(batch.sinks)
            if batch.origin is not None:
                origins.append((batch.origin, batch.request, first, ops))
            first += ops
            batch.term = term
        entry = Entry(wall_ms(), random.getrandbits(63), origins, runs)
        index = group.propose(encode_entry(entry, wires))
        self._proposals[index] = (term, batches)
        self._entries_by_index[index] = entry
        self.proposed += 1

    def _propose_long(self, group: Group) -> None:
        if not self._may_go(self._queue[:1]):
            return
        batch = self._queue.pop(0)
        batch.term = group.term
        origins = [] if batch.origin is None else [(batch.origin, batch.request, 0, len(batch.sinks))]
        head = encode_head(LongEntry(wall_ms(), random.getrandbits(63), origins, batch.runs))
        index = group.propose_long(batch.body, head)
        self._proposals[index] = (group.term, [batch])
        self.proposed += 1

    def _may_go(self, batches: list[Batch]) -> bool:
        """Whether nothing under way may write what a transaction among these watches (`respkv.shard.watches`)."""
        runs = [run for batch in batches for run in batch.runs]
        for run in runs:
            if type(run) is Guarded:
                break
        else:
            return True
        assert self.machine is not None
        proposed = [waiting for _, waiting in self._proposals.values()]
        known = all(proposed)  # what nobody waits for any more is forgotten
        under_way = [run for waiting in proposed for batch in waiting for run in batch.runs] if known else None
        return self.machine.watches.judge(runs, under_way)

    # -- the group applies

    def foresee(self, index: int, command: bytes, entry: Entry) -> None:
        """`command`, which may be applied here as `index`, was decoded already."""
        if len(self._foreseen) >= FORESEEN_MAX:
            self._foreseen.clear()
        self._foreseen[index] = command, entry

    def apply(self, index: int, term: int, command: bytes) -> None:
        """Called by the group for each committed entry. What escapes is fatal to the node."""
        machine = self.machine
        assert machine is not None
        proposal = self._proposals.pop(index, None)
        entry = self._entries_by_index.pop(index, None)
        foreseen = self._foreseen.pop(index, None)
        if foreseen is not None and foreseen[0] is command:
            entry = foreseen[1]
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
                self._settle_forwarded(request, replies)
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
                self._leave_unknown(batch, "this replica's data are damaged")
            raise
        if self.machine.slow:
            tell_slow(self.machine.take_slow(), batches or [], self.on_slow)
        if batches is not None:
            first = 0
            for batch in batches:
                ops = len(batch.sinks)
                self._settle(batch, replies[first : first + ops])
                first += ops
        elif entry.origins and self._forwards:
            for node, request, first, ops in entry.origins:
                if node == self._node and request in self._forwards:
                    self._settle_forwarded(request, replies[first : first + ops])

    def _settle_forwarded(self, request: int, replies: list[Any]) -> None:
        batch = self._forwards.pop(request)
        self._mark_overtaken(batch)
        self._settle(batch, replies)

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
        while (self._parts or self._queue) and self._has_room(self._forwards_under_way(), term):
            if not self._forward_batch(name, term):
                return
        if self._reads:
            self._request += 1
            if not self._reads.forward(name, term, self._request):
                self.no_leader_at(name)

    def _forwards_under_way(self) -> int:
        """How many may still be answered by the node that they were sent to."""
        lost = 0
        for batch in self._forwards.values():
            lost += batch.lost
        return len(self._forwards) - lost

    def _forward_batch(self, name: str, term: int) -> bool:
        self._close_batch()
        batch = self._queue[0]
        self._reads.join_those_of(batch)
        self._request += 1
        message: tuple[Any, ...] = (FORWARD, self.shard, self._request, term, encode_runs(batch.wires))
        if batch.body:
            message = (FORWARD_LONG, *message[1:], Parts(batch.body))
        if not self.send(name, message):
            self.no_leader_at(name)
            return False
        del self._queue[0]
        batch.term, batch.target = term, name
        batch.unseen = self.group is None
        self._forwards[self._request] = batch
        return True

    def no_leader_at(self, name: str) -> None:
        """Node `name` cannot be asked, or does not know who leads. A node without a replica, which has only hints to go
        by, asks the next one."""
        if self.group is None and self._hint[0] == name:
            following = self._replicas.index(name) + 1 if name in self._replicas else 0
            self._hint = (self._replicas[following % len(self._replicas)], -1)

    def refused(self, name: str, leader: Any) -> None:
        """Node `name` does not lead. `leader` is who does, by its word: node and term, or None."""
        if leader is None:
            self.no_leader_at(name)
        else:
            self._hint = (leader[0], -1)

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
            self._reads.on_done(request, *rest)
        elif kind == READ_LATER:
            self._reads.on_later(request, *rest)

    def _leads_in(self, term: int) -> bool:
        group = self.group
        return group is not None and group.leader and term in (-1, group.term)

    def _on_forward(self, peer: str, request: int, term: int, encoded: bytes, body: list[bytes] | None = None) -> None:
        if not self._leads_in(term):
            self.send(peer, (FORWARDED, self.shard, request, REFUSED, self.leader()))
            return
        if self.refusal is not None and not errors.is_oom(self.refusal):  # who forwards knows what memory is left
            self.send(peer, (FORWARDED, self.shard, request, FAILED, self.refusal))
            return
        assert self.machine is not None
        can = self.machine.can_apply
        runs: list[Any] = checked_long_runs(encoded, body, can) if body else checked_runs(encoded, can)
        self.asked_by[peer] += count_commands(runs)
        part = Forwarded(self, peer, FORWARDED, request, count_ops(runs))
        part.pending = 1
        sinks: list[Sink] = [(part, token) for token in range(count_ops(runs))]
        size = len(encoded) + sum(map(len, body or ()))
        self._close_batch()
        batch = self._taken(runs, [part], sinks, body or [], size)
        batch.origin, batch.request = peer, request
        batch.term = self.group.term if self.group is not None else -1
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
            self.refused(batch.target, content)
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
        part = Forwarded(self, peer, READ_DONE, request, len(commands))
        part.pending = 1
        for token, args in enumerate(commands):
            if part.value_bytes > REPLY_BYTES_MAX:
                part.cut(token)
                break
            if self in part.joined:  # one before it is in doubt and waits for an entry
                self.write(part, token, args)
            elif (value := self._plain_value(args)) is not False:
                part.put(token, value)
            else:
                self.read(part, token, args)
        self.asked_by[peer] += part.count
        finish(part)

    def _plain_value(self, args: list[bytes]) -> bytes | Literal[False] | None:
        """What a GET of another node's client finds, if it can be answered now by the short way; else False."""
        machine = self.machine
        if machine is None or self._watcher is not None or not self.serves_reads or args[0] != b"GET":
            return False
        try:
            value = self.get_plain(slot_of(args[1]), args[1])
        except Damaged:
            return False
        if value is None:
            machine.misses += 1
        elif value is not False:
            machine.hits += 1
        return value

    def take_demand(self) -> Counter[str]:
        """How many commands came by way of each node since the last call; on the leader, those of all.

        Clients of the cluster view ask the leader, wherever it is: to them all the preferred one is best.
        """
        demand, (standalone, cluster_view) = self.asked_by, self.asked
        demand[self._node] += standalone
        demand[self._replicas[0]] += cluster_view
        self.asked_by, self.asked = Counter(), [0, 0]
        return demand

    def link_lost(self, peer: str) -> None:
        """The link to node `peer` broke: what it was asked may or may not have been done."""
        self._reads.link_lost(peer)
        for batch in self._forwards.values():
            batch.lost = batch.lost or batch.target == peer
        self._give_up_untold()
        self.no_leader_at(peer)
        self.wake()

    # -- time

    def tick(self) -> None:
        """Ends what has waited too long; to be called a few times per second."""
        now = self._now()
        if self._parts and self._since + self.timeout_s <= now:
            self._close_batch()
        self._end_late(now)
        self._reads.tick(now)
        if self._queue or self._parts or self._reads:
            self.wake()

    def let_go(self) -> None:
        """The state is about to be closed: nothing more is written to it."""
        self._long_apply.drop()

    def remove_expired(self, limit: int = 256) -> None:
        """On a leader: proposes the removal of keys whose expiry has passed."""
        if self.group is None or not self.group.readable or self.machine is None or self.expiring:
            return
        if not self.expires_actively:
            return
        keys = self.machine.due(limit)
        self.expiry_cut += len(keys) == limit
        if keys:
            self.expiring = True
            part = Expiry(self)
            self.write(part, 0, [b"\0expire", *keys])

