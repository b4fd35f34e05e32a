"""The server as its connections and commands see it: who is connected, what is counted, and where the shards are."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from os import write
from typing import TYPE_CHECKING, Any, Final

import structlog

from respkv import errors
from respkv.cluster.peers import Peers
from respkv.cluster.topology import Shard, Topology
from respkv.config import Config
from respkv.config.live import Live
from respkv.raft.group import Clock
from respkv.raft.journal import Journal
from respkv.reply import RespError
from respkv.resp.limits import Limits
from respkv.server.access import Access
from respkv.server.announce import Endpoints
from respkv.server.answers import Answers
from respkv.server.arrivals import Arrivals
from respkv.server.channels import Channels
from respkv.server.clientlimits import ClientLimits
from respkv.server.evict import Evictor
from respkv.server.feed import Feed
from respkv.server.holders import Holders
from respkv.server.memory import process_memory
from respkv.server.messaging import Messaging
from respkv.server.monitor import Monitors
from respkv.server.news import News
from respkv.server.notify import Notifier
from respkv.server.outbox import Outbox
from respkv.server.pause import Pause
from respkv.server.renaming import PLAIN, renamed
from respkv.server.shares import Shares
from respkv.server.stats import Stats
from respkv.server.tracking import Tracking
from respkv.server.traffic import Traffic
from respkv.server.watch import Watch
from respkv.shard.proposer import Proposer
from respkv.shard.replica import Replica

if TYPE_CHECKING:
    from respkv.server.burst import Burst, PutBurst
    from respkv.server.connection import Connection
    from respkv.server.lending import Lending
    from respkv.server.roll import Roll
    from respkv.server.session import Session

log = structlog.get_logger()

DIRECT_BYTES: Final = 64 << 10  # what is longer may have to wait in part, and would be copied

# Reasons that concern every client for which a connection may not take the fast way (`Connection.hinder`).
MONITORED: Final = 1 << 0
PAUSED: Final = 1 << 1
MISSES_WATCHED: Final = 1 << 2
RENAMED: Final = 1 << 3
MEASURED: Final = 1 << 4


class Server:
    """What is shared by all connections of a node. Built by the node, which sets the parts that it owns.

    Raises UsersError, RenamingError.
    """

    roll: Roll
    lending: Lending | None = None

    def __init__(
        self,
        config: Live,
        topology: Topology,
        node: str,
        proposers: Sequence[Proposer],
        replicas: Sequence[Replica],
        journal: Journal,
        peers: Peers,
        *,
        wake: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self.config = config
        self.topology = topology
        self.node = node
        self.proposers = list(proposers)
        self.replicas = list(replicas)
        self.journal = journal
        self.peers = peers
        self.stop = stop
        self.holders = Holders(node, self.proposers, peers.send)
        self.startup_bytes = process_memory().used
        self.shard_of_slot = bytes(topology.slots)  # small enough to stay in the cache
        self.proposer_of_slot = tuple(self.proposers[shard] for shard in topology.slots)
        self.stats = Stats()
        self.watch = Watch(self.stats)
        self.evictor = Evictor(node, self.proposers, self.replicas, self._broadcast, self.watch.latency.note)
        self.clients: dict[int, Connection] = {}
        self.traffic = Traffic(self.clients, peers)
        self.access = Access(config, self.clients)
        self.renamed = renamed(config.config.rename_command)
        self.limits = Limits()
        self.client_limits = ClientLimits(self.clients)
        self.endpoints = Endpoints(topology, node, self._broadcast)
        self.run_id = secrets.token_hex(20)
        self.hindrances = 0 if self.renamed.keys().isdisjoint(PLAIN) else RENAMED
        self.outbox = Outbox(wake)
        self.channels = Channels(self.outbox.push)
        self.access.subscriptions_of = self.channels.subscriptions_of
        self.news = News(peers)
        self.messaging = Messaging(self.channels, self.news)
        self.tracking = Tracking(self.clients, self.outbox, topology.slots, len(topology.shards), self.run_id[:16])
        self.feed = Feed(node, self.proposers, self.news, self.tracking)
        self.notifier = Notifier(
            self.proposers, self.channels, self.news, self.feed, partial(self._hinder_all, MISSES_WATCHED)
        )
        self.monitors = Monitors(self.outbox, partial(self._hinder_all, MONITORED))
        self.pause = Pause(self.news, self._paused)
        self.started_at = time.time()
        self.cron_paused = False  # by DEBUG PAUSE-CRON
        self.sync_journal: Callable[[], None] = lambda: None  # asks for an fdatasync where writes do not wait for one
        self.wake = wake
        self.shares = Shares(wake)
        self.answers = Answers(self.proposers)
        self.arrivals = (Arrivals(self, cluster_view=False), Arrivals(self, cluster_view=True))
        self.fault: Callable[[Connection, Exception], None] = drop  # told of what escapes a client's commands
        self._finished: list[Connection] = []
        self.posted: list[tuple[Connection, bytes]] = []  # to be sent at the end of this turn
        self.output_bytes_max = 0
        self.pending_bytes_max = 0
        for proposer in self.proposers:
            proposer.on_slow = self.watch.applied_slowly
        config.watch(self._configure)

    def _configure(self, config: Config) -> None:
        self.limits.max_bulk_bytes = config.proto_max_bulk_bytes
        self.limits.query_buffer_bytes = config.client_query_buffer_bytes
        self.output_bytes_max = config.client_output_buffer.normal.hard_bytes
        self.outbox.limit = config.client_output_buffer.pubsub
        self.notifier.configure(config.notify_keyspace_events)
        self.tracking.keys_max = config.tracking_table_max_keys
        self.tracking.evict()
        self.pending_bytes_max = config.pending_bytes_max
        for replica in self.replicas:
            replica.cask.merge_dead_ratio = config.merge_dead_ratio
        for proposer in self.proposers:
            proposer.timeout_s = config.cluster_timeout_ms / 1000
        self._configure_watch(config)
        self.evictor.configure(config)
        self.endpoints.configure(config)
        self.client_limits.configure(config)

    def _configure_watch(self, config: Config) -> None:
        self.watch.configure(config)
        for replica in self.replicas:
            replica.machine.slow_s = self.watch.slow_s
        self._hinder_all(MEASURED, self.watch.exact)

    def _broadcast(self, message: Any) -> None:
        for peer in list(self.peers.links):
            self.peers.send(peer, message)

    @property
    def lookups(self) -> tuple[int, int]:
        """How many keys commands found, and did not find, that they looked for in order to read them."""
        machines = [replica.machine for replica in self.replicas]
        hits, misses = sum(machine.hits for machine in machines), sum(machine.misses for machine in machines)
        return self.stats.hits + hits, self.stats.misses + misses

    def reset_stats(self) -> None:
        """Counts from 0 again, as CONFIG RESETSTAT asks for."""
        self.stats.reset()
        self.watch.want_samples()
        self.traffic.reset()
        self.evictor.reset_stats()
        self.client_limits.evicted = 0
        for proposer in self.proposers:
            proposer.expired = proposer.expiry_cut = 0
        for replica in self.replicas:
            replica.machine.hits = replica.machine.misses = 0

    # -- connections

    def admit(self, connection: Connection) -> RespError | None:
        """Registers a new client; returns why not, if not: there are too many, or it is a stranger to a node that
        anybody might use (`protected-mode`)."""
        config = self.config.config
        refusal = None
        if len(self.clients) >= config.maxclients:
            refusal = errors.max_clients()
        elif config.protected_mode and self.access.without_password and not connection.is_local:
            refusal = errors.protected_mode()
        if refusal is not None:
            self.stats.rejected += 1
            return refusal
        self.stats.connections += 1
        self.clients[connection.session.id] = connection
        return None

    def forget(self, connection: Connection) -> None:
        self.clients.pop(connection.session.id, None)
        self.detach(connection)
        self.outbox.forget(connection)
        self.pause.forget(connection)

    def detach(self, connection: Connection) -> None:
        """The client is gone, or begins anew: it listens to nothing any more."""
        session = connection.session
        if session.subscriptions is not None:
            self.channels.leave(connection)
        if session.tracker is not None:
            self.tracking.turn_off(connection)
        if session.monitors:
            self.monitors.remove(connection)

    def _hinder_all(self, reason: int, on: bool) -> None:
        """For a reason that concerns every client, those to come included."""
        hindrances = self.hindrances | reason if on else self.hindrances & ~reason
        if hindrances != self.hindrances:
            self.hindrances = hindrances
            for connection in self.clients.values():
                connection.hinder(reason, on)

    def _paused(self, active: bool) -> None:
        self._hinder_all(PAUSED, active)
        if not active:
            self.remove_expired()

    def remove_expired(self) -> None:
        """Asks for the removal of what has expired, where this node leads; not during a pause."""
        if not self.pause.active:
            began_at = time.perf_counter()
            for proposer in self.proposers:
                proposer.remove_expired()
            self.stats.expire_s += time.perf_counter() - began_at

    # -- other nodes

    def link_up(self, peer: str) -> None:
        self.notifier.link_up(peer)

    def link_down(self, peer: str) -> None:
        self.news.link_down(peer)
        self.feed.link_down(peer)
        self.notifier.link_down(peer)

    def tick(self) -> None:
        """To be called about ten times per second."""
        self.news.tick()
        self.feed.tick()
        self.pause.tick()
        if self.lending is not None:
            self.lending.tick()
        if not self.cron_paused:
            self.evictor.look()
            self.tracking.evict()
            self.remove_expired()

    def finished(self, connection: Connection) -> None:
        """A burst of `connection` has all its replies: it is flushed at the end of this turn."""
        if not connection.flush_scheduled:
            connection.flush_scheduled = True
            self._finished.append(connection)
            self.wake()

    def post(self, connection: Connection, data: bytes) -> None:
        """`data` is sent at the end of this turn: so what many clients get leaves in a row, and one that waits for the
        next reply on another core is not put to sleep and woken again for each."""
        if not self.posted:
            self.wake()
        self.posted.append((connection, data))

    def posted_bytes(self) -> Counter[Connection]:
        """What leaves at the end of this turn."""
        found: Counter[Connection] = Counter()
        for connection, data in self.posted:
            found[connection] += len(data)
        return found

    def run_arrivals(self) -> None:
        """Runs what clients have sent: at the beginning of each turn, and before what must not overtake it."""
        for arrivals in self.arrivals:
            arrivals.run()

    def send_posted(self) -> None:
        posted, self.posted = self.posted, []
        self.stats.writes += len(posted)
        for connection, data in posted:
            transport, sent = connection.transport, 0
            if transport is None:
                continue
            # Past the transport, which takes longer, as long as that holds nothing back.
            if len(data) <= DIRECT_BYTES and connection.direct_fd >= 0 and not (
                transport.get_write_buffer_size() or transport.is_closing()
            ):
                try:
                    sent = write(connection.direct_fd, data)
                except OSError:  # the transport will meet it, too, and knows what to do
                    sent = 0
            if sent < len(data):
                connection.send(data[sent:])

    def begin_turn(self) -> None:
        """Goes on with what was put off, then runs what clients have sent."""
        self.shares.begin_turn(self.fault)
        self.run_arrivals()

    def end_turn(self) -> None:
        """Sends the replies that this turn has brought."""
        finished, self._finished = self._finished, []
        for connection in finished:
            connection.flush()
        self.tracking.end_turn()
        self.outbox.end_turn()
        self.send_posted()
        self.shares.end_turn()

    def owner(self, shard: Shard) -> str:
        """The node to which a client of the cluster view should go for this shard.

        That is its leader; while none can be reached from here, a node where the command can wait for the next one.
        """
        leader = self.reachable_leader(shard)
        if leader is not None:
            return leader
        if self.node in shard.replicas:
            return self.node
        return next((name for name in shard.replicas if name in self.peers.links), shard.replicas[0])

    def concerned(self, session: Session) -> list[Proposer]:
        """By a command about all keys: all shards, in the cluster view those for which its clients should come here."""
        if not session.cluster_view:
            return self.proposers
        shards = self.topology.shards_of(self.node)
        return [self.proposers[shard.id] for shard in shards if self.owner(shard) == self.node]

    def reachable_leader(self, shard: Shard) -> str | None:
        """The shard's leader, if it is this node or one that this node has a link to."""
        leader = self.proposers[shard.id].leader()
        if leader is None or not (leader[0] == self.node or leader[0] in self.peers.links):
            return None
        return leader[0]

    def crowded(self, burst: Burst | PutBurst) -> bool:
        """Whether a shard that the burst writes to has more waiting than it should."""
        limit = self.pending_bytes_max
        for proposer in burst.joined:  # noqa: SIM110 - once per burst, and `any` costs three times as much
            if proposer.pending_bytes > limit:
                return True
        return False

    def close_idle(self) -> None:
        """Closes the clients that were silent for longer than `timeout` allows."""
        limit = self.config.config.timeout_s
        if limit:
            oldest = Clock.now() - limit
            for connection in list(self.clients.values()):
                if connection.session.last_at < oldest and not (connection.waiting or _listens(connection)):
                    connection.abort()

    def log_output_limit(self, connection: Connection) -> None:
        log.warning("client_output_limit", client=connection.session.id, address=connection.session.address)


def drop(connection: Connection, error: Exception) -> None:
    """What a fault of ours costs: the connection of the client whose command met it."""
    log.error("connection_failed", client=connection.session.id, address=connection.session.address, exc_info=error)
    connection.abort()


def _listens(connection: Connection) -> bool:
    """Whether a client has reason to be silent: it listens, or was put off."""
    session = connection.session
    return session.subscriptions is not None or session.monitors or connection.held
