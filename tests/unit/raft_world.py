"""A cluster in one thread: Raft groups, journals and proposers on a virtual clock, network and disk, from a seed.

Time passes only in `World.run`; what happens next is the earliest event of a heap. A node's turn is that of
`respkv.node`: pump, send, flush the journal, ask for a sync, which ends `sync_s` later. A crash loses what was written
and not synced, and of the state machine what was applied and not synced.

Invariants are checked all the time (`World.violations` raises at once): one leader per term; applied entries agree;
a new leader holds everything committed; while a lease is valid no other leader exists and no replica has applied
what the lease's holder has not.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from respkv.cluster.codec import decode, encode
from respkv.cluster.topology import Shard
from respkv.disk import Disk
from respkv.raft.group import Clock, Group, Timing
from respkv.raft.journal import Journal
from respkv.raft.long import LAST, LAST_HEAD_BYTES, PIECE
from respkv.raft.messages import APPEND, SNAPSHOT_ACK
from respkv.reply import RespError
from respkv.shard.batch import Entry, Puts, decode_entry
from respkv.shard.long import LongEntry, LongPut, Slices, decode_head, values_of
from respkv.shard.proposer import Proposer
from respkv.shard.transaction import EXEC_OP, transaction_of
from respkv.shard.waiting import Part
from respkv.shard.watches import Watches
from respkv.storage.cache import ReadCache
from tests.sim.seams import SortedNodes
from tests.sim.watch import Broken

TICK_S = 0.025
SEGMENT_BYTES = 1 << 14


class VolatileDisk(Disk):
    """Writes reach the file when they are synced; until then a crash may lose any of them, or tear one."""

    def __init__(self) -> None:
        self.pending: dict[int, list[tuple[int, bytes]]] = {}

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self.pending.setdefault(fd, []).append((offset, bytes(data)))

    def sync(self, fd: int) -> None:
        for offset, data in self.pending.pop(fd, ()):
            super().write(fd, data, offset)

    def sync_dir(self, path: Path) -> None:
        """The names are on the disk at once."""

    def close(self, fd: int) -> None:
        self.sync(fd)
        super().close(fd)

    def crash(self, rng: random.Random) -> None:
        """Keeps a random part of what was not synced."""
        for fd, writes in self.pending.items():
            for offset, data in writes:
                kept = rng.choice((0, 0, len(data), rng.randrange(len(data) + 1)))
                super().write(fd, data[:kept], offset)
        self.pending.clear()


class Recorder:
    """Stands for the machine: a list of what was applied. `synced` entries of it survive a crash."""

    get_plain = staticmethod(lambda slot, key: False)
    can_apply = can_read = staticmethod(lambda args: True)
    slow = ()

    def __init__(self, history: list[tuple[int, int, bytes]]) -> None:
        self.watches = Watches()
        self.cache = ReadCache(0)
        self.history = history
        self.ops: list[bytes] = []
        for _, _, command in history:
            if command[0] == 0:
                self.take(decode_entry(command))
            elif command[0] == LAST:
                for run in decode_head(command[LAST_HEAD_BYTES:]).runs:
                    if isinstance(run, LongPut):
                        self.ops.append(run.key)
                    else:
                        self.take(Entry(0, 0, [], [run]))

    def take(self, entry: Entry) -> list[Any]:
        replies: list[Any] = []
        for run in entry.runs:
            if isinstance(run, Puts):
                self.ops += run.keys
            else:
                for args in run.commands:
                    if args[0] == EXEC_OP:
                        transaction = transaction_of(args)
                        self.ops += [] if transaction is None else [b"".join(each) for each in transaction.commands]
                        replies.append(None if transaction is None else len(self.ops))
                    elif args[0] == b"READ":
                        replies.append(len(self.ops))
                    else:
                        self.ops.append(args[1])
                        replies.append(len(self.ops))
        return replies

    def apply(self, index: int, term: int, entry: Entry) -> list[Any]:
        return self.take(entry)

    def apply_nothing(self, index: int, term: int) -> None: ...

    def read(self, args: list[bytes]) -> Any:
        return len(self.ops)

    def long_value(self, args: list[bytes]) -> None: ...

    def apply_in_slices(
        self, index: int, term: int, entry: LongEntry, body: list[memoryview]
    ) -> Slices:
        """A slice for each long value."""
        replies: list[Any] = []
        values = values_of(entry.runs, body)
        for run in entry.runs:
            if isinstance(run, LongPut):
                assert sum(map(len, next(values))) == run.value_bytes
                yield lambda: None
        for run in entry.runs:
            if isinstance(run, LongPut):
                self.ops.append(run.key)
            else:
                replies += self.take(Entry(entry.now_ms, entry.seed, [], [run]))
        return replies

    def due(self, limit: int) -> list[bytes]:
        return []


class Client(Part):
    """One waiter with several commands; remembers what it was told."""

    __slots__ = ("_client", "answers", "ended", "ids", "invoked", "node", "ok", "ok_failed", "seen")

    def __init__(self, node: str, ids: list[bytes], client: Client | None = None) -> None:
        """`client`: another one, of the same connection."""
        super().__init__(size=10 * len(ids))
        self._client = client or self
        self.node = node
        self.ids = ids
        self.answers: dict[int, Any] = {}
        self.ok_failed: RespError | None = None
        self.ended = 0

    @property
    def client(self) -> Client:
        return self._client

    def put(self, token: int, value: Any) -> None:
        if token in self.answers:
            raise Broken(f"{self.ids[token]!r} was answered twice")
        self.answers[token] = value

    def fail(self, ok: bytes, error: RespError) -> None:
        self.ok_failed = error

    def done(self) -> None:
        self.ended += 1
        if self.ended > 1:
            raise Broken(f"{self.ids} ended twice")


class WorldNode:
    """A process: everything in it but `path`, `disk` and `saved` is lost in a crash."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.path = world.root / name
        self.disk = VolatileDisk()
        self.saved: list[tuple[int, int, bytes]] = []
        self.life = 0
        self.up = False
        self.group: Group
        self.start()

    def start(self) -> None:
        world = self.world
        self.life += 1
        self.up = True
        self.scheduled = False
        self.history = list(self.saved)
        self.synced = len(self.saved)
        self.machine = Recorder(self.history if world.proposers else [])
        self.proposer: Proposer | None = None
        self.paused_until = 0.0
        self.stands = False
        self.kept: list[Callable[[], None]] = []
        self.journal = Journal.open(self.path, [0], segment_bytes=SEGMENT_BYTES, disk=self.disk)
        self.journal.sync_request = self._sync_wanted
        shard_log = self.journal.logs[0]
        applied, applied_term = (self.history[-1][0], self.history[-1][1]) if self.history else (0, 0)
        if applied > shard_log.last_index or (applied and shard_log.term_at(applied) not in {None, applied_term}):
            shard_log.reset(applied, applied_term)
        self.group = Group(
            0,
            self.name,
            [other for other in world.names if other != self.name],
            shard_log,
            applied,
            apply=self._apply,
            apply_long=self._apply_long,
            send=self.send,
            wake=self.wake,
            role_changed=self._role_changed,
            timing=world.timing,
            eager=self.name == world.names[0],
            lease=world.lease,
        )
        self.group._SyncObj__otherNodes = SortedNodes(self.group._SyncObj__otherNodes)
        if world.proposers:
            self.proposer = Proposer(
                Shard(0, (), tuple(world.names)),
                self.name,
                self.group,
                self.machine,  # type: ignore[arg-type]
                send=self.send_checked,
                wake=self.wake,
                now=lambda: world.now,
            )
            self.proposer.timeout_s = world.timeout_s
        for other in world.names:
            node = world.nodes.get(other)
            if node is not None and node is not self and node.up and world.linked(self.name, other):
                world.linked_up.add(frozenset((self.name, other)))
                self.group.connected(other)
                node.group.connected(self.name)
        life = self.life
        world.after(world.rng.random() * TICK_S, lambda: self._tick(life))
        self.wake()

    def pause(self, seconds: float) -> None:
        """The process stands still; what comes for it waits."""
        self.paused_until = max(self.paused_until, self.world.now + seconds)
        self.stands = True
        self.world.at(self.paused_until, partial(self._go_on, self.life))

    def _go_on(self, life: int) -> None:
        if life == self.life and self.paused_until <= self.world.now:
            self.stands = False
            kept, self.kept = self.kept, []
            for action in kept:
                action()

    def crash(self) -> None:
        world = self.world
        self.up = False
        self.life += 1
        self.disk.crash(world.rng)
        self.journal._failed = True
        self.journal.close()
        self.disk.pending.clear()
        self.saved = self.history[: world.rng.randint(self.synced, len(self.history))]
        for other in world.nodes.values():
            if other is not self:
                world.unlink(self.name, other.name)

    def _apply(self, index: int, term: int, command: bytes) -> None:
        self.world.check_applied(self, index, term, command)
        self.history.append((index, term, command))
        if self.proposer is not None:
            self.proposer.apply(index, term, command)

    def _apply_long(self, index: int, term: int, head: bytes, body: list[memoryview]) -> bool:
        assert self.proposer is not None
        if not self.proposer.apply_long(index, term, head, body):
            return False
        command = self.group.log[index - self.group.log.base_index][0]
        self.world.check_applied(self, index, term, command)
        self.history.append((index, term, command))
        return True

    def _role_changed(self) -> None:
        if self.group.leader:
            self.world.check_elected(self)

    def send(self, peer: str, message: Any) -> None:
        self.world.post(self.name, peer, message)

    def send_checked(self, peer: str, message: Any) -> bool:
        if not self.world.has_link(self.name, peer):
            return False
        self.world.post(self.name, peer, message)
        return True

    def receive(self, peer: str, message: Any) -> None:
        if message[0] <= SNAPSHOT_ACK:
            self.group.receive(peer, message)
        elif self.proposer is not None:
            self.proposer.receive(peer, message)
        self.wake()

    def wake(self) -> None:
        if not self.scheduled and self.up:
            self.scheduled = True
            life = self.life
            self.world.after(0.0, lambda: self._turn(life))

    def _held(self, life: int, action: Callable[[], None]) -> bool:
        """Whether `action` is not for now: of an earlier life, or the process stands still (then it comes later)."""
        if life != self.life:
            return True
        if self.stands:
            self.kept.append(action)
        return self.stands

    def _turn(self, life: int) -> None:
        if self._held(life, lambda: self._turn(life)):
            return
        self.scheduled = False
        if self.proposer is not None:
            self.proposer.pump()
        else:
            self.group.pump()
        self.journal.flush()
        if self.proposer is not None:
            self.proposer.catch_up()

    def _sync_wanted(self, descriptors: tuple[int, ...], sequence: int) -> None:
        life = self.life

        def done() -> None:
            if self._held(life, done):
                return
            for descriptor in descriptors:
                self.disk.sync(descriptor)
            for shard_log in self.journal.sync_done(sequence):
                assert shard_log is self.group.log
                self.group.durable_moved()

        self.world.after(self.world.sync_delay(), done)

    def _tick(self, life: int) -> None:
        if self._held(life, lambda: self._tick(life)):
            return
        self.group.tick()
        if self.proposer is not None:
            self.proposer.tick()
        self.world.after(TICK_S, lambda: self._tick(life))

    def trim(self) -> None:
        """As the replica's upkeep: syncs the data, then trims the journal to some place behind that."""
        self.synced = len(self.history)
        if self.history:
            self.saved = list(self.history)
            index = self.world.rng.randint(self.group.log.base_index, self.history[-1][0])
            self.group.log.trim(index)
            self.wake()
        self.journal.release()

    def install_from(self, other: WorldNode) -> None:
        """A snapshot of `other`, arrived in no time."""
        if not other.history or other.history[-1][0] <= self.group.applied:
            return
        self.history[:] = other.history
        self.saved = list(self.history)
        self.synced = len(self.history)
        self.machine = Recorder(self.history if self.world.proposers else [])
        index, term, _ = self.history[-1]
        if self.proposer is not None:
            self.proposer.use(self.machine)  # type: ignore[arg-type]
            self.proposer.installed()
        self.group.installed(index, term)


class World:
    """The cluster, its clock and its network."""

    def __init__(
        self,
        root: Path,
        size: int = 3,
        *,
        seed: int = 0,
        timing: Timing | None = None,
        lease: bool = True,
        proposers: bool = False,
    ) -> None:
        self.root = root
        self.rng = random.Random(seed)
        random.seed(seed)  # the library's election timeouts
        self.now = 1000.0
        self.timing = timing or Timing()
        self.lease = lease
        self.proposers = proposers
        self.timeout_s = 2.0
        self.latency = (0.0005, 0.003)
        self.sync_s = (0.0005, 0.004)
        self.drop = self.duplicate = self.reorder = 0.0
        self.cut: set[frozenset[str]] = set()
        self.intercept: Callable[[str, str, Any], bool] = lambda source, target, message: True
        self.sent: list[tuple[str, str, Any]] = []
        self.record = False
        self.names = "abcdefg"[:size]
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.committed_in: dict[int, int] = {}
        self.linked_up: set[frozenset[str]] = set()
        self._link_numbers: Counter[frozenset[str]] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._last_arrival: dict[tuple[str, str], float] = {}
        self.nodes: dict[str, WorldNode] = {}
        Clock.now = staticmethod(lambda: self.now)
        for name in self.names:
            self.nodes[name] = WorldNode(self, name)

    def close(self) -> None:
        for node in self.nodes.values():
            if node.up:
                node.up = False
                node.life += 1
                node.journal._failed = True
                node.disk.pending.clear()
                node.journal.close()

    # -- time

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """What is due at the same time happens in the order in which it was asked for."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self.check_lease()
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        end = self.now + seconds
        while not condition():
            if not self._events or self._events[0][0] > end:
                raise AssertionError("it did not come to pass in time")
            self.now, _, action = heapq.heappop(self._events)
            action()
            self.check_lease()

    def sync_delay(self) -> float:
        return self.rng.uniform(*self.sync_s)

    # -- the network

    def linked(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut

    def has_link(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.linked_up

    def post(self, source: str, target: str, message: Any) -> None:
        if self.record:
            self.sent.append((source, target, message))
        if not self.has_link(source, target) or not self.intercept(source, target, message):
            return
        payload = encode(message)
        rng = self.rng
        unreliable = message[0] <= SNAPSHOT_ACK  # more than a link does: Raft must stand it, proposers need not
        for _ in range(1 + (unreliable and rng.random() < self.duplicate)):
            if unreliable and rng.random() < self.drop:
                continue
            arrival = self.now + rng.uniform(*self.latency)
            if not (unreliable and rng.random() < self.reorder):
                arrival = max(arrival, self._last_arrival.get((source, target), 0.0))
                self._last_arrival[source, target] = arrival
            elif rng.random() < 0.3:
                arrival += rng.random() * 2
            receiver = self.nodes[target]
            link = self._link_numbers[frozenset((source, target))]
            self.at(arrival, partial(self._deliver, source, receiver, receiver.life, link, payload))

    def _deliver(self, source: str, receiver: WorldNode, life: int, link: int, payload: bytes) -> None:
        if receiver._held(life, partial(self._deliver, source, receiver, life, link, payload)):
            return
        pair = frozenset((source, receiver.name))
        if receiver.up and pair not in self.cut and self._link_numbers[pair] == link:
            receiver.receive(source, decode(payload))

    def partition(self, *groups: str, notice: bool = True) -> None:
        """Only nodes in the same group hear each other; `notice`: the links are known to be broken."""
        for one in self.names:
            for other in self.names:
                if one < other:
                    together = any(one in group and other in group for group in groups)
                    pair = frozenset((one, other))
                    if together and pair in self.cut:
                        self.cut.discard(pair)
                        self.relink(one, other)
                    elif not together and pair not in self.cut:
                        self.cut.add(pair)
                        if notice:
                            self.unlink(one, other)

    def heal(self) -> None:
        self.partition(self.names)

    def isolate(self, name: str, *, notice: bool = True) -> None:
        self.partition(name, "".join(other for other in self.names if other != name), notice=notice)

    def unlink(self, one: str, other: str) -> None:
        if frozenset((one, other)) not in self.linked_up:
            return
        self.linked_up.discard(frozenset((one, other)))
        self._link_numbers[frozenset((one, other))] += 1  # what is under way is lost
        for node, peer in ((self.nodes[one], other), (self.nodes[other], one)):
            if node.up:
                if node.proposer is not None:
                    node.proposer.link_lost(peer)
                node.group.disconnected(peer)

    def relink(self, one: str, other: str) -> None:
        self.unlink(one, other)
        if self.nodes[one].up and self.nodes[other].up and self.linked(one, other):
            self.linked_up.add(frozenset((one, other)))
            self.nodes[one].group.connected(other)
            self.nodes[other].group.connected(one)

    # -- who is who

    def leaders_now(self) -> list[WorldNode]:
        return [node for node in self.nodes.values() if node.up and node.group.leader]

    def leader(self) -> WorldNode:
        """Waits for a leader that can be read from, and returns the one of the highest term."""
        self.run_until(lambda: any(node.group.readable for node in self.leaders_now()))
        return max(self.leaders_now(), key=lambda node: node.group.term)

    def followers(self) -> list[WorldNode]:
        leader = self.leader()
        return [node for node in self.nodes.values() if node is not leader]

    def write(self, *commands: bytes, on: WorldNode | None = None) -> int:
        """Proposes entries on the leader; returns the last one's index."""
        node = on or self.leader()
        index = 0
        for command in commands:
            index = node.group.propose(b"\0" + command)
        node.wake()
        return index

    def settle(self, seconds: float = 2.0) -> None:
        self.run(seconds)

    # -- invariants

    def check_applied(self, node: WorldNode, index: int, term: int, command: bytes) -> None:
        known = self.committed.setdefault(index, (term, bytes(command)))
        self.committed_in.setdefault(index, node.group.term)
        if known != (term, command):
            raise Broken(f"{node.name} applies {(term, command)} at {index}, another replica {known}")
        last = node.history[-1][0] if node.history else 1
        shard_log = node.group.log
        between = shard_log[last + 1 - shard_log.base_index : index - shard_log.base_index]
        if index != 2 and not (index > last and all(entry[0][0] == PIECE for entry in between)):
            raise Broken(f"{node.name} applies {index} behind {last}")

    def check_elected(self, node: WorldNode) -> None:
        term = node.group.term
        if self.leaders.setdefault(term, node.name) != node.name:
            raise Broken(f"term {term} has the leaders {self.leaders[term]} and {node.name}")
        shard_log = node.group.log
        for index, (entry_term, _) in self.committed.items():
            if self.committed_in[index] >= term:
                continue
            if index > shard_log.base_index and shard_log.term_at(index) != entry_term:
                raise Broken(f"leader {node.name} of term {term} lacks the committed entry {index}")

    def supply_snapshots(self) -> None:
        """What the replica's upkeep would do, at once."""
        for leader in self.leaders_now():
            for name in list(leader.group.snapshot_wanted):
                if self.nodes[name].up and self.has_link(leader.name, name):
                    self.nodes[name].install_from(leader)

    def check_lease(self) -> None:
        holders = [node for node in self.leaders_now() if node.group.lease_until > self.now]
        if not holders:
            return
        if len(holders) > 1:
            raise Broken(f"{[node.name for node in holders]} hold a lease at the same time")
        holder = holders[0]
        applied = holder.group.applied
        for node in self.nodes.values():
            if node.up and node.group.applied > applied:
                raise Broken(f"{node.name} has applied {node.group.applied}, the lease's holder only {applied}")
            if node.up and node.group.leader and node.group.term > holder.group.term:
                raise Broken(f"{node.name} leads while {holder.name} has a lease")

    def appends(self) -> Iterator[tuple[str, str, Any]]:
        """The recorded `APPEND`s that carried entries."""
        return (item for item in self.sent if item[2][0] == APPEND and item[2][7])


def writes(
    world: World, node: WorldNode, ids: list[bytes], *, plain: bool = False, behind: Client | None = None
) -> Client:
    """A client of `node` (that of `behind`) writes: each id is a command that adds it to the state."""
    client = Client(node.name, ids, behind)
    proposer = node.proposer
    assert proposer is not None
    if plain:
        proposer.join(client)
        for key in ids:
            proposer.put(0, key, b"v")
    else:
        for token, name in enumerate(ids):
            proposer.write(client, token, [b"ADD", name])
    return client


def reads(node: WorldNode, count: int = 1) -> Client:
    """A client of `node` reads how much was ever applied."""
    client = Client(node.name, [b"read"] * count)
    assert node.proposer is not None
    client.pending += 1
    for token in range(count):
        node.proposer.read(client, token, [b"READ"])
    client.pending -= 1
    if client.pending == 0:
        client.done()
    return client


__all__ = ["Broken", "Client", "World", "WorldNode", "reads", "writes"]
