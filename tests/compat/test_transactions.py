"""Transactions as clients use them: pipelines and `transaction()` of redis-py, and its cluster client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from redis.cluster import ClusterNode, RedisCluster

from tests.cluster import NodeProcess, TestCluster

NODES = ["n1", "n2", "n3"]
LONG = bytes(range(256)) * 4096 * 5  # 5 MiB


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest, cluster: TestCluster) -> NodeProcess:
    return cluster[request.param]


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request: pytest.FixtureRequest, node: NodeProcess) -> Iterator[redis.Redis]:
    with node.client(protocol=request.param) as client:
        yield client


def test_a_pipeline_is_a_transaction(client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=True)
    pipeline.set("{t}a", 1).incr("{t}a").get("{t}a").expire("{t}a", 100).exists("{t}a", "{t}b").ping()
    assert pipeline.execute() == [True, 2, b"2", True, 1, True]
    assert pipeline.get("{t}a").execute() == [b"2"]


def test_an_error_is_told_and_the_rest_is_done(client: redis.Redis) -> None:
    pipeline = client.pipeline().set("{t}a", "x").incr("{t}a").set("{t}b", 1)
    found = pipeline.execute(raise_on_error=False)
    assert (found[0], found[2]) == (True, True)
    assert isinstance(found[1], redis.ResponseError)
    assert client.get("{t}b") == b"1"


def test_what_is_refused_when_it_is_queued_calls_all_of_it_off(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        client.pipeline().set("k", 1).execute_command("GET").execute()
    with pytest.raises(redis.ResponseError, match="hash to the same slot"):
        client.pipeline().set("k1", 1).set("k2", 1).set("k3", 1).set("k4", 1).execute()
    assert client.dbsize() == 0


def test_keys_of_one_shard_with_different_slots_may_be_mixed(client: redis.Redis, cluster: TestCluster) -> None:
    keys = [key for key in (f"k{number}" for number in range(40)) if cluster.shard_of(key) == 1]
    pipeline = client.pipeline()
    for key in keys:
        pipeline.set(key, key)
    assert pipeline.execute() == [True] * len(keys)
    assert client.mget(keys) == [key.encode() for key in keys]


def test_transaction_tries_again_until_nobody_came_between(client: redis.Redis, cluster: TestCluster) -> None:
    client.set("n", 0)
    met: list[int] = []

    def increment(pipeline: redis.client.Pipeline) -> None:
        value = int(pipeline.get("n"))
        if len(met) < 3:
            met.append(value)
            with cluster["n2"].client() as other:
                other.incr("n")
        pipeline.multi()
        pipeline.set("n", value + 10)

    assert client.transaction(increment, "n") == [True]
    assert client.get("n") == b"13"


def test_watching_a_key_that_someone_held_for_a_moment(node: NodeProcess, cluster: TestCluster) -> None:
    """A lock that was taken and given back in between, by a client of another node."""
    with node.client() as client, cluster["n3"].client() as other, client.pipeline() as pipeline:
        pipeline.watch("{t}lock")
        data = pipeline.get("{t}data")
        other.set("{t}lock", "other")
        other.set("{t}data", "new")
        other.delete("{t}lock")
        pipeline.multi()
        pipeline.set("{t}data", (data or b"") + b"mine")
        with pytest.raises(redis.WatchError):
            pipeline.execute()
        assert client.get("{t}data") == b"new"


def test_threads_on_every_node_lose_no_update(cluster: TestCluster) -> None:
    def work(node: NodeProcess) -> None:
        def increment(pipeline: redis.client.Pipeline) -> None:
            value = int(pipeline.get("n") or 0)
            pipeline.multi()
            pipeline.set("n", value + 1)

        with node.client() as client:
            for _ in range(20):
                client.transaction(increment, "n", watch_delay=0.01)

    threads = [threading.Thread(target=work, args=(node,)) for node in cluster.nodes for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    with cluster.nodes[0].client() as client:
        assert client.get("n") == b"120"


def test_long_values_in_a_transaction(client: redis.Redis) -> None:
    assert client.pipeline().set("{t}long", LONG).get("{t}long").strlen("{t}long").execute() == [
        True, LONG, len(LONG),
    ]  # fmt: skip
    assert client.pipeline().get("{t}long").get("{t}none").execute() == [LONG, None]
    with client.pipeline() as pipeline:
        pipeline.watch("{t}long")
        client.set("{t}long", LONG[:-1] + b"x")
        pipeline.multi()
        pipeline.append("{t}long", "y")
        with pytest.raises(redis.WatchError):
            pipeline.execute()


def test_many_transactions_in_one_pipeline(node: NodeProcess) -> None:
    """Bare MULTI and EXEC, many of them sent at once."""
    with node.client() as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(300):
            pipeline.execute_command("MULTI")
            pipeline.set(f"k{number}", number)
            pipeline.incr(f"k{number}")
            pipeline.execute_command("EXEC")
            pipeline.get(f"k{number}")
        found = pipeline.execute(raise_on_error=False)
        assert found[3::5] == [[b"OK", number + 1] for number in range(300)]
        assert found[4::5] == [b"%d" % (number + 1) for number in range(300)]


def test_commands_behind_one_that_takes_several_steps_wait_for_it(node: NodeProcess) -> None:
    with node.client() as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(10):
            pipeline.set(f"k{number}", 1)
            pipeline.execute_command("MULTI")
            pipeline.execute_command("FLUSHALL")
            pipeline.execute_command("DBSIZE")
            pipeline.execute_command("EXEC")
            pipeline.get(f"k{number}")
            pipeline.dbsize()
        found = pipeline.execute()
        assert found[5::7] == [None] * 10
        assert found[6::7] == [0] * 10


def test_the_cluster_client(cluster: TestCluster) -> None:
    nodes = [ClusterNode("127.0.0.1", node.cluster_port) for node in cluster.nodes]
    with RedisCluster(startup_nodes=nodes) as client:
        pipeline = client.pipeline(transaction=True)
        for number in range(5):
            pipeline.set(f"{{t}}{number}", number)
            pipeline.get(f"{{t}}{number}")
        assert pipeline.execute() == [x for number in range(5) for x in (b"OK", b"%d" % number)]


def test_asyncio_clients_lose_no_update(cluster: TestCluster) -> None:
    async def work(node: NodeProcess) -> None:
        async with redis.asyncio.Redis(host="127.0.0.1", port=node.port) as client:
            for _ in range(10):
                while True:
                    async with client.pipeline() as pipeline:
                        try:
                            await pipeline.watch("n")
                            value = int(await pipeline.get("n") or 0)
                            pipeline.multi()
                            pipeline.set("n", value + 1)
                            await pipeline.execute()
                            break
                        except redis.WatchError:
                            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(work(node) for node in cluster.nodes for _ in range(2)))

    asyncio.run(main())
    with cluster.nodes[0].client() as client:
        assert client.get("n") == b"60"
