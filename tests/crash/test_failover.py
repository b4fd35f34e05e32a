"""Nodes killed, stopped and cut off under writes: nothing acknowledged is lost, nothing is done twice, clients wait."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import pytest
from redis.cluster import ClusterNode, RedisCluster

from tests.cluster import NodeProcess, TestCluster, running_cluster, wait_until
from tests.crash.writers import Writer, check, go_on, writing

FAILOVER_S = 4.0  # longest that a client of another node may wait; elections take about a second, this machine is slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with running_cluster(tmp_path_factory.mktemp("failover")) as cluster:
        cluster.wait_home()
        yield cluster


@pytest.fixture(autouse=True)
def _all_run(cluster: TestCluster) -> None:
    """Each test finds all nodes running, whatever the last one left behind."""
    cluster.start()


def elsewhere(writers: Sequence[Writer], node: NodeProcess) -> list[Writer]:
    return [writer for writer in writers if writer.node is not node]


def assert_only_waited(writers: Sequence[Writer], longest_s: float = FAILOVER_S) -> None:
    """These clients saw no error and no broken connection, and none waited too long."""
    for writer in writers:
        assert (writer.errors, writer.reconnects) == ([], 0), writer.name
        assert writer.longest_pause_s < longest_s, writer.name


@pytest.mark.parametrize("shard", range(3))
def test_killing_a_leader_loses_nothing_and_clients_of_other_nodes_only_wait(cluster: TestCluster, shard: int) -> None:
    with writing(cluster.nodes) as writers:
        leader = cluster.leader(shard)
        leader.kill()
        go_on(elsewhere(writers, leader))
        assert cluster.leader(shard) is not leader
        leader.start()
        cluster.wait_ready()
        go_on(writers)
        cluster.wait_home()  # leadership is handed back under load
        go_on(writers)
    assert_only_waited(elsewhere(writers, leader))
    check(cluster, writers)


def test_killing_two_nodes_stops_the_shards_and_bringing_one_back_goes_on_where_they_were(cluster: TestCluster) -> None:
    with writing(cluster.nodes) as writers:
        first, second, _ = cluster.nodes
        first.kill()
        second.kill()
        wait_until(lambda: cluster.leaders() == {}, "the last node knows that it leads nothing")
        first.start()
        cluster.wait_ready()
        go_on(elsewhere(writers, second))
        second.start()
        cluster.wait_ready()
        go_on(writers)
    check(cluster, writers)


def test_power_cut_of_all_nodes_under_writes_loses_nothing_acknowledged(cluster: TestCluster) -> None:
    for _ in range(2):
        with writing(cluster.nodes) as writers:
            go_on(writers, 60)
            cluster.kill_all()
            cluster.start()
            go_on(writers)
        check(cluster, writers)


def test_rolling_restart_under_load_costs_no_client_an_error(cluster: TestCluster) -> None:
    with writing(cluster.nodes) as writers:
        for node in cluster.nodes:
            for writer in writers:
                writer.restart_clock()
            others = elsewhere(writers, node)
            errors = [list(writer.errors) for writer in writers]
            assert node.stop() == 0
            go_on(others)
            assert [list(writer.errors) for writer in writers] == errors
            assert max(writer.longest_pause_s for writer in others) < FAILOVER_S
            node.start()
            cluster.wait_ready()
            go_on(writers)
            cluster.wait_home()
    for writer in writers:
        assert writer.errors == [], writer.name
        assert writer.reconnects == 1, writer.name
    check(cluster, writers)


def test_a_cluster_client_follows_the_leaders_through_a_failover(cluster: TestCluster) -> None:
    """The map names nodes that can wait for the next leader, so that it sees no error."""
    client = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", node.cluster_port) for node in cluster.nodes])
    keys = [cluster.keys_of_shard(shard, 1, "cluster-client")[0] for shard in range(3)]
    for key in keys:
        assert client.set(key, 0)
    victim = cluster.leader(1)
    victim.kill()
    for number in range(1, 30):
        for key in keys:
            assert client.set(key, number)
            assert client.get(key) == b"%d" % number
    client.close()
    victim.start()
    cluster.wait_ready()
    cluster.assert_replicas_equal()


def test_a_leader_that_was_frozen_does_not_answer_from_the_past_when_it_wakes(cluster: TestCluster) -> None:
    """Its lease ran out while it did not run: it must ask, not answer what it remembers."""
    (key,) = cluster.keys_of_shard(0, 1, "frozen")
    leader = cluster.leader(0)
    others = [node for node in cluster.nodes if node is not leader]
    with leader.client(socket_timeout=30) as at_leader, others[0].client() as client:
        assert at_leader.set(key, "old")
        leader.freeze()
        try:
            wait_until(lambda: client.set(key, "new"), "another leader takes a write")
        finally:
            leader.thaw()
        assert at_leader.get(key) == b"new"


def test_writes_at_a_frozen_and_deposed_leader_end_once(cluster: TestCluster) -> None:
    with writing(cluster.nodes) as writers:
        leader = cluster.leader(1)
        leader.freeze()
        try:
            go_on(elsewhere(writers, leader))
        finally:
            leader.thaw()
        go_on(writers)
    check(cluster, writers)


def test_killing_a_follower_is_not_noticed_by_clients_of_other_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_cluster(tmp_path_factory.mktemp("follower"), shards=1) as cluster:
        leader, (follower, other) = cluster.leader(0), cluster.followers(0)
        with writing([leader, other]) as writers:
            follower.kill()
            go_on(writers, 100)
            follower.start()
            cluster.wait_ready()
            go_on(writers)
            assert cluster.leader(0) is leader
        assert_only_waited(writers, 1.5)
        check(cluster, writers)


def test_sigterm_answers_what_is_under_way_and_ends_with_status_0(cluster: TestCluster) -> None:
    node = cluster.nodes[1]
    with writing([node], 4) as writers:
        node.signal(signal.SIGTERM)
        assert node.process is not None
        assert node.process.wait(10) == 0
        node.start()
        cluster.wait_ready()
        go_on(writers)
    for writer in writers:
        assert writer.errors == []
    check(cluster, writers)
