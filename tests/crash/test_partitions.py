"""Links cut in one direction or both: the side without a majority answers nothing, the other does not notice for long.

The links are proxies (`tests.crash.network.Mesh`), which works everywhere; the last test lets the kernel cut them.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster import ROOT, NodeProcess, TestCluster, environment, wait_until
from tests.crash.isolated import why_not
from tests.crash.network import Mesh, separate
from tests.crash.test_failover import assert_only_waited, elsewhere
from tests.crash.writers import check, go_on, writing

TIMEOUT_MS = 3000
KERNEL_S = 90


class Cut:
    """A running cluster and its links."""

    def __init__(self, directory: Path) -> None:
        self.cluster = TestCluster(directory, 3, 3, CLUSTER_TIMEOUT_MS=str(TIMEOUT_MS))
        self.mesh = Mesh(self.cluster.nodes)

    def isolate(self, node: NodeProcess) -> list[NodeProcess]:
        """Returns the others."""
        others = [other for other in self.cluster.nodes if other is not node]
        separate(self.mesh, [[node], others])
        return others

    def heal(self) -> None:
        self.mesh.heal()
        self.cluster.start()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cut]:
    cut = Cut(tmp_path_factory.mktemp("partitions") / "cluster")
    try:
        cut.cluster.start()
        yield cut
    finally:
        for node in cut.cluster.running:
            node.kill()
        cut.mesh.close()


@pytest.fixture
def cut(shared: Cut) -> Cut:
    shared.heal()
    return shared


def test_a_cut_is_in_one_direction_only_and_what_was_sent_arrives_after_healing(cut: Cut) -> None:
    """The other tests stand on this: a follower that is not heard hears its leader, and the other way round."""
    leader = cut.cluster.leader(0)
    follower = cut.cluster.followers(0)[0]
    keys = cut.cluster.keys_of_shard(0, 20, "one-way")
    with leader.client() as client:
        cut.mesh.cut(follower, leader)
        assert client.set(keys[0], "x")  # the other follower makes the majority
        applied = leader.shards()[0]["applied"]
        wait_until(lambda: int(follower.shards()[0]["last"]) >= int(applied), "the follower still hears its leader")
        cut.mesh.heal()
        cut.mesh.cut(leader, follower)
        time.sleep(0.1)  # for what was on its way
        before = follower.shards()[0]["last"]
        for key in keys:
            assert client.set(key, "x")
        assert follower.shards()[0]["last"] == before
        assert int(leader.shards()[0]["last"]) > int(before)
    cut.heal()
    cut.cluster.assert_replicas_equal()


def test_a_partitioned_leader_answers_nothing_stale(cut: Cut) -> None:
    """It may answer what it had while nobody else could have written; from the first new write on it must not."""
    (key,) = cut.cluster.keys_of_shard(0, 1, "stale")
    leader = cut.cluster.leader(0)
    with leader.client(socket_timeout=30) as client:
        assert client.set(key, "old")
    answers: list[tuple[float, bytes | None]] = []
    refusals: list[str] = []
    stop = threading.Event()

    def read() -> None:
        with leader.client(socket_timeout=30) as client:
            while not stop.is_set():
                asked = time.monotonic()
                try:
                    answers.append((asked, client.get(key)))
                except redis.ResponseError as error:
                    refusals.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    others = cut.isolate(leader)
    with others[0].client(socket_timeout=30) as client:
        assert client.set(key, "new")
        written = time.monotonic()
        time.sleep(1)
        assert client.get(key) == b"new"
    cut.heal()
    stop.set()
    reader.join(30)
    assert not reader.is_alive()
    assert all("not applied" in text for text in refusals), refusals
    assert any(answer == b"old" for _, answer in answers), "the leader served reads before"
    assert [answer for asked, answer in answers if asked > written and answer != b"new"] == []


def mute(cut: Cut, leader: NodeProcess) -> None:
    for node in cut.cluster.nodes:
        if node is not leader:
            cut.mesh.cut(leader, node)


def deaf(cut: Cut, leader: NodeProcess) -> None:
    for node in cut.cluster.nodes:
        if node is not leader:
            cut.mesh.cut(node, leader)


@pytest.mark.parametrize("how", [Cut.isolate, mute, deaf], ids=["both ways", "is not heard", "hears nobody"])
def test_clients_of_the_majority_only_wait_when_a_leader_is_cut_off(
    cut: Cut, how: Callable[[Cut, NodeProcess], object]
) -> None:
    with writing(cut.cluster.nodes) as writers:
        leader = cut.cluster.leader(1)
        how(cut, leader)
        go_on(elsewhere(writers, leader), 100)
        cut.heal()
        go_on(writers)
    assert_only_waited(elsewhere(writers, leader))
    check(cut.cluster, writers)


def test_a_write_at_a_partitioned_leader_is_never_acknowledged_and_for_all_the_same_in_the_end(cut: Cut) -> None:
    (key,) = cut.cluster.keys_of_shard(2, 1, "lonely")
    leader = cut.cluster.leader(2)
    others = cut.isolate(leader)
    with leader.client(socket_timeout=30) as client, pytest.raises(redis.ResponseError, match=r"applied$"):
        client.set(key, "lonely")
    with others[0].client() as client:
        assert client.set(key, "majority")
    cut.heal()
    for node in cut.cluster.nodes:
        with node.client() as client:
            assert client.get(key) == b"majority"
    cut.cluster.assert_replicas_equal()


def test_a_node_that_comes_back_from_a_partition_does_not_depose_the_leaders(cut: Cut) -> None:
    """It stood for election all the time and nobody heard it: without PreVote its term would be far ahead."""
    cut.cluster.wait_home()  # a leader that goes home meanwhile would begin a term, too
    leaders = cut.cluster.leaders()
    victim = cut.cluster[leaders[0]]
    others = cut.isolate(victim)
    wait_until(lambda: all(node.shards()[0]["leader"] in {n.name for n in others} for node in others), "a new leader")
    time.sleep(2)
    terms = {shard: fields["term"] for shard, fields in others[0].shards().items()}
    cut.mesh.heal()
    cut.cluster.wait_ready()
    assert {shard: fields["term"] for shard, fields in others[0].shards().items()} == terms


def test_links_cut_by_the_kernel_itself_lose_nothing() -> None:
    """Packets vanish without a word, as on a real network. Where there are no namespaces, proxies cut the links."""
    reason = why_not()
    network = "namespaces" if reason is None else "mesh"
    if reason is not None:
        warnings.warn(f"links were cut by proxies, not by the kernel: {reason}", stacklevel=1)
    only = "isolate the leader,split the cluster,the leader hears and nobody hears it"
    command = [sys.executable, "-m", "tests.crash", "cycles", "--count", "3", "--seed", "7", "--nodes", "3"]
    command += ["--network", network, "--only", only]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment({}), timeout=KERNEL_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"network: {network}" in done.stdout
