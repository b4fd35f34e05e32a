"""Clients as they are: redis-py in all its forms, against every node."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from redis.cluster import ClusterNode, RedisCluster

from tests.cluster import NodeProcess, TestCluster, wait_until

NODES = ["n1", "n2", "n3"]


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest, cluster: TestCluster) -> NodeProcess:
    """Each node in turn: what holds must hold on all."""
    return cluster[request.param]


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request: pytest.FixtureRequest, node: NodeProcess) -> Iterator[redis.Redis]:
    with node.client(protocol=request.param) as client:
        yield client


# --- one client ---


def test_strings_on_every_node_in_both_protocols(client: redis.Redis) -> None:
    assert client.set("key", "value") is True
    assert client.get("key") == b"value"
    assert client.get("absent") is None
    assert client.incr("count", 5) == 5
    assert client.incrbyfloat("count", 0.5) == 5.5
    assert client.append("key", "!") == 6
    assert client.strlen("key") == 6
    assert client.getset("key", "other") == b"value!"
    assert client.getdel("key") == b"other"
    assert client.exists("key") == 0
    assert client.type("count") in (b"string", "string")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.incr("count")


def test_set_options(client: redis.Redis) -> None:
    assert client.set("key", "1", nx=True) is True
    assert client.set("key", "2", nx=True) is None
    assert client.set("absent", "2", xx=True) is None
    assert client.set("key", "2", xx=True, get=True) == b"1"
    assert client.set("key", "3", ex=100) is True
    assert client.set("key", "4", keepttl=True) is True
    assert 95 < client.ttl("key") <= 100
    assert client.set("key", "5") is True
    assert client.ttl("key") == -1
    assert client.set("key", "6", px=50_000) is True
    assert 49_000 < client.pttl("key") <= 50_000
    at = int(time.time()) + 1000
    assert client.set("key", "7", exat=at) is True
    assert client.expiretime("key") == at
    assert client.setnx("key", "8") is False
    assert client.ttl("absent") == -2


def test_commands_of_several_keys_span_shards(client: redis.Redis) -> None:
    values = {f"key:{number}".encode(): b"%d" % number for number in range(100)}
    keys = list(values)
    assert client.mset(values) is True
    assert client.mget([*keys, "absent", keys[0]]) == [*values.values(), None, b"0"]
    assert client.exists(*keys, keys[0], "absent") == 101
    assert client.touch(*keys) == 100
    assert client.dbsize() == 100
    assert sorted(client.keys()) == sorted(keys)
    assert sorted(client.keys("key:1?")) == sorted(f"key:1{number}".encode() for number in range(10))
    assert client.randomkey() in values
    assert client.delete(*keys[:50], "absent") == 50
    assert client.unlink(*keys[:60]) == 10
    assert client.dbsize() == 40
    assert client.flushall() is True
    assert client.dbsize() == 0
    assert client.randomkey() is None


def test_scan_finds_every_key_while_others_come_and_go(client: redis.Redis) -> None:
    keys = {f"stay:{number}".encode() for number in range(1000)}
    client.mset(dict.fromkeys(keys, b""))
    found: list[bytes] = []
    cursor, calls = 0, 0
    while True:
        cursor, part = client.scan(cursor, match="stay:*", count=50)
        found += part
        client.set(f"come:{calls}", "x")
        client.delete(f"come:{calls - 3}")
        calls += 1
        if cursor == 0:
            break
    assert set(found) == keys
    assert len(found) == len(keys)
    assert calls > 10
    assert set(client.scan_iter(_type="string", match="stay:9*")) == {key for key in keys if key.startswith(b"stay:9")}


def test_a_scan_may_go_on_at_another_node(cluster: TestCluster) -> None:
    keys = {f"key:{number}".encode() for number in range(500)}
    clients = [node.client() for node in cluster.nodes]
    clients[0].mset(dict.fromkeys(keys, b""))
    found: set[bytes] = set()
    cursor, calls = 0, 0
    while calls == 0 or cursor:
        cursor, part = clients[calls % 3].scan(cursor, count=20)
        found.update(part)
        calls += 1
    assert found == keys
    for client in clients:
        client.close()


def test_pipelines_answer_in_order_and_read_their_own_writes(client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    expected: list[object] = []
    for number in range(300):
        key = f"key:{number % 7}"
        pipeline.set(key, number).get(key).incr(key).get(key).mget(key, "absent").exists(key, "absent").strlen("absent")
        value = b"%d" % (number + 1)
        expected += [True, b"%d" % number, number + 1, value, [value, None], 1, 0]
    assert pipeline.execute() == expected


def test_gets_are_answered_and_counted_alike_wherever_their_keys_are_and_whatever_is_before_them(
    cluster: TestCluster,
) -> None:
    """Led here or elsewhere, behind a SET of the same pipeline or not, of another type, absent."""
    keys = [f"key-{number}" for number in range(60)]
    with cluster.nodes[0].client() as client:
        client.mset({key: f"old-{key}" for key in keys})
    for node in cluster.nodes:
        node.call("CONFIG", "RESETSTAT")
        with node.client() as client, client.pipeline(transaction=False) as pipeline:
            expected: list[object] = []
            for key in keys:
                pipeline.get(key).set(key, 6).get(key).incr(key).get(key).get(f"no-{key}").set(key, f"old-{key}")
                expected += [f"old-{key}".encode(), True, b"6", 7, b"7", None, True]
            assert pipeline.execute() == expected
            for key in keys:
                assert client.get(key) == f"old-{key}".encode()
            stats = client.info("commandstats")
            found = client.execute_command("LATENCY", "HISTOGRAM", "get", "set")
        assert stats["cmdstat_get"]["calls"] == 5 * len(keys)
        assert stats["cmdstat_get"]["usec"] > 0
        assert stats["cmdstat_set"]["calls"] == 2 * len(keys)
        assert b"get" in [bytes(word) for word in found if isinstance(word, bytes)]


def test_a_pipeline_goes_on_behind_a_refused_command(client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.set("key", "text").incr("key").execute_command("NOSUCH", "x").execute_command("GET").get("key")
    pipeline.execute_command("MSETNX", "a", "1", "b", "2").get("key")
    replies = pipeline.execute(raise_on_error=False)
    assert [type(reply).__name__ for reply in replies[1:4]] == ["ResponseError"] * 3
    assert "CROSSSLOT" in str(replies[5]) or "hash to the same slot" in str(replies[5])
    assert (replies[0], replies[4], replies[6]) == (True, b"text", b"text")


@pytest.mark.parametrize("size", [0, 1, 64 << 10, 5 << 20, 64 << 20])
def test_values_of_any_size_on_every_node(cluster: TestCluster, size: int) -> None:
    value = os.urandom(min(size, 1 << 20)) * max(1, size >> 20) if size else b""
    writer, *readers = cluster.nodes
    with writer.client(socket_timeout=60) as client:
        assert client.set("big", value) is True
    for node in readers:
        with node.client(socket_timeout=60) as client:
            assert client.strlen("big") == size
            assert client.get("big") == value
    with writer.client() as client:
        client.delete("big")
    assert all(node.answers() for node in cluster.nodes)


def test_keys_and_values_of_any_bytes(client: redis.Redis) -> None:
    every_byte = bytes(range(256))
    keys = [b"", b"\r\n", every_byte, b"{", b"{}", b"{}x", b"\x00{a}\xff", b"k" * 65_536]
    for key in keys:
        assert client.set(key, key + every_byte) is True
    assert client.mget(keys) == [key + every_byte for key in keys]
    assert sorted(client.keys()) == sorted(keys)
    assert client.delete(*keys) == len(keys)
    with pytest.raises(redis.ResponseError, match="maximum allowed size"):
        client.set(b"k" * 65_537, "x")


def test_replicas_are_equal_at_rest(cluster: TestCluster) -> None:
    with cluster.nodes[0].client() as client:
        client.mset({f"key:{number}": number for number in range(1000)})
        client.set("ttl", "x", ex=1000)
    cluster.assert_replicas_equal()
    digests = {node.call("DEBUG", "DIGEST") for node in cluster.nodes}
    assert len(digests) == 1
    assert digests != {b"0" * 40}


def test_acknowledged_writes_are_read_at_once_on_every_node(cluster: TestCluster) -> None:
    clients = [node.client() for node in cluster.nodes]
    for number in range(200):
        key = f"key:{number % 10}"
        clients[number % 3].set(key, number)
        for client in clients:
            assert client.get(key) == b"%d" % number
    for client in clients:
        client.close()


# --- expiry ---


def test_expiry_is_the_same_on_all_nodes_and_the_key_is_gone_after(cluster: TestCluster) -> None:
    clients = [node.client() for node in cluster.nodes]
    clients[0].set("key", "x", px=1500)
    clients[1].set("late", "x")
    clients[2].pexpire("late", 1500)
    at = {client.pexpiretime("key") for client in clients}
    assert len(at) == 1
    assert all(0 < client.pttl("key") <= 1500 for client in clients)
    for client in clients:
        wait_until(lambda client=client: client.get("key") is None, "the key has expired", 3)
        wait_until(lambda client=client: client.exists("late") == 0, "the other one, too", 3)
    assert time.time() * 1000 >= at.pop()
    for client in clients:
        assert (client.ttl("key"), client.dbsize(), client.keys(), client.randomkey()) == (-2, 0, [], None)
        client.close()

    def removed() -> bool:
        return all(shard["keys"] in ("0", "1") for node in cluster.nodes for shard in node.shards().values())

    wait_until(removed, "expired keys are removed from every replica")
    cluster.assert_replicas_equal()


# --- asyncio ---


def test_asyncio_clients_side_by_side(node: NodeProcess) -> None:
    async def one(client: redis.asyncio.Redis, name: int) -> None:
        for number in range(20):
            assert await client.set(f"key:{name}", number)
            assert await client.get(f"key:{name}") == b"%d" % number
            await client.incr("all")

    async def run() -> int:
        async with redis.asyncio.Redis(port=node.port, max_connections=50) as client:
            await asyncio.gather(*(one(client, name) for name in range(30)))
            pipeline = client.pipeline(transaction=False)
            assert await pipeline.set("key", "1").incr("key").get("key").execute() == [True, 2, b"2"]
            return int(await client.get("all"))

    assert asyncio.run(asyncio.wait_for(run(), 30)) == 600


# --- about the server ---


def test_what_clients_ask_about_the_server(client: redis.Redis, node: NodeProcess) -> None:
    assert client.ping() is True
    assert client.echo("hello") == b"hello"
    assert client.client_setname("tester") is True
    assert client.client_getname() in ("tester", b"tester")
    number = client.client_id()
    assert any(int(entry["id"]) == number and entry["name"] == "tester" for entry in client.client_list())
    assert client.client_info()["name"] == "tester"
    assert client.config_get("maxclients")["maxclients"] == "10000"
    assert client.config_get("maxm*")["maxmemory"] == "0"
    assert client.config_set("timeout", 0) is True
    with pytest.raises(redis.ResponseError, match="immutable"):
        client.config_set("port", 1)
    assert client.command_count() > 30
    assert "get" in client.command()
    assert client.command_getkeys("MSET", "a", "1", "b", "2") in ([b"a", b"b"], ["a", "b"])
    info = client.info()
    assert info["redis_mode"] == "standalone"
    assert info["tcp_port"] == node.port
    assert abs(client.time()[0] - time.time()) < 5
    with pytest.raises(redis.ResponseError, match="out of range"):
        client.select(1)
    assert client.execute_command("RESET") in (b"RESET", "RESET")


def test_a_killed_client_is_gone_and_others_stay(single: NodeProcess) -> None:
    with single.connect() as victim, single.client() as client:
        victim.sendall(b"CLIENT ID\r\n")
        number = victim.recv(100).decode().strip(":\r\n")
        assert client.client_kill_filter(_id=number) == 1
        try:
            assert victim.recv(100) == b""
        except ConnectionResetError:
            pass
        assert client.ping()


# --- the cluster view ---


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def cluster_client(request: pytest.FixtureRequest, cluster: TestCluster) -> Iterator[RedisCluster]:
    nodes = [ClusterNode("127.0.0.1", node.cluster_port) for node in cluster.nodes]
    client = RedisCluster(startup_nodes=nodes, protocol=request.param)
    yield client
    client.close()


def test_a_cluster_client_sees_every_node_as_a_master(cluster_client: RedisCluster, cluster: TestCluster) -> None:
    assert {node.port for node in cluster_client.get_primaries()} == {node.cluster_port for node in cluster.nodes}
    assert len(cluster_client.nodes_manager.slots_cache) == 16384
    assert cluster_client.cluster_info()["cluster_state"] == "ok"


def test_a_cluster_client_reads_and_writes_all_keys(cluster_client: RedisCluster, cluster: TestCluster) -> None:
    for number in range(300):
        assert cluster_client.set(f"key:{number}", number)
    assert [cluster_client.get(f"key:{number}") for number in range(300)] == [b"%d" % n for n in range(300)]
    assert cluster_client.incr("count") == 1
    assert cluster_client.mset({"{tag}a": 1, "{tag}b": 2}) is True
    assert cluster_client.mget("{tag}a", "{tag}b", "{tag}c") == [b"1", b"2", None]
    pipeline = cluster_client.pipeline()
    for number in range(50):
        pipeline.get(f"key:{number}")
    assert pipeline.execute() == [b"%d" % number for number in range(50)]
    with cluster.nodes[0].client() as client:
        assert client.dbsize() == 303


def test_a_cluster_client_adds_up_right_over_the_nodes(cluster_client: RedisCluster) -> None:
    keys = {f"key:{number}".encode() for number in range(300)}
    for key in keys:
        cluster_client.set(key, "")
    everywhere = {"target_nodes": RedisCluster.PRIMARIES}
    assert cluster_client.dbsize(**everywhere) == 300
    assert sorted(cluster_client.keys(**everywhere)) == sorted(keys)
    scanned = list(cluster_client.scan_iter(count=20))
    assert sorted(scanned) == sorted(keys)
    assert cluster_client.mget_nonatomic(*sorted(keys)) == [b""] * 300
    assert cluster_client.delete(*keys) == 300
    assert cluster_client.set("key", "x")
    assert cluster_client.flushall(**everywhere)
    assert cluster_client.dbsize(**everywhere) == 0


def test_the_cluster_view_redirects_and_refuses_as_a_cluster_node(cluster: TestCluster) -> None:
    (key,) = cluster.keys_of_shard(1, 1)
    leader = cluster.leader(1)
    other = next(node for node in cluster.nodes if node is not leader)
    slot = other.call("CLUSTER", "KEYSLOT", key)
    with other.connect(cluster_view=True) as raw:
        file = raw.makefile("rb")
        for command in (f"GET {key}", f"SET {key} x", f"INCR {key}"):
            raw.sendall(command.encode() + b"\r\n")
            assert file.readline() == b"-MOVED %d 127.0.0.1:%d\r\n" % (slot, leader.cluster_port)
        for command in (b"MGET a b", b"MSET a 1 b 2", b"DEL a b", b"EXISTS a b", b"MSETNX a 1 b 2"):
            raw.sendall(command + b"\r\n")
            assert file.readline() == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
    with leader.client() as client, other.client() as forwarded:
        assert client.get(key) is None
        assert forwarded.set(key, "x")
        assert client.get(key) == b"x"
        with pytest.raises(redis.ResponseError, match="hash to the same slot"):
            forwarded.execute_command("MSETNX", "a", "1", "b", "2")
