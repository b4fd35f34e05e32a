"""DUMP and RESTORE between respkv and a real redis-server, both ways, and the other key commands as redis-py sends
them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.cluster import TestCluster

VALUES = [
    b"", b"x", b"0", b"-1", b"127", b"128", b"-32768", b"32768", b"2147483648", b"-9223372036854775808", b"01", b"1.5",
    b"a" * 20, b"a" * 21, b"ab" * 100, b"a" * 1_000_000, random.Random(1).randbytes(50),
    random.Random(2).randbytes(20_000), random.Random(3).randbytes(300) * 50,
    b"".join(b"line %d of a text\n" % n for n in range(500)),
]  # fmt: skip


@pytest.fixture
def theirs(redis_port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=redis_port) as client:
        client.flushall()
        yield client


def test_redis_restores_what_we_dump_and_we_what_redis_dumps(cluster: TestCluster, theirs: redis.Redis) -> None:
    for node in cluster.nodes:
        with node.client() as ours:
            for value in VALUES:
                for source, target in ((ours, theirs), (theirs, ours)):
                    source.set("source", value)
                    target.restore("target", 0, source.dump("source"), replace=True)
                    assert target.get("target") == value, value[:50]


def test_payloads_are_the_bytes_of_redis(cluster: TestCluster, theirs: redis.Redis) -> None:
    with cluster.nodes[0].client() as ours:
        for value in VALUES:
            payloads = []
            for client in (ours, theirs):
                client.set("key", value)
                payloads.append(client.dump("key"))
            assert payloads[0] == payloads[1], value[:50]


def test_lists_of_redis_are_refused_as_bad_data(cluster: TestCluster, theirs: redis.Redis) -> None:
    theirs.rpush("list", "a")
    with cluster.nodes[0].client() as ours, pytest.raises(redis.ResponseError, match="Bad data format"):
        ours.restore("list", 0, theirs.dump("list"))


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", ["n1", "n3"])
def test_keys_and_bits_through_redis_py(cluster: TestCluster, name: str, protocol: int) -> None:
    client: Any
    with cluster[name].client(protocol=protocol) as client:
        client.mset({"{t}a": "1", "{t}b": "2"})
        assert client.rename("{t}a", "{t}c")
        assert client.renamenx("{t}c", "{t}b") is False
        assert client.copy("{t}c", "{t}b", replace=True)
        assert client.get("{t}b") == b"1"
        assert client.setbit("bits", 7, 1) == 0
        assert client.bitcount("bits") == 1
        assert client.bitpos("bits", 1) == 7
        assert client.bitfield("bits").set("u8", 0, 255).incrby("u8", 0, 1).execute() == [1, 0]
        assert client.bitop("OR", "{t}or", "{t}b", "{t}c") == 1
        assert client.setrange("text", 2, "x") == 3
        assert client.getrange("text", 0, -1) == b"\0\0x"
        assert client.lcs("{t}b", "{t}c") == b"1"
        assert client.object("ENCODING", "{t}b") in (b"int", "int")
        assert client.object("IDLETIME", "{t}b") >= 0
        assert client.memory_usage("{t}b") > 0
        assert client.memory_stats()["keys.count"] >= 1
        assert client.wait(1, 1000) >= 1
        assert client.sort("none") == []
        for command in (["RENAME", "a", "b"], ["BITOP", "OR", "a", "b"], ["LCS", "a", "b"], ["COPY", "a", "b"]):
            with pytest.raises(redis.ResponseError, match="same slot"):
                client.execute_command(*command)
