"""What a client is told when there is no outcome: "not applied" must be true, and "may have been applied" honest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from respkv.client import Address, Client, ClientError
from tests.cluster import TestCluster, running_cluster, wait_until

TIMEOUT_MS = 1000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    options = {"CLUSTER_TIMEOUT_MS": str(TIMEOUT_MS)}
    with running_cluster(tmp_path_factory.mktemp("majority"), shards=1, **options) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: TestCluster) -> Iterator[TestCluster]:
    """All nodes run and are not frozen, before and after."""
    shared.start()
    yield shared
    for node in shared.running:
        node.thaw()


def waited_s(port: int, *command: str, match: str) -> float:
    """How long `command` took to be answered with an error that matches."""
    with Client(Address("127.0.0.1", port), 10) as client:
        began = time.monotonic()
        with pytest.raises(ClientError, match=match):
            client.call(*command)
        return time.monotonic() - began


NOT_APPLIED = "^CLUSTERDOWN .*the command was not applied$"
UNKNOWN = "^TIMEOUT .*the command may have been applied$"


@pytest.mark.parametrize("cluster_view", [False, True], ids=["standalone view", "cluster view"])
def test_without_a_leader_a_command_waits_and_is_then_refused_as_not_applied(
    cluster: TestCluster, cluster_view: bool
) -> None:
    survivor, *others = cluster.nodes
    for node in others:
        node.kill()
    wait_until(lambda: cluster.leaders() == {}, "the survivor knows that it leads nothing")
    port = survivor.cluster_port if cluster_view else survivor.port
    lines = ("SET refused x", "INCR refused", "GET refused", "DEL refused {refused}", "DBSIZE", "KEYS *", "SCAN 0")
    commands = [line.split() for line in lines]
    with ThreadPoolExecutor(len(commands)) as pool:
        for took in pool.map(lambda command: waited_s(port, *command, match=NOT_APPLIED), commands):
            assert 0.5 < took < TIMEOUT_MS / 1000 + 1
    assert survivor.answers()
    for node in others:
        node.start()
    cluster.wait_ready()
    for node in cluster.nodes:
        with node.client() as client:
            assert client.get("refused") is None
            assert client.exists("refused") == 0


def test_a_command_that_finds_no_leader_is_done_as_soon_as_there_is_one(cluster: TestCluster) -> None:
    survivor, second, third = cluster.nodes
    with survivor.client() as client:
        client.config_set("cluster-timeout-ms", 15_000)
    second.kill()
    third.kill()
    wait_until(lambda: cluster.leaders() == {}, "the survivor knows that it leads nothing")
    with survivor.connect() as waiting, survivor.connect() as reading:
        waiting.settimeout(15)
        reading.settimeout(15)
        waiting.sendall(b"INCR waited\r\nINCR waited\r\n")
        reading.sendall(b"GET nothing\r\n")
        second.start()
        assert waiting.makefile("rb").read(8) == b":1\r\n:2\r\n"
        assert reading.recv(100) == b"$-1\r\n"
    with survivor.client() as client:
        client.config_set("cluster-timeout-ms", TIMEOUT_MS)
    third.start()
    cluster.wait_ready()


def test_a_write_without_outcome_may_have_been_applied_and_later_is_or_is_not_for_all(cluster: TestCluster) -> None:
    leader, followers = cluster.leader(0), cluster.followers(0)
    with leader.client() as client:
        assert client.set("unknown", "before")
        for node in followers:
            node.freeze()
        took = waited_s(leader.port, "SET", "unknown", "after", match=UNKNOWN)
        assert took < TIMEOUT_MS / 1000 + 1
        for node in followers:
            node.thaw()
    cluster.wait_ready()
    cluster.assert_replicas_equal()
    found = set()
    for node in cluster.nodes:
        with node.client() as client:
            found.add(client.get("unknown"))
    assert found in ({b"before"}, {b"after"})


def test_a_forwarded_write_without_outcome_may_have_been_applied(cluster: TestCluster) -> None:
    leader, (follower, other) = cluster.leader(0), cluster.followers(0)
    with follower.client() as client:
        assert client.set("forwarded", "before")
    leader.freeze()
    other.freeze()
    waited_s(follower.port, "SET", "forwarded", "after", match=UNKNOWN)
    other.thaw()
    leader.thaw()
    cluster.wait_ready()
    cluster.assert_replicas_equal()


def test_a_leader_without_majority_serves_no_reads_from_the_past(cluster: TestCluster) -> None:
    leader, followers = cluster.leader(0), cluster.followers(0)
    with leader.client() as client:
        assert client.set("old", "value")
        for node in followers:
            node.freeze()
        wait_until(lambda: cluster_lease_is_over(client), "the lease is over")
        waited_s(leader.port, "GET", "old", match=NOT_APPLIED)
        for node in followers:
            node.thaw()
        wait_until(lambda: client.get("old") == b"value", "reads are served again")


def cluster_lease_is_over(client: redis.Redis) -> bool:
    """A read that is not served at once has found no lease."""
    try:
        client.get("old")
    except redis.ResponseError:
        return True
    return False
