"""A large value on a real cluster: every node takes and gives it, nobody else notices, a crash leaves it whole or
absent."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tests.bench.large import Content, Pauses, bystanders, check_get, send_set
from tests.cluster import NodeProcess, TestCluster, running_cluster

BYTES = 64 << 20
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with running_cluster(tmp_path_factory.mktemp("large")) as cluster:
        cluster.wait_home()
        yield cluster


def terms(cluster: TestCluster) -> list[dict[int, str]]:
    return [{shard: fields["term"] for shard, fields in node.shards().items()} for node in cluster.nodes]


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_a_large_value_is_written_and_read_through_any_node_while_others_are_served(
    cluster: TestCluster, through: str
) -> None:
    key, content = cluster.keys_of_shard(1, 1, through)[0], Content(BYTES, 1)
    writer = cluster.leader(1) if through == "leader" else cluster.followers(1)[0]
    pauses, before = Pauses(), terms(cluster)
    with bystanders(cluster, pauses, [0, 2]):
        with writer.connect(TIMEOUT_S) as sock:
            send_set(sock, key, content)
        for node in cluster.nodes:
            with node.connect(TIMEOUT_S) as sock:
                check_get(sock, key, content)
    assert pauses.errors == []
    assert terms(cluster) == before  # no leader was lost
    assert pauses.worst("shard") < 5.0
    cluster.assert_replicas_equal()


def write(node: NodeProcess, key: str, content: Content, outcome: list[str]) -> None:
    """SET, and what was answered: nothing if the connection broke."""
    with contextlib.suppress(OSError), node.connect(TIMEOUT_S) as sock:
        try:
            send_set(sock, key, content)
            outcome.append("OK")
        except AssertionError as answer:
            outcome.append(str(answer))


def test_a_leader_killed_while_a_large_value_is_written_leaves_it_whole_or_absent(cluster: TestCluster) -> None:
    rng = random.Random(7)
    for attempt in range(2):
        key, content = cluster.keys_of_shard(2, 1, f"killed{attempt}")[0], Content(BYTES // 2, attempt)
        leader, follower = cluster.leader(2), cluster.followers(2)[0]
        outcome: list[str] = []
        thread = threading.Thread(target=write, args=(follower, key, content, outcome))
        thread.start()
        time.sleep(rng.uniform(0.1, 1.0))
        leader.kill()
        thread.join(TIMEOUT_S)
        leader.start()
        cluster.wait_ready()
        with follower.connect(TIMEOUT_S) as sock, redis.Redis("127.0.0.1", follower.port, socket_timeout=20) as client:
            if outcome == ["OK"]:
                check_get(sock, key, content)
            else:
                value = client.get(key)
                digest = hashlib.sha256(b"".join(content.blocks())).digest()
                assert value is None or hashlib.sha256(value).digest() == digest, outcome
        cluster.assert_replicas_equal()
        cluster.wait_home()
