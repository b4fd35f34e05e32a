"""What the Prometheus endpoint shows of a node: names and where their numbers are. Read at scrape time only."""

from __future__ import annotations

from collections.abc import Callable

from respkv.metrics import Histogram, Metrics
from respkv.server.server import Server
from respkv.shard.replica import Replica


def node_metrics(server: Server, fsync_seconds: Histogram) -> Metrics:
    """The metrics of the node that `server` runs on."""
    metrics, stats = Metrics(), server.stats
    metrics.register("commands_total", "Commands received from clients.", lambda: stats.commands, kind="counter")
    metrics.register("errors_total", "Error replies to clients.", lambda: stats.errors, kind="counter")
    metrics.register("keyspace_hits_total", "Keys found by readers.", lambda: server.lookups[0], kind="counter")
    metrics.register("keyspace_misses_total", "Keys not found by readers.", lambda: server.lookups[1], kind="counter")
    metrics.register("connections_total", "Connections accepted.", lambda: stats.connections, kind="counter")
    metrics.register("connected_clients", "Connections open now.", lambda: len(server.clients))
    metrics.register("peers_connected", "Links to other nodes that are up.", lambda: len(server.peers.links))
    metrics.register("journal_bytes", "Size of the journal's files.", lambda: server.journal.file_bytes)
    for name, about, read in _SHARD:
        metrics.register(name, about, _by_shard(server, read), labels=("shard",))
    metrics.register_histogram("fsync_seconds", "Time of each fdatasync of the journal.", fsync_seconds)
    return metrics


_SHARD: tuple[tuple[str, str, Callable[[Replica], int]], ...] = (
    ("shard_is_leader", "1 if this replica leads its shard.", lambda replica: int(replica.group.leader)),
    ("shard_is_learner", "1 if this replica has no vote: it repairs itself, or has not met the other nodes.",
     lambda replica: int(not replica.group.votes)),
    ("shard_repairs", "How often this replica began anew since the start, because its files were damaged.",
     lambda replica: replica.repairs),
    ("shard_term", "Raft term.", lambda replica: replica.group.term),
    ("shard_commit_index", "Newest index known to be committed.", lambda replica: replica.group.commit),
    ("shard_applied_index", "Newest index applied here.", lambda replica: replica.group.applied),
    ("shard_lag_entries", "On a leader: entries the slowest follower lacks.",
     lambda replica: max(replica.group.lag().values(), default=0)),
    ("shard_keys", "Keys, expired ones that are not removed yet included.", lambda replica: len(replica.cask)),
    ("shard_bytes", "Size of the data files.", lambda replica: replica.cask.file_bytes),
    ("shard_pending_bytes", "Writes of clients without an outcome.", lambda replica: replica.proposer.pending_bytes),
)


def _by_shard(server: Server, read: Callable[[Replica], int]) -> Callable[[], dict[tuple[str, ...], int]]:
    return lambda: {(str(replica.shard.id),): read(replica) for replica in server.replicas}
