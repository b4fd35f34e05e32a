"""redis-cli and redis-benchmark as people run them, against every node. Skipped where they are not in PATH."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cluster import TestCluster

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-cli") and shutil.which("redis-benchmark")), reason="Redis's tools are not in PATH"
)


def run(*command: str, stdin: str | bytes = b"", timeout_s: float = 30) -> str:
    """Runs a program that must end with status 0 in time, and returns what it printed."""
    text = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(command, input=text, capture_output=True, timeout=timeout_s, check=False)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, (command, output, done.stderr)
    return output


def cli(port: int, *words: str, stdin: str | bytes = b"") -> str:
    return run("redis-cli", "-p", str(port), *words, stdin=stdin)


def test_redis_cli_plain_and_with_resp3(cluster: TestCluster) -> None:
    for number, node in enumerate(cluster.nodes):
        assert cli(node.port, "set", f"key{number}", "value") == "OK\n"
        assert cli(node.port, "-3", "get", f"key{number}") == "value\n"
        assert cli(node.port, "get", "absent") == "\n"
        assert cli(node.port, "incr", "count") == f"{number + 1}\n"
        assert cli(node.port, "dbsize") == f"{number + 2}\n"
        assert "ERR wrong number of arguments" in cli(node.port, "get")
        assert "redis_mode:standalone" in cli(node.port, "-3", "info", "server")
        script = "set a 1\nincr a\nget a\ndel a\n"
        assert cli(node.port, stdin=script) == "OK\n2\n2\n1\n"


def test_redis_cli_scans_and_looks_at_the_keyspace(cluster: TestCluster) -> None:
    keys = {f"key:{number}" for number in range(200)}
    with cluster.nodes[0].client() as client:
        client.mset({key: "x" * (1000 if key == "key:7" else 5) for key in keys})
    for node in cluster.nodes:
        assert set(cli(node.port, "--scan").split()) == keys
        assert set(cli(node.port, "--scan", "--pattern", "key:1??").split()) == {f"key:{n}" for n in range(100, 200)}
        assert "1000 bytes" in cli(node.port, "--bigkeys")


def test_redis_cli_follows_redirections_through_the_cluster_view(cluster: TestCluster) -> None:
    for number, node in enumerate(cluster.nodes):
        for key in range(9):
            assert cli(node.cluster_port, "-c", "set", f"key:{key}", str(number)) == "OK\n"
            assert cli(node.cluster_port, "-c", "get", f"key:{key}") == f"{number}\n"
    assert "redis_mode:cluster" in cli(cluster.nodes[0].cluster_port, "info", "server")


def test_redis_cli_cluster_check_finds_all_slots_covered(cluster: TestCluster) -> None:
    output = run("redis-cli", "--cluster", "check", f"127.0.0.1:{cluster.nodes[1].cluster_port}")
    assert "[OK] All nodes agree about slots configuration." in output
    assert "[OK] All 16384 slots covered." in output


def test_a_mass_import_through_redis_cli_pipe(cluster: TestCluster) -> None:
    count = 20_000
    lines = b"".join(
        b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$5\r\nvalue\r\n" % (len(key), key)
        for key in (b"import:%d" % number for number in range(count))
    )
    output = cli(cluster.nodes[2].port, "--pipe", stdin=lines)
    assert f"errors: 0, replies: {count}" in output
    with cluster.nodes[0].client() as client:
        assert client.dbsize() == count
        assert client.mget("import:0", f"import:{count - 1}") == [b"value", b"value"]


@pytest.mark.parametrize("pipeline", [1, 16])
@pytest.mark.parametrize("name", ["n1", "n3"])
def test_redis_benchmark_runs_without_errors(cluster: TestCluster, name: str, pipeline: int) -> None:
    port, requests = cluster[name].port, 1500 * pipeline
    command = ["redis-benchmark", "-p", str(port), "-t", "set,get,incr,mset", "-q"]
    output = run(*command, "-n", str(requests), "-P", str(pipeline), "-r", "10000", timeout_s=60)
    for test in ("SET", "GET", "INCR", "MSET (10 keys)"):
        assert f"{test}: " in output.replace("\r", "\n"), output
    assert "error" not in output.lower()
    with cluster.nodes[1].client() as client:
        total = sum(int(value or 0) for value in client.mget(client.keys("counter:*")))
        assert total == requests
