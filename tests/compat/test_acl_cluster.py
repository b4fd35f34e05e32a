"""Users of a cluster: a change on one node is one on all, also on nodes that were down, or hold nothing of shard 0."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import redis

from tests.cluster import NodeProcess, TestCluster, running_cluster, wait_until

START_S = 60.0  # four nodes at once, maybe beside other work


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Four nodes; one of them holds no replica of shard 0."""
    with running_cluster(tmp_path_factory.mktemp("users"), nodes=4, shards=4, start=False) as cluster:
        cluster.start(START_S)
        yield cluster


def users(node: NodeProcess) -> list[bytes]:
    return list(node.call("ACL", "LIST"))


def without_shard_0(cluster: TestCluster) -> NodeProcess:
    return next(node for node in cluster.nodes if 0 not in node.shards())


def log_in(node: NodeProcess, user: str, password: str) -> redis.Redis:
    client = node.client(username=user, password=password)
    client.ping()
    return client


def test_a_change_is_enforced_on_every_node_when_it_is_answered(cluster: TestCluster) -> None:
    for number, node in enumerate(cluster.nodes):
        node.call("ACL", "SETUSER", "alice", "reset", "on", f">secret{number}", "+@read", "+ping", f"~{number}:*")
        for other in cluster.nodes:
            client = log_in(other, "alice", f"secret{number}")
            assert client.get(f"{number}:x") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get("elsewhere")
        node.call("ACL", "SETUSER", "alice", "off")
        for other in cluster.nodes:
            with pytest.raises(redis.AuthenticationError):
                log_in(other, "alice", f"secret{number}")
    assert len({tuple(users(node)) for node in cluster.nodes}) == 1


def test_changes_at_the_same_time_on_different_nodes_are_all_made(cluster: TestCluster) -> None:
    clients = [node.client() for node in cluster.nodes]
    pipes = [client.pipeline(transaction=False) for client in clients]
    for number, pipe in enumerate(pipes):
        for i in range(5):
            pipe.execute_command("ACL", "SETUSER", f"user-{number}-{i}", "on")
    connections = [client.connection_pool.get_connection() for client in clients]
    for connection, pipe in zip(connections, pipes, strict=True):
        connection.send_packed_command(connection.pack_commands([args for args, _ in pipe.command_stack]))
    for connection in connections:
        assert [connection.read_response() for _ in range(5)] == [b"OK"] * 5
    names = {f"user-{number}-{i}".encode() for number in range(4) for i in range(5)}
    for node in cluster.nodes:
        assert names <= set(node.call("ACL", "USERS"))
    assert cluster.nodes[2].call("ACL", "DELUSER", *names) == 20
    assert not names & set(cluster.nodes[0].call("ACL", "USERS"))


def test_a_deleted_user_is_thrown_out_of_every_node(cluster: TestCluster) -> None:
    cluster.nodes[0].call("ACL", "SETUSER", "bob", "on", "nopass", "+@all", "~*")
    connections = [log_in(node, "bob", "x").connection_pool.get_connection() for node in cluster.nodes]
    assert cluster.nodes[1].call("ACL", "DELUSER", "bob") == 1
    for connection in connections:
        with pytest.raises(redis.ConnectionError, match="closed"):
            connection.read_response()


def test_a_node_that_was_down_learns_what_has_changed(cluster: TestCluster) -> None:
    for node in (without_shard_0(cluster), cluster.followers(0)[0]):
        node.stop()
        other = cluster.running[0]
        other.call("ACL", "SETUSER", "carol", "reset", "on", f">{node.name}", "+ping")
        assert cluster.leader(0).call("ACL", "GETUSER", "carol")
        node.start()
        wait_until(node.answers, f"{node.name} answers", START_S)
        log_in(node, "carol", node.name)
        cluster.wait_settled()


def test_a_node_that_is_cut_off_keeps_to_what_it_knows(cluster: TestCluster) -> None:
    """Above all it does not let anybody in whom the cluster has shut out."""
    node = without_shard_0(cluster)
    cluster.nodes[0].call("ACL", "SETUSER", "dave", "on", ">dave", "+@all", "~*")
    cluster.nodes[0].call("ACL", "SETUSER", "default", "off")
    try:
        for other in cluster.nodes:
            other.stop()
        node.start()
        wait_until(lambda: node.connect().close() is None, "it listens", START_S)
        with pytest.raises(redis.AuthenticationError):
            node.client().ping()
        assert log_in(node, "dave", "dave").acl_whoami() == "dave"
        with pytest.raises(redis.exceptions.AuthenticationError):
            log_in(node, "dave", "wrong")
    finally:
        for other in cluster.nodes:
            if not other.running:
                other.start()
        dave = cluster.nodes[0].client(username="dave", password="dave")
        wait_until(lambda: dave.acl_setuser("default", enabled=True), "the others serve", START_S)
        cluster.wait_ready(START_S)


def test_the_record_is_no_key_and_survives_flushall_and_restarts(cluster: TestCluster) -> None:
    node = cluster.nodes[0]
    node.call("ACL", "SETUSER", "erin", "on", ">erin")
    node.call("SET", "k", "v")
    node.call("FLUSHALL")
    assert node.call("DBSIZE") == 0
    assert node.call("KEYS", "*") == []
    assert node.call("RANDOMKEY") is None
    assert set(cluster.digests()[0].values()) == {"0" * 40}
    for other in cluster.nodes:
        other.stop()
    cluster.start(START_S)
    cluster.wait_settled()
    assert all(b"erin" in other.call("ACL", "USERS") for other in cluster.nodes)


def test_a_replica_that_lost_everything_lets_nobody_in_before_it_knows(cluster: TestCluster) -> None:
    """Its configuration alone would let anybody in."""
    node = cluster.followers(0)[0]
    others = [other for other in cluster.nodes if other is not node]
    cluster.nodes[0].call("ACL", "SETUSER", "frank", "on", ">frank", "+@all", "~*")
    node.stop()
    for path in node.directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name == "users":
            path.unlink()
    for other in others:
        other.freeze()
    try:
        node.start()
        wait_until(lambda: node.connect().close() is None, "it listens", START_S)
        with pytest.raises(redis.exceptions.BusyLoadingError):
            node.client().get("x")
    finally:
        for other in others:
            other.thaw()
    wait_until(node.answers, "it knows", START_S)
    log_in(node, "frank", "frank")


def test_nodes_without_the_record_keep_a_copy_that_others_cannot_read(cluster: TestCluster) -> None:
    cluster.nodes[0].call("ACL", "SETUSER", "grace")
    kept = [node.directory / "users" for node in cluster.nodes if (node.directory / "users").exists()]
    assert kept == [without_shard_0(cluster).directory / "users"]
    assert kept[0].stat().st_mode & 0o777 == 0o600
    assert b"user grace" in kept[0].read_bytes()
