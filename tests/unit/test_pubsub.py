"""Pub/Sub and the commands that act on connections, on the wire: as Redis has them, on one node and over several."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from tests.unit.running import Wire, eventually, redis, respkv, respkv_cluster


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    with respkv_cluster(tmp_path_factory.mktemp("nodes"), 3, shards=3, replicas=3) as ports:
        yield ports


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


def error(reply: object) -> str:
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)


def messages(wire: Wire, count: int) -> list[Any]:
    return [wire.reply() for _ in range(count)]


def clients(wire: Wire, command: str = "CLIENT LIST") -> list[dict[str, str]]:
    text = bytes(wire(command)).decode()  # type: ignore[call-overload]
    return [dict(field.split("=", 1) for field in line.split(" ")) for line in text.splitlines()]


# --- as Redis has it

# Each line is sent on the connection it begins with, and answered before the next is sent.
SESSIONS = {
    "subscribing": """
        1 SUBSCRIBE a b a
        1 PSUBSCRIBE n* m?
        1 SSUBSCRIBE s
        2 PUBLISH a one
        2 PUBLISH news two
        2 PUBLISH ma three
        2 SPUBLISH s four
        2 PUBLISH nobody five
        1 PING
        1 PING x
        2 PUBSUB CHANNELS a
        2 PUBSUB CHANNELS n*
        2 PUBSUB NUMSUB a b c
        2 PUBSUB NUMPAT
        2 PUBSUB SHARDCHANNELS
        2 PUBSUB SHARDNUMSUB s t
        1 UNSUBSCRIBE b nothing
        2 PUBSUB CHANNELS
        1 UNSUBSCRIBE
        1 UNSUBSCRIBE
        1 PUNSUBSCRIBE m?
        1 PUNSUBSCRIBE
        1 SUNSUBSCRIBE s
        1 SUNSUBSCRIBE
        1 PING
        """,
    "what is allowed meanwhile": """
        1 SUBSCRIBE a
        1 GET k
        1 SET k v
        1 CLIENT GETNAME
        1 CONFIG GET timeout
        1 ECHO
        1 NONSENSE
        1 UNSUBSCRIBE a
        1 GET k
        1 SSUBSCRIBE s
        1 GET k
        1 RESET
        1 GET k
        2 PUBLISH a x
        """,
    "errors": """
        1 SUBSCRIBE
        1 PUBLISH a
        1 PUBSUB
        1 PUBSUB NONSENSE
        1 PUBSUB CHANNELS a b
        1 PUBSUB NUMPAT x
        1 PUBSUB HELP
        1 CLIENT PAUSE
        1 CLIENT PAUSE abc
        1 CLIENT PAUSE -1
        1 CLIENT PAUSE 10 NONSENSE
        1 CLIENT REPLY NONSENSE
        1 CLIENT UNBLOCK x
        1 CLIENT UNBLOCK 12345
        1 CLIENT UNBLOCK 1 NONSENSE
        1 CLIENT TRACKING
        1 CLIENT TRACKING NONSENSE
        1 CLIENT TRACKING ON REDIRECT
        1 CLIENT TRACKING ON REDIRECT 12345
        1 CLIENT TRACKING ON REDIRECT x
        1 CLIENT TRACKING ON PREFIX a
        1 CLIENT TRACKING ON BCAST PREFIX a PREFIX ab
        1 CLIENT TRACKING ON BCAST OPTIN
        1 CLIENT TRACKING ON OPTIN OPTOUT
        1 CLIENT CACHING YES
        1 CLIENT TRACKING ON OPTIN
        1 CLIENT TRACKING ON OPTOUT
        1 CLIENT TRACKING ON BCAST
        1 CLIENT CACHING NO
        1 CLIENT CACHING NONSENSE
        1 CLIENT CACHING YES
        1 CLIENT TRACKINGINFO
        1 CLIENT GETREDIR
        1 CLIENT TRACKING OFF
        1 CLIENT TRACKING ON BCAST PREFIX a PREFIX b NOLOOP
        1 CLIENT TRACKING ON BCAST PREFIX ax
        1 CLIENT TRACKING ON BCAST PREFIX c
        1 CLIENT TRACKINGINFO
        1 CLIENT TRACKING OFF
        1 CLIENT TRACKINGINFO
        1 CLIENT GETREDIR
        1 MONITOR x
        """,
    "replies off": """
        1 CLIENT REPLY OFF
        1 SET k v
        1 NONSENSE
        1 SUBSCRIBE a
        2 PUBLISH a x
        1 UNSUBSCRIBE a
        1 CLIENT REPLY ON
        1 CLIENT REPLY SKIP
        1 GET k
        1 GET k
        1 CLIENT REPLY SKIP
        1 CLIENT REPLY SKIP
        1 GET k
        1 GET k
        1 CLIENT REPLY OFF
        1 CLIENT REPLY SKIP
        1 GET k
        1 RESET
        1 GET k
        """,
    "caching": """
        1 CLIENT TRACKING ON
        1 GET k
        2 SET k 1
        1 MGET k l
        2 DEL k
        1 PING
        1 INCR k
        1 GET k
        1 INCR k
        1 PING
        1 CLIENT TRACKING OFF
        1 CLIENT TRACKING ON BCAST PREFIX k
        2 SET other 1
        2 SET key 1
        2 FLUSHALL
        1 PING
        """,
    "transactions": """
        1 CLIENT TRACKING ON
        1 MULTI
        1 GET k
        1 INCR k
        1 EXEC
        2 SET k 1
        1 MULTI
        1 GET k
        2 SET k 2
        1 EXEC
        2 SET k 3
        1 PING
        1 CLIENT TRACKING OFF
        1 CLIENT TRACKING ON NOLOOP
        1 GET k
        1 MULTI
        1 INCR k
        1 EXEC
        1 CLIENT TRACKING OFF
        1 CLIENT TRACKING ON OPTIN
        1 CLIENT CACHING YES
        1 MULTI
        1 GET k
        1 EXEC
        1 GET other
        2 MSET k{t} 1 other{t} 1
        2 SET k 4
        2 SET other 4
        1 MULTI
        1 GET other{k}
        1 CLIENT CACHING YES
        1 GET k
        1 EXEC
        2 SET other{k} 5
        2 SET k 5
        1 CLIENT TRACKING OFF
        1 MULTI
        1 SUBSCRIBE a
        1 PUBLISH b x
        1 EXEC
        2 PUBLISH a x
        1 UNSUBSCRIBE
        """,
    "replies off for a subscriber": """
        1 CLIENT REPLY SKIP
        1 RESET
        1 PING
        1 CLIENT REPLY OFF
        1 SUBSCRIBE a
        1 CLIENT REPLY ON
        1 PING
        2 PUBLISH a x
        1 UNSUBSCRIBE a
        1 PING
        1 CLIENT REPLY ON
        1 PING
        """,
    "caching by request": """
        1 CLIENT TRACKING ON OPTIN
        1 MULTI
        1 CLIENT CACHING YES
        1 GET k
        1 CLIENT CACHING NO
        1 GET other{k}
        1 EXEC
        2 SET k 1
        2 SET other{k} 1
        1 MULTI
        1 GET k
        1 INCR third{k}
        1 CLIENT CACHING YES
        1 EXEC
        1 CLIENT TRACKINGINFO
        1 GET other{k}
        2 SET k 2
        2 SET other{k} 2
        1 CLIENT CACHING YES
        1 NONSENSE
        1 GET k
        1 CLIENT CACHING YES
        1 CLIENT CACHING
        1 GET k
        2 SET k 3
        1 CLIENT CACHING YES
        1 GET
        1 GET k
        2 SET k 4
        1 CLIENT CACHING YES
        1 MULTI
        1 GET k
        1 EXEC extra
        1 GET k
        2 SET k 5
        """,
    "caching unless told not to": """
        1 CLIENT TRACKING ON OPTOUT
        1 MULTI
        1 INCR k
        1 CLIENT CACHING NO
        1 EXEC
        1 GET other{k}
        2 SET other{k} 1
        1 CLIENT CACHING NO
        1 NONSENSE
        1 GET k
        2 SET k 1
        1 CLIENT CACHING NO
        1 MULTI
        1 CLIENT CACHING YES
        1 GET k
        1 EXEC
        1 GET other{k}
        2 SET k 2
        2 SET other{k} 2
        """,
    "publishing to oneself": """
        1 SUBSCRIBE a b
        1 PUBLISH a one
        1 PSUBSCRIBE *
        1 SSUBSCRIBE a
        1 PUBLISH a two
        1 SPUBLISH a three
        2 PUBLISH a four
        1 CLIENT REPLY SKIP
        1 PUBLISH a five
        1 CLIENT REPLY OFF
        1 PUBLISH b six
        1 RESET
        1 PUBLISH a seven
        """,
    "monitoring": """
        1 MONITOR
        1 MONITOR
        1 MONITOR x
        """,
    "misses": """
        2 CONFIG SET notify-keyspace-events KEm
        1 PSUBSCRIBE *
        2 GET none
        2 BITFIELD none
        2 BITFIELD none GET u8 0
        2 BITFIELD none SET u8 0 1
        2 BITFIELD absent GET u8
        """,
}


Transcript = list[tuple[str, bytes]]


def transcript(port: int, session: str, protocol: int, expected: Transcript | None = None) -> Transcript:
    """What each connection got after each line, as bytes; it is waited for, if it is known what should come."""
    with Wire(port) as first, Wire(port) as second:
        wires = {"1": first, "2": second}
        for wire in wires.values():
            wire("FLUSHALL")
            wire([b"CONFIG", b"SET", b"notify-keyspace-events", b""])
            wire.raw(f"HELLO {protocol}")
        found: Transcript = []
        for line in session.strip().splitlines():
            name, _, command = line.strip().partition(" ")
            wires[name].send(command)
            for each in sorted(wires):
                wanted = len(expected[len(found)][1]) if expected else 0
                patience_s = 0.3 if each == name and not expected else 0.04
                found.append((f"{line.strip()} -> {each}", _rest(wires[each], wanted, patience_s)))
    return found


def _rest(wire: Wire, wanted: int, patience_s: float) -> bytes:
    """What comes: `wanted` bytes, or the first within `patience_s`, and then until nothing more does."""
    found = b""
    try:
        while True:
            wire.socket.settimeout(10 if len(found) < wanted else 0.04 if found else patience_s)
            data = wire.socket.recv(65536)
            if not data:
                break
            found += data
    except TimeoutError:
        pass
    wire.socket.settimeout(20)
    return found


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_is_answered_byte_for_byte_as_by_redis(port: int, original: int, name: str, protocol: int) -> None:
    expected = transcript(original, SESSIONS[name], protocol)
    assert transcript(port, SESSIONS[name], protocol, expected) == expected


# --- order, and the ends of things


def test_who_begins_to_cache_in_a_transaction_trusts_nothing_read_there(wire: Wire, port: int) -> None:
    wire.raw("HELLO 3")
    wire.send("MULTI", "CLIENT TRACKING ON", "GET k", "EXEC")
    assert b"invalidate\r\n_\r\n" in wire.raw("PING")
    wire("GET k")
    with Wire(port) as other:
        other("SET k 1")
    assert wire.reply() == [b"invalidate", [b"k"]]


def test_pipelined_commands_and_messages_keep_their_order(wire: Wire, port: int) -> None:
    """A message that a client sends to itself comes behind the confirmation and before the end of the subscription."""
    wire.raw("HELLO 3")
    wire.send("SUBSCRIBE a", "PUBLISH a x", "UNSUBSCRIBE a", "SET k v", "GET k")
    found = wire.raw("PING")
    parts = (b"\r\nsubscribe\r\n", b"\r\nmessage\r\n", b"\r\nunsubscribe\r\n", b"+OK", b"\r\nv")
    order = [found.index(part) for part in parts]
    assert order == sorted(order)


def test_a_message_waits_for_the_replies_before_it(port: int) -> None:
    """A client that caches must hear a value before it hears that it has changed."""
    with Wire(port) as reader, Wire(port) as writer:
        reader.raw("HELLO 3")
        assert reader("CLIENT TRACKING ON") == b"OK"
        for number in range(200):
            reader.send("GET k", f"INCRBY k {number}", "GET k")
            writer("SET k 0")
        seen = reader.raw("PING")
        values = re.findall(rb"(?<=\$)\d+\r\n(?!invalidate)(\d+)\r\n", seen)
        assert seen.count(b"invalidate") >= 100
        assert len(values) >= 200
        last_invalidation = seen.rindex(b"invalidate")
        last_reply = seen.rindex(b"\r\n:")
        assert last_invalidation > last_reply


def test_who_leaves_is_counted_no_more(port: int, wire: Wire) -> None:
    with Wire(port) as other:
        other("SUBSCRIBE a")
        assert wire("PUBLISH a x") == 1
    eventually(lambda: wire("PUBLISH a x") == 0)
    assert wire("PUBSUB CHANNELS") == []
    assert wire("INFO stats")
    assert b"pubsub_channels:0\r\n" in bytes(wire("INFO stats"))  # type: ignore[call-overload]


def test_channels_and_messages_are_any_bytes(port: int, wire: Wire) -> None:
    with Wire(port) as other:
        channel, message = bytes(range(256)), b"\r\n\0" * 10
        other([b"SUBSCRIBE", channel])
        wire([b"PUBLISH", channel, message])
        assert other.reply() == [b"message", channel, message]


# --- all nodes


def test_subscribers_of_any_node_hear_publishers_of_any_node(nodes: list[int]) -> None:
    doors = nodes + [port + 1000 for port in nodes]
    subscribers = [Wire(door) for door in doors]
    for number, wire in enumerate(subscribers):
        wire("SUBSCRIBE a" if number % 2 else "PSUBSCRIBE a*")
    for number, door in enumerate(doors):
        with Wire(door) as publisher:
            assert publisher(f"PUBLISH a {number}") == len(doors)
    for wire in subscribers:
        assert [message[-1] for message in messages(wire, len(doors))] == [b"%d" % n for n in range(len(doors))]
    with Wire(nodes[2]) as wire:
        assert wire("PUBSUB CHANNELS") == [b"a"]
        assert wire("PUBSUB NUMSUB a b") == [b"a", 3, b"b", 0]
        assert wire("PUBSUB NUMPAT") == 1
    with Wire(nodes[2] + 1000) as wire:  # a node of a Redis Cluster tells of its own clients
        assert wire("PUBSUB NUMSUB a") == [b"a", 1]
    for wire in subscribers:
        wire.socket.close()


def test_one_publishers_messages_come_in_their_order(nodes: list[int]) -> None:
    with Wire(nodes[0]) as publisher, Wire(nodes[1]) as subscriber, Wire(nodes[0]) as near:
        subscriber("SUBSCRIBE a")
        near("SUBSCRIBE a")
        publisher.send(*(f"PUBLISH a {number}" for number in range(2000)))
        assert {publisher.reply() for _ in range(2000)} == {2}
        for wire in (subscriber, near):
            assert [message[2] for message in messages(wire, 2000)] == [b"%d" % number for number in range(2000)]


def test_a_long_message_keeps_its_place(nodes: list[int]) -> None:
    with Wire(nodes[0]) as publisher, Wire(nodes[1]) as subscriber:
        subscriber("SUBSCRIBE a")
        long = b"x" * (20 << 20)
        publisher.send([b"PUBLISH", b"a", b"before"], [b"PUBLISH", b"a", long], [b"PUBLISH", b"a", b"behind"])
        assert [message[2] for message in messages(subscriber, 3)] == [b"before", long, b"behind"]


def test_shard_channels_belong_to_a_node_in_the_cluster_view_alone(nodes: list[int]) -> None:
    with Wire(nodes[0]) as any_node:
        slot = any_node("CLUSTER KEYSLOT s")
        assert any_node("SSUBSCRIBE s t") == [b"ssubscribe", b"s", 1]
    replies = {}
    for port in nodes:
        with Wire(port + 1000) as wire:
            replies[port] = wire("SSUBSCRIBE s")
    owners = [port for port, reply in replies.items() if reply == [b"ssubscribe", b"s", 1]]
    assert len(owners) == 1
    moved = {str(reply) for reply in replies.values() if isinstance(reply, hiredis.ReplyError)}
    assert moved == {f"MOVED {slot} 127.0.0.1:{owners[0] + 1000}"}
    with Wire(owners[0] + 1000) as wire:
        assert error(wire("SSUBSCRIBE s t u v w")).startswith("CROSSSLOT")


def test_a_node_that_is_gone_costs_its_subscribers_alone(tmp_path: Path) -> None:
    started = respkv_cluster(tmp_path, 3, shards=1, replicas=3)
    with started as ports, Wire(ports[0]) as publisher, Wire(ports[1]) as near:
        near("SUBSCRIBE a")
        with Wire(ports[2]) as far:
            far("SUBSCRIBE a")
            assert publisher("PUBLISH a x") == 2
            far.send("UNSUBSCRIBE", "SHUTDOWN")
            far.rest()
        eventually(lambda: publisher("PUBLISH a y") == 1)
        assert near.reply() == [b"message", b"a", b"x"]
        assert near.reply() == [b"message", b"a", b"y"]


def test_caching_on_any_node_hears_of_writes_on_any_other(nodes: list[int]) -> None:
    writers = [Wire(port) for port in nodes]
    for port in nodes:
        with Wire(port) as reader:
            reader.raw("HELLO 3")
            assert reader("CLIENT TRACKING ON") == b"OK"
            for number in range(12):  # keys of all shards, so led by all nodes
                writer = writers[number % 3]
                key = b"key-%d" % number
                reader([b"GET", key])
                writer([b"SET", key, b"%d" % port])
                assert reader.reply() == [b"invalidate", [key]]
            reader([b"GET", b"key-0"])
            writers[0]("FLUSHALL")
            assert reader.reply() == [b"invalidate", None]
            assert reader("PING") == b"PONG"
    for wire in writers:
        wire.socket.close()


def test_own_writes_are_known_in_the_log(nodes: list[int]) -> None:
    """NOLOOP, with writes of one and of several keys, of which most are led elsewhere."""
    with Wire(nodes[0]) as reader, Wire(nodes[1]) as writer:
        reader.raw("HELLO 3")
        assert reader("CLIENT TRACKING ON NOLOOP") == b"OK"
        keys = [b"key-%d" % number for number in range(6)]
        reader([b"MGET", *keys])
        for key in keys:
            assert reader([b"SET", key, b"mine"]) == b"OK"
        assert reader([b"DEL", *keys]) == len(keys)
        assert reader([b"SET", keys[0], b"mine", b"EX", b"100"]) == b"OK"
        assert reader("PING") == b"PONG"
        for key in keys:
            writer([b"SET", key, b"theirs"])
            assert reader.reply() == [b"invalidate", [key]]


# --- CLIENT


def test_the_list_tells_what_clients_do(port: int, wire: Wire) -> None:
    with Wire(port) as listener, Wire(port) as cacher, Wire(port) as watcher:
        number = listener("CLIENT ID")
        listener.raw("PING")
        for command in ("SUBSCRIBE a", "SUBSCRIBE b", "PSUBSCRIBE c", "SSUBSCRIBE d"):
            listener(command)
        cacher(f"CLIENT TRACKING ON BCAST REDIRECT {number}")
        cacher("CLIENT NO-TOUCH ON")
        watcher("MONITOR")
        found = {each["id"]: each for each in clients(wire)}
        line = found[str(number)]
        assert (line["sub"], line["psub"], line["ssub"], line["flags"]) == ("2", "1", "1", "P")
        line = found[str(cacher("CLIENT ID"))]
        assert (line["redir"], line["flags"]) == (str(number), "tBT")
        assert "O" in {each["flags"] for each in found.values()}
        assert [each["id"] for each in clients(wire, "CLIENT LIST TYPE pubsub")] == [str(number)]
        assert str(number) not in [each["id"] for each in clients(wire, "CLIENT LIST TYPE normal")]
        assert wire("CLIENT KILL TYPE pubsub") == 1
        all_stale = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$-1\r\n"  # where nobody has cached before
        assert listener.rest().replace(all_stale, b"") == b""


def test_replies_are_left_out_in_the_middle_of_a_pipeline(wire: Wire) -> None:
    wire.send("SET k 1", "CLIENT REPLY SKIP", "INCR k", "INCR k", "CLIENT REPLY OFF", "INCR k", "GET k", "NONSENSE",
              "CLIENT REPLY ON", "GET k")  # fmt: skip
    assert wire.raw("PING") == b"+OK\r\n:3\r\n+OK\r\n$1\r\n4\r\n+PONG\r\n"


def test_a_pause_of_writes_puts_off_writes_and_what_is_behind_them(port: int, wire: Wire) -> None:
    with Wire(port) as writer, Wire(port) as reader, Wire(port) as publisher:
        wire("SET k 0")
        assert wire("CLIENT PAUSE 100000 WRITE") == b"OK"
        writer.send("GET k", "SET k 1", "GET k")
        assert writer.reply() == b"0"
        publisher.send("PUBLISH a x")
        assert reader("GET k") == b"0"
        assert error(reader("SET k")).startswith("ERR wrong number")
        eventually(lambda: b"blocked_clients:2\r\n" in bytes(wire("INFO clients")))  # type: ignore[call-overload]
        assert sorted(each["flags"] for each in clients(wire)).count("b") == 2
        assert wire("CLIENT UNPAUSE") == b"OK"
        assert messages(writer, 2) == [b"OK", b"1"]
        assert publisher.reply() == 0


def test_a_pause_of_writes_puts_off_transactions_that_write(port: int, wire: Wire) -> None:
    with Wire(port) as writer, Wire(port) as reader:
        for other, command in ((writer, "SET k 1"), (reader, "GET k")):
            other.send("MULTI", command)
            assert messages(other, 2) == [b"OK", b"QUEUED"]
        wire("SET k 0")
        wire("CLIENT PAUSE 100000 WRITE")
        writer.send("EXEC")
        assert reader("EXEC") == [b"0"]
        eventually(lambda: b"blocked_clients:1\r\n" in bytes(wire("INFO clients")))  # type: ignore[call-overload]
        wire("CLIENT UNPAUSE")
        assert writer.reply() == [b"OK"]


def test_a_pause_of_everything_ends_by_itself(port: int, wire: Wire) -> None:
    with Wire(port) as other:
        assert wire("CLIENT PAUSE 150") == b"OK"
        other.send("PING", "SET k 1", "GET k")
        assert messages(other, 3) == [b"PONG", b"OK", b"1"]
        assert wire("PING") == b"PONG"


def test_nothing_expires_during_a_pause(port: int, wire: Wire) -> None:
    def expired() -> bytes:
        return re.search(rb"expired_keys:(\d+)", bytes(wire("INFO stats"))).group(1)  # type: ignore[union-attr,call-overload]

    before = expired()
    wire("SET k 1 PX 50")
    wire("CLIENT PAUSE 100000 WRITE")
    eventually(lambda: wire("GET k") is None)
    time.sleep(0.4)  # several rounds of removal
    assert expired() == before
    wire("CLIENT UNPAUSE")
    eventually(lambda: expired() != before)


def test_a_pause_is_for_all_nodes_unless_the_cluster_view_asks(nodes: list[int]) -> None:
    with Wire(nodes[0]) as admin, Wire(nodes[1]) as other, Wire(nodes[0] + 1000) as cluster:
        eventually(lambda: b"cluster_connections:2\r\n" in bytes(admin("INFO clients")))  # type: ignore[call-overload]
        assert admin("CLIENT PAUSE 100000 WRITE") == b"OK"
        other.send("SET k 1")
        with Wire(nodes[1]) as looker:
            eventually(lambda: b"blocked_clients:1\r\n" in bytes(looker("INFO clients")))  # type: ignore[call-overload]
        assert admin("CLIENT UNPAUSE") == b"OK"
        assert other.reply() == b"OK"
        assert cluster("CLIENT PAUSE 100000 WRITE") == b"OK"
        assert other("SET k 2") == b"OK"
        assert cluster("CLIENT UNPAUSE") == b"OK"


def test_a_client_that_waits_can_be_told_to_go_on(port: int, wire: Wire) -> None:
    with Wire(port) as waiter:
        number = waiter("CLIENT ID")
        for reason, reply in (("TIMEOUT", 0), ("ERROR", "UNBLOCKED client unblocked via CLIENT UNBLOCK")):
            waiter.send("WAIT 1 0")
            eventually(lambda: wire(f"CLIENT UNBLOCK {number} {reason}") == 1)  # noqa: B023
            got = waiter.reply()
            assert (str(got) if isinstance(got, hiredis.ReplyError) else got) == reply
        assert wire(f"CLIENT UNBLOCK {number}") == 0
        waiter.send("WAIT 1 0", "WAIT 1 0")
        for _ in range(2):
            eventually(lambda: wire(f"CLIENT UNBLOCK {number}") == 1)
        assert (waiter.reply(), waiter.reply()) == (0, 0)
        assert wire(f"CLIENT UNBLOCK {number}") == 0


def test_replies_before_a_wait_do_not_wait(port: int, wire: Wire) -> None:
    with Wire(port) as waiter:
        number = waiter("CLIENT ID")
        waiter.send("SET k v", "PING", "WAIT 1 0", "GET k", "wait 1 0", "PING")
        assert [waiter.reply(), waiter.reply()] == [b"OK", b"PONG"]
        eventually(lambda: wire(f"CLIENT UNBLOCK {number}") == 1)
        assert [waiter.reply(), waiter.reply()] == [0, b"v"]
        eventually(lambda: wire(f"CLIENT UNBLOCK {number}") == 1)
        assert [waiter.reply(), waiter.reply()] == [0, b"PONG"]


@pytest.mark.parametrize(
    "stream",
    [
        "CLIENT REPLY OFF/SUBSCRIBE c/UNSUBSCRIBE/CLIENT REPLY ON/QUIT",
        "CLIENT REPLY SKIP/SUBSCRIBE c/PING/PSUBSCRIBE d/UNSUBSCRIBE/PUNSUBSCRIBE/PING/QUIT",
        "CLIENT REPLY SKIP/SUBSCRIBE c/QUIT",
        "SET a 1/CLIENT REPLY SKIP/SUBSCRIBE c/PING/UNSUBSCRIBE/GET a/QUIT",
        "SET a 1/CLIENT REPLY OFF/SSUBSCRIBE c/GET a/SUNSUBSCRIBE c/SET a 2/CLIENT REPLY ON/GET a/QUIT",
        "CLIENT REPLY OFF/MULTI/CLIENT REPLY ON/DISCARD/PING/CLIENT REPLY ON/QUIT",
    ],
)
def test_confirmations_keep_their_place_in_a_pipeline_with_replies_off(port: int, original: int, stream: str) -> None:
    seen = []
    for each in (original, port):
        with Wire(each) as wire:
            wire.socket.sendall(stream.replace("/", "\r\n").encode() + b"\r\n")
            seen.append(wire.rest())
    assert seen[0] == seen[1]


# --- MONITOR


def test_a_monitor_sees_commands_of_every_path_and_no_passwords(port: int, wire: Wire) -> None:
    with Wire(port) as watcher:
        assert watcher("MONITOR") == b"OK"
        wire.send("SET k v", "GET k", "get k", "SET k v EX 10")
        messages(wire, 4)
        wire([b"ECHO", b'\x00"\\\n\xff a'])
        wire("AUTH me secret")
        wire("HELLO 2 AUTH me secret SETNAME x")
        wire("CONFIG GET timeout")
        wire("NONSENSE")
        wire.send("MULTI", "SET k v", "EXEC")
        messages(wire, 3)
        lines = messages(watcher, 10)
        shown = [line.partition(b"] ")[2] for line in lines]
        assert shown == [
            b'"SET" "k" "v"', b'"GET" "k"', b'"get" "k"', b'"SET" "k" "v" "EX" "10"',
            b'"ECHO" "\\x00\\"\\\\\\n\\xff a"', b'"AUTH" "(redacted)" "(redacted)"',
            b'"HELLO" "2" "AUTH" "(redacted)" "(redacted)" "SETNAME" "x"',
            b'"MULTI"', b'"SET" "k" "v"', b'"EXEC"',
        ]  # fmt: skip
        address = "{}:{}".format(*wire.socket.getsockname()).encode()
        assert all(re.match(rb"\d+\.\d{6} \[0 %b\] " % address, line) for line in lines)
        assert watcher("RESET") == b"RESET"
        wire("PING")
        assert watcher("PING") == b"PONG"
