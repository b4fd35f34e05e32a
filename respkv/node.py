"""The node: puts the parts together, starts and stops them in order, and turns the crank once per loop turn.

Start: lock and read the journal, open each shard's Bitcask log, join the groups, listen for peers, then for clients.
Stop (SIGTERM, SIGINT, SHUTDOWN): stop listening, hand leadership over, answer what is under way, close what is open,
in the opposite order. What cannot be trusted any more (a failed fdatasync, an exception in apply) stops the node at
once with status 1.

The turn: whatever happened marks its replica dirty; `_turn` then lets each dirty replica propose, send and apply,
sends one frame per peer, writes the journal once, and writes the replies that are complete. Where the disk is quick it
waits for that to be synced, and sends what has waited for it: acknowledgements, and the replies to what no other node
has to have.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop

import respkv.server.commands  # noqa: F401 - fills the command table
from respkv import errors, tls
from respkv.acl.users import UsersError
from respkv.border import BadMessage
from respkv.cluster.peers import Peers
from respkv.cluster.topology import Topology
from respkv.config import Config, ConfigError
from respkv.config.live import Live
from respkv.disk import Disk
from respkv.doors import Doors
from respkv.log import set_level
from respkv.metrics import Histogram
from respkv.offload import Syncer, Worker
from respkv.raft.identity import Identity
from respkv.raft.journal import JournalInUse
from respkv.raft.log import ShardLog
from respkv.raft.messages import REPLICA_KIND_MAX
from respkv.raft.segment import JournalDamaged
from respkv.server.announce import ANNOUNCE
from respkv.server.connection import Connection
from respkv.server.evict import SHARD_FULL
from respkv.server.gauges import node_metrics
from respkv.server.holders import HOLDERS_ASK
from respkv.server.hugepages import HugePages, refuse_huge_pages
from respkv.server.lending import Lending
from respkv.server.memory import return_free_memory
from respkv.server.news import PUBLISH
from respkv.server.renaming import RenamingError
from respkv.server.roll import SHARD, USERS_HAVE, USERS_TELL, Roll
from respkv.server.server import Server
from respkv.shard.pace import Pace
from respkv.shard.proposer import Proposer
from respkv.shard.repair import StartError, open_journal
from respkv.shard.replica import Replica
from respkv.storage.errors import StorageError

log = structlog.get_logger()

TICK_S = 0.025
UPKEEP_S = 0.5
STOP_S = 5.0
EVERYSEC_S = 1.0
SYNC_BYTES_AT_ONCE = 1 << 20  # what is longer is synced in the thread, however quick the disk
TRIM_TURNS = 40  # of the upkeep, at the least, between two returns of free memory
QUIET_COMMANDS = 100  # between two turns of the upkeep: so few clients notice a pause
DESCRIPTORS_MAX = 1 << 20  # what Linux allows unless told otherwise
DESCRIPTORS_KEPT = 512  # for files, peers and listeners, beside those of clients
_TOO_MANY_CLIENTS = "The operating system is not able to handle the specified number of clients, try with"


class Node:
    """One node of the cluster, or the only one."""

    def __init__(self, config: Config, disk: Disk | None = None) -> None:
        self.config = config
        self.live = Live(config)
        self.live.watch(lambda current: set_level(current.log_level))
        self.topology = Topology.from_config(config)
        self.exit_status = 0
        self._disk = disk or Disk()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._dirty: list[Replica] = []
        self._scheduled = False
        self._pace = Pace()
        self._knows_room = True
        self._doors = Doors(self._loop, self.live, self._accept)
        self._tasks: list[asyncio.Task[None]] = []
        self._remote: list[Proposer] = []
        self._stop_metrics: Callable[[], None] = lambda: None

    # -- start

    async def start(self) -> None:
        """Opens everything and serves.

        Raises:
            OSError and those of `_CANNOT_START`: with a text for the operator.
        """
        config = self.config
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        _allow_descriptors(config.maxclients + DESCRIPTORS_KEPT)
        if not config.huge_pages:
            refuse_huge_pages()
        self.live.guard(self._check_descriptors)
        self._open_journal()
        self._make_replicas()
        self._make_server()
        self.server.roll.start()
        if config.metrics_port:
            metrics = node_metrics(self.server, self._fsync_seconds)
            self._stop_metrics = metrics.serve(config.metrics_port, config.bind_addresses[0])
        await self.peers.start(config.bind_addresses, config.peer_port)
        _tame_collector()
        self._keep_running(self._tick())
        self._keep_running(self._keep_up())
        await self.server.roll.hear(len(self.topology.nodes) // 2, 2 * config.election_timeout_ms / 1000)
        if wants_intake(config):
            self.server.lending = Lending(self._loop, self.server)
        await self._doors.open()
        if tls.is_used(config):
            self._follow_certificates()
        log.info(
            "node_started",
            node=config.node,
            port=config.port,
            cluster_port=config.cluster_port,
            shards=len(self.replicas),
            pid=os.getpid(),
        )

    def _open_journal(self) -> None:
        config = self.config
        config.dir.mkdir(parents=True, exist_ok=True)
        self.journal = open_journal(config, self.topology.shards_of(config.node), self._disk)
        self._identity = Identity(config.dir / "journal", self._disk)
        self.journal.on_failure = self.fatal
        (config.dir / "respkv.pid").write_text(f"{os.getpid()}\n")
        self._worker = Worker(self._loop, "upkeep")
        self._fsync_seconds = Histogram()
        self._syncer = Syncer(self._loop, self._synced, self._disk.sync, self._fsync_took)

    def _make_replicas(self) -> None:
        """The groups, and the links that they speak over; nobody listens yet."""
        config = self.config
        self.peers = Peers(
            self.topology,
            config.node,
            config.cluster.secret.encode(),
            f"election-timeout-ms={config.election_timeout_ms}",
            deliver=self._deliver,
            connected=functools.partial(self._or_fatal, self._link_up),
            disconnected=functools.partial(self._or_fatal, self._link_down),
            dirty=self._schedule,
            tls=tls.peer_contexts(config),
        )
        self.replicas = {shard.id: self._make_replica(shard) for shard in self.topology.shards_of(config.node)}
        self.proposers = [self._proposer(shard) for shard in self.topology.shards]
        self._choose_sync()

    def _make_server(self) -> None:
        config = self.config
        self.server = Server(
            self.live,
            self.topology,
            config.node,
            self.proposers,
            list(self.replicas.values()),
            self.journal,
            self.peers,
            wake=self._schedule,
            stop=self.stop,
        )
        if config.appendfsync != "always":
            self.server.sync_journal = self._ask_sync
        self.server.roll = Roll(
            self.server.access,
            self.proposers[SHARD],
            self.replicas.get(SHARD),
            self.peers,
            config.dir / "users",
            self._worker,
            self._disk,
        )

    def _make_replica(self, shard: Any) -> Replica:
        return Replica(
            shard,
            self.config.node,
            self.config,
            self.journal,
            send=self.peers.send,
            wake=self._wake,
            worker=self._worker,
            fatal=self.fatal,
            disk=self._disk,
            now=self._loop.time,
            identity=self._identity,
            pace=self._pace,
        )

    def _proposer(self, shard: Any) -> Proposer:
        replica = self.replicas.get(shard.id)
        if replica is not None:
            return replica.proposer
        proposer = Proposer(
            shard, self.config.node, None, None, send=self.peers.send, wake=self._schedule, now=self._loop.time
        )
        self._remote.append(proposer)
        return proposer

    def _accept(self, cluster_view: bool, port_shift: int) -> Connection:
        return Connection(self.server, cluster_view, port_shift)

    # -- certificates

    def _follow_certificates(self) -> None:
        """From now on new ones are taken up: by CONFIG SET, or on SIGHUP."""
        self._tls_wanted = tls.options_of(self.config)
        self.live.guard(tls.check)
        self.live.watch(self._watch_tls)
        self._loop.add_signal_handler(signal.SIGHUP, self.renew_tls)

    def _watch_tls(self, config: Config) -> None:
        """CONFIG SET of something about TLS."""
        if tls.options_of(config) != self._tls_wanted:
            self._tls_wanted = tls.options_of(config)
            self.renew_tls()

    def _check_descriptors(self, config: Config) -> None:
        """Raises ConfigError if more clients are to be allowed than the system allows."""
        if config.maxclients > self.live.config.maxclients:
            wanted = config.maxclients + DESCRIPTORS_KEPT
            if (allowed := _allow_descriptors(wanted)) < wanted:
                raise ConfigError("maxclients", f"{_TOO_MANY_CLIENTS} {allowed - DESCRIPTORS_KEPT}")

    def renew_tls(self) -> None:
        """Certificates are read anew, for what connects from now on: CONFIG SET, or SIGHUP as their files changed."""
        task = self._loop.create_task(self._renew_tls(self.live.config))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _renew_tls(self, config: Config) -> None:
        try:
            tls.check(config)
            await self._doors.renew(config)
            await self.peers.renew(tls.peer_contexts(config))
        except ConfigError as error:
            log.warning("certificates_not_renewed", option=error.option, reason=error.reason)
        else:
            log.info("certificates_renewed")

    # -- the turn

    def _wake(self, replica: Replica) -> None:
        if not replica.dirty:
            replica.dirty = True
            self._dirty.append(replica)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Runs what clients have sent. What others wait for leaves first then; what is applied, and commands that were
        put off, come behind it."""
        try:
            self.server.begin_turn()
            self._scheduled = False
            dirty, self._dirty = self._dirty, []
            self._pace.look(sum([replica.proposer.gathered for replica in dirty]))
            for replica in dirty:
                replica.pump()
            for proposer in self._remote:
                proposer.pump()
            self.peers.flush()
            self.journal.flush()
            self.server.send_posted()
            scheduled, self._scheduled = self._scheduled, True  # what waits for the disk leaves in this turn
            waiting = len(self._dirty)
            self._syncer.end_turn()
            self.peers.flush()
            woken = self._dirty
            for replica in woken:
                replica.conclude()
            self.server.send_posted()
            # Only what the disk has woken may be through with that.
            self._dirty = woken[:waiting] + [replica for replica in woken[waiting:] if not replica.rests()]
            self._scheduled = scheduled
            if self._dirty:
                self._schedule()
            for replica in dirty + woken:
                replica.catch_up()
        except Exception as error:  # noqa: BLE001 - what escapes apply leaves a state nobody may trust
            self.fatal(error)
            return
        self.server.end_turn()

    # -- the disk

    def _choose_sync(self) -> None:
        """`always` asks for an fdatasync after each write; otherwise what is written counts at once."""
        if self.config.appendfsync == "always":
            self.journal.sync_request = self._request_sync
        else:
            self.journal.sync_request = lambda _descriptors, _sequence: self._durable(self.journal.count_written())
            self._keep_running(self._sync_every_second())

    def _request_sync(self, descriptors: tuple[int, ...], sequence: int) -> None:
        if self.journal.frame_bytes <= SYNC_BYTES_AT_ONCE:
            self._syncer.request_at_once(descriptors, sequence)
        else:
            self._syncer.request(descriptors, sequence)

    def _ask_sync(self) -> None:
        if self.journal.sequence > self.journal.synced:
            self._syncer.request(self.journal.ask_sync(), self.journal.sequence)

    async def _sync_every_second(self) -> None:
        """With `everysec` all that was written; with `no` only what would keep segments from being freed."""
        while True:
            await asyncio.sleep(EVERYSEC_S)
            if self.config.appendfsync == "everysec" or self.journal.rolled:
                self._syncer.request(self.journal.ask_sync(), self.journal.sequence)

    def _synced(self, sequence: int, error: BaseException | None) -> None:
        self._durable(self.journal.sync_done(sequence, error))

    def _fsync_took(self, seconds: float) -> None:
        self._fsync_seconds.observe(seconds)
        self.server.watch.latency.note("aof-fsync-always", seconds)

    def _durable(self, logs: list[ShardLog]) -> None:
        for shard_log in logs:
            self.replicas[shard_log.shard].group.durable_moved()

    # -- other nodes

    def _deliver(self, peer: str, message: Any) -> None:
        """Raises BadMessage: the link is to be broken. Anything else that goes wrong is fatal: a contradiction in the
        log, or a fault of ours in the middle of a change."""
        kind, shard = message[0], message[1] if len(message) > 1 else None
        if type(shard) is not int or not 0 <= shard < len(self.proposers):
            raise BadMessage(f"no shard {shard!r:.40}")
        try:
            if kind <= REPLICA_KIND_MAX:
                replica = self.replicas.get(shard)
                if replica is not None:
                    replica.receive(peer, message)
            elif kind in {USERS_TELL, USERS_HAVE}:
                self.server.roll.receive(peer, message)
            elif kind == ANNOUNCE:
                self.server.endpoints.receive(peer, message)
            elif kind == SHARD_FULL:
                self.server.evictor.receive(peer, message)
            elif kind >= PUBLISH:
                self.server.news.receive(peer, message)
            elif kind >= HOLDERS_ASK:
                self.server.holders.receive(peer, message)
            else:
                self.proposers[shard].receive(peer, message)
        except BadMessage:
            raise
        except Exception as error:  # noqa: BLE001
            self.fatal(error)

    def _link_up(self, peer: str) -> None:
        self.peers.send(peer, self.server.endpoints.message())
        for replica in self.replicas.values():
            replica.link_up(peer)
        self.server.link_up(peer)
        self.server.roll.link_up(peer)

    def _link_down(self, peer: str) -> None:
        self.server.link_down(peer)
        for replica in self.replicas.values():
            replica.link_down(peer)
        for proposer in self._remote:
            proposer.link_lost(peer)
        self.server.roll.link_down(peer)

    # -- time

    async def _tick(self) -> None:
        turn, due_at = 0, self._loop.time() + TICK_S
        while True:
            await asyncio.sleep(TICK_S)
            self.server.watch.tick(self._loop.time() - due_at)
            turn, due_at = turn + 1, self._loop.time() + TICK_S
            for replica in self.replicas.values():
                replica.tick()
            if turn % 4 == 0:
                self._watch_disk()
                self.server.tick()
                self.server.roll.tick()
                for proposer in self.proposers:
                    proposer.tick()

    async def _keep_up(self) -> None:
        trimmed, commands = 0, 0
        huge_pages = HugePages() if self.config.huge_pages else None
        for turn in itertools.count(TRIM_TURNS):
            before, commands = commands, self.server.stats.commands
            if turn - trimmed >= TRIM_TURNS and commands - before < QUIET_COMMANDS:
                self._worker.submit(return_free_memory, lambda _error: None)
                trimmed = turn
            if huge_pages is not None and huge_pages.is_due():
                self._worker.submit(huge_pages.ask, lambda _error: None)
            await asyncio.sleep(UPKEEP_S)
            self.server.close_idle()
            self.server.outbox.tick()
            self.server.stats.sample()
            self.server.client_limits.look()
            self.journal.release()
            for replica in self.replicas.values():
                replica.start_upkeep()
                replica.send_snapshots()
                replica.place_leader(follow_clients=self.live.config.follow_clients)

    def _watch_disk(self) -> None:
        """Refuses writes before the disk is full, so that reads, merges and recovery still work. To be called several
        times a second: files grow by whole segments, and what is under way still has to go somewhere."""
        try:
            free = self._disk.free_bytes(self.config.dir)
        except OSError as error:
            if self._knows_room:
                log.warning("disk_usage_unknown", reason=str(error))
            self._knows_room = False
            return
        self._knows_room = True
        headroom = self.live.config.disk_headroom_bytes
        refusal = errors.misconf(f"less than {headroom >> 20} MiB of disk are free") if free < headroom else None
        for replica in self.replicas.values():
            proposer = replica.proposer
            if refusal is None and errors.is_oom(proposer.refusal):
                continue
            if (proposer.refusal is None) is not (refusal is None):
                log.warning("disk_nearly_full" if refusal else "disk_has_room_again", free_bytes=free)
            proposer.refusal = refusal

    # -- stop

    def fatal(self, error: BaseException) -> None:
        """Stops the node at once: nothing more is acknowledged."""
        log.critical("node_failed", error=f"{type(error).__name__}: {error}", exc_info=error)
        sys.stderr.flush()
        os._exit(1)

    def _or_fatal(self, action: Callable[[str], None], peer: str) -> None:
        """An exception leaves parts of the node that were not told: they would wait for ever."""
        try:
            action(peer)
        except Exception as error:  # noqa: BLE001
            self.fatal(error)

    def _keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        """Until the node stops: without it the node is not whole."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.fatal(error)

        task = self._loop.create_task(work)
        task.add_done_callback(ended)
        self._tasks.append(task)

    def stop(self) -> None:
        """Asks for an orderly stop."""
        self._stopping.set()

    async def run_until_stopped(self) -> None:
        await self._stopping.wait()
        await self._shut_down()

    async def _shut_down(self) -> None:
        log.info("node_stopping", node=self.config.node)
        self._doors.close()
        self.server.holders.stop()
        self.server.roll.stop()
        end = time.monotonic() + STOP_S
        await self._wait_while(self._is_wanted, end)
        for connection in list(self.server.clients.values()):
            connection.close_when_answered()
        await self._wait_while(self._busy, end)
        await self.peers.leave()
        await self._wait_while(self._owes, end)
        for task in self._tasks:
            task.cancel()
        for connection in list(self.server.clients.values()):
            connection.close_now()
        if self.server.lending is not None:
            self.server.lending.stop()
        await self.peers.stop()
        self._stop_metrics()
        self._syncer.stop()
        self.journal.close()
        for replica in self.replicas.values():
            replica.close()
        self._worker.stop()
        (self.config.dir / "respkv.pid").unlink(missing_ok=True)
        log.info("node_stopped", node=self.config.node)

    async def _wait_while(self, condition: Callable[[], bool], end: float) -> None:
        self._step_aside()
        while time.monotonic() < end and condition():
            await asyncio.sleep(0.01)
            self._step_aside()  # should leadership have come back meanwhile

    def _step_aside(self) -> None:
        for replica in self.replicas.values():
            replica.step_aside()

    def _is_wanted(self) -> bool:
        """Whether leadership is still here while somebody could take it."""
        return any(replica.group.leader and replica.group.transferring for replica in self.replicas.values())

    def _owes(self) -> bool:
        """Whether another node waits for an outcome."""
        return any(replica.proposer.owes for replica in self.replicas.values())

    def _busy(self) -> bool:
        """Whether anybody waits for this node."""
        clients = self.server.clients.values()
        return self._is_wanted() or self._owes() or any(client.waiting for client in clients)


def wants_intake(config: Config) -> bool:
    """Whether pipelines of SETs are worth a second process: with `auto`, if this one may use a second core."""
    return config.intake == "yes" or (config.intake == "auto" and len(os.sched_getaffinity(0)) > 1)


def _tame_collector() -> None:
    """What there is before the first client stays: no collection need look at it again, and few need be made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _allow_descriptors(wanted: int) -> int:
    """Raises the limit of open files as far as it goes, as every data file needs one, too; says so if that is not
    enough for `maxclients`; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft < most:
        soft = most
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning("few_file_descriptors", allowed=soft, wanted=wanted, hint="raise ulimit -n or lower maxclients")
    return soft


_CANNOT_START = (StartError, JournalDamaged, JournalInUse, StorageError, UsersError, RenamingError, ConfigError)


def run(config: Config) -> int:
    """Runs a node in the foreground until it is told to stop; returns the exit status. Logging is set up already."""
    try:
        return uvloop.run(_main(config))
    except (*_CANNOT_START, OSError) as error:
        log.critical("node_cannot_start", error=str(error))
        return 1


async def _main(config: Config) -> int:
    node = Node(config)
    await node.start()
    await node.run_until_stopped()
    return node.exit_status
