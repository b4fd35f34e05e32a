"""keyspace_hits and keyspace_misses count the keys that Redis counts: looked for in order to be read, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
import redis

from tests.cluster import NodeProcess, TestCluster

COMMANDS = """
GET K|GET K a|MGET K K2 K|EXISTS K K2 K|TOUCH K K2|TYPE K|TTL K|PTTL K|EXPIRETIME K|PEXPIRETIME K|STRLEN K|STRLEN
GETRANGE K 0 -1|SUBSTR K 0 1|GETBIT K 1|BITCOUNT K|BITPOS K 1|BITFIELD_RO K GET u8 0|BITFIELD K GET u8 0
BITFIELD K SET u8 0 1|BITFIELD K GET u8 0 INCRBY u8 0 1|LCS K K2|DUMP K|OBJECT ENCODING K|OBJECT IDLETIME K
OBJECT REFCOUNT K|MEMORY USAGE K|COPY K D|COPY K K2 REPLACE|RENAME K D|RENAMENX K D|BITOP AND D K K2|BITOP NOT D K
BITOP AND K K K2|GETSET K v|GETDEL K|GETEX K|GETEX K PX 100000|SET K v|SET K v GET|SET K v XX GET|SET K v EX 100
SETNX K v|SETEX K 100 v|APPEND K v|INCR K|INCRBYFLOAT K 1|SETRANGE K 1 v|SETBIT K 1 1|EXPIRE K 100|PERSIST K|DEL K K2
UNLINK K|RESTORE K 0 x|MSET K v|MSETNX K v|RANDOMKEY|SCAN 0|KEYS *|WATCH K
"""
STATES: dict[str, Sequence[str]] = {"absent": (), "there": ("K", "5"), "empty": ("K", "")}
LONG = "x" * (4 << 20)


def words(line: str) -> list[str]:
    return [f"{{same slot}}{word}" if word in ("K", "K2", "D") else word for word in line.split()]


def alone(client: redis.Redis, line: str) -> None:
    with suppress(redis.ResponseError):
        client.execute_command(*words(line))


def in_a_transaction(client: redis.Redis, line: str, *also: str) -> None:
    if line.startswith("WATCH"):
        return
    with client.pipeline(transaction=True) as pipeline, suppress(redis.ResponseError):
        for each in (line, *also):
            pipeline.execute_command(*words(each))
        pipeline.execute()


def in_a_transaction_that_writes(client: redis.Redis, line: str) -> None:
    in_a_transaction(client, line, "SET D x")


def counted(
    client: redis.Redis, nodes: Sequence[redis.Redis], run: Callable[[redis.Redis, str], None], line: str, state: str
) -> tuple[int, int]:
    def counts() -> list[int]:
        found = [node.info("stats") for node in nodes]
        return [sum(each[f"keyspace_{name}"] for each in found) for name in ("hits", "misses")]

    client.delete(*words("K K2 D"))
    if STATES[state]:
        client.set(*words(" ".join(STATES[state])) if STATES[state][1] else (words("K")[0], ""))
    before = counts()
    run(client, line)
    hits, misses = (after - earlier for after, earlier in zip(counts(), before, strict=True))
    with suppress(redis.ResponseError):
        client.execute_command("UNWATCH")
    return hits, misses


@pytest.mark.parametrize("run", [alone, in_a_transaction, in_a_transaction_that_writes])
def test_hits_and_misses_are_those_of_redis(
    redis_port: int, single: NodeProcess, cluster: TestCluster, run: Callable[[redis.Redis, str], None]
) -> None:
    with redis.Redis(port=redis_port, single_connection_client=True) as real:
        for line in COMMANDS.strip().replace("\n", "|").split("|"):
            for state in STATES:
                expected = counted(real, [real], run, line, state)
                with single.client(single_connection_client=True) as client:
                    assert counted(client, [client], run, line, state) == expected, (line, state)
                clients = [node.client(single_connection_client=True) for node in cluster.nodes]
                assert counted(clients[0], clients, run, line, state) == expected, (line, state, "cluster")
                for client in clients:
                    client.close()


def test_a_long_value_is_a_hit_like_any_other(single: NodeProcess) -> None:
    with single.client() as client:
        client.set("long", LONG)
        before = client.info("stats")
        assert client.get("long") == LONG.encode()
        after = client.info("stats")
    assert after["keyspace_hits"] - before["keyspace_hits"] == 1
    assert after["keyspace_misses"] == before["keyspace_misses"]
