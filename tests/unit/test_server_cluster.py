"""CLUSTER and the map that clients draw from it, on three nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
from redis import Redis
from redis.cluster import RedisCluster

from respkv.client import parse_info
from respkv.cluster.slots import SLOTS, slot_of
from respkv.cluster.topology import redis_id
from tests.unit.running import HOST, Wire, eventually, respkv, respkv_cluster

CLUSTER_PORT = 1000  # added to the port of the standalone view


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """Four nodes, three shards, each on three of them: one node leads nothing."""
    with respkv_cluster(tmp_path_factory.mktemp("cluster"), 4, shards=3, replicas=3) as ports:
        yield ports


@pytest.fixture
def wire(ports: list[int]) -> Iterator[Wire]:
    with Wire(ports[0] + CLUSTER_PORT) as wire:
        yield wire


@pytest.fixture
def client(ports: list[int]) -> Iterator[Any]:
    client = RedisCluster(HOST, ports[3] + CLUSTER_PORT)
    yield client
    client.close()


def error(reply: object) -> str:
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)


def fields(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def slots(wire: Wire) -> list[Any]:
    found = wire("CLUSTER SLOTS")
    assert isinstance(found, list)
    return found


def test_slots_cover_everything_once_and_name_each_leader(ports: list[int], wire: Wire) -> None:
    rows = slots(wire)
    assert [row[0] for row in rows] == [0, *(row[1] + 1 for row in rows[:-1])]
    assert rows[-1][1] == SLOTS - 1
    for _, _, leader, *replicas in rows:
        number = leader[1] - CLUSTER_PORT - ports[0] + 1
        assert leader == [HOST.encode(), leader[1], redis_id("tests", f"n{number}").encode(), []]
        assert all(replica[1] != leader[1] for replica in replicas)


def test_no_node_is_a_master_here_and_a_replica_there(ports: list[int], wire: Wire) -> None:
    rows = slots(wire)
    masters = {row[2][1] for row in rows}
    replicas = {replica[1] for row in rows for replica in row[3:]}
    assert len(masters) == 3
    assert masters | replicas == {port + CLUSTER_PORT for port in ports}
    assert not masters & replicas


def test_every_node_and_both_views_tell_the_same_map(ports: list[int], wire: Wire) -> None:
    expected = slots(wire)
    for port in ports:
        for door in (port, port + CLUSTER_PORT):
            with Wire(door) as other:
                assert slots(other) == expected


def test_nodes_has_a_line_for_every_node(ports: list[int], wire: Wire) -> None:
    text = bytes(wire("CLUSTER NODES")).decode()  # type: ignore[call-overload]
    lines = [line.split(" ") for line in text.splitlines()]
    assert [line[1] for line in lines] == [f"{HOST}:{port + 1000}@{port + 10_000}" for port in ports]
    assert lines[0][0] == bytes(wire("CLUSTER MYID")).decode()  # type: ignore[call-overload]
    assert [line[2] for line in lines] == ["myself,master", "master", "master", "slave"]
    assert lines[3][3] in [line[0] for line in lines[:3]]
    ranges = [word.partition("-") for line in lines for word in line[8:]]
    assert sum(int(last or first) - int(first) + 1 for first, _, last in ranges) == SLOTS
    assert [line[7] for line in lines] == ["connected"] * 4
    replicas = wire(f"CLUSTER REPLICAS {lines[3][3]}")
    assert replicas == [" ".join(lines[3]).encode()]
    assert error(wire("CLUSTER REPLICAS nonsense")) == "ERR Unknown node nonsense"
    assert error(wire(f"CLUSTER REPLICAS {lines[3][0]}")) == "ERR The specified node is not a master"


def test_shards_has_every_shard_with_all_its_replicas(wire: Wire) -> None:
    shards = wire("CLUSTER SHARDS")
    assert isinstance(shards, list)
    owned = 0
    for shard in map(fields, shards):
        owned += sum(last - first + 1 for first, last in zip(shard[b"slots"][::2], shard[b"slots"][1::2], strict=True))
        nodes = [fields(node) for node in shard[b"nodes"]]
        assert sorted(node[b"role"] for node in nodes) == [b"master", b"replica", b"replica"]
        assert {node[b"health"] for node in nodes} == {b"online"}
        assert {node[b"ip"] for node in nodes} == {node[b"endpoint"] for node in nodes} == {HOST.encode()}
    assert len(shards) == 3
    assert owned == SLOTS


def test_info_and_links(wire: Wire) -> None:
    info = bytes(wire("CLUSTER INFO")).decode().split("\r\n")  # type: ignore[call-overload]
    assert {"cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:4", "cluster_size:3"} < set(info)
    links = wire("CLUSTER LINKS")
    assert isinstance(links, list)
    pairs = [(fields(link)[b"node"], fields(link)[b"direction"]) for link in links]
    nodes = [redis_id("tests", f"n{i}").encode() for i in (2, 3, 4)]
    assert pairs == [(node, direction) for node in nodes for direction in (b"to", b"from")]
    assert list(fields(links[0])) == [
        b"direction", b"node", b"create-time", b"events", b"send-buffer-allocated", b"send-buffer-used"
    ]  # fmt: skip


def test_the_keys_that_the_masters_tell_of_in_info_add_up(client: Any) -> None:
    client.flushall()
    for number in range(100):
        client.set(f"k{number}", 1)

    told = [client.info("keyspace", target_nodes=node)["db0"]["keys"] for node in client.get_primaries()]
    assert len(told) == 3
    assert sum(told) == 100


def test_keys_in_slots(client: Any, wire: Wire) -> None:
    client.flushall()
    key = next(f"k{i}" for i in range(1000) if slot_of(f"k{i}".encode()) in range(*slots(wire)[0][:2]))
    slot = slot_of(key.encode())
    tagged = [f"{{{key}}}:{i}" for i in range(3)]
    for name in tagged:
        client.set(name, 1)
    with Wire(slots(wire)[0][2][1]) as leader:
        assert leader(f"CLUSTER KEYSLOT {tagged[0]}") == slot
        assert leader(f"CLUSTER COUNTKEYSINSLOT {slot}") == 3
        assert sorted(leader(f"CLUSTER GETKEYSINSLOT {slot} 10")) == [name.encode() for name in tagged]  # type: ignore[call-overload]
        assert len(leader(f"CLUSTER GETKEYSINSLOT {slot} 2")) == 2  # type: ignore[arg-type]


def test_what_respkv_does_itself_is_refused(wire: Wire) -> None:
    for command in ("ADDSLOTS 1", "MEET 127.0.0.1 1", "SETSLOT 1 STABLE", "FAILOVER", "FORGET x", "REPLICATE x"):
        assert " is not supported: " in error(wire("CLUSTER " + command))
    assert error(wire("CLUSTER ADDSLOTS")) == "ERR wrong number of arguments for 'cluster|addslots' command"


def test_redis_py_adds_up_what_the_masters_hold(client: Any) -> None:
    client.flushall()
    for i in range(100):
        client.set(f"key:{i}", i)
    assert [client.get(f"key:{i}") for i in range(100)] == [b"%d" % i for i in range(100)]
    assert client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 100
    assert len(set(client.scan_iter(count=100))) == 100
    assert len(client.get_primaries()) == 3
    assert len(client.get_replicas()) == 1


def test_replicas_have_the_same_digest(client: Any, ports: list[int]) -> None:
    client.flushall()
    for i in range(50):
        client.set(f"key:{i}", i, ex=1000)

    def digests(shard: int) -> list[bytes]:
        found = []
        for port in ports:
            with Wire(port) as wire:
                reply = wire(f"DEBUG DIGEST SHARD {shard}")
                found += [reply] if isinstance(reply, bytes) else []
        return found

    for shard in range(3):
        eventually(lambda shard=shard: len(set(digests(shard))) == 1)  # type: ignore[misc]
        assert len(digests(shard)) == 3
        assert digests(shard)[0] != b"0" * 40


def test_redis_py_starts_up_in_both_protocols(ports: list[int]) -> None:
    for protocol in (2, 3):
        with Redis(HOST, ports[1], protocol=protocol, client_name="me", decode_responses=True) as redis:
            assert redis.ping()
            assert redis.client_getname() == "me"
            assert redis.client_info()["lib-name"].startswith("redis-py")
            assert redis.info()["redis_version"] == "7.0.15"
            assert redis.config_get("save") == {"save": ""}
            assert redis.role()[0] == "master"


def test_one_node_is_a_cluster_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    with respkv(tmp_path_factory.mktemp("alone"), "--cluster-shards", "8") as port:
        with Wire(port + CLUSTER_PORT) as wire:
            eventually(lambda: b"cluster_state:ok" in bytes(wire("CLUSTER INFO")))  # type: ignore[call-overload]
            line = bytes(wire("CLUSTER NODES")).decode().split()  # type: ignore[call-overload]
            assert line[2] == "myself,master"
            assert line[8:] == ["0-16383"]
        client: Any = RedisCluster(HOST, port + CLUSTER_PORT)
        assert client.set("a", 1)
        assert client.dbsize() == 1
        client.close()


def test_cluster_info_counts_the_messages_between_nodes_as_redis_lists_them(ports: list[int], wire: Wire) -> None:
    def messages() -> dict[str, int]:
        lines = bytes(wire("CLUSTER INFO")).decode().splitlines()  # type: ignore[call-overload]
        assert lines[-1] == "total_cluster_links_buffer_limit_exceeded:0"
        found = dict(line.removeprefix("cluster_stats_messages_").split(":") for line in lines[9:-1])
        return {name: int(count) for name, count in found.items()}

    eventually(lambda: list(messages()) == ["ping_sent", "sent", "ping_received", "received"])
    before = messages()
    with Wire(ports[0]) as client:
        for number in range(100):
            client(f"SET key:{number} v")
    after = messages()
    for name in ("sent", "received"):
        assert after[name] > before[name] > before[f"ping_{name}"]


def test_info_counts_what_goes_between_nodes_among_the_bytes_and_by_itself(ports: list[int]) -> None:
    def stats() -> dict[str, float]:
        text = bytes(wire("INFO stats")).decode()  # type: ignore[call-overload]
        return {name: float(value) for name, value in parse_info(text).items() if name.endswith(("bytes", "kbps"))}

    with Wire(ports[0]) as wire:
        before = stats()
        wire([b"SET", b"k", b"v" * 300_000])  # to two other nodes, or from the leader here
        eventually(lambda: stats()["total_net_repl_input_bytes"] + stats()["total_net_repl_output_bytes"]
                   > sum(before[f"total_net_repl_{way}_bytes"] for way in ("input", "output")) + 300_000)  # fmt: skip
        now = stats()
        for way in ("input", "output"):
            assert now[f"total_net_{way}_bytes"] > now[f"total_net_repl_{way}_bytes"] > 0
        eventually(lambda: stats()["instantaneous_output_repl_kbps"] > 0)


# --- where clients are sent ---


def leader_of(wire: Wire, key: bytes) -> str:
    """The Redis id of the node that leads the key's shard."""
    return next(str(row[2][2], "ascii") for row in slots(wire) if row[0] <= slot_of(key) <= row[1])


def found_in_slots(wire: Wire, node: str) -> list[Any]:
    return next(entry for row in slots(wire) for entry in row[2:] if entry[2] == node.encode())


def test_after_readonly_a_follower_answers_reads_from_its_replica(ports: list[int], wire: Wire) -> None:
    ids = {redis_id("tests", f"n{number}"): port for number, port in enumerate(ports, 1)}
    leader, slot = ids[leader_of(wire, b"follow")], slot_of(b"follow")
    moved = f"MOVED {slot} {HOST}:{leader + CLUSTER_PORT}"
    with Wire(leader) as client:
        assert client("SET follow me") == b"OK"
    answered = 0
    for port in ports:
        if port == leader:
            continue
        with Wire(port + CLUSTER_PORT) as follower:
            assert error(follower("GET follow")) == moved
            assert follower("READONLY") == b"OK"
            assert error(follower("SET follow x")) == moved
            if str(follower("GET follow")) == moved:
                continue  # it holds no replica of this shard
            eventually(lambda follower=follower: follower("GET follow") == b"me")  # type: ignore[misc]
            answered += 1
            assert follower("READWRITE") == b"OK"
            assert error(follower("GET follow")) == moved
    assert answered == 2


def test_every_node_tells_what_one_announces_of_itself(ports: list[int], wire: Wire) -> None:
    second = redis_id("tests", "n2")
    key = next(key for key in map(b"%d".__mod__, range(1000)) if leader_of(wire, key) == second)
    moved = f"MOVED {slot_of(key)} "
    with Wire(ports[1]) as announcer, Wire(ports[0]) as asked:
        announcer("CONFIG SET cluster-announce-ip 10.9.8.7 cluster-announce-port 77 cluster-announce-hostname two.test")
        address = b"10.9.8.7:77@%d,two.test " % (ports[1] + 10_000)
        eventually(lambda: address in bytes(wire("CLUSTER NODES")))  # type: ignore[call-overload]
        assert error(wire([b"GET", key])) == moved + "10.9.8.7:77"
        assert found_in_slots(wire, second) == [b"10.9.8.7", 77, second.encode(), [b"hostname", b"two.test"]]
        asked("CONFIG SET cluster-preferred-endpoint-type hostname")
        assert error(wire([b"GET", key])) == moved + "two.test:77"
        assert found_in_slots(wire, second) == [b"two.test", 77, second.encode(), [b"ip", b"10.9.8.7"]]
        asked("CONFIG SET cluster-preferred-endpoint-type unknown-endpoint")
        assert error(wire([b"GET", key])) == moved + ":77"
        assert found_in_slots(wire, second)[0] is None
        asked("CONFIG SET cluster-preferred-endpoint-type ip")
        announcer([b"CONFIG", b"SET", b"cluster-announce-ip", b"", b"cluster-announce-port", b"0",
                   b"cluster-announce-hostname", b""])  # fmt: skip
        own = f"{HOST}:{ports[1] + CLUSTER_PORT}@{ports[1] + 10_000} ".encode()
        eventually(lambda: own in bytes(wire("CLUSTER NODES")))  # type: ignore[call-overload]


def test_failure_reports_and_the_older_name_of_replicas(wire: Wire) -> None:
    for name in ("n1", "n2"):
        assert wire(f"CLUSTER COUNT-FAILURE-REPORTS {redis_id('tests', name)}") == 0
    leader = redis_id("tests", "n1")
    assert wire(f"CLUSTER SLAVES {leader}") == wire(f"CLUSTER REPLICAS {leader}")
