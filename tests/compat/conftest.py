"""Servers that the compatibility tests share: nobody kills them, each test cleans up what is in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import NodeProcess, TestCluster, running_cluster, running_redis


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.wait_home()
        yield cluster
        assert all(node.running for node in cluster.nodes), "a node ended during the tests"
        for node in cluster.nodes:
            assert "Traceback" not in node.log(), node.log()[-5000:]


@pytest.fixture
def cluster(shared_cluster: TestCluster) -> TestCluster:
    """Three nodes with three shards, each led by another node, and no keys."""
    with shared_cluster.nodes[0].client() as client:
        client.flushall()
    shared_cluster.wait_home()  # leaders may have followed the clients of the test before
    return shared_cluster


@pytest.fixture(scope="session")
def shared_single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with running_cluster(tmp_path_factory.mktemp("single"), nodes=1, shards=3) as cluster:
        yield cluster.nodes[0]
        assert cluster.nodes[0].running, "the node ended during the tests"
        assert "Traceback" not in cluster.nodes[0].log(), cluster.nodes[0].log()[-5000:]


@pytest.fixture
def single(shared_single: NodeProcess) -> NodeProcess:
    """One node, the default configuration, no keys."""
    with shared_single.client() as client:
        client.flushall()
    return shared_single


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real redis-server to compare with; with one database, as we have."""
    with running_redis(tmp_path_factory.mktemp("redis"), "--databases", "1") as port:
        yield port
