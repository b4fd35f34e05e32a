"""A simulated process: journal, replicas, proposers and server of one node, turned as `respkv.node` turns them.

Everything in it but its disk is lost when it ends. `kill` leaves what was written, `lose_power` only what the disk
kept; a fault that respkv answers by stopping (`fatal`) kills. A paused process stands still: what comes for it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from respkv.config import Config
from respkv.config.live import Live
from respkv.config.tree import Cluster
from respkv.keyspace.digest import digest
from respkv.raft.identity import Identity
from respkv.raft.journal import Journal
from respkv.raft.messages import REPLICA_KIND_MAX
from respkv.server.holders import HOLDERS_ASK
from respkv.server.news import PUBLISH
from respkv.server.server import Server
from respkv.shard.pace import Pace
from respkv.shard.proposer import Proposer
from respkv.shard.repair import open_journal
from respkv.shard.replica import Replica
from respkv.storage import Bitcask
from respkv.storage.errors import Failed
from tests.sim.disk import Died, Injected, SimDisk
from tests.sim.seams import SortedNodes, Worker

if TYPE_CHECKING:
    from tests.sim.world import World

TICK_S = 0.025
UPKEEP_S = 0.5


def _raise(_connection: Any, error: Exception) -> None:
    raise error


class SimReplica(Replica):
    """A replica whose doings are watched."""

    host: SimNode

    def _open_cask(self) -> Bitcask:
        cask = super()._open_cask()
        self.host.casks.append(cask)
        return cask

    def _apply(self, index: int, term: int, command: bytes) -> None:
        self.host.world.watch.applied(self, index, term, command, self.cask.applied)
        super()._apply(index, term, command)

    def _apply_long(self, index: int, term: int, head: bytes, body: list[memoryview]) -> bool:
        before, (command, *_) = self.cask.applied, self.group.log[index - self.group.log.base_index]
        is_over = super()._apply_long(index, term, head, body)
        if is_over:
            self.host.world.watch.applied(self, index, term, command, before)
        return is_over

    def _role_changed(self) -> None:
        super()._role_changed()
        world = self.host.world
        world.watch.role_changed(self)
        if self.group.leader:
            world.at(world.now, None, partial(world.elected, self.host))

    def digest(self) -> tuple[int, int, bytes, int]:
        """What it holds: applied index, the machine's clock, digest and number of keys (those due to expire too)."""
        self.machine.db.now_ms = 0
        steps = digest(self.machine.db)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found = end.value
                return found.last_applied, self.cask.clock_ms, found.value, found.keys


class _Links(dict[str, None]):
    """The peers that a node has a link to, as `Server` asks for them."""


class SimPeers:
    """In the place of `respkv.cluster.peers.Peers`: what a turn gathers leaves at its end."""

    def __init__(self, node: SimNode) -> None:
        self.links = _Links()
        self.out: dict[str, list[Any]] = {}
        self._node = node

    def send(self, peer: str, message: Any) -> bool:
        if peer not in self.links:
            return False
        if peer in self.out:
            self.out[peer].append(message)
        else:
            self.out[peer] = [message]
            self._node.schedule()
        return True

    def waiting_bytes(self, peer: str) -> int:
        return 0

    def flush(self) -> None:
        out, self.out = self.out, {}
        for peer, messages in out.items():
            if peer in self.links:
                self._node.world.network.post(self._node.name, peer, messages)


class SimNode:
    """One node. `life` counts its processes."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.disk = SimDisk(world.root / name, world.rng, world.rng.choice((512, 4096)))
        self.life = 0
        self.up = False
        self.dies_by_power = False
        self.stands = False
        self.stands_until = 0.0
        self.kept: list[Callable[[], None]] = []
        self.clock_rate, self.clock_offset = 1.0, 0.0
        self.wall_offset_s = 0.0
        self.sync_s = world.sync_s
        self.replicas: dict[int, SimReplica] = {}
        self.casks: list[Bitcask] = []
        self.journal: Journal | None = None

    def clock(self) -> float:
        """CLOCK_BOOTTIME as this node has it."""
        return self.clock_offset + self.world.now * self.clock_rate

    # -- life

    def config(self) -> Config:
        world = self.world
        return Config(
            dir=self.disk.root,
            node=self.name,
            read_mode=world.read_mode,
            segment_bytes=world.segment_bytes,
            journal_segment_bytes=world.journal_segment_bytes,
            journal_keep_bytes=world.journal_keep_bytes,
            read_cache_bytes=1 << 14,
            cluster_timeout_ms=world.timeout_ms,
            cluster=Cluster(shards=len(world.topology.shards), replicas=len(world.topology.shards[0].replicas)),
        )

    def start(self) -> None:
        """A new process. It may die on the way."""
        world = self.world
        self.life += 1
        self.up = True
        self.stands = False
        self.stands_until = 0.0
        self.kept = []
        self._scheduled = False
        self._dirty: list[SimReplica] = []
        self._syncing = False
        self._sync_wanted: tuple[tuple[int, ...], int] | None = None
        self._sync_due: tuple[tuple[int, ...], int] | None = None
        self._pace = Pace(self.clock)
        self.replicas = {}
        world.story.tell(self.name, "starts")
        world.act(self, self._open)
        if self.up:
            world.network.redial()

    def _open(self) -> None:
        world = self.world
        config = self.config()
        shards = world.topology.shards_of(self.name)
        self.peers = SimPeers(self)
        self.journal = open_journal(config, shards, self.disk)
        identity = Identity(config.dir / "journal", self.disk)
        self.journal.on_failure = self.fatal
        self.journal.sync_request = self._request_sync
        self._remote: list[Proposer] = []
        for shard in shards:
            SimReplica.host = self  # for the constructor, which opens files
            replica = SimReplica(
                shard, self.name, config, self.journal, send=self.peers.send, wake=self._wake, worker=Worker(world),
                fatal=self.fatal, disk=self.disk, now=self.clock, identity=identity, pace=self._pace,
            )  # fmt: skip
            replica.host = self
            replica.group._SyncObj__otherNodes = SortedNodes(replica.group._SyncObj__otherNodes)
            self.replicas[shard.id] = replica
        self.proposers = [self._proposer(shard) for shard in world.topology.shards]
        self.server = Server(
            Live(config), world.topology, self.name, self.proposers, list(self.replicas.values()), self.journal,
            self.peers, wake=self.schedule, stop=lambda: None,
        )  # fmt: skip
        self.server.fault = _raise
        world.later(world.rng.random() * TICK_S, partial(self._tick, 0))
        world.later(world.rng.random() * UPKEEP_S, self._keep_up)

    def _proposer(self, shard: Any) -> Proposer:
        if shard.id in self.replicas:
            return self.replicas[shard.id].proposer
        proposer = Proposer(
            shard, self.name, None, None, send=self.peers.send, wake=self.schedule, now=self.clock
        )
        self._remote.append(proposer)
        return proposer

    def kill(self, *, power: bool = False) -> None:
        """The process ends at once; with `power` its disk forgets, too."""
        self.up = False
        self.life += 1
        self.kept = []
        self.world.story.tell(self.name, "loses power" if power else "is killed")
        for other in self.world.names:
            if other != self.name:
                self.world.network.unlink(self.name, other)
        if self.journal is not None:
            self.journal._failed = True
            self.journal.close()
        for replica in self.replicas.values():
            if replica.upkeep.round is not None:
                replica.upkeep.round.close()  # type: ignore[attr-defined]
            for sender in replica.snapshots.senders.values():
                sender.source.close()
        for cask in self.casks:
            cask.failed = True
            if not cask.closed:
                cask.close()
        self.casks = []
        self.disk.process_ends()
        self.replicas = {}
        self.journal = None
        if power:
            self.disk.lose_power()
        self.world.ended(self)

    def pause(self, seconds: float) -> None:
        self.world.story.tell(self.name, "stands still", f"for {seconds:.3f} s")
        self.stands = True
        self.stands_until = max(self.stands_until, self.world.now + seconds)
        self.world.at(self.stands_until, None, partial(self._go_on, self.life))

    def go_on(self) -> None:
        """The pause is over, now."""
        self.stands_until = self.world.now
        self._go_on(self.life)

    def _go_on(self, life: int) -> None:
        if life == self.life and self.stands and self.stands_until <= self.world.now:
            self.stands = False
            kept, self.kept = self.kept, []
            for action in kept:
                self.world.first(self, action)

    def fatal(self, error: BaseException) -> None:
        """respkv stops the node: right if the disk failed, a bug otherwise."""
        if not isinstance(error, Injected | Failed if self.disk.hurt else ()):
            self.world.watch.node_failed(self, error)
        self.world.story.tell(self.name, "stops", str(error).replace(str(self.world.root), ""))
        raise Died

    # -- the turn, as in respkv.node

    def _wake(self, replica: Replica) -> None:
        if not replica.dirty:
            replica.dirty = True
            self._dirty.append(replica)  # type: ignore[arg-type]
            self.schedule()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.world.later(0.0, self._turn)

    def _turn(self) -> None:
        assert self.journal is not None
        try:
            self.server.begin_turn()
            self._scheduled = False
            dirty, self._dirty = self._dirty, []
            if self.world.in_step:
                self._pace.look(sum([replica.proposer.gathered for replica in dirty]))
            for replica in dirty:
                replica.pump()
            for proposer in self._remote:
                proposer.pump()
            self.peers.flush()
            self.journal.flush()
            self.server.send_posted()
            waiting = len(self._dirty)
            self._sync_at_once()
            self.peers.flush()
            woken = self._dirty
            for replica in woken:
                replica.conclude()
            self.server.send_posted()
            self._dirty = woken[:waiting] + [replica for replica in woken[waiting:] if not replica.rests()]
            for replica in dirty + woken:
                replica.catch_up()
        except Exception as error:  # noqa: BLE001 - as the node does
            self.fatal(error)
            return
        self.server.end_turn()

    def deliver(self, peer: str, message: Any) -> None:
        kind, shard = message[0], message[1]
        try:
            if kind <= REPLICA_KIND_MAX:
                if shard in self.replicas:
                    self.replicas[shard].receive(peer, message)
            elif kind >= PUBLISH:
                self.server.news.receive(peer, message)
            elif kind >= HOLDERS_ASK:
                self.server.holders.receive(peer, message)
            else:
                self.proposers[shard].receive(peer, message)
        except Exception as error:  # noqa: BLE001 - as the node does
            self.fatal(error)

    def link_up(self, peer: str) -> None:
        self.peers.links[peer] = None
        for replica in self.replicas.values():
            replica.link_up(peer)

    def link_down(self, peer: str) -> None:
        self.peers.links.pop(peer, None)
        self.peers.out.pop(peer, None)
        for replica in self.replicas.values():
            replica.link_down(peer)
        for proposer in self._remote:
            proposer.link_lost(peer)

    def _tick(self, turn: int) -> None:
        for replica in self.replicas.values():
            replica.tick()
        if turn % 4 == 0:
            for proposer in self.proposers:
                proposer.tick()
                proposer.remove_expired()
        self.world.later(TICK_S, partial(self._tick, turn + 1))

    def _keep_up(self) -> None:
        assert self.journal is not None
        self.journal.release()
        for replica in self.replicas.values():
            replica.start_upkeep()
            replica.send_snapshots()
            replica.place_leader(self.world.return_after_s)
        self.world.later(UPKEEP_S, self._keep_up)

    # -- the disk

    def _request_sync(self, descriptors: tuple[int, ...], sequence: int) -> None:
        """As `respkv.offload.Syncer`: one at a time, and what is asked for meanwhile is one."""
        if self.world.in_step and not self._syncing and self.sync_s[0] < 0.001 and self.world.rng.random() < 0.9:
            self._sync_due = (descriptors, sequence)
            return
        self._sync_wanted = (descriptors, sequence)
        if not self._syncing:
            self._begin_sync()

    def _sync_at_once(self) -> None:
        if self._sync_due is not None:
            (descriptors, sequence), self._sync_due = self._sync_due, None
            self._sync(descriptors, sequence, self.disk.begin_sync())

    def _begin_sync(self) -> None:
        assert self._sync_wanted is not None
        (descriptors, sequence), self._sync_wanted = self._sync_wanted, None
        self._syncing = True
        begun = self.disk.begin_sync()
        self.world.later(self.world.rng.uniform(*self.sync_s), partial(self._end_sync, descriptors, sequence, begun))

    def _end_sync(self, descriptors: tuple[int, ...], sequence: int, begun: int) -> None:
        self._sync(descriptors, sequence, begun)
        self._syncing = False
        if self._sync_wanted is not None:
            self._begin_sync()

    def _sync(self, descriptors: tuple[int, ...], sequence: int, begun: int) -> None:
        error: BaseException | None = None
        try:
            for descriptor in descriptors:
                self.disk.sync(descriptor, begun)
        except OSError as caught:
            error = caught
        assert self.journal is not None
        for shard_log in self.journal.sync_done(sequence, error):
            self.replicas[shard_log.shard].group.durable_moved()

    # -- at the end

    def leftovers(self) -> list[str]:
        """What should be gone once nothing is under way."""
        found = []
        for proposer in self.proposers:
            tables = ("_queue", "_parts", "_forwards", "_proposals", "_reads", "_entries_by_index")
            found += [f"shard {proposer.shard}: {name}" for name in tables if getattr(proposer, name)]
            if proposer._reads.asked:
                found.append(f"shard {proposer.shard}: forwarded reads")
            if proposer.pending_bytes:
                found.append(f"shard {proposer.shard}: pending_bytes {proposer.pending_bytes}")
        for replica in self.replicas.values():
            group = replica.group
            where = f"shard {replica.shard.id}"
            if group.receiving._held or group.elections._held:
                found.append(f"{where}: held acknowledgements or votes")
            if group.leader and any(window.bytes or window.sent for window in group.sending._windows.values()):
                found.append(f"{where}: a window that is not empty")
            if replica.snapshots.senders or replica.receiver.busy or replica._incoming_path.exists():
                found.append(f"{where}: a snapshot under way")
        found += [f"client {number}" for number, connection in self.server.clients.items() if connection.waiting]
        return found
