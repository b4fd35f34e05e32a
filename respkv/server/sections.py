"""The sections of INFO that Redis has, with this node's figures.

All fields of Redis are there, in its order. What Redis tells of things that respkv does not have (forks, RDB files,
Lua, defragmentation, I/O threads) is shown as what Redis shows for none.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import sysconfig
import threading
import time
from functools import cache
from typing import Any, Final

from respkv import __version__
from respkv.server.buffers import buffers
from respkv.server.channels import CHANNEL, PATTERN, SHARD_CHANNEL
from respkv.server.memory import process_memory
from respkv.server.server import Server

Fields = dict[str, Any]

REDIS_VERSION: Final = "7.0.15"  # whose behaviour clients may expect
_LRU_CLOCK_MAX: Final = (1 << 24) - 1


def server(server: Server, *, cluster_view: bool) -> Fields:
    config, uptime_s = server.config.config, int(time.time() - server.started_at)
    hz = server.config.parameters()["hz"].value
    return {
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": __version__,
        "respkv_version": __version__,
        "redis_mode": "cluster" if cluster_view else "standalone",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 1 << 32 else 32,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": "libuv",
        "atomicvar_api": "c11-builtin" if sysconfig.get_config_var("HAVE_STD_ATOMIC") else "atomic-builtin",
        "gcc_version": _compiler_version(),
        "python_version": platform.python_version(),
        "process_id": os.getpid(),
        "process_supervised": "no",
        "run_id": server.run_id,
        "tcp_port": config.cluster_port if cluster_view else config.port,
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86_400,
        "hz": hz,
        "configured_hz": hz,
        "lru_clock": int(time.time()) & _LRU_CLOCK_MAX,
        "executable": sys.executable,
        "config_file": config.file or "",
        "io_threads_active": int(server.lending is not None and server.lending.ready),
    }


@cache
def _compiler_version() -> str:
    """Of the compiler that this Python was made with."""
    found = re.search(r"\d+(\.\d+)*", platform.python_compiler())
    return found[0] if found else "0.0.0"


def clients(server: Server) -> Fields:
    held = buffers(server, server.clients.values())
    return {
        "connected_clients": len(held),
        "cluster_connections": len(server.peers.links),
        "maxclients": server.config.config.maxclients,
        "client_recent_max_input_buffer": max((each.query + each.arguments for each in held), default=0),
        "client_recent_max_output_buffer": max((each.replies + each.output for each in held), default=0),
        "blocked_clients": server.holders.waiting + server.pause.held,
        "tracking_clients": len(server.tracking.trackers),
        "clients_in_timeout_table": 0,
    }


def memory(server: Server) -> Fields:
    """`used_memory` is what the process has resident but for mapped files, whose pages the system may take back. What
    is compared with `maxmemory` is that without `mem_not_counted_for_evict`: what keys take (`respkv.server.evict`)."""
    found, config = process_memory(), server.config.config
    resident, used, peak = found.resident, found.used, found.peak
    total, keys_bytes = _total_bytes(), server.evictor.key_bytes()
    log_bytes = sum(replica.group.log.bytes for replica in server.replicas)
    clients_bytes = sum(each.total for each in buffers(server, server.clients.values()))
    links_bytes = sum(link.waiting_bytes for link in server.peers.links.values())
    overhead = min(used, server.startup_bytes + log_bytes + clients_bytes + links_bytes)
    return {
        "used_memory": used,
        "used_memory_human": human(used),
        "used_memory_rss": resident,
        "used_memory_rss_human": human(resident),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_peak_perc": f"{100 * used / max(1, peak):.2f}%",
        "used_memory_overhead": overhead,
        "used_memory_startup": server.startup_bytes,
        "used_memory_dataset": used - overhead,
        "used_memory_dataset_perc": f"{100 * (used - overhead) / max(1, used - server.startup_bytes):.2f}%",
        "used_memory_mapped_files": found.mapped,
        "used_memory_keys": keys_bytes,
        "allocator_allocated": used,
        "allocator_active": resident,
        "allocator_resident": resident,
        "total_system_memory": total,
        "total_system_memory_human": human(total),
        "used_memory_lua": 0,
        "used_memory_vm_eval": 0,
        "used_memory_lua_human": "0B",
        "used_memory_scripts_eval": 0,
        "number_of_cached_scripts": 0,
        "number_of_functions": 0,
        "number_of_libraries": 0,
        "used_memory_vm_functions": 0,
        "used_memory_vm_total": 0,
        "used_memory_vm_total_human": "0B",
        "used_memory_functions": 0,
        "used_memory_scripts": 0,
        "used_memory_scripts_human": "0B",
        "maxmemory": config.maxmemory_bytes,
        "maxmemory_human": human(config.maxmemory_bytes),
        "maxmemory_policy": config.maxmemory_policy,
        "allocator_frag_ratio": f"{resident / max(1, used):.2f}",
        "allocator_frag_bytes": found.mapped,
        "allocator_rss_ratio": "1.00",
        "allocator_rss_bytes": 0,
        "rss_overhead_ratio": "1.00",
        "rss_overhead_bytes": 0,
        "mem_fragmentation_ratio": f"{resident / max(1, used):.2f}",
        "mem_fragmentation_bytes": found.mapped,
        "mem_not_counted_for_evict": max(0, used - keys_bytes),
        "mem_replication_backlog": log_bytes,
        "mem_total_replication_buffers": log_bytes,
        "mem_clients_slaves": 0,
        "mem_clients_normal": clients_bytes,
        "mem_cluster_links": links_bytes,
        "mem_aof_buffer": 0,
        "mem_allocator": "libc",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    }


@cache
def _total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def human(count: int) -> str:
    """As Redis writes sizes: 1.50M."""
    value = float(count)
    if count < 1024:
        return f"{count}B"
    for unit in "KMGT":
        value /= 1024
        if value < 1024:
            return f"{value:.2f}{unit}"
    return f"{value / 1024:.2f}P"


def persistence(server: Server) -> Fields:
    """The journal in the words of Redis's append-only file; there are no RDB files, and nothing is ever unsaved."""
    journal = server.journal
    return {
        "loading": 0,
        "async_loading": 0,
        "current_cow_peak": 0,
        "current_cow_size": 0,
        "current_cow_size_age": 0,
        "current_fork_perc": "0.00",
        "current_save_keys_processed": 0,
        "current_save_keys_total": 0,
        "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": int(time.time()),
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "rdb_saves": 0,
        "rdb_last_cow_size": 0,
        "rdb_last_load_keys_expired": 0,
        "rdb_last_load_keys_loaded": 0,
        "aof_enabled": 1,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_rewrites": 0,
        "aof_rewrites_consecutive_failures": 0,
        "aof_last_write_status": "ok",
        "aof_last_cow_size": 0,
        "module_fork_in_progress": 0,
        "module_fork_last_cow_size": 0,
        "aof_current_size": journal.file_bytes,
        "aof_base_size": journal.file_bytes,
        "aof_pending_rewrite": 0,
        "aof_buffer_length": 0,
        "aof_pending_bio_fsync": int(journal.sequence > journal.synced),
        "aof_delayed_fsync": 0,
    }


def stats(server: Server) -> Fields:
    counted, (hits, misses) = server.stats, server.lookups
    total, kib_per_s = server.traffic.total(), server.traffic.kib_per_s
    exceeded_s, exceeding_s = server.evictor.exceeded_s
    return {
        "total_connections_received": counted.connections,
        "total_commands_processed": counted.commands,
        "instantaneous_ops_per_sec": counted.commands_per_s,
        "total_net_input_bytes": total.received + total.peers_received,
        "total_net_output_bytes": total.sent + total.peers_sent,
        "total_net_repl_input_bytes": total.peers_received,
        "total_net_repl_output_bytes": total.peers_sent,
        "instantaneous_input_kbps": f"{kib_per_s.received + kib_per_s.peers_received:.2f}",
        "instantaneous_output_kbps": f"{kib_per_s.sent + kib_per_s.peers_sent:.2f}",
        "instantaneous_input_repl_kbps": f"{kib_per_s.peers_received:.2f}",
        "instantaneous_output_repl_kbps": f"{kib_per_s.peers_sent:.2f}",
        "rejected_connections": counted.rejected,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": sum(proposer.expired for proposer in server.proposers),
        "expired_stale_perc": f"{_stale_percent(server):.2f}",
        "expired_time_cap_reached_count": sum(proposer.expiry_cut for proposer in server.proposers),
        "expire_cycle_cpu_milliseconds": int(counted.expire_s * 1000),
        "evicted_keys": server.evictor.evicted,
        "evicted_clients": server.client_limits.evicted,
        "total_eviction_exceeded_time": int(exceeded_s * 1000),
        "current_eviction_exceeded_time": int(exceeding_s * 1000),
        "keyspace_hits": hits,
        "keyspace_misses": misses,
        "pubsub_channels": server.channels.count(CHANNEL),
        "pubsub_patterns": server.channels.count(PATTERN),
        "pubsubshard_channels": server.channels.count(SHARD_CHANNEL),
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "active_defrag_hits": 0,
        "active_defrag_misses": 0,
        "active_defrag_key_hits": 0,
        "active_defrag_key_misses": 0,
        "total_active_defrag_time": 0,
        "current_active_defrag_time": 0,
        "tracking_total_keys": server.tracking.keys_count(),
        "tracking_total_items": server.tracking.items,
        "tracking_total_prefixes": server.tracking.prefixes_count(),
        "unexpected_error_replies": 0,
        "total_error_replies": counted.errors,
        "dump_payload_sanitizations": 0,
        "total_reads_processed": counted.reads,
        "total_writes_processed": counted.writes,
        "io_threaded_reads_processed": 0,
        "io_threaded_writes_processed": 0,
        "reply_buffer_shrinks": 0,
        "reply_buffer_expands": 0,
    }


def _stale_percent(server: Server) -> float:
    """Of the keys with an expiry, those that have expired and are still to be removed."""
    stale = expiring = 0
    for replica in server.replicas:
        live = replica.machine.read([b"DBSIZE"])
        assert isinstance(live, int)
        stale += len(replica.cask) - live
        expiring += len(replica.cask.expires)
    return 100 * stale / max(1, expiring)


def replication(server: Server) -> Fields:
    """Replication is Raft's, per shard; to a client of Redis every node is a master that nobody follows."""
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": server.run_id,
        "master_replid2": "0" * 40,
        "master_repl_offset": sum(replica.group.applied for replica in server.replicas),
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": server.config.config.journal_keep_bytes,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def cpu(server: Server) -> Fields:
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


def commandstats(server: Server) -> Fields:
    """Times: see `respkv.server.stats`."""
    return {
        f"cmdstat_{spec.name}": (
            f"calls={found.calls},usec={found.seconds * 1e6:.0f},"
            f"usec_per_call={found.seconds * 1e6 / max(1, found.calls):.2f},"
            f"rejected_calls={found.rejected},failed_calls={found.failed}"
        )
        for spec, found in server.stats.commands_called().items()
    }


def errorstats(server: Server) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in sorted(server.stats.error_codes.items())}


def latencystats(server: Server) -> Fields:
    if not server.stats.tracking:
        return {}
    wanted = server.config.config.latency_percentiles
    return {
        f"latency_percentiles_usec_{spec.name}": ",".join(
            f"p{percent:g}={micros:.3f}"
            for percent, micros in zip(wanted, found.times.percentiles(wanted), strict=True)
        )
        for spec, found in server.stats.commands_called().items()
        if found.times.count
    }


def keyspace(server: Server, *, cluster_view: bool) -> Fields:
    keys = expires = ttl_ms_sum = 0
    led = [replica for replica in server.replicas if replica.proposer.leads]
    for replica in led if cluster_view and led else server.replicas:
        replica.machine.read([b"DBSIZE"])  # sets the clock
        keys += len(replica.machine.db)
        count, ttl_ms = replica.machine.db.expiry_figures()
        expires += count
        ttl_ms_sum += count * ttl_ms
    if not keys:
        return {}
    return {"db0": f"keys={keys},expires={min(expires, keys)},avg_ttl={ttl_ms_sum // expires if expires else 0}"}
