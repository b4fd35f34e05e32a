"""CONFIG on a real redis-server and on respkv: every parameter that both have, with good and bad values. Replies must
be equal, and what CONFIG GET shows after what was taken.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from respkv.config.redis import FIXED, IMMUTABLE
from tests.cluster import NodeProcess
from tests.compat.targets import Command, SocketTarget
from tests.unit.test_docs import ABSENT_PARAMETERS

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

VALUES = [
    "", "word", "yes", "YES", "no", "0", "1", "-1", "-2", "+1", "01", " 1", "1 ", "1 2", "1.5", "100.5", "nan", "500",
    "501", "1000000", "1kb", "1k", "2MB", "12b", "1tb", "5%", "101%", "%", "2147483647", "2147483648", "-2147483648",
    "-2147483649", "4294967295", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "9" * 127, "9" * 128,
]  # fmt: skip

FIXED_HERE = (FIXED.keys() - IMMUTABLE) | {
    "appendfsync", "bind", "dir", "port", "tls-cluster", "tls-key-file-pass", "tls-port", "min-slaves-max-lag",
    "min-slaves-to-write", "cluster-slave-no-failover",
}  # fmt: skip
NOT_COMPARED = FIXED_HERE | {
    "activedefrag",  # what Redis says depends on its allocator
    "appendonly",  # yes here
    "proto-max-bulk-len",  # 2 GiB at the most here
    "requirepass",  # any text
    "tls-protocols",  # Redis does not look at it before there is a port of TLS
}
# A number of clients is refused by the system's limit of open files, of which each server keeps some. Little memory for
# clients closes the one that asks, and Redis takes the largest sizes for percentages.
LEFT_OUT = {
    "maxclients": ("1000000", "2147483647", "2147483648", "4294967295"),
    "maxmemory-clients": ("1", "01", "500", "501", "1000000", "1kb", "1k", "12b", "18446744073709551615",
                          "18446744073709551616", "9" * 127),
}  # fmt: skip

SPECIAL = {
    "save": [
        "60 1", "60", "60 1 ", "60  1", "060 +1", "0 1", "60 -1", "60 x", "900 1 300 10", "60 1 30", "1.5 1", "\t60 1",
    ],
    "notify-keyspace-events": ["KEA", "Kg$", "Kq", "AKE ", "mn", "ElshzxetdK", "ke", "Ag$lshzxetd"],
    "client-output-buffer-limit": [
        "normal 0 0 0", "NORMAL 1gb 512mb 60", "replica 1 1 1", "slave 0 0 -1", "pubsub 32mb 8mb 60 slave 1 2 3",
        "normal 1gb", "normal x 0 0", "normal 0 -1 0", "normal 0 0 x", "normal 0 0 1.5", "normal  0 0", "master 0 0 0",
        "normal 0 0 0 pubsub", "normal 0 0 2147483648", "pubsub 1gb 0 ", "pubsub 1gb 0 +07", "word 0 0 0 normal x 0 0",
        "1gb",
    ],
    "latency-tracking-info-percentiles": [
        "50", "50 99.9", "0.0 100.0", "50 101", "-1", "50  99", "50 ", "12.3456789", "1e1", "inf", "nan", "-0", "1_0",
        "x",
    ],
    "oom-score-adj-values": ["0 1 2", "-2000 0 2000", "0 0 2001", "1 2", "1 2 3 4", "1 2 x", "1  3", "+1 02 3"],
    "cluster-announce-hostname": ["a-b.C1", "a_b", "a b", "a" * 255, "a" * 256, "_" * 256, "\xe9"],
    "maxmemory": ["100mb", "1GB", "1G", "gb", "-1mb", "1mbb"],
    "maxmemory-policy": ["ALLKEYS-LFU", "lru", "allkeys-lru volatile-lru"],
    "maxmemory-clients": ["100%", "-5%", "05%", "0%", "5 %", "1gb", "5%%"],
    "loglevel": ["DEBUG", "notice", "warning", "error"],
    "acl-pubsub-default": ["AllChannels", "channels"],
    "tls-auth-clients": ["Optional"],
    "cluster-preferred-endpoint-type": ["HOSTNAME", "unknown-endpoint", "unknown"],
    "propagation-error-behavior": ["PANIC", "panic ignore"],
    "repl-diskless-load": ["swapdb", "on-empty"],
}  # fmt: skip

AT_ONCE = """
SET
SET timeout
SET timeout 7 hz
SET nonsense 1
SET timeout 7 nonsense 1 daemonize no
SET timeout 7 daemonize no nonsense 1
SET timeout 7 Daemonize yes
SET timeout 7 hz 20 TimeOut 8
SET timeout 7 hz 20 DATABASES 3 hz 30
SET timeout 7 hz x
SET TIMEOUT 7 Maxmemory-Samples 0 hz x
SET timeout x daemonize yes
SET timeout 7 replica-priority 8 slave-priority 9
SET SLAVE-priority 8 replica-priority x
SET replica-priority 8 SLAVE-priority x
SET slave-priority 8 replica-priority 100
SET hash-max-ziplist-entries 5 lua-time-limit 9 cluster-slave-validity-factor 3
SET timeout 7 maxmemory 1gb hz 1000
SET hz 0
SET slaveof no
SET unixsocket x
SET io-threads 2
SET tcp-backlog 100
SET databases 1
GET nonsense
GET Timeout TIMEOUT timeout
GET min-*-to-write lua* *-priority
GET *max-*list-* cluster-*-factor
"""
SHOWN = "timeout", "hz", "maxmemory*", "*-priority", "*-max-*list-*", "lua-*", "busy-*", "cluster-*-factor"


class Both:
    """The same to both servers; `theirs` and `ours` are Redis and respkv."""

    def __init__(self, *ports: int) -> None:
        self.theirs, self.ours = (SocketTarget(port) for port in ports)
        self.before = [self.shown(server) for server in (self.theirs, self.ours)]
        self.names = sorted(self.before[0].keys() & self.before[1].keys())

    def shown(self, server: SocketTarget, *patterns: str) -> dict[str, bytes]:
        [flat] = server.run([words("GET", *(patterns or ("*",)))])
        return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def ask(self, *args: str) -> tuple[Any, Any]:
        theirs, ours = (server.run([words(*args)])[0] for server in (self.theirs, self.ours))
        return theirs, ours

    def restore(self, *names: str) -> None:
        for server, before in zip((self.theirs, self.ours), self.before, strict=True):
            for name in names:
                assert server.run([[*words("SET", name), before[name]]]) == [("+", b"OK")], name


def words(*args: str) -> Command:
    return [b"CONFIG", *(arg.encode() for arg in args)]


@pytest.fixture
def both(redis_port: int, single: NodeProcess) -> Iterator[Both]:
    both = Both(redis_port, single.port)
    yield both
    for server, before in zip((both.theirs, both.ours), both.before, strict=True):
        assert both.shown(server) == before
        server.close()


def test_what_config_set_takes_and_how_it_refuses_is_as_on_redis(both: Both) -> None:
    differ = []
    for name in both.names:
        values = [] if name in NOT_COMPARED else [value for value in VALUES if value not in LEFT_OUT.get(name, ())]
        for value in values + SPECIAL.get(name, []):
            theirs, ours = both.ask("SET", name, value)
            if theirs == ours == ("+", b"OK"):
                theirs, ours = both.ask("GET", name)
            if theirs != ours:
                differ.append((name, value, theirs, ours))
            if name not in IMMUTABLE:
                both.restore(name)
    assert differ == []


@pytest.mark.parametrize("line", AT_ONCE.strip().splitlines())
def test_several_at_once_and_names_that_cannot_be_set_are_as_on_redis(both: Both, line: str) -> None:
    def pairs(flat: Any) -> Any:
        return dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat

    theirs, ours = both.ask(*line.split())
    assert pairs(ours) == pairs(theirs)
    theirs, ours = both.ask("GET", *SHOWN)
    assert pairs(ours) == pairs(theirs)
    both.restore("timeout", "hz", "maxmemory", "replica-priority", "hash-max-listpack-entries",
                 "busy-reply-threshold", "cluster-replica-validity-factor")  # fmt: skip


def test_every_parameter_of_redis_is_there_or_said_to_be_absent(both: Both) -> None:
    theirs, ours = both.before
    assert theirs.keys() - ours.keys() == ABSENT_PARAMETERS.keys()


def test_each_view_says_whether_it_is_a_clusters(both: Both, single: NodeProcess) -> None:
    for port, is_cluster in ((single.port, b"no"), (single.cluster_port, b"yes")):
        server = SocketTarget(port)
        assert both.shown(server, "cluster-enabled") == {"cluster-enabled": is_cluster}
        server.close()
