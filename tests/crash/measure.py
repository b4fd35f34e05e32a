"""Measurements of failures on real nodes: how long clients wait when a leader dies, while a node catches up, and while
all nodes are restarted one after the other.

A `Probe` sends one SET at a time to one shard and remembers when each was answered. When its node stops it goes on at
another, as a client behind a load balancer does. An error reply is a failed command; one whose connection ended before
the reply came is counted apart.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hiredis

from tests.cluster import NodeProcess, TestCluster, running_cluster, wait_until
from tests.crash.clients import Connection

DEFAULTS = {"JOURNAL_SEGMENT_BYTES": "64mb", "SEGMENT_BYTES": "128mb"}  # those of respkv, not those of short tests
AFTER_KILL_S = 2.5
VALUE_BYTES = 64 << 10
PIPELINE = 32
SPAN_S = 8.0


class Probe(Connection):
    """One client of one shard."""

    def __init__(self, node: NodeProcess, name: str, key: str, others: Sequence[NodeProcess] = ()) -> None:
        super().__init__(node, name)
        self.think_s = 0.002
        self.answers: list[tuple[float, float]] = []  # sent, answered
        self._command = (b"SET", key.encode(), b"x" * 100)
        self._nodes = [node, *others]

    def turn(self) -> None:
        sent = time.monotonic()
        for _, reply in self.exchange([self._command]):
            if isinstance(reply, hiredis.ReplyError):
                self.note_error(reply)
            self.answers.append((sent, time.monotonic()))

    def _connect(self) -> bool:
        if super()._connect():
            return True
        self._nodes.append(self._nodes.pop(0))
        self._home = self._address = (self._nodes[0].host, self._nodes[0].port)
        return False

    def latencies_ms(self, since: float, until: float) -> list[float]:
        return [(end - start) * 1000 for start, end in self.answers if since <= start < until]

    def longest_gap_ms(self, since: float, until: float) -> float:
        """The longest time without an answer that touches the interval."""
        ends = [end for _, end in self.answers]
        gaps = [(b - a) * 1000 for a, b in itertools.pairwise(ends) if b >= since and a <= until]
        return max(gaps, default=math.inf)


@contextmanager
def probing(probes: Sequence[Probe]) -> Iterator[Sequence[Probe]]:
    for probe in probes:
        probe.start()
    try:
        wait_until(lambda: all(probe.replies >= 50 for probe in probes), "every probe is answered")
        yield probes
    finally:
        for probe in probes:
            probe.stop()
        for probe in probes:
            probe.join(30)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def figures(samples: Sequence[float]) -> str:
    parts = [f"p{percent} {percentile(samples, percent):.1f}" for percent in (50, 99)]
    return ", ".join(parts) + f", max {max(samples):.1f} ms ({len(samples)} samples)"


def failover(directory: Path, kills: int) -> tuple[list[float], list[str]]:
    """Kills a leader `kills` times. Interruptions in ms, one per kill, shard it led and other node; and errors."""
    samples: list[float] = []
    errors: list[str] = []
    with running_cluster(directory, **DEFAULTS) as cluster:
        keys = [cluster.keys_of_shard(shard, 1, "probe")[0] for shard in range(cluster.shard_count)]
        for kill in range(kills):
            leaders = cluster.leaders()
            victim = cluster[leaders[kill % cluster.shard_count]]
            led = [shard for shard, name in leaders.items() if name == victim.name]
            others = [node for node in cluster.nodes if node is not victim]
            probes = [Probe(node, f"{node.name}.{shard}", keys[shard]) for node in others for shard in led]
            with probing(probes):
                killed = time.monotonic()
                victim.kill()
                time.sleep(AFTER_KILL_S)
                wait_until(lambda: all(p.answers[-1][0] > killed for p in probes), "all are answered again")  # noqa: B023
            samples += [probe.longest_gap_ms(killed, killed + AFTER_KILL_S) for probe in probes]
            errors += [text for probe in probes for _, text in probe.errors]
            victim.start()
            cluster.wait_ready()
            cluster.wait_settled()
    return samples, errors


def rolling(directory: Path, rounds: int) -> tuple[list[float], list[str], int]:
    """Restarts every node `rounds` times. The longest pause of each client in each restart, in ms; errors; and how many
    connections ended with a command under way.

    Leaders do not follow the clients, so that every node has one again before it is restarted.
    """
    pauses: list[float] = []
    with running_cluster(directory, **DEFAULTS, CLUSTER_FOLLOW_CLIENTS="no") as cluster:
        cluster.wait_home()
        keys = [cluster.keys_of_shard(shard, 1, "probe")[0] for shard in range(cluster.shard_count)]
        probes = [
            Probe(node, f"{node.name}.{shard}", keys[shard], [other for other in cluster.nodes if other is not node])
            for node in cluster.nodes
            for shard in range(cluster.shard_count)
        ]
        with probing(probes):
            for number in range(rounds * len(cluster.nodes)):
                node = cluster.nodes[number % len(cluster.nodes)]
                since = time.monotonic()
                assert node.stop() == 0, node.log()[-2000:]
                node.start()
                cluster.wait_ready()
                cluster.wait_home()
                time.sleep(0.5)
                pauses += [probe.longest_gap_ms(since, time.monotonic()) for probe in probes]
        errors = [text for probe in probes for _, text in probe.errors]
        return pauses, errors, sum(probe.reconnects for probe in probes)


def catch_up(directory: Path, gib: float) -> Iterator[str]:
    """A node misses `gib` of writes and comes back. Yields lines of figures.

    `healthy` is what compares with `during`: as many nodes share the machine. `before`, with one fewer, is faster.
    """
    with running_cluster(directory, **DEFAULTS) as cluster:
        cluster.wait_home()
        missing, others = cluster.nodes[2], cluster.nodes[:2]
        keys = [cluster.keys_of_shard(shard, 1, "probe")[0] for shard in range(cluster.shard_count)]

        def probes_of_others() -> list[Probe]:
            shards = range(cluster.shard_count)
            return [Probe(node, f"{node.name}.{shard}", keys[shard]) for node in others for shard in shards]

        with probing(probes_of_others()) as healthy:
            time.sleep(SPAN_S)
        missing.kill()
        cluster.wait_ready()
        began = time.monotonic()
        write(cluster, int(gib * (1 << 30)))
        yield f"written while it was away: {gib} GiB in {time.monotonic() - began:.1f} s"
        time.sleep(5)
        with probing(probes_of_others()) as probes:
            quiet_since = time.monotonic()
            time.sleep(SPAN_S)
            started = time.monotonic()
            missing.start()
            wait_until(missing.answers, "it answers", 60)
            wait_until(lambda: _has_caught_up(cluster, missing), "it has caught up", 300)
            caught_up = time.monotonic()
            time.sleep(SPAN_S)
            settled = time.monotonic()
        spans = {"before": (quiet_since, started), "during": (started, caught_up), "after": (caught_up, settled)}
        yield f"caught up {caught_up - started:.1f} s after its start"
        everything = [latency for probe in healthy for latency in probe.latencies_ms(0, quiet_since)]
        yield f"latency of the others' clients healthy: {figures(everything)}"
        for name, (since, until) in spans.items():
            latencies = [latency for probe in probes for latency in probe.latencies_ms(since, until)]
            yield f"latency of the others' clients {name}: {figures(latencies)}"
        yield f"errors: {sum(len(probe.errors) for probe in probes)}"
        yield f"snapshots installed: {missing.log().count('snapshot_installed')}"


def write(cluster: TestCluster, count_bytes: int) -> None:
    value = bytes(range(256)) * (VALUE_BYTES // 256)
    with cluster.nodes[0].client(socket_timeout=60) as client:
        for start in range(0, count_bytes // VALUE_BYTES, PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + PIPELINE, count_bytes // VALUE_BYTES)):
                pipeline.set(f"bulk:{number}", value)
            pipeline.execute()


def _has_caught_up(cluster: TestCluster, node: NodeProcess) -> bool:
    """Within what is written in a moment."""
    leaders = {shard: cluster[name] for shard, name in cluster.leaders().items()}
    seen = node.shards()
    return len(leaders) == cluster.shard_count and all(
        int(leader.shards()[shard]["applied"]) - int(seen[shard]["applied"]) < 500 for shard, leader in leaders.items()
    )
