"""Parameters of Redis that have nothing to set here: CONFIG takes and shows them, so that tools and scripts which set
them go on, and they change nothing. They are no options: no file, flag or variable has them, a restart forgets them.

`appendonly no` is among them as it only asks for less. What would promise something that respkv does not do
(`replicaof`, `min-replicas-to-write` ...) is not: there CONFIG SET says so.
"""

from __future__ import annotations

from typing import Any, Final

from respkv.config.values import Parser, integer, size, text, yes_no

_INT_MAX: Final = (1 << 31) - 1

_SWITCHES: Final = {
    "activedefrag": "no", "activerehashing": "yes", "aof-disable-auto-gc": "no", "aof-load-truncated": "yes",
    "aof-rewrite-incremental-fsync": "yes", "aof-timestamp-enabled": "no", "aof-use-rdb-preamble": "yes",
    "appendonly": "yes",
    "cluster-allow-replica-migration": "yes", "cluster-allow-reads-when-down": "no",
    "cluster-require-full-coverage": "yes", "crash-log-enabled": "yes", "crash-memcheck-enabled": "yes",
    "dynamic-hz": "yes", "jemalloc-bg-thread": "yes", "lazyfree-lazy-eviction": "no", "lazyfree-lazy-expire": "no",
    "lazyfree-lazy-server-del": "no", "lazyfree-lazy-user-del": "no", "lazyfree-lazy-user-flush": "no",
    "no-appendfsync-on-rewrite": "no", "rdb-del-sync-files": "no", "rdb-save-incremental-fsync": "yes",
    "rdbcompression": "yes", "repl-disable-tcp-nodelay": "no", "repl-diskless-sync": "yes",
    "replica-ignore-maxmemory": "yes", "replica-lazy-flush": "no", "replica-serve-stale-data": "yes",
    "stop-writes-on-bgsave-error": "yes",
}  # fmt: skip
_NUMBERS: Final = {  # default, least, most
    "active-defrag-cycle-max": (25, 1, 99), "active-defrag-cycle-min": (1, 1, 99),
    "active-defrag-max-scan-fields": (1000, 1, _INT_MAX), "active-defrag-threshold-lower": (10, 0, 1000),
    "active-defrag-threshold-upper": (100, 0, 1000), "active-expire-effort": (1, 1, 10),
    "auto-aof-rewrite-percentage": (100, 0, _INT_MAX), "busy-reply-threshold": (5000, 0, 1 << 62),
    "cluster-migration-barrier": (1, 0, _INT_MAX), "cluster-node-timeout": (15_000, 0, 1 << 62),
    "cluster-replica-validity-factor": (10, 0, _INT_MAX), "hash-max-listpack-entries": (512, 0, _INT_MAX),
    "hash-max-ziplist-entries": (512, 0, _INT_MAX), "hz": (10, 0, _INT_MAX),
    "list-compress-depth": (0, 0, _INT_MAX), "list-max-listpack-size": (-2, -_INT_MAX, _INT_MAX),
    "list-max-ziplist-size": (-2, -_INT_MAX, _INT_MAX), "lua-time-limit": (5000, 0, 1 << 62),
    "maxmemory-eviction-tenacity": (10, 0, 100), "repl-backlog-ttl": (3600, 0, _INT_MAX),
    "repl-diskless-sync-delay": (5, 0, _INT_MAX), "repl-ping-replica-period": (10, 1, _INT_MAX),
    "repl-timeout": (60, 1, _INT_MAX), "replica-priority": (100, 0, _INT_MAX),
    "set-max-intset-entries": (512, 0, _INT_MAX), "stream-node-max-entries": (100, 0, _INT_MAX),
    "zset-max-listpack-entries": (128, 0, _INT_MAX), "zset-max-ziplist-entries": (128, 0, _INT_MAX),
}  # fmt: skip
_SIZES: Final = {  # default, least
    "active-defrag-ignore-bytes": (100 << 20, 1), "auto-aof-rewrite-min-size": (64 << 20, 0),
    "hash-max-listpack-value": (64, 0), "hash-max-ziplist-value": (64, 0), "hll-sparse-max-bytes": (3000, 0),
    "repl-backlog-size": (1 << 20, 1), "stream-node-max-bytes": (4096, 0), "zset-max-listpack-value": (64, 0),
    "zset-max-ziplist-value": (64, 0),
}  # fmt: skip
_TEXTS: Final = ("masterauth", "masteruser")


def save_points(value: object) -> str:
    """`save`: pairs of seconds and changes."""
    words = str(value).split()
    if len(words) % 2 or not all(word.isdigit() for word in words) or any(int(word) < 1 for word in words[::2]):
        raise ValueError("Invalid save parameters")
    return " ".join(words)


def without_effect() -> dict[str, tuple[str, Parser]]:
    """Name to default and parser; the value is what the parser made of the text, as text."""
    found: dict[str, tuple[str, Parser]] = {"save": ("", save_points)}
    for name, switch in _SWITCHES.items():
        found[name] = (switch, yes_no)
    for name, (default, least, most) in _NUMBERS.items():
        found[name] = (str(default), integer(least, most))
    for name, (default, least) in _SIZES.items():
        found[name] = (str(default), size(least, 1 << 62))
    for name in _TEXTS:
        found[name] = ("", text())
    return found


def as_text(value: Any) -> str:
    """A value as CONFIG GET shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if type(value) is tuple:  # not one of the named ones
        return " ".join(map(as_text, value))
    return "" if value is None else str(value)
