"""Keyspace notifications: Redis's events for Redis's commands, for whoever wants them and for nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from respkv.commands.keys import evict_keys
from respkv.config.events import events
from respkv.keyspace.watch import EVICTED, GENERIC, Watch
from tests.unit.one_shard import OneShard
from tests.unit.running import Wire, eventually, redis, respkv, respkv_cluster

COMMANDS = """
SET a 1
SET a 2 EX 100
SET a 3 KEEPTTL
SET a x NX
SET b x XX
SET a y GET
SETNX c 1
SETNX c 2
SETEX d 100 1
PSETEX d 100000 1
GETSET a z
GETSET new z
GETDEL new
GETDEL new
GETEX a
GETEX a EX 100
GETEX a PERSIST
GETEX a PERSIST
GETEX a PXAT 1
GETEX nothing NX
GETRANGE nothing a b
GETBIT nothing -1
BITCOUNT nothing x y
APPEND e 1
APPEND e 2
INCR n
DECR n
INCRBY n 5
DECRBY n 5
INCRBYFLOAT n 1.5
MSET f{t} 1 g{t} 2
MSETNX f{t} 1 h{t} 2
MSETNX i{t} 1 h{t} 2
SETRANGE s 3 abc
SETRANGE s 3 abc
SETBIT bit 7 1
SETBIT bit 7 1
BITFIELD bf SET u8 0 255 GET u8 0
BITFIELD bf INCRBY u8 0 0
BITFIELD bf OVERFLOW FAIL INCRBY u8 0 10
BITFIELD bf GET u8 0
BITOP AND f{t} g{t} h{t}
BITOP AND f{t} nothing{t} none{t}
DEL f{t} g{t} none{t}
UNLINK h{t}
SET k 1
EXPIRE k 100
PEXPIRE k 100000 NX
PERSIST k
PERSIST k
EXPIREAT k 1
EXPIRE k 100
SET r{u} 1
RENAME r{u} q{u}
RENAME q{u} q{u}
RENAMENX q{u} r{u}
COPY r{u} v{u}
COPY r{u} v{u}
COPY r{u} v{u} REPLACE
COPY none{u} v{u}
GET none
EXISTS none
TTL none
TYPE none
STRLEN none
MGET none{t} i{t} none2{t}
OBJECT ENCODING none
INCR none
SET none 1 GET
TOUCH none3
FLUSHALL
SET n 1
""".strip().splitlines()


class Listener:
    """What a subscriber of all patterns hears."""

    def __init__(self, port: int) -> None:
        self.wire = Wire(port)
        assert self.wire("PSUBSCRIBE __key*")

    def heard(self) -> list[tuple[bytes, bytes]]:
        """Everything up to the message that is published when all is over."""
        found = []
        while True:
            _, _, channel, message = self.wire.reply()  # type: ignore[misc]
            if channel == b"__keyend":
                return found
            found.append((channel, message))


def events_of(port: int, flags: str, commands: list[str]) -> list[tuple[bytes, bytes]]:
    with Wire(port) as wire:
        wire("FLUSHALL")
        assert wire(f"CONFIG SET notify-keyspace-events {flags}") == b"OK"
        listener = Listener(port)
        for command in commands:
            wire(command)
        assert wire("PUBLISH __keyend x") == 1
        heard = listener.heard()
        listener.wire.socket.close()
        return heard


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node"), "--cluster-shards", "2") as port:
        yield port


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    with respkv_cluster(tmp_path_factory.mktemp("nodes"), 3, shards=3, replicas=2) as ports:
        yield ports


@pytest.mark.parametrize("flags", ["KEA", "Ex", "Kg", "E$", "KEm", "KAm"])
def test_the_events_are_those_of_redis_in_the_same_order(port: int, original: int, flags: str) -> None:
    assert events_of(port, flags, COMMANDS) == events_of(original, flags, COMMANDS)


def test_a_key_is_new_when_it_was_not_there(port: int) -> None:
    commands = ["SET a 1", "SET a 2", "DEL a", "INCR a", "MSET a 1 b{a} 1", "RENAME a c{a}", "GETDEL c{a}"]
    commands.append("SETNX c{a} 1")
    assert [key for _, key in events_of(port, "En", commands)] == [b"a", b"a", b"b{a}", b"c{a}", b"c{a}"]


def test_plain_sets_of_one_batch_are_told_of_one_by_one(port: int) -> None:
    with Wire(port) as wire:
        wire("FLUSHALL")
        wire("CONFIG SET notify-keyspace-events KE$n")
        listener = Listener(port)
        wire.send("SET k 1", "SET k 2", "SET k 3")
        assert [wire.reply() for _ in range(3)] == [b"OK"] * 3
        wire("PUBLISH __keyend x")
        assert [channel for channel, _ in listener.heard()] == [
            b"__keyspace@0__:k", b"__keyevent@0__:new", *[b"__keyspace@0__:k", b"__keyevent@0__:set"] * 3,
        ]  # fmt: skip


def test_expired_keys_are_told_of_when_they_are_removed(port: int) -> None:
    with Wire(port) as wire:
        wire("CONFIG SET notify-keyspace-events Ex")
        listener = Listener(port)
        wire("SET soon 1 PX 20")
        assert listener.wire.reply() == [b"pmessage", b"__key*", b"__keyevent@0__:expired", b"soon"]


def test_evicted_keys_are_told_of_as_such(tmp_path: Path) -> None:
    shard = OneShard(tmp_path)
    shard("SET a 1")
    shard.db.watch = watch = Watch()
    watch.wanted = EVICTED | GENERIC
    with shard.batch():
        assert evict_keys(shard.db, [b"a", b"none"]) == 1
    assert watch.events == [(EVICTED, b"evicted", b"a")]
    assert watch.writers == {b"a": b""}


def test_off_tells_nobody_anything(port: int) -> None:
    with Wire(port) as wire:
        wire([b"CONFIG", b"SET", b"notify-keyspace-events", b""])
        listener = Listener(port)
        wire("SET a 1")
        wire("PUBLISH __keyend x")
        assert listener.heard() == []


def test_a_node_tells_its_clients_of_all_keys_whoever_leads_them_and_others_nothing(nodes: list[int]) -> None:
    with Wire(nodes[0]) as wire, Wire(nodes[2]) as writer:
        wire("CONFIG SET notify-keyspace-events E$")
        here, elsewhere = Listener(nodes[0]), Listener(nodes[1])
        keys = [b"key-%d" % i for i in range(20)]  # on all shards; nodes hold two of three
        for key in keys:
            writer([b"SET", key, b"1"])
        heard = {bytes(here.wire.reply()[3]) for _ in keys}  # type: ignore[index]
        assert heard == set(keys)
        writer("PUBLISH __keyend x")
        assert elsewhere.heard() == []
        wire([b"CONFIG", b"SET", b"notify-keyspace-events", b""])


def test_clients_of_the_cluster_view_hear_of_the_keys_that_their_node_leads(nodes: list[int]) -> None:
    """As from the nodes of a Redis Cluster: who listens to all of them hears each event once."""
    wires = [Wire(port) for port in nodes]
    for wire in wires:
        wire("CONFIG SET notify-keyspace-events E$")
    time.sleep(0.2)  # the nodes tell each other
    listeners = [Listener(port + 1000) for port in nodes]
    keys = [b"key-%d" % i for i in range(20)]
    for key in keys:
        wires[0]([b"SET", key, b"1"])
    wires[0]("PUBLISH __keyend x")
    heard = [key for listener in listeners for _, key in listener.heard()]
    assert sorted(heard) == sorted(keys)
    for wire in wires:
        wire([b"CONFIG", b"SET", b"notify-keyspace-events", b""])


def test_events_outlive_a_change_of_leaders(tmp_path: Path) -> None:
    with respkv_cluster(tmp_path, 2, shards=1, replicas=2) as ports, Wire(ports[0]) as first, Wire(ports[1]) as second:
        first("CONFIG SET notify-keyspace-events E$")
        listener = Listener(ports[0])
        second("SET a 1")
        assert listener.wire.reply()[3] == b"a"  # type: ignore[index]
        second("SET b 1")
        assert listener.wire.reply()[3] == b"b"  # type: ignore[index]
        eventually(lambda: b"role=leader" in bytes(first("INFO raft")))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("text", "shown"), [("gKE", "gKE"), ("$lshzxeKE", "$lshzxeKE"), ("KA", "AK"), ("EA", "AE"), ("g$lshzxetd", "A")]
)
def test_flags_are_shown_as_redis_shows_them(text: str, shown: str) -> None:
    assert events(text) == shown


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="Invalid event class"):
        events("KEq")
