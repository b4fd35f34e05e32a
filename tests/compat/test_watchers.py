"""What loads and watches servers that are in use: memtier_benchmark, and Prometheus's exporter for Redis.

Each is skipped where it is not in PATH; `.ci/redis` installs the exporter. Debian 12 has no memtier_benchmark.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.cluster import NodeProcess, TestCluster, free_ports, wait_until

needs_memtier = pytest.mark.skipif(not shutil.which("memtier_benchmark"), reason="memtier_benchmark is not in PATH")
needs_exporter = pytest.mark.skipif(
    not shutil.which("prometheus-redis-exporter"), reason="prometheus-redis-exporter is not in PATH"
)


@needs_memtier
@pytest.mark.parametrize("cluster_mode", [False, True], ids=["standalone", "cluster"])
def test_memtier_loads_a_cluster_and_finds_what_it_wrote(
    cluster: TestCluster, tmp_path: Path, *, cluster_mode: bool
) -> None:
    node = cluster.nodes[1]
    port = node.cluster_port if cluster_mode else node.port
    command = ["memtier_benchmark", "-p", str(port), "-t", "2", "-c", "4", "--hide-histogram"]
    command += ["--key-minimum", "1", "--key-maximum", "500", *(["--cluster-mode"] if cluster_mode else [])]
    for ratio, pattern in (("1:0", "P:P"), ("1:4", "R:R")):  # each key once; then mostly reads, in any order
        result = tmp_path / "result.json"
        limit = ["-n", "allkeys"] if ratio == "1:0" else ["-n", "500", "--pipeline", "8"]
        load = [*command, *limit, "--ratio", ratio, "--key-pattern", pattern, "--json-out-file", str(result)]
        done = subprocess.run(load, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error" not in (done.stdout + done.stderr).lower()
    totals = json.loads(result.read_text())["ALL STATS"]
    assert totals["Totals"]["Count"] == 2 * 4 * 500
    assert totals["Gets"]["Misses/sec"] == 0
    with cluster.nodes[0].client() as client:
        assert client.dbsize() == 500


@contextmanager
def exporter(port: int, *options: str) -> Iterator[str]:
    """The address where it tells of the server at `port`."""
    here = f"127.0.0.1:{free_ports(1)}"
    command = ["prometheus-redis-exporter", "-redis.addr", f"redis://127.0.0.1:{port}"]
    process = subprocess.Popen([*command, "-web.listen-address", here, *options], stderr=subprocess.DEVNULL)
    try:
        yield f"http://{here}/metrics"
    finally:
        process.kill()
        process.wait(10)


def scraped(address: str) -> dict[str, float]:
    def text() -> str | None:
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return str(reply.read().decode())
        except OSError:  # it is not listening yet
            return None

    lines = wait_until(text, "the exporter").splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


@needs_exporter
def test_the_exporter_for_prometheus_reads_every_node(cluster: TestCluster) -> None:
    with cluster.nodes[0].client() as client:
        client.mset({f"key:{number}": "x" * 50 for number in range(20)})
        client.set("expires", "x", ex=100)
    for node in cluster.nodes:
        with exporter(node.port, "-check-keys", "key:1*") as address:
            wait_until(lambda at=address: scraped(at)['redis_db_keys{db="db0"}'] == 21, "what was written")
            found = scraped(address)
        assert found["redis_up"] == 1
        assert not any(value for name, value in found.items() if name.startswith("redis_exporter_last_scrape_error"))
        assert found['redis_key_size{db="db0",key="key:1"}'] == 50
        assert found["redis_connected_clients"] >= 1
        assert found["redis_uptime_in_seconds"] > 0
        assert found["redis_memory_used_bytes"] > 1_000_000
        assert found['redis_db_keys_expiring{db="db0"}'] == 1
        assert found['redis_commands_total{cmd="info"}'] > 0
        assert any(re.match(r'redis_instance_info\{.*role="master"', name) for name in found)


@needs_exporter
def test_the_exporter_for_prometheus_finds_all_that_it_finds_in_redis(single: NodeProcess, redis_port: int) -> None:
    def found(port: int) -> dict[str, float]:
        client = redis.Redis(port=port)
        client.set("expires", "x", ex=100)
        with pytest.raises(redis.ResponseError):
            client.incr("expires")
        client.slowlog_reset()
        client.config_set("slowlog-log-slower-than", 0)
        client.ping()
        client.config_set("slowlog-log-slower-than", 10_000)
        with exporter(port, "-export-client-list", "-include-config-metrics") as address:
            return scraped(address)

    def names(metrics: dict[str, float]) -> set[str]:
        """Without the metrics about the exporter; of settings, not which."""
        return {name.partition("{")[0] for name in metrics if name.startswith("redis_")}

    theirs, own = found(redis_port), found(single.port)
    assert names(theirs) <= names(own)
    for name in ("redis_total_reads_processed", "redis_total_writes_processed", "redis_allocator_frag_ratio",
                 "redis_slowlog_length", "redis_last_slow_execution_duration_seconds"):  # fmt: skip
        assert own[name] > 0, name


@needs_exporter
def test_the_exporter_for_prometheus_reads_the_cluster_view(cluster: TestCluster) -> None:
    with cluster.nodes[0].client() as client:
        client.mset({f"key:{number}": "x" * 50 for number in range(20)})
    for node in cluster.nodes:
        with exporter(node.cluster_port, "-is-cluster", "-check-single-keys", "key:1,key:2,key:3") as address:
            found = scraped(address)
        assert found["redis_up"] == 1
        assert (found["redis_cluster_state"], found["redis_cluster_slots_ok"]) == (1, 16384)
        assert found["redis_cluster_known_nodes"] == 3
        assert [found[f'redis_key_size{{db="db0",key="key:{number}"}}'] for number in (1, 2, 3)] == [50] * 3
