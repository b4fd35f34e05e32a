"""INFO: what this node is, does and holds, in Redis's sections and two of its own, `raft` and `respkv`.

The figures are this node's. `keyspace` counts the keys of the shards that the node holds a replica of, each once, in
both views: with as many replicas as nodes that is the whole keyspace, otherwise add up the leaders' shards (`respkv
status`) or ask DBSIZE, which spans the cluster.

| line of `raft` | |
| --- | --- |
| `role` | leader, follower; learner: repairs itself, or has not met the other nodes, and does not vote |
| `term`, `leader` | as this replica knows them; `-` if it knows no leader |
| `commit`, `applied`, `last` | indexes: known committed, applied here, newest in the log |
| `durable`, `synced` | indexes up to which the journal, and the Bitcask log, are on the disk |
| `log_entries`, `log_bytes` | the part of the log that is kept |
| `keys`, `bytes`, `live_bytes` | of the Bitcask log; expired keys count until they are removed |
| `pending_bytes` | writes of clients that have no outcome yet |
| `standing` | voter, learner, stranger, new: see `respkv.raft.membership` |
| `repairs` | how often this replica began anew since the node was started, because its files were damaged |
| `lag`, `lag_<node>` | on a leader, entries that the slowest, and each, follower has not acknowledged |
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from respkv import __version__
from respkv.commands.table import command
from respkv.reply import Reply, Verbatim
from respkv.server.channels import CHANNEL, PATTERN, SHARD_CHANNEL
from respkv.server.commands.connection import REDIS_VERSION
from respkv.server.dispatch import Call
from respkv.server.memory import process_memory
from respkv.shard.replica import Replica

Fields = dict[str, Any]


@command("INFO", kind="server", arity=-1, flags="loading stale", group="server", since="1.0.0", categories="dangerous",
         summary="Get information and statistics about the server",
         tips="nondeterministic_output request_policy:all_shards response_policy:special")
def info(call: Call) -> Reply:
    wanted = _sections([arg.decode(errors="replace").lower() for arg in call.args[1:]])
    parts = []
    for name, section in SECTIONS.items():
        if name in wanted:
            lines = ["# " + ("CPU" if name == "cpu" else name.capitalize())]
            lines += [f"{field}:{value}" for field, value in section(call).items()]
            parts.append("\r\n".join(lines) + "\r\n")
    return Verbatim("\r\n".join(parts).encode(errors="surrogateescape"))


def _sections(names: list[str]) -> set[str]:
    wanted = set(names or ["default"])
    if wanted & {"all", "everything"}:
        wanted |= SECTIONS.keys()
    if "default" in wanted:
        wanted |= SECTIONS.keys() - {"commandstats"}
    return wanted


# --- Redis's sections ---


def _server(call: Call) -> Fields:
    server, config = call.server, call.server.config.config
    uptime_s = int(time.time() - server.started_at)
    return {
        "redis_version": REDIS_VERSION,
        "respkv_version": __version__,
        "redis_mode": "cluster" if call.session.cluster_view else "standalone",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 1 << 32 else 32,
        "python_version": platform.python_version(),
        "process_id": os.getpid(),
        "run_id": server.run_id,
        "tcp_port": config.cluster_port if call.session.cluster_view else config.port,
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86_400,
        "executable": sys.executable,
        "config_file": "",
    }


def _clients(call: Call) -> Fields:
    connections = call.server.clients.values()
    return {
        "connected_clients": len(connections),
        "cluster_connections": len(call.server.peers.links),
        "maxclients": call.server.config.config.maxclients,
        "client_recent_max_input_buffer": max((c.input_bytes for c in connections), default=0),
        "client_recent_max_output_buffer": max((c.output_bytes for c in connections), default=0),
        "blocked_clients": call.server.holders.waiting + call.server.pause.held,
        "tracking_clients": len(call.server.tracking.trackers),
    }


def _memory(call: Call) -> Fields:
    """`used_memory` is what the process has resident but for mapped files, whose pages the system may take back."""
    memory = process_memory()
    resident, used, peak = memory.resident, memory.used, memory.peak
    total = _total_bytes()
    return {
        "used_memory": used,
        "used_memory_human": _human(used),
        "used_memory_rss": resident,
        "used_memory_rss_human": _human(resident),
        "used_memory_peak": peak,
        "used_memory_peak_human": _human(peak),
        "used_memory_mapped_files": memory.mapped,
        "total_system_memory": total,
        "total_system_memory_human": _human(total),
        "maxmemory": 0,
        "maxmemory_human": "0B",
        "maxmemory_policy": "noeviction",
        "mem_allocator": "libc",
    }


@cache
def _total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _human(count: int) -> str:
    """As Redis writes sizes: 1.50M."""
    value = float(count)
    if count < 1024:
        return f"{count}B"
    for unit in "KMGT":
        value /= 1024
        if value < 1024:
            return f"{value:.2f}{unit}"
    return f"{value / 1024:.2f}P"


def _persistence(call: Call) -> Fields:
    """The journal in the words of Redis's append-only file; there are no RDB files."""
    server = call.server
    return {
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": int(server.started_at),
        "rdb_last_bgsave_status": "ok",
        "aof_enabled": 1,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "ok",
        "aof_current_size": server.journal.file_bytes,
        "aof_pending_bio_fsync": int(server.journal.sequence > server.journal.synced),
    }


def _stats(call: Call) -> Fields:
    stats = call.server.stats
    return {
        "total_connections_received": stats.connections,
        "total_commands_processed": stats.commands,
        "instantaneous_ops_per_sec": stats.commands_per_s,
        "rejected_connections": stats.rejected,
        "expired_keys": sum(proposer.expired for proposer in call.server.proposers),
        "evicted_keys": 0,
        "keyspace_hits": stats.hits,
        "keyspace_misses": stats.misses,
        "pubsub_channels": call.server.channels.count(CHANNEL),
        "pubsub_patterns": call.server.channels.count(PATTERN),
        "pubsubshard_channels": call.server.channels.count(SHARD_CHANNEL),
        "tracking_total_keys": call.server.tracking.keys_count(),
        "tracking_total_items": call.server.tracking.items,
        "tracking_total_prefixes": call.server.tracking.prefixes_count(),
        "latest_fork_usec": 0,
        "total_error_replies": stats.errors,
    }


def _replication(call: Call) -> Fields:
    """Replication is Raft's, per shard; to a client of Redis every node is a master that nobody follows."""
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": call.server.run_id,
        "master_replid2": "0" * 40,
        "master_repl_offset": sum(replica.group.applied for replica in call.server.replicas),
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
    }


def _cpu(call: Call) -> Fields:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = {
        "used_cpu_sys": own.ru_stime,
        "used_cpu_user": own.ru_utime,
        "used_cpu_sys_children": children.ru_stime,
        "used_cpu_user_children": children.ru_utime,
    }
    if threading.current_thread() is threading.main_thread():
        main = resource.getrusage(resource.RUSAGE_THREAD)
        fields |= {"used_cpu_sys_main_thread": main.ru_stime, "used_cpu_user_main_thread": main.ru_utime}
    return {name: f"{seconds:.6f}" for name, seconds in fields.items()}


def _commandstats(call: Call) -> Fields:
    """Calls alone: time is not measured for each command."""
    named = sorted((spec.name, count) for spec, count in call.server.stats.calls_by_command().items())
    return {f"cmdstat_{name}": f"calls={count}" for name, count in named}


def _errorstats(call: Call) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in sorted(call.server.stats.error_codes.items())}


def _cluster(call: Call) -> Fields:
    return {"cluster_enabled": int(call.session.cluster_view)}


def _keyspace(call: Call) -> Fields:
    keys = expires = ttl_ms_sum = 0
    for replica in call.server.replicas:
        keys += int(replica.machine.read([b"DBSIZE"]))  # type: ignore[arg-type]  # an integer
        count, ttl_ms = replica.machine.db.expiry_figures()
        expires += count
        ttl_ms_sum += count * ttl_ms
    if not keys:
        return {}
    return {"db0": f"keys={keys},expires={min(expires, keys)},avg_ttl={ttl_ms_sum // expires if expires else 0}"}


# --- respkv's own ---


def _raft(call: Call) -> Fields:
    return {f"shard{replica.shard.id}": _pairs(_replica_fields(replica)) for replica in call.server.replicas}


def _replica_fields(replica: Replica) -> Fields:
    group, cask = replica.group, replica.cask
    fields = {
        "role": "leader" if group.leader else "follower" if group.votes else "learner",
        "term": group.term,
        "leader": group.leader_id or "-",
        "commit": group.commit,
        "applied": group.applied,
        "last": group.log.last_index,
        "durable": group.log.durable,
        "synced": cask.synced,
        "log_entries": len(group.log) - 1,
        "log_bytes": group.log.bytes,
        "keys": len(cask),
        "bytes": cask.file_bytes,
        "live_bytes": cask.live_bytes,
        "pending_bytes": replica.proposer.pending_bytes,
        "standing": group.log.standing.name.lower(),
        "repairs": replica.repairs,
    }
    lag = group.lag()
    if lag:
        fields["lag"] = max(lag.values())
        fields |= {f"lag_{name}": entries for name, entries in sorted(lag.items())}
    return fields


def _pairs(fields: Fields) -> str:
    return ",".join(f"{name}={value}" for name, value in fields.items())


def _respkv(call: Call) -> Fields:
    server, topology, config = call.server, call.server.topology, call.server.config.config
    leads = sum(replica.group.leader for replica in server.replicas)
    return {
        "node": server.node,
        "cluster_id": topology.cluster_id,
        "epoch": topology.epoch,
        "topology": topology.fingerprint,
        "nodes": len(topology.nodes),
        "shards": len(topology.shards),
        "replicas_held": len(server.replicas),
        "shards_led": leads,
        "peers_connected": len(server.peers.links),
        "appendfsync": config.appendfsync,
        "read_mode": config.read_mode,
        "journal_bytes": server.journal.file_bytes,
        "journal_sequence": server.journal.sequence,
        "journal_synced": server.journal.synced,
        "entries_proposed": sum(replica.proposer.proposed for replica in server.replicas),
        "writes_refused": int(any(replica.proposer.refusal is not None for replica in server.replicas)),
    }


SECTIONS: dict[str, Callable[[Call], Fields]] = {
    "server": _server,
    "clients": _clients,
    "memory": _memory,
    "persistence": _persistence,
    "stats": _stats,
    "replication": _replication,
    "cpu": _cpu,
    "commandstats": _commandstats,
    "errorstats": _errorstats,
    "cluster": _cluster,
    "keyspace": _keyspace,
    "raft": _raft,
    "respkv": _respkv,
}
