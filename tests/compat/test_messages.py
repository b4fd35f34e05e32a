"""Messages and caches with clients as they are: redis-py in its forms and redis-cli, against every node."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig
from redis.cluster import RedisCluster

from tests.cluster import NodeProcess, TestCluster, running_cluster, wait_until

WAIT_S = 10.0


def received(pubsub: Any, count: int) -> list[dict[str, Any]]:
    """The next `count` messages, confirmations left out."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        message = pubsub.get_message(ignore_subscribe_messages=True, timeout=1.0)
        if message is not None:
            found.append(message)
        assert time.monotonic() < deadline, found
    return found


def subscribed(node: NodeProcess, stack: ExitStack, protocol: int, **channels: Any) -> Any:
    pubsub = stack.enter_context(node.client(protocol=protocol)).pubsub()
    if "channel" in channels:
        pubsub.subscribe(channels["channel"])
    if "pattern" in channels:
        pubsub.psubscribe(channels["pattern"])
    for _ in channels:
        assert pubsub.get_message(timeout=WAIT_S)["type"].endswith("subscribe")
    return pubsub


@pytest.mark.parametrize("protocol", [2, 3])
def test_every_node_hears_every_node(cluster: TestCluster, protocol: int) -> None:
    with ExitStack() as stack:
        listeners = [subscribed(node, stack, protocol, channel="news", pattern="n*") for node in cluster.nodes]
        for number, node in enumerate(cluster.nodes):
            with node.client() as publisher:
                assert publisher.publish("news", number) == 2 * len(cluster.nodes)
        for listener in listeners:
            messages = received(listener, 2 * len(cluster.nodes))
            assert [message["data"] for message in messages if message["type"] == "message"] == [b"0", b"1", b"2"]
            assert [message["data"] for message in messages if message["type"] == "pmessage"] == [b"0", b"1", b"2"]


def test_asyncio_clients_publish_and_listen(cluster: TestCluster) -> None:
    async def talk() -> list[bytes]:
        heard: list[bytes] = []
        async with redis.asyncio.Redis(port=cluster.nodes[0].port) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("channel")
            assert (await pubsub.get_message(timeout=WAIT_S))["type"] == "subscribe"
            async with redis.asyncio.Redis(port=cluster.nodes[1].port) as publisher:
                assert await publisher.pubsub_numsub("channel") == [(b"channel", 1)]
                assert await asyncio.gather(*(publisher.publish("channel", number) for number in range(50))) == [1] * 50
                while len(heard) < 50:
                    heard.append((await pubsub.get_message(timeout=WAIT_S))["data"])
        return heard

    assert sorted(map(int, asyncio.run(talk()))) == list(range(50))


def test_a_cluster_client_uses_shard_channels(cluster: TestCluster) -> None:
    with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].cluster_port) as client:
        pubsub = client.pubsub()
        names = [f"channel-{number}" for number in range(6)]
        for name in names:
            pubsub.ssubscribe(name)
        for name in names:
            wait_until(lambda name=name: client.pubsub_shardnumsub(name, target_nodes="all")[0][1] == 1, "a subscriber")
            assert client.spublish(name, name) == 1
        heard: set[bytes] = set()
        deadline = time.monotonic() + WAIT_S
        while len(heard) < len(names) and time.monotonic() < deadline:
            message = pubsub.get_sharded_message(ignore_subscribe_messages=True, timeout=0.1)
            if message is not None:
                heard.add(message["data"])
        assert heard == {name.encode() for name in names}
        pubsub.close()


def test_expiry_is_told_to_those_who_listen_on_any_node(cluster: TestCluster) -> None:
    with ExitStack() as stack:
        for node in cluster.nodes:
            node.call("CONFIG", "SET", "notify-keyspace-events", "Ex")
        listeners = [subscribed(node, stack, 2, channel="__keyevent@0__:expired") for node in cluster.nodes]
        with cluster.nodes[0].client() as client:
            keys = {f"key-{number}".encode() for number in range(9)}
            for key in keys:
                client.set(key, 1, px=20)
        for listener in listeners:
            assert {message["data"] for message in received(listener, len(keys))} == keys
        for node in cluster.nodes:
            node.call("CONFIG", "SET", "notify-keyspace-events", "")


def test_a_miss_is_told_wherever_the_key_was_asked_for(cluster: TestCluster) -> None:
    keys = {f"absent-{number}".encode() for number in range(9)}
    with ExitStack() as stack:
        for node in cluster.nodes:
            node.call("CONFIG", "SET", "notify-keyspace-events", "Em")
        listener = subscribed(cluster.nodes[0], stack, 2, channel="__keyevent@0__:keymiss")
        for node in cluster.nodes:
            with node.client() as client, client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.get(key)
                assert pipeline.execute() == [None] * len(keys)
            assert {message["data"] for message in received(listener, len(keys))} == keys
        for node in cluster.nodes:
            node.call("CONFIG", "SET", "notify-keyspace-events", "")


# --- redis-py's client-side cache


def caching(node: NodeProcess) -> redis.Redis:
    return redis.Redis(port=node.port, protocol=3, cache_config=CacheConfig())


@pytest.fixture
def caches(cluster: TestCluster) -> Iterator[list[redis.Redis]]:
    with ExitStack() as stack:
        yield [stack.enter_context(caching(node)) for node in cluster.nodes]


def test_a_cache_on_any_node_follows_writes_on_any_other(cluster: TestCluster, caches: list[redis.Redis]) -> None:
    keys = [f"key-{number}" for number in range(12)]
    with ExitStack() as stack:
        writers = [stack.enter_context(node.client()) for node in cluster.nodes]
        for turn in range(6):
            for number, key in enumerate(keys):
                writers[(turn + number) % 3].set(key, turn)
            for cache in caches:
                for key in keys:
                    wait_until(lambda c=cache, k=key, t=turn: c.get(k) == b"%d" % t, "the new value", 5)
    for cache in caches:
        assert cache.get_cache().size == len(keys)  # type: ignore[union-attr]


def test_what_is_cached_is_not_asked_again(cluster: TestCluster, caches: list[redis.Redis]) -> None:
    node, cache = cluster.nodes[1], caches[1]
    with node.client() as client:
        client.set("key", "value")
        assert cache.get("key") == b"value"
        wait_until(lambda: cache.get("key") == b"value" and cache.get_cache().size == 1, "it is cached")  # type: ignore[union-attr]
        before = client.info("commandstats").get("cmdstat_get", {}).get("calls", 0)
        for _ in range(100):
            assert cache.get("key") == b"value"
        assert client.info("commandstats").get("cmdstat_get", {}).get("calls", 0) - before < 10
        client.flushall()
        wait_until(lambda: cache.get("key") is None, "the flush was told")


def test_no_cache_stays_stale_through_changes_of_leaders(tmp_path: Path) -> None:
    """Leaders die and come back, frozen ones go on: at the end of it every cache follows every write."""
    with running_cluster(tmp_path) as cluster, ExitStack() as stack:
        cluster.wait_home()
        steady = cluster["n3"]
        cache, writer = stack.enter_context(caching(steady)), stack.enter_context(steady.client())
        keys = [cluster.keys_of_shard(shard, 3)[number] for shard in range(3) for number in range(3)]

        def follows(value: int) -> None:
            for key in keys:
                writer.set(key, value)
            for key in keys:
                wait_until(lambda k=key: cache.get(k) == b"%d" % value, "the new value", 15)

        follows(0)
        cluster["n1"].kill()
        follows(1)
        cluster["n1"].start()
        cluster.wait_ready()
        follows(2)
        cluster["n2"].freeze()  # it leads, and will not know that it does so no more
        follows(3)
        cluster["n2"].thaw()
        cluster.wait_ready()
        follows(4)


# --- redis-cli


def test_redis_cli_listens_and_monitors(cluster: TestCluster) -> None:
    node = cluster.nodes[0]
    commands = (["SUBSCRIBE", "news"], ["MONITOR"])
    processes = [
        subprocess.Popen(["redis-cli", "-p", str(node.port), *command], stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    output: list[list[str]] = [[], []]

    def read(number: int) -> None:
        for line in processes[number].stdout or ():
            output[number].append(line.strip())

    threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: "subscribe" in output[0] and "OK" in output[1], "redis-cli listens")
        with cluster.nodes[1].client() as far, node.client() as near:
            far.publish("news", "hello")
            near.set("key", "value")
        wait_until(lambda: output[0][-3:] == ["message", "news", "hello"], "the message")
        wait_until(lambda: any(line.endswith('"SET" "key" "value"') for line in output[1]), "the command")
    finally:
        for process in processes:
            process.terminate()
        for process, thread in zip(processes, threads, strict=True):
            process.wait()
            thread.join()
