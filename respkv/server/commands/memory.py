"""MEMORY but for USAGE: what the process has, in Redis's words.

The figures are those of INFO memory: `total.allocated` is what is resident but for pages of files, as the values
themselves lie in files. `overhead.hashtable.main` is the keydir's dicts. There is one allocator to speak of, the C
library's, which tells no more than the system does.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Final

from respkv.commands import introspect  # noqa: F401 - declares MEMORY itself
from respkv.commands.table import command
from respkv.reply import OK, Reply, Verbatim
from respkv.server.buffers import buffers
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call
from respkv.server.memory import process_memory, return_free_memory

_TIPS: Final = "nondeterministic_output request_policy:all_shards response_policy:special"
_PEAK_RATIO: Final = 1.5
_CLIENT_BYTES: Final = 200 << 10
_NO_ISSUE: Final = (
    b"Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n"
)


@command("MEMORY|STATS", kind="server", arity=2, group="server", since="4.0.0", complexity="O(1)", tips=_TIPS,
         summary="Show memory usage details")
def memory_stats(call: Call) -> Reply:
    server, memory = call.server, process_memory()
    used, keys = memory.used, sum(len(replica.cask) for replica in server.replicas)
    main = sum(sum(map(getsizeof, replica.cask.buckets)) for replica in server.replicas)
    expires = sum(getsizeof(replica.cask.expires) for replica in server.replicas)
    clients = sum(each.total for each in buffers(server, server.clients.values()))
    links = sum(link.waiting_bytes for link in server.peers.links.values())
    overhead = server.startup_bytes + main + expires + clients + links
    dataset = max(0, used - overhead)
    gained = max(1, used - server.startup_bytes)
    return {
        b"peak.allocated": memory.peak,
        b"total.allocated": used,
        b"startup.allocated": server.startup_bytes,
        b"replication.backlog": sum(replica.group.log.bytes for replica in server.replicas),
        b"clients.slaves": 0,
        b"clients.normal": clients,
        b"cluster.links": links,
        b"aof.buffer": 0,
        b"lua.caches": 0,
        b"functions.caches": 0,
        b"db.0": {
            b"overhead.hashtable.main": main,
            b"overhead.hashtable.expires": expires,
            b"overhead.hashtable.slot-to-keys": 0,
        },
        b"overhead.total": overhead,
        b"keys.count": keys,
        b"keys.bytes-per-key": max(0, used - server.startup_bytes) // keys if keys else 0,
        b"dataset.bytes": dataset,
        b"dataset.percentage": 100 * dataset / gained,
        b"peak.percentage": 100 * used / max(1, memory.peak),
        b"allocator.allocated": used,
        b"allocator.active": memory.resident,
        b"allocator.resident": memory.resident,
        b"allocator-fragmentation.ratio": memory.resident / max(1, used),
        b"allocator-fragmentation.bytes": memory.mapped,
        b"allocator-rss.ratio": 1.0,
        b"allocator-rss.bytes": 0,
        b"rss-overhead.ratio": 1.0,
        b"rss-overhead.bytes": 0,
        b"fragmentation": memory.resident / max(1, used),
        b"fragmentation.bytes": memory.mapped,
    }


@command("MEMORY|DOCTOR", kind="server", arity=2, group="server", since="4.0.0", tips=_TIPS,
         summary="Outputs memory problems report")
def memory_doctor(call: Call) -> Reply:
    clients, memory = buffers(call.server, call.server.clients.values()), process_memory()
    found = []
    if memory.peak > _PEAK_RATIO * memory.used:
        found.append(
            "Peak memory: this node once used more than 150% of what it uses now. What it keeps of that is used again "
            "when it is needed; MEMORY PURGE gives back what can be given back."
        )
    if sum(each.total for each in clients) > _CLIENT_BYTES * max(1, len(clients)):
        found.append(
            "Big client buffers: clients take more than 200K each on average. CLIENT LIST tells which of them send "
            "very long pipelines or do not take their replies."
        )
    if not found:
        return Verbatim(_NO_ISSUE)
    problems = "".join(f" * {problem}\n\n" for problem in found)
    return Verbatim(f"Sam, I detected a few issues in this node's memory:\n\n{problems}".encode())


_ALLOCATOR_COMPLEXITY = "Depends on how much memory is allocated, could be slow"


@command("MEMORY|MALLOC-STATS", kind="server", arity=2, group="server", since="4.0.0", tips=_TIPS,
         summary="Show allocator internal stats", complexity=_ALLOCATOR_COMPLEXITY)
def memory_malloc_stats(call: Call) -> Reply:
    """As Redis answers without jemalloc."""
    return b"Stats not supported for the current allocator"


@command("MEMORY|PURGE", kind="server", arity=2, group="server", since="4.0.0",
         summary="Ask the allocator to release memory", tips="request_policy:all_shards response_policy:all_succeeded",
         complexity=_ALLOCATOR_COMPLEXITY)
def memory_purge(call: Call) -> Reply:
    return_free_memory()
    return OK


@command("MEMORY|HELP", kind="server", arity=2, flags="loading stale", group="server", since="4.0.0",
         summary="Show helpful text about the different subcommands")
def memory_help(call: Call) -> Reply:
    return help_reply(
        "MEMORY",
        ("DOCTOR", "Return memory problems reports."),
        ("MALLOC-STATS", "Return internal statistics report from the memory allocator."),
        ("PURGE", "Attempt to purge dirty pages for reclamation by the allocator."),
        ("STATS", "Return information about the memory usage of the server."),
        ("USAGE <key> [SAMPLES <count>]", ("Return memory in bytes used by <key> and its value. Nested values are\n"
                                          "sampled up to <count> times (default: 5, 0 means sample all).")),
    )  # fmt: skip
