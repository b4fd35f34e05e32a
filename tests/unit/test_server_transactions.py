"""MULTI at a node: replies as redis-server gives them byte by byte, and what only respkv has to decide."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.cluster.slots import slot_of
from respkv.cluster.topology import Node, Topology
from respkv.commands.table import COMMANDS
from respkv.reply import RespError
from respkv.server.commands.transactions import WATCHED_MAX
from respkv.server.queue import Queue
from tests.unit.running import Wire, redis, respkv, respkv_cluster

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

CONVERSATIONS = """
MULTI | SET k 1 | INCR k | GET k | EXEC | GET k
MULTI | EXEC
MULTI extra
EXEC | EXEC extra | DISCARD | DISCARD extra | WATCH | UNWATCH extra | UNWATCH
MULTI | SET k 1 | DISCARD | GET k | EXEC
MULTI | MULTI | SET k 1 | EXEC
MULTI | WATCH k | SET k 1 | EXEC
MULTI | MULTI extra | SET k 1 | EXEC
MULTI | NOSUCH a b | SET k 1 | EXEC | GET k
MULTI | SET k | SET k 1 | EXEC | GET k
MULTI | CLIENT NOSUCH | SET k 1 | EXEC | GET k
MULTI | SET k 1 | NOSUCH | DISCARD | GET k
MULTI | SET k x | INCR k | APPEND k y | EXEC | GET k
MULTI | SET k 1 EX 0 | SET k 1 NX XX | LCS k | GET k | EXEC
MULTI | SHUTDOWN NOSAVE | SET k 1 | EXEC
MULTI | PING | ECHO hi | SET k 1 | PING text | DBSIZE | SELECT 0 | GET k | EXEC
MULTI | SET k 1 | DBSIZE | KEYS * | RANDOMKEY | SCAN 0 | FLUSHALL | DBSIZE | GET k | EXEC
MULTI | SCAN x | KEYS k | FLUSHDB nonsense | EXEC
MULTI | FLUSHALL | FLUSHDB ASYNC | EXEC | DBSIZE
MULTI | CLIENT SETNAME me | CLIENT GETNAME | CLIENT SETNAME | EXEC | CLIENT GETNAME
MULTI | CLIENT SETNAME you | CLIENT GETNAME | CONFIG GET nosuch | CONFIG SET nosuch 1 | EXEC | CLIENT GETNAME
MULTI | UNWATCH | EXEC
MULTI | WAIT 0 0 | OBJECT HELP extra | EXEC
MULTI | OBJECT ENCODING k | SET k abc | OBJECT ENCODING k | STRLEN k | EXEC
MULTI | get k | gEt k | set k 2 | Get k | exec
MULTI | HELLO 3 | GET absent | HELLO 2 | GET absent | EXEC | GET absent
MULTI | GET absent | HELLO 4 | EXEC
MULTI | RESET | EXEC | GET k
WATCH k | SET k 1 | MULTI | GET k | EXEC | MULTI | GET k | EXEC
WATCH k k | WATCH k | MULTI | SET k 1 | EXEC | GET k
WATCH k | GET k | UNWATCH | SET k 1 | MULTI | GET k | EXEC
WATCH k | SET k 1 | MULTI | DISCARD | MULTI | GET k | EXEC
WATCH k | SET k 1 | MULTI | NOSUCH | EXEC | MULTI | GET k | EXEC
WATCH k | SET k 1 | RESET | MULTI | GET k | EXEC
WATCH k | MULTI | SET k 1 | EXEC | SET k 2 | MULTI | GET k | EXEC
WATCH absent | DEL absent | MULTI | PING | EXEC
WATCH absent | FLUSHALL | MULTI | PING | EXEC
SET k 1 | WATCH k | FLUSHALL | MULTI | PING | EXEC
SET k 1 | WATCH k | SET k 1 NX | EXPIRE k nonsense | MULTI | PING | EXEC
SET k 1 | WATCH k | EXPIRE k 100 | MULTI | PING | EXEC
SET k 1 | WATCH k | SET k 2 | SET k 1 | MULTI | PING | EXEC
SET k 1 | WATCH k | MULTI | CLIENT SETNAME no | EXEC | CLIENT GETNAME
WATCH k | SET k 1 | MULTI | CLIENT SETNAME no | SET k 2 | EXEC | CLIENT GETNAME | GET k
SETBIT k 7 1 | MULTI | BITCOUNT k | GETRANGE k 0 -1 | BITFIELD k GET u8 0 INCRBY u8 0 9 | BITCOUNT k | EXEC
MULTI | SET k 1 | RENAME k l | COPY l k | MSETNX a 1 b 2 | LCS k l | BITOP AND x k l | EXEC | GET l
MULTI | MONITOR | SET k 1 | EXEC | GET k
MULTI | QUIT
"""


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """redis-server, and a node with one shard: all keys are together there."""
    with ExitStack() as stack:
        theirs = stack.enter_context(redis(tmp_path_factory.mktemp("redis"), "--databases", "1"))
        ours = stack.enter_context(respkv(tmp_path_factory.mktemp("respkv"), "--cluster-shards", "1"))
        yield theirs, ours


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a node with three shards."""
    with respkv(tmp_path_factory.mktemp("node"), "--client-query-buffer-limit", "3mb") as port:
        yield port


def replies(port: int, lines: list[str], protocol: int, *, pipelined: bool) -> list[bytes]:
    """The bytes of each reply; the connection's own number is not compared."""
    with Wire(port) as wire:
        wire("FLUSHALL")
        wire(f"HELLO {protocol}")
        found = []
        if pipelined:
            wire.send(*lines, "QUIT")
            return [wire.rest()]
        for line in lines:
            wire.send(line)
            found.append(one_reply(wire))
        return found


def one_reply(wire: Wire) -> bytes:
    """The bytes of one reply of any kind."""
    line = wire.rest_of_line()
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=":
        length = int(rest)
        while length >= 0 and len(line) < len(rest) + 3 + length + 2:
            line += wire.socket.recv(len(rest) + 3 + length + 2 - len(line))
    elif kind in b"*~>%":
        for _ in range(int(rest) * (2 if kind == b"%" else 1)):
            line += one_reply(wire)
    return line


@needs_redis
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "pipelined"])
@pytest.mark.parametrize("conversation", CONVERSATIONS.strip().splitlines())
def test_replies_are_those_of_redis(
    ports: tuple[int, int], conversation: str, protocol: int, pipelined: bool
) -> None:
    theirs, ours = (
        without_what_differs(replies(port, conversation.split(" | "), protocol, pipelined=pipelined)) for port in ports
    )
    assert ours == theirs


def without_what_differs(found: list[bytes]) -> list[bytes]:
    """The reply of HELLO names the server's version and the connection."""
    return [reply.partition(b"version")[0] if b"modules" in reply else reply for reply in found]


def test_every_word_of_the_family_is_in_the_table_as_redis_has_it() -> None:
    for name in (b"MULTI", b"EXEC", b"DISCARD", b"WATCH", b"UNWATCH"):
        assert "transaction" in COMMANDS[name].categories


# --- several shards ---


def far_apart() -> list[str]:
    """Three keys, one on each shard of three."""
    slots = Topology.build([Node("n1", "h", 1, 2, 3)], 3, 1).slots
    found = {slots[slot_of(b"k%d" % number)]: f"k{number}" for number in range(100)}
    return [found[shard] for shard in range(3)]


def test_keys_of_several_shards_are_refused_and_nothing_is_done(node: int) -> None:
    with Wire(node) as wire:
        wire("FLUSHALL")
        assert wire("MULTI") == b"OK"
        for key in far_apart():
            assert wire(f"SET {key} 1") == b"QUEUED"
        assert str(wire("EXEC")) == "CROSSSLOT Keys in request don't hash to the same slot"
        assert wire("DBSIZE") == 0
        assert str(wire("EXEC")) == "ERR EXEC without MULTI"


def test_a_command_with_keys_of_several_shards_is_refused_when_it_comes(node: int) -> None:
    with Wire(node) as wire:
        wire("MULTI")
        first, second, _ = far_apart()
        assert str(wire(f"MSET {first} 1 {second} 2")).startswith("CROSSSLOT")
        assert str(wire("EXEC")).startswith("EXECABORT")


def test_hash_tags_keep_keys_together(node: int) -> None:
    with Wire(node) as wire:
        wire("MULTI")
        for number in range(50):
            assert wire(f"SET {{tag}}{number} {number}") == b"QUEUED"
        assert wire("EXEC") == [b"OK"] * 50


def test_watched_keys_are_where_the_others_are(node: int) -> None:
    first, second, _ = far_apart()
    with Wire(node) as wire:
        assert wire(f"WATCH {first} {second}") == b"OK"
        wire("MULTI")
        wire(f"SET {first} 1")
        assert str(wire("EXEC")).startswith("CROSSSLOT")
        wire(f"WATCH {first}")
        wire("MULTI")
        wire(f"SET {second} 1")
        assert str(wire("EXEC")).startswith("CROSSSLOT")


@pytest.mark.parametrize("touched", [*far_apart(), None])
def test_keys_of_all_shards_can_be_watched_for_a_transaction_without_keys(node: int, touched: str | None) -> None:
    with Wire(node) as wire, Wire(node) as other:
        wire(f"WATCH {' '.join(far_apart())}")
        if touched is not None:
            other(f"SET {touched} 1")
        wire("MULTI")
        wire("CLIENT SETNAME done")
        assert wire("EXEC") == (None if touched else [b"OK"])
        assert wire("CLIENT GETNAME") == (None if touched else b"done")


def test_commands_about_all_keys_see_what_the_transaction_did(node: int) -> None:
    first, second, _third = far_apart()
    with Wire(node) as wire:
        wire("FLUSHALL")
        wire(f"SET {second} 1")
        wire.send("MULTI", f"SET {first} 1", "DBSIZE", "KEYS *", "FLUSHALL", "DBSIZE", f"SET {first} 2", "DBSIZE")
        wire.send("KEYS *", "SCAN 0 COUNT 100", "RANDOMKEY", "PING", "EXEC", f"GET {first}", f"GET {second}")
        for expected in (b"+OK\r\n", *[b"+QUEUED\r\n"] * 11):
            assert one_reply(wire) == expected
        name, gone = first.encode(), second.encode()
        keys = b"*2\r\n$3\r\n%b\r\n$3\r\n%b\r\n"
        assert one_reply(wire) in [
            b"*11\r\n+OK\r\n:2\r\n%b+OK\r\n:0\r\n+OK\r\n:1\r\n" % (keys % pair)
            + b"*1\r\n$3\r\n%b\r\n*2\r\n$1\r\n0\r\n*1\r\n$3\r\n%b\r\n$3\r\n%b\r\n+PONG\r\n" % (name, name, name)
            for pair in ((name, gone), (gone, name))
        ]
        assert one_reply(wire) == b"$1\r\n2\r\n"
        assert one_reply(wire) == b"$-1\r\n"


def test_what_is_called_off_flushes_no_shard(node: int) -> None:
    first, second, third = far_apart()
    with Wire(node) as wire:
        for key in far_apart():
            wire(f"SET {key} 1")
        wire(f"WATCH {first}")
        wire(f"SET {first} 2")
        wire("MULTI")
        wire("FLUSHALL")
        assert wire("EXEC") is None
        assert wire(f"EXISTS {first} {second} {third}") == 3


# --- the cluster view ---


def test_the_cluster_view_wants_one_slot(node: int) -> None:
    together = [key for key in (f"k{number}" for number in range(100)) if slot_of(key.encode()) % 2]
    with Wire(node + 1000) as wire:
        assert str(wire(f"WATCH {together[0]} {together[1]}")).startswith("CROSSSLOT")
        wire("MULTI")
        assert wire(f"SET {together[0]} 1") == b"QUEUED"
        assert wire(f"SET {together[1]} 1") == b"QUEUED"
        assert str(wire("EXEC")).startswith("CROSSSLOT")
        wire("MULTI")
        wire("SET {t}a 1")
        wire("SET {t}b 1")
        assert wire("EXEC") == [b"OK", b"OK"]


def test_the_cluster_view_sends_elsewhere_what_is_led_elsewhere(tmp_path: Path) -> None:
    with respkv_cluster(tmp_path, 3, shards=3, replicas=3) as ports, Wire(ports[0] + 1000) as wire:
        moved = next(k for k in far_apart() if str(wire(f"GET {k}")).startswith("MOVED"))
        stays = next(k for k in far_apart() if not str(wire(f"GET {k}")).startswith("MOVED"))
        assert str(wire(f"WATCH {moved}")).startswith("MOVED")
        wire("MULTI")
        assert str(wire(f"SET {moved} 1")).startswith("MOVED")
        assert str(wire("EXEC")).startswith("EXECABORT")
        wire("MULTI")
        wire(f"SET {stays} 1")
        wire("DBSIZE")
        assert wire("EXEC") == [b"OK", 1]
        with Wire(ports[1]) as other:  # the standalone view of a node that leads neither
            other("MULTI")
            other(f"INCR {stays}")
            other(f"GET {stays}")
            assert other("EXEC") == [2, b"2"]


# --- what clients see of each other, limits ---


def test_another_client_stops_it(node: int) -> None:
    with Wire(node) as wire, Wire(node) as other:
        wire("SET k 1")
        wire("WATCH k")
        assert wire("GET k") == b"1"
        other("SET k 2")
        other("SET k 1")
        wire("MULTI")
        wire("SET k 3")
        assert wire("EXEC") is None
        assert wire("GET k") == b"1"


def test_what_was_written_before_in_the_same_pipeline_is_what_is_watched(node: int) -> None:
    with Wire(node) as wire:
        for _ in range(20):
            wire.send("SET k 1", "INCR k", "WATCH k", "MULTI", "INCR k", "EXEC", "GET k")
            found = [one_reply(wire) for _ in range(7)]
            assert found[-2:] == [b"*1\r\n:3\r\n", b"$1\r\n3\r\n"]


def test_client_list_tells_who_is_in_a_transaction(node: int) -> None:
    with Wire(node) as wire, Wire(node) as other:
        wire("CLIENT SETNAME it")

        def line() -> dict[str, str]:
            lines = bytes(other("CLIENT LIST")).decode().splitlines()  # type: ignore[call-overload]
            found = next(each for each in lines if " name=it " in each)
            return dict(pair.split("=", 1) for pair in found.split(" "))

        assert (line()["multi"], line()["watch"], line()["flags"]) == ("-1", "0", "N")
        wire("WATCH a b")
        wire("MULTI")
        assert (line()["multi"], line()["watch"], line()["flags"]) == ("0", "2", "x")
        wire("SET k value")
        assert line()["multi"] == "1"
        assert int(line()["multi-mem"]) > 10
        other("SET a 1")
        assert line()["flags"] == "xd"
        wire("EXEC")
        assert (line()["multi"], line()["watch"], line()["flags"]) == ("-1", "0", "N")


def test_commands_count_when_they_are_run(node: int) -> None:
    def calls(wire: Wire, name: str) -> int:
        for text in bytes(wire("INFO commandstats")).decode().splitlines():  # type: ignore[call-overload]
            if text.startswith(f"cmdstat_{name}:"):
                return int(text.partition("calls=")[2].partition(",")[0])
        return 0

    with Wire(node) as wire, Wire(node) as other:
        before = calls(other, "strlen"), calls(other, "echo")
        wire("MULTI")
        wire("STRLEN k")
        wire("ECHO x")
        wire("DISCARD")
        assert (calls(other, "strlen"), calls(other, "echo")) == before
        wire("MULTI")
        wire("STRLEN k")
        wire("ECHO x")
        wire("EXEC")
        assert (calls(other, "strlen"), calls(other, "echo")) == (before[0] + 1, before[1] + 1)


def test_what_is_queued_is_bounded(node: int) -> None:
    with Wire(node) as wire:
        wire("MULTI")
        with contextlib.suppress(ConnectionError):  # it may close before all is sent
            wire.send(*[[b"SET", b"k", bytes(1 << 20)]] * 4)
        assert wire.rest().count(b"QUEUED") < 4  # until the server closes the connection


def test_a_transaction_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr("respkv.server.queue.COMMANDS_MAX", 2)
    connection: Any = SimpleNamespace(
        input_bytes=0, server=SimpleNamespace(limits=SimpleNamespace(query_buffer_bytes=1 << 30))
    )
    ping = COMMANDS[b"PING"]
    for _ in range(2):
        queue.add(connection, ping, [b"PING"])
    with pytest.raises(RespError, match="2 commands"):
        queue.add(connection, ping, [b"PING"])
    queue.spoil()
    queue.add(connection, ping, [b"PING"])
    assert (queue.broken, queue.commands, queue.bytes) == (True, [], 0)


def test_what_one_client_watches_is_bounded(node: int) -> None:
    with Wire(node) as wire:
        keys = [b"%d" % number for number in range(WATCHED_MAX)]
        assert wire([b"WATCH", *keys]) == b"OK"
        assert "watch" in str(wire("WATCH another"))
        assert wire("WATCH 1 2 3") == b"OK"


def test_a_key_that_is_too_long_spoils_it(node: int) -> None:
    with Wire(node) as wire:
        wire("MULTI")
        assert "key" in str(wire([b"GET", bytes(65_537)]))
        assert str(wire("EXEC")).startswith("EXECABORT")
        assert "key" in str(wire([b"WATCH", bytes(65_537)]))
