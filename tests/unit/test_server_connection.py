"""The commands with which clients present themselves, against a running node."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import hiredis
import pytest

from respkv.cluster.slots import slot_of
from respkv.cluster.topology import Node, Topology
from respkv.resp.limits import Limits
from respkv.server.connection import Connection
from respkv.server.server import DIRECT_BYTES, PAUSED, Server
from tests.unit.running import HOST, Wire, eventually, respkv


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


@pytest.fixture
def password(port: int) -> Iterator[bytes]:
    """The node asks for a password while a test has this. Bytes that are no text, to be sure."""
    with Wire(port) as admin:
        assert admin([b"CONFIG", b"SET", b"requirepass", b"s\xffcret"]) == b"OK"
        yield b"s\xffcret"
        assert admin([b"CONFIG", b"SET", b"requirepass", b""]) == b"OK"


def clients(wire: Wire, command: str = "CLIENT LIST") -> list[dict[str, str]]:
    text = bytes(wire(command)).decode()  # type: ignore[call-overload]
    return [dict(field.split("=", 1) for field in line.split(" ")) for line in text.splitlines()]


def pack(*words: str | bytes) -> bytes:
    return bytes(hiredis.pack_command(words))


def error(reply: object) -> str:
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)


# --- the order of replies ---


def test_replies_of_every_kind_and_size_come_in_the_order_of_the_commands(wire: Wire, port: int) -> None:
    """Lone commands in reads of their own, long values and bursts take different ways out."""
    long = b"v" * (3 << 20)
    with Wire(port) as other:
        other([b"SET", b"{order}long", long])
        other([b"SET", b"{order}short", b"s"])
    expected = b""
    for turn in range(20):
        for command, reply in (
            ([b"GET", b"{order}short"], b"$1\r\ns\r\n"),
            ([b"SET", b"{order}key", b"%d" % turn], b"+OK\r\n"),
            ([b"GET", b"{order}key"], b"$%d\r\n%d\r\n" % (len(str(turn)), turn)),
            *([([b"GET", b"{order}long"], b"$%d\r\n%b\r\n" % (len(long), long))] if turn % 7 == 3 else []),
            ([b"GET", b"{order}none"], b"$-1\r\n"),
        ):
            wire.send(command)
            expected += reply
    wire.send("QUIT")
    assert wire.rest() == expected + b"+OK\r\n"


# --- PING to RESET ---


def test_nothing_is_run_behind_a_command_that_ends_the_connection(wire: Wire, port: int) -> None:
    wire.send("POST / HTTP/1.1", "SET evil 1")
    assert wire.rest() == b""
    with Wire(port) as other:
        assert other("INCR {evil}behind") == 1
        assert other("GET evil") is None


def test_sets_of_many_clients_that_come_at_once_are_answered_each_in_its_place(tmp_path: Path) -> None:
    """Each comes alone; some clients send more before they have heard, and some do not wait."""
    with respkv(tmp_path, "--enable-debug-command", "yes") as port, Wire(port) as admin, ExitStack() as stack:
        wires = [stack.enter_context(Wire(port)) for _ in range(40)]
        for wire in wires:
            assert wire("PING") == b"PONG"
        admin.send("DEBUG SLEEP 0.3")  # all that comes meanwhile is run in one turn
        time.sleep(0.1)
        for n, wire in enumerate(wires):
            wire.send(f"SET k{n % 30} v{n}")
            if n % 10 == 9:
                wire.socket.close()
        assert admin.reply() == b"OK"
        for n, wire in enumerate(wires):
            if n % 10 != 9:
                if n % 3 == 0:
                    wire.send(f"GET k{n % 30}", f"SET k{n % 30} again")
                assert wire.reply() == b"OK"
                if n % 3 == 0:
                    assert wire.reply() in {b"v%d" % n, b"v%d" % (n % 30 + 30), b"again"}
                    assert wire.reply() == b"OK"
        assert sets_counted(admin) == sum(1 + (n % 3 == 0 and n % 10 != 9) for n in range(40))


def sets_counted(wire: Wire) -> int:
    """How many SETs the server has counted."""
    found = re.search(rb"cmdstat_set:calls=(\d+)", bytes(wire("INFO commandstats")))  # type: ignore[call-overload]
    assert found is not None
    return int(found[1])


def test_hello_switches_the_protocol_of_its_own_reply(wire: Wire) -> None:
    assert wire.raw("HELLO 3").startswith(b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n")
    assert wire.raw("CLIENT GETNAME") == b"_\r\n"
    assert wire.raw("HELLO 2").startswith(b"*14\r\n")
    assert wire.raw("CLIENT GETNAME") == b"$-1\r\n"


def test_hello_tells_the_view(port: int) -> None:
    for door, mode in ((port, b"standalone"), (port + 1000, b"cluster")):
        with Wire(door) as wire:
            assert b"$4\r\nmode\r\n$%d\r\n%b\r\n" % (len(mode), mode) in wire.raw("HELLO")


def test_a_refused_hello_changes_nothing_but_what_came_before_the_fault(wire: Wire) -> None:
    assert error(wire([b"HELLO", b"3", b"SETNAME", b"me", b"NONSENSE"])).startswith("ERR Syntax error in HELLO")
    assert wire.raw("CLIENT GETNAME") == b"$2\r\nme\r\n"


def test_reset_undoes_everything(port: int) -> None:
    with Wire(port + 1000) as wire:
        wire.raw("HELLO 3 SETNAME me")
        wire("READONLY")
        assert clients(wire, "CLIENT INFO")[0]["flags"] == "r"
        assert wire.raw("RESET") == b"+RESET\r\n"
        now = clients(wire, "CLIENT INFO")[0]
        assert (now["flags"], now["name"], now["resp"]) == ("N", "", "2")


def test_what_comes_after_quit_is_not_run(wire: Wire, port: int) -> None:
    wire.send("PING", "QUIT", "SET after-quit 1", "PING")
    assert wire.rest() == b"+PONG\r\n+OK\r\n"
    with Wire(port) as other:
        assert other("EXISTS after-quit") == 0


def test_select_knows_database_0_alone(port: int) -> None:
    with Wire(port) as wire, Wire(port + 1000) as cluster:
        assert wire("SELECT 0") == cluster("SELECT 0") == b"OK"
        assert error(wire("SELECT 1")) == "ERR DB index is out of range"
        assert error(cluster("SELECT 1")) == "ERR SELECT is not allowed in cluster mode"


def test_readonly_and_asking_are_for_the_cluster_view(port: int) -> None:
    with Wire(port) as wire, Wire(port + 1000) as cluster:
        for command in ("READONLY", "READWRITE", "ASKING"):
            assert error(wire(command)) == "ERR This instance has cluster support disabled"
            assert cluster(command) == b"OK"


# --- the password ---


def test_without_the_password_only_logging_in_is_possible(port: int, password: bytes) -> None:
    with Wire(port) as wire:
        for command in ("PING", "GET a", "SET a 1", "CLIENT ID", "INFO", "NONSENSE"):
            assert error(wire(command)).startswith(("NOAUTH ", "ERR unknown command")), command
        assert error(wire("HELLO 3")).startswith("NOAUTH HELLO must be called")
        assert error(wire("AUTH wrong")).startswith("WRONGPASS")
        assert error(wire([b"AUTH", b"somebody", password])).startswith("WRONGPASS")
        assert wire("RESET") == b"RESET"
        assert wire([b"AUTH", password]) == b"OK"
        assert wire("PING") == b"PONG"


def test_hello_logs_in(port: int, password: bytes) -> None:
    with Wire(port) as wire:
        assert error(wire("HELLO 3 AUTH default wrong")).startswith("WRONGPASS")
        assert b"proto" in wire.raw([b"HELLO", b"3", b"AUTH", b"default", password])
        assert wire("PING") == b"PONG"


def test_reset_logs_out(port: int, password: bytes) -> None:
    with Wire(port) as wire:
        wire([b"AUTH", b"default", password])
        assert wire("RESET") == b"RESET"
        assert error(wire("GET a")).startswith("NOAUTH")


def test_a_new_password_leaves_those_who_are_in(port: int) -> None:
    with Wire(port) as old:
        old("CONFIG SET requirepass p")
        with Wire(port) as new:
            assert old("PING") == b"PONG"
            assert error(new("PING")).startswith("NOAUTH")
            old([b"CONFIG", b"SET", b"requirepass", b""])
            assert new("PING") == b"PONG"  # nobody needs to log in any more
            assert new("GET nothing") is None


# --- CLIENT ---


def test_client_list_tells_each_client_as_it_is(wire: Wire, port: int) -> None:
    with Wire(port) as other:
        other("CLIENT SETNAME other")
        other("CLIENT SETINFO lib-name tests")
        other("CLIENT SETINFO LIB-VER 1.2")
        other("GET a")
        number = other("CLIENT ID")
        found = clients(wire, f"CLIENT LIST ID {number}")
        assert len(found) == 1
        line = found[0]
        assert line["addr"] == "{}:{}".format(*other.socket.getsockname())
        assert line["laddr"] == f"127.0.0.1:{port}"
        assert (line["name"], line["lib-name"], line["lib-ver"]) == ("other", "tests", "1.2")
        assert (line["cmd"], line["user"], line["resp"], line["flags"]) == ("client|id", "default", "2", "N")
        assert number in [int(each["id"]) for each in clients(wire)]
        assert (line["qbuf"], clients(wire, "CLIENT INFO")[0]["qbuf"]) == ("0", "26")  # what it was asked with
        assert clients(wire, "CLIENT INFO")[0]["cmd"] == "client|info"
        assert clients(wire, "CLIENT LIST TYPE pubsub") == []


FILLED = ("qbuf", "argv-mem", "multi-mem", "obl", "oll", "omem")


@contextmanager
def listed(wire: Wire, port: int, *commands: bytes) -> Iterator[Callable[[], dict[str, int]]]:
    """What is told of the buffers of another client, which sends `commands` and reads no reply."""
    with Wire(port) as other:
        number = other("CLIENT ID")
        other.socket.sendall(b"".join(commands))

        def line() -> dict[str, int]:
            [found] = clients(wire, f"CLIENT LIST ID {number}")
            held = {name: int(found[name]) for name in (*FILLED, "tot-mem")}
            assert held["tot-mem"] >= sum(held[name] for name in FILLED if name != "oll")
            return held

        yield line


def test_client_list_shows_what_was_sent_of_a_command(wire: Wire, port: int) -> None:
    half = pack("SET", "key", b"v" * 200_000)[:-100_000]
    with listed(wire, port, half) as line:
        eventually(lambda: line()["qbuf"] >= 100_000)
        assert (line()["argv-mem"], line()["multi-mem"], line()["omem"]) == (len("SETkey"), 0, 0)


def test_client_list_shows_replies_that_are_not_taken(wire: Wire, port: int) -> None:
    wire([b"SET", b"k", b"v" * 4_000_000])
    with listed(wire, port, pack("GET", "k") * 20) as line:
        eventually(lambda: line()["omem"] > 1_000_000)
        eventually(lambda: line()["qbuf"] >= 10 * len("GETk"))  # those that were put off
        assert (line()["oll"], line()["argv-mem"]) == (1, 0)


def test_client_list_shows_what_is_queued(wire: Wire, port: int) -> None:
    with listed(wire, port, pack("MULTI"), pack("SET", "k", b"v" * 100_000)) as line:
        eventually(lambda: line()["multi-mem"] > 100_000)


def test_client_list_shows_commands_that_wait_and_the_replies_behind_them(wire: Wire, port: int) -> None:
    sent = pack("WAIT", "5", "0") + pack("ECHO", "x" * 1000)
    with listed(wire, port, sent) as line:
        eventually(lambda: line()["argv-mem"] == len(sent))
        assert (line()["oll"], line()["omem"]) == (1, len("$1000\r\n") + 1000 + len("\r\n"))


def test_a_client_sees_of_itself_what_it_is_asked_with_and_what_it_was_answered_before(wire: Wire) -> None:
    wire.send("PING", "CLIENT INFO")
    assert wire.reply() == b"PONG"
    found = dict(pair.split("=", 1) for pair in bytes(wire.reply()).decode().split(" "))  # type: ignore[call-overload]
    assert (found["qbuf"], found["argv-mem"]) == (str(len(pack("PING") + pack("CLIENT", "INFO"))), "10")
    assert (found["obl"], found["rbs"], found["omem"]) == (str(len("+PONG\r\n")), found["obl"], "0")


def test_a_client_that_is_gone_is_listed_no_more(wire: Wire, port: int) -> None:
    with Wire(port) as other:
        number = other("CLIENT ID")
        assert clients(wire, f"CLIENT LIST ID {number}")
    eventually(lambda: not clients(wire, f"CLIENT LIST ID {number}"))


def test_names_that_would_break_the_list_are_refused(wire: Wire) -> None:
    for name in (b"a b", b"a\nb", b"\x80", b"\x7f"):
        assert error(wire([b"CLIENT", b"SETNAME", name])).startswith("ERR Client names cannot contain")
        assert error(wire([b"CLIENT", b"SETINFO", b"lib-name", name])).startswith("ERR lib-name cannot contain")
    assert error(wire("CLIENT SETINFO nonsense x")) == "ERR Unrecognized option 'nonsense'"


def test_client_kill_by_address_and_by_filters(wire: Wire, port: int) -> None:
    with Wire(port) as first, Wire(port) as second, Wire(port) as third:
        assert first("PING") == third("PING") == b"PONG"  # the node has accepted them
        assert wire("CLIENT KILL {}:{}".format(*first.socket.getsockname())) == b"OK"
        assert first.rest() == b""
        last_counts = f"ID 999999 ID {second('CLIENT ID')}"
        assert wire(f"CLIENT KILL {last_counts} TYPE normal USER default") == 1
        assert second.rest() == b""
        assert wire("CLIENT KILL ADDR {}:{}".format(*third.socket.getsockname())) == 1
        assert third.rest() == b""
        assert wire("CLIENT KILL TYPE pubsub") == 0
        assert wire("PING") == b"PONG"


def test_who_kills_itself_gets_the_reply_first(wire: Wire) -> None:
    number = wire("CLIENT ID")
    assert wire(f"CLIENT KILL ID {number}") == 0  # SKIPME yes
    assert wire(f"CLIENT KILL ID {number} SKIPME no") == 1
    assert wire.rest() == b""


def test_shutdown_stops_the_node_without_a_reply(tmp_path: Path) -> None:
    with respkv(tmp_path) as port, Wire(port) as wire:
        assert wire("SET a 1") == b"OK"
        assert error(wire("SHUTDOWN NONSENSE")) == "ERR syntax error"
        assert error(wire("SHUTDOWN ABORT")) == "ERR No shutdown in progress."
        wire.send("SHUTDOWN NOSAVE")
        assert wire.rest() == b""
        eventually(lambda: not (tmp_path / "data" / "respkv.pid").exists())


# --- bytes on their way out ---


class Held:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.kept = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.kept += data

    def get_write_buffer_size(self) -> int:
        return len(self.kept)

    def is_closing(self) -> bool:
        return self.closing


@pytest.fixture
def outlet() -> Iterator[tuple[Callable[[bytes], None], Held, socket.socket]]:
    """How a connection sends, its transport, and the client's end of its socket."""
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        transport = Held()
        server = cast("Any", SimpleNamespace(output_bytes_max=0, posted=[], stats=SimpleNamespace(writes=0)))
        connection = cast("Any", SimpleNamespace(transport=transport, direct_fd=here.fileno(), server=server))
        connection.send = lambda data: Connection.send(connection, data)

        def send(data: bytes) -> None:
            server.posted.append((connection, data))
            Server.send_posted(server)

        yield send, transport, there


def arrived(end: socket.socket) -> bytes:
    found = b""
    with suppress(BlockingIOError):
        while part := end.recv(1 << 20):
            found += part
    return found


Outlet = tuple[Callable[[bytes], None], Held, socket.socket]


def test_what_the_socket_does_not_take_the_transport_keeps_and_nothing_overtakes_it(outlet: Outlet) -> None:
    send, transport, client = outlet
    sent = b""
    while not transport.kept:
        part = b"%d " % len(sent) * 3000
        send(part)
        sent += part
    taken = arrived(client)
    assert taken + transport.kept == sent
    send(b"behind")  # the socket has room again
    assert arrived(client) == b""
    assert taken + transport.kept == sent + b"behind"


def test_what_is_long_goes_to_the_transport(outlet: Outlet) -> None:
    send, transport, client = outlet
    send(bytes(DIRECT_BYTES))
    assert (len(arrived(client)), transport.kept) == (DIRECT_BYTES, b"")
    send(bytes(DIRECT_BYTES + 1))
    assert (arrived(client), len(transport.kept)) == (b"", DIRECT_BYTES + 1)


def test_nothing_is_written_to_the_descriptor_of_a_transport_that_closes(outlet: Outlet) -> None:
    """It may be another client's by then."""
    send, transport, client = outlet
    transport.closing = True
    send(b"x")
    assert (arrived(client), transport.kept) == (b"", b"x")


def test_a_broken_connection_is_left_to_the_transport(outlet: Outlet) -> None:
    send, transport, client = outlet
    client.close()
    send(b"x")
    assert transport.kept == b"x"


@pytest.mark.parametrize("second", ["CLIENT REPLY SKIP\r\nPING\r\n", "HELLO 3\r\nPING\r\nHELLO 2\r\n", "RESET\r\n"])
@pytest.mark.parametrize("end", ["*x\r\n", ""])
def test_what_came_before_a_bad_frame_or_the_end_is_run_whatever_it_had_to_wait_for(
    port: int, second: str, end: str
) -> None:
    """A command that changes what comes behind it has a burst of its own, which may be put off."""
    for _ in range(3):
        with Wire(port) as admin, Wire(port) as other:
            admin("DEL b c d")
            other.socket.sendall(pack("SET", "a", "x" * 900_000))
            time.sleep(0.002)
            other.socket.sendall(f"SET b 1\r\n{second}SET c 1\r\nSET d 1\r\n{end}".encode())
            other.socket.shutdown(socket.SHUT_WR)
            replies = other.rest()
            assert replies.startswith(b"+OK\r\n+OK\r\n")
            bad = b"-ERR Protocol error: invalid multibulk length\r\n" if end else b""
            assert replies.endswith(b"+OK\r\n+OK\r\n" + bad)
            assert admin("EXISTS b c d") == 3


# --- several shards ---


def two_on_one_shard() -> tuple[str, str]:
    """Two keys in different slots that are on the same of three shards."""
    shard_of = Topology.build([Node("n1", HOST, 1, 2, 3)], 3, 1).slots
    slots = {f"k{number}": slot_of(b"k%d" % number) for number in range(9)}
    pairs = combinations(slots, 2)
    return next((a, b) for a, b in pairs if slots[a] != slots[b] and shard_of[slots[a]] == shard_of[slots[b]])


def test_keys_in_two_slots_of_one_shard_are_taken_only_by_a_command_that_spreads(port: int) -> None:
    """It must not depend on where the ring has put the slots whether a command is refused."""
    a, b = two_on_one_shard()
    with Wire(port) as wire:
        assert wire(f"MSET {a} 1 {b} 2") == b"OK"
        for line in (f"RENAME {a} {b}", f"COPY {a} {b} REPLACE", f"MSETNX {a} 3 {b} 3", f"BITOP NOT {a} {b}"):
            assert str(wire(line)).startswith("CROSSSLOT"), line
        assert wire(f"MGET {a} {b}") == [b"1", b"2"]
        assert wire(f"RENAME {a} {{{a}}}") == b"OK"
        assert wire(f"DEL {{{a}}} {b}") == 2


def test_what_concerns_all_clients_concerns_one_that_has_just_come() -> None:
    """Between its being made and its being admitted a turn may pass, and in it a pause may begin."""
    server: Any = MagicMock()
    server.hindrances, server.limits, server.access.open = 0, Limits(), True
    server.access.newcomer.return_value.everything = True
    server.admit.return_value = None
    server.config.config.tcp_keepalive_s = 0
    connection = Connection(server, cluster_view=False)
    assert connection.fast
    server.hindrances = PAUSED
    transport = MagicMock()
    transport.get_extra_info.side_effect = {"sockname": "/socket"}.get
    connection.connection_made(transport)
    assert connection.hindrances == PAUSED
    assert not connection.fast
