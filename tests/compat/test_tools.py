"""redis-cli and redis-benchmark as people run them, against every node. Skipped where they are not in PATH."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from functools import partial

import pexpect
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
        memory = cli(node.port, "--memkeys")
        assert re.search(r"""Biggest string found '"key:7"' has 1\d\d\d bytes""", memory), memory
        assert "Sampled 200 keys in the keyspace!" in memory


def test_redis_cli_follows_redirections_through_the_cluster_view(cluster: TestCluster) -> None:
    for number, node in enumerate(cluster.nodes):
        for key in range(9):
            assert cli(node.cluster_port, "-c", "set", f"key:{key}", str(number)) == "OK\n"
            assert cli(node.cluster_port, "-c", "get", f"key:{key}") == f"{number}\n"
    assert "redis_mode:cluster" in cli(cluster.nodes[0].cluster_port, "info", "server")


def prompt(port: int, *options: str) -> pexpect.spawn[str]:
    """redis-cli as a person sees it: on a terminal, with its prompt."""
    environment = os.environ | {"TERM": "dumb", "REDISCLI_HISTFILE": "/dev/null", "REDISCLI_RCFILE": "/dev/null"}
    arguments = ["-p", str(port), *options]
    child = pexpect.spawn("redis-cli", arguments, env=environment, encoding="utf-8", echo=False, timeout=15)
    child.expect_exact(f"127.0.0.1:{port}> ")
    return child


def typed(child: pexpect.spawn[str], line: str, *expected: str) -> None:
    """Types a line; the answer must hold each of `expected`, in this order, before the next prompt."""
    child.sendline(line)
    for text in expected:
        child.expect_exact(text)
    child.expect(r"127\.0\.0\.1:\d+(\(TX\))?> ")


def test_redis_cli_at_a_terminal(cluster: TestCluster) -> None:
    port = cluster.nodes[1].port
    child = prompt(port)
    typed(child, 'set greeting "hello world"', "OK")
    typed(child, "get greeting", '"hello world"')
    typed(child, "get none", "(nil)")
    typed(child, "incr greeting", "(error) ERR value is not an integer or out of range")
    typed(child, "mget greeting none", '1) "hello world"', "2) (nil)")
    typed(child, "strlen greeting", "(integer) 11")
    typed(child, "3 incr count", "(integer) 1", "(integer) 2", "(integer) 3")
    typed(child, "help get", "Get the value of a key", "1.0.0")
    typed(child, "config get maxclients", '1) "maxclients"', '2) "10000"')
    child.sendline("quit")
    child.expect(pexpect.EOF)


def test_redis_cli_at_a_terminal_with_resp3_and_with_a_cluster(cluster: TestCluster) -> None:
    child = prompt(cluster.nodes[0].port, "-3")
    typed(child, "config get maxclients", '1# "maxclients" => "10000"')
    typed(child, "get none", "(nil)")
    child.close()
    (key,) = cluster.keys_of_shard(1, 1)
    leader = cluster.leader(1)
    other = next(node for node in cluster.nodes if node is not leader)
    child = prompt(other.cluster_port, "-c")
    typed(child, f"set {key} x", "-> Redirected to slot", f"located at 127.0.0.1:{leader.cluster_port}", "OK")
    typed(child, f"get {key}", '"x"')
    child.close()


def printed_until_interrupted(*arguments: str, enough: str, timeout_s: float = 30) -> str:
    """What a redis-cli that never ends by itself prints at a terminal until it has printed `enough` (a pattern)."""
    child = pexpect.spawn(
        "redis-cli", list(arguments), encoding="utf-8", timeout=timeout_s,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # even if it is ignored here
    )  # fmt: skip
    child.expect(enough)
    output = str(child.before) + str(child.after)
    child.kill(signal.SIGINT)
    child.expect(pexpect.EOF)
    child.close()
    return output


def test_redis_cli_watches_a_server(cluster: TestCluster) -> None:
    port = str(cluster.nodes[0].port)
    with cluster.nodes[0].client() as client:
        client.mset({f"key:{number}": "x" for number in range(100)})
    output = printed_until_interrupted("-p", port, "--stat", "-i", "0.1", enough=r"(?s)(100 .*){3}")
    assert re.search(r"keys +mem +clients +blocked +requests +connections", output), output
    line = next(line for line in output.splitlines() if line.startswith("100 "))
    assert re.match(r"100 +\d+\.\d\d[MG] +\d+ +0 +\d+ \(\+\d+\) +\d+", line), line
    assert re.match(r"^\d+ \d+ \d+\.\d+ \d+", cli(int(port), "--latency", "--raw", "-i", "0.3"))
    output = printed_until_interrupted("-p", port, "--latency", enough=r"min: \d+, max: \d+, avg: .* samples\)")
    assert "samples" in output
    output = printed_until_interrupted("-p", port, "--latency-history", "-i", "0.3", enough=r"seconds range")
    assert "samples" in output


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
