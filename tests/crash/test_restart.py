"""What a directory remembers: clean stops and starts, nodes that missed much, two processes that want the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.cluster import ROOT, START_S, TestCluster, environment, running_cluster, wait_until
from tests.crash.writers import check, go_on, writing


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One that keeps so little journal that a node which missed a few MB needs a snapshot."""
    options = {"JOURNAL_KEEP_BYTES": "1mb", "JOURNAL_SEGMENT_BYTES": "1mb", "SEGMENT_BYTES": "4mb"}
    with running_cluster(tmp_path_factory.mktemp("restart"), **options) as cluster:
        yield cluster


def test_a_node_that_missed_a_few_writes_catches_up_from_the_log(cluster: TestCluster) -> None:
    missing = cluster.nodes[2]
    missing.kill()
    with cluster.nodes[0].client() as client:
        for number in range(200):
            assert client.set(f"few:{number}", number)
    missing.start()
    cluster.wait_ready()
    cluster.assert_replicas_equal()
    assert "snapshot_installed" not in missing.log()


def test_a_node_that_missed_more_than_the_journal_keeps_catches_up_by_snapshot(cluster: TestCluster) -> None:
    missing = cluster.nodes[1]
    missing.kill()
    value = bytes(range(256)) * 256
    with cluster.nodes[0].client() as client:
        for number in range(240):
            assert client.set(f"much:{number}", value + b"%d" % number)
        wait_until(
            lambda: all(int(shard["log_bytes"]) < 2 << 20 for shard in cluster.nodes[0].shards().values()),
            "the journal is trimmed",
            40,
        )
    with writing([cluster.nodes[0], cluster.nodes[2]], 1) as writers:
        missing.start()
        cluster.wait_ready()
        wait_until(lambda: "snapshot_installed" in missing.log(), "the node installs a snapshot")
        go_on(writers)
    check(cluster, writers)
    with missing.client() as client:
        assert client.mget("much:0", "much:239") == [value + b"0", value + b"239"]
    missing.kill()  # what was installed is as durable as what was written
    missing.start()
    cluster.wait_ready()
    cluster.assert_replicas_equal()


def test_killing_a_node_while_it_installs_a_snapshot_leaves_it_able_to_catch_up(cluster: TestCluster) -> None:
    missing = cluster.nodes[1]
    missing.kill()
    with cluster.nodes[0].client() as client:
        for number in range(240):
            assert client.set(f"again:{number}", b"x" * 65536)
        wait_until(
            lambda: all(int(shard["log_bytes"]) < 2 << 20 for shard in cluster.nodes[0].shards().values()),
            "the journal is trimmed",
            40,
        )
    for _ in range(3):
        missing.start()
        wait_until(lambda: any(missing.directory.glob("shard-*.incoming")) or missing.answers(), "it has begun")
        missing.kill()
    missing.start()
    cluster.wait_ready()
    cluster.assert_replicas_equal()


def test_a_second_process_on_the_same_directory_is_refused(cluster: TestCluster) -> None:
    node = cluster.nodes[0]
    others = {"PORT": "19999", "CLUSTER_PORT": "19998", "PEER_PORT": "19997"}
    command = [sys.executable, "-m", "respkv", "server", "--config", str(node.directory / "respkv.toml")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=START_S, cwd=ROOT, env=environment(others), check=False
    )
    assert done.returncode == 1
    assert "node_cannot_start" in done.stderr
    assert "Traceback" not in done.stderr
    assert node.answers()


@contextmanager
def respkv_cluster(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The command as a person runs it; SIGTERM at the end must stop it and its nodes with status 0."""
    command = [sys.executable, "-m", "respkv", "cluster", str(directory)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment({})
    )
    try:
        yield process
        process.terminate()
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
        assert "killed" not in output
    finally:
        process.kill()
        process.wait(10)


def test_respkv_cluster_stopped_and_run_again_has_its_data(tmp_path: Path) -> None:
    cluster = TestCluster(tmp_path / "cluster")
    for round_ in range(2):
        with respkv_cluster(cluster.directory), redis.Redis(port=cluster.port + round_, socket_timeout=10) as client:
            wait_until(client.ping, "the cluster answers")
            if round_ == 0:
                assert client.mset({f"kept:{number}": number for number in range(500)})
                assert client.set("kept:ttl", "x", ex=1000)
            assert client.dbsize() == 501
            assert client.mget("kept:0", "kept:499") == [b"0", b"499"]
            assert 900 < client.ttl("kept:ttl") <= 1000
