"""Parameters of Redis that are no options of respkv: what CONFIG shows of them, and what it takes.

`FIXED` have one possible answer here, and CONFIG SET says that they cannot be changed: another value would promise what
respkv does not do (`replicaof`, `min-replicas-to-write` ...). `WITHOUT_EFFECT` have nothing to set here: CONFIG takes
and shows them, so that tools and scripts which set them go on, and they change nothing; no file, flag or variable has
them, a restart forgets them. `appendonly no` is among them as it only asks for less.
"""

from __future__ import annotations

from typing import Any, Final

from respkv.config.values import (
    INT_MAX,
    LONG_MAX,
    ULONG_MAX,
    Parser,
    choice,
    integer,
    memory,
    split,
    text,
    whole,
    yes_no,
)

FIXED: Final = {
    "always-show-logo": "no", "aof_rewrite_cpulist": "", "bgsave_cpulist": "", "bind-source-addr": "",
    "bio_cpulist": "", "cluster-announce-bus-port": "0", "cluster-announce-tls-port": "0", "cluster-enabled": "no",
    "cluster-replica-no-failover": "no", "daemonize": "no", "databases": "1", "enable-module-command": "no",
    "enable-protected-configs": "no", "io-threads": "1", "io-threads-do-reads": "no", "min-replicas-max-lag": "10",
    "min-replicas-to-write": "0", "oom-score-adj": "no", "rdbchecksum": "yes", "replicaof": "",
    "sanitize-dump-payload": "yes", "server_cpulist": "", "set-proc-title": "no", "shutdown-on-sigint": "default",
    "shutdown-on-sigterm": "default", "socket-mark-id": "0", "supervised": "no", "syslog-enabled": "no",
    "tls-ciphersuites": "", "tls-client-cert-file": "", "tls-client-key-file": "", "tls-client-key-file-pass": "",
    "tls-dh-params-file": "", "tls-prefer-server-ciphers": "yes", "tls-replication": "no",
}  # fmt: skip

IMMUTABLE: Final = frozenset({
    "aclfile", "always-show-logo", "aof_rewrite_cpulist", "bgsave_cpulist", "bio_cpulist", "cluster-enabled",
    "cluster-port", "daemonize", "databases", "enable-debug-command", "enable-module-command",
    "enable-protected-configs", "io-threads", "io-threads-do-reads", "logfile", "rdbchecksum", "replicaof",
    "server_cpulist", "set-proc-title", "slaveof", "socket-mark-id", "supervised", "syslog-enabled", "tcp-backlog",
    "unixsocket", "unixsocketperm",
})  # fmt: skip
"""Those that Redis, too, refuses to set, even to what they are."""

ALIASES: Final = {
    "cluster-slave-no-failover": "cluster-replica-no-failover",
    "cluster-slave-validity-factor": "cluster-replica-validity-factor",
    "hash-max-ziplist-entries": "hash-max-listpack-entries", "hash-max-ziplist-value": "hash-max-listpack-value",
    "list-max-ziplist-size": "list-max-listpack-size", "lua-time-limit": "busy-reply-threshold",
    "min-slaves-max-lag": "min-replicas-max-lag", "min-slaves-to-write": "min-replicas-to-write",
    "repl-ping-slave-period": "repl-ping-replica-period", "slave-announce-ip": "replica-announce-ip",
    "slave-announce-port": "replica-announce-port", "slave-ignore-maxmemory": "replica-ignore-maxmemory",
    "slave-lazy-flush": "replica-lazy-flush", "slave-priority": "replica-priority",
    "slave-read-only": "replica-read-only", "slave-serve-stale-data": "replica-serve-stale-data",
    "slaveof": "replicaof", "zset-max-ziplist-entries": "zset-max-listpack-entries",
    "zset-max-ziplist-value": "zset-max-listpack-value",
}  # fmt: skip
"""Other names for the same."""

_SWITCHES: Final = {
    "activedefrag": "no", "activerehashing": "yes", "aof-disable-auto-gc": "no", "aof-load-truncated": "yes",
    "aof-rewrite-incremental-fsync": "yes", "aof-timestamp-enabled": "no", "aof-use-rdb-preamble": "yes",
    "appendonly": "yes", "cluster-allow-pubsubshard-when-down": "yes",
    "cluster-allow-replica-migration": "yes", "cluster-allow-reads-when-down": "no",
    "cluster-require-full-coverage": "yes", "crash-log-enabled": "yes", "crash-memcheck-enabled": "yes",
    "dynamic-hz": "yes", "jemalloc-bg-thread": "yes", "lazyfree-lazy-eviction": "no", "lazyfree-lazy-expire": "no",
    "lazyfree-lazy-server-del": "no", "lazyfree-lazy-user-del": "no", "lazyfree-lazy-user-flush": "no",
    "no-appendfsync-on-rewrite": "no", "rdb-del-sync-files": "no", "rdb-save-incremental-fsync": "yes",
    "rdbcompression": "yes", "repl-disable-tcp-nodelay": "no", "repl-diskless-sync": "yes", "replica-announced": "yes",
    "replica-ignore-disk-write-errors": "no", "replica-ignore-maxmemory": "yes", "replica-lazy-flush": "no",
    "replica-read-only": "yes", "replica-serve-stale-data": "yes", "stop-writes-on-bgsave-error": "yes",
    "tls-session-caching": "yes",
}  # fmt: skip
_NUMBERS: Final = {  # default, least, most
    "active-defrag-cycle-max": (25, 1, 99), "active-defrag-cycle-min": (1, 1, 99),
    "active-defrag-max-scan-fields": (1000, 1, LONG_MAX), "active-defrag-threshold-lower": (10, 0, 1000),
    "active-defrag-threshold-upper": (100, 0, 1000), "active-expire-effort": (1, 1, 10),
    "auto-aof-rewrite-percentage": (100, 0, INT_MAX), "busy-reply-threshold": (5000, 0, LONG_MAX),
    "cluster-migration-barrier": (1, 0, INT_MAX), "cluster-node-timeout": (15_000, 0, LONG_MAX),
    "cluster-replica-validity-factor": (10, 0, INT_MAX), "hash-max-listpack-entries": (512, 0, LONG_MAX),
    "list-compress-depth": (0, 0, INT_MAX), "list-max-listpack-size": (-2, ~INT_MAX, INT_MAX),
    "maxmemory-eviction-tenacity": (10, 0, 100), "repl-backlog-ttl": (3600, 0, LONG_MAX),
    "repl-diskless-sync-delay": (5, 0, INT_MAX), "repl-diskless-sync-max-replicas": (0, 0, INT_MAX),
    "repl-ping-replica-period": (10, 1, INT_MAX), "repl-timeout": (60, 1, INT_MAX),
    "replica-announce-port": (0, 0, 65535), "replica-priority": (100, 0, INT_MAX),
    "set-max-intset-entries": (512, 0, LONG_MAX), "shutdown-timeout": (10, 0, INT_MAX),
    "stream-node-max-entries": (100, 0, LONG_MAX), "tls-session-cache-size": (20_480, 0, INT_MAX),
    "tls-session-cache-timeout": (300, 0, INT_MAX), "zset-max-listpack-entries": (128, 0, LONG_MAX),
}  # fmt: skip
_SIZES: Final = {  # default, least, most
    "active-defrag-ignore-bytes": (100 << 20, 1, LONG_MAX), "auto-aof-rewrite-min-size": (64 << 20, 0, LONG_MAX),
    "cluster-link-sendbuf-limit": (0, 0, ULONG_MAX), "hash-max-listpack-value": (64, 0, LONG_MAX),
    "hll-sparse-max-bytes": (3000, 0, LONG_MAX), "stream-node-max-bytes": (4096, 0, LONG_MAX),
    "zset-max-listpack-value": (64, 0, LONG_MAX),
}  # fmt: skip
_CHOICES: Final = {  # the first is the default
    "propagation-error-behavior": ("ignore", "panic", "panic-on-replicas"),
    "repl-diskless-load": ("disabled", "on-empty-db", "swapdb"),
}
_TEXTS: Final = ("ignore-warnings", "masterauth", "masteruser", "replica-announce-ip")


def _save_points(value: str) -> str:
    """`save`: pairs of seconds and changes."""
    try:
        numbers = [whole(word) for word in split(value)]
    except ValueError:
        numbers = [0]
    if len(numbers) % 2 or min(numbers[::2], default=1) < 1 or min(numbers[1::2], default=0) < 0:
        raise ValueError("Invalid save parameters")
    return " ".join(map(str, numbers))


def _clamped(parse: Parser, low: int, high: int) -> Parser:
    """What `parse` takes becomes the nearest number from `low` to `high`."""
    return lambda value: min(max(parse(value), low), high)


def _oom_scores(value: str) -> str:
    """`oom-score-adj-values`: of a master, a replica, a child."""
    words = split(value)
    if len(words) != 3:
        raise ValueError("wrong number of arguments")
    wrong = "Invalid oom-score-adj-values, elements must be between -2000 and 2000."
    try:
        numbers = [whole(word) for word in words]
    except ValueError:
        raise ValueError(wrong) from None
    if any(abs(number) > 2000 for number in numbers):
        raise ValueError(wrong)
    return " ".join(map(str, numbers))


def _without_effect() -> dict[str, tuple[str, Parser]]:
    found: dict[str, tuple[str, Parser]] = {
        "hz": ("10", _clamped(integer(0, INT_MAX), 1, 500)),
        "oom-score-adj-values": ("0 200 800", _oom_scores),
        "repl-backlog-size": (str(1 << 20), _clamped(memory(1, LONG_MAX), 16 << 10, LONG_MAX)),
        "save": ("", _save_points),
    }
    for name, switch in _SWITCHES.items():
        found[name] = (switch, yes_no)
    for name, (default, least, most) in _NUMBERS.items():
        found[name] = (str(default), integer(least, most))
    for name, (default, least, most) in _SIZES.items():
        found[name] = (str(default), memory(least, most))
    for name, words in _CHOICES.items():
        found[name] = (words[0], choice(*words))
    for name in _TEXTS:
        found[name] = ("", text())
    return found


WITHOUT_EFFECT: Final = _without_effect()
"""Name to default and parser; the value is what the parser made of the text, as text."""


def as_text(value: Any) -> str:
    """A value as CONFIG GET shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:f}".rstrip("0").removesuffix(".")
    if type(value) is tuple:  # not one of the named ones
        return " ".join(map(as_text, value))
    return "" if value is None else str(value)
