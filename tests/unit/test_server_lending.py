"""Clients that are lent to the intake see no difference, whatever they do next and whoever dies."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from respkv.client import parse_info
from respkv.cluster.slots import SLOTS, slot_of
from respkv.config import Config
from respkv.intake import CONTROL, RECALL, Frame
from respkv.node import wants_intake
from respkv.reply import RespError
from respkv.resp.encoder import encode_commands
from respkv.server.burst import PutBurst
from respkv.server.connection import Connection
from respkv.server.lending import LEND_AFTER, Lending
from respkv.shard.batch import Puts, encode_puts_run
from respkv.shard.gathering import Gathering
from respkv.storage.record import encode_puts
from tests.unit.running import HOST, Wire, eventually, respkv, respkv_cluster

PIPELINE = 16


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node"), "--intake", "yes") as port:
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


def info(wire: Wire, name: str) -> str:
    return parse_info(bytes(wire("INFO")).decode())[name]  # type: ignore[call-overload]


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if state_of(child) != "Z"]


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone before the file was opened, or before it was read
        return ""


def inode_of(sock: socket.socket) -> str:
    """That of the server's end of a connection."""
    there, here = (f"0100007F:{address[1]:04X}" for address in (sock.getpeername(), sock.getsockname()))
    rows = map(str.split, Path("/proc/net/tcp").read_text().splitlines())
    return next(row[9] for row in rows if row[1:3] == [there, here])


def inodes_of(pid: int) -> set[str]:
    """Those of its sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            found.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found


class Lent:
    """A client that the intake reads by now."""

    def __init__(self, port: int, admin: Wire) -> None:
        self.wire = Wire(port)
        self.name = f"lent-{self.wire.socket.getsockname()[1]}"
        assert self.wire(f"CLIENT SETNAME {self.name}") == b"OK"
        self.node = int(info(admin, "process_id"))
        self._inode = inode_of(self.wire.socket)
        self.go()

    def go(self) -> None:
        """Pipelines until it is lent."""
        eventually(self._goes)

    def _goes(self) -> bool:
        for _ in range(50):
            self.pipeline("a")
        return self.is_lent

    @property
    def intake(self) -> int:
        [intake] = children(self.node)
        return intake

    @property
    def is_lent(self) -> bool:
        return any(self._inode in inodes_of(pid) for pid in children(self.node))

    def pipeline(self, value: str, count: int = PIPELINE) -> None:
        self.wire.send(*(f"SET {self.name}:{number} {value}{number}" for number in range(count)))
        assert [self.wire.reply() for _ in range(count)] == [b"OK"] * count


@pytest.fixture
def lent(port: int, wire: Wire) -> Iterator[Lent]:
    lent = Lent(port, wire)
    yield lent
    lent.wire.socket.close()
    eventually(lambda: lent.name not in bytes(wire("CLIENT LIST")).decode())  # type: ignore[call-overload]


def test_what_it_writes_is_there_and_counted(lent: Lent, wire: Wire) -> None:
    before = int(info(wire, "total_commands_processed"))
    for turn in range(50):
        lent.pipeline(f"{turn}-", 100)
        assert wire(f"GET {lent.name}:{turn}") == b"%d-%d" % (turn, turn)
    assert lent.is_lent
    assert int(info(wire, "total_commands_processed")) >= before + 5_000
    [line] = [each for each in bytes(wire("CLIENT LIST")).decode().splitlines() if lent.name in each]  # type: ignore[call-overload]
    assert " cmd=set " in line


def test_what_it_sends_next_comes_behind_it(lent: Lent) -> None:
    """Reads see the writes before them, and what is neither read nor plain SET works as ever."""
    commands: list[str] = []
    expected: list[object] = []
    for turn in range(40):
        commands += [f"SET {{x}}{number} {turn}" for number in range(PIPELINE)]
        expected += [b"OK"] * PIPELINE
        commands += [f"GET {{x}}{turn % PIPELINE}", "INCR {x}0", "MULTI", "GET {x}0", "SET {x}1 in", "EXEC", "PING"]
        expected += [b"%d" % turn, turn + 1, b"OK", b"QUEUED", b"QUEUED"]
        expected += [[b"%d" % (turn + 1), b"OK"], b"PONG"]
    lent.wire.send(*commands)
    assert [lent.wire.reply() for _ in expected] == expected
    lent.pipeline("b")


def test_a_stream_cut_anywhere_is_the_same_stream(lent: Lent, wire: Wire) -> None:
    data = encode_commands([[b"SET", b"%s:%d" % (lent.name.encode(), number), b"x" * number] for number in range(300)])
    for start in range(0, len(data), 1013):
        lent.wire.socket.sendall(data[start : start + 1013])
        time.sleep(0.0005)
    assert [lent.wire.reply() for _ in range(300)] == [b"OK"] * 300
    assert wire(f"STRLEN {lent.name}:299") == 299


def test_the_end_of_its_stream_is_its_end(port: int, wire: Wire) -> None:
    lent = Lent(port, wire)
    lent.wire.send(*(f"SET {lent.name}:{number} last" for number in range(PIPELINE)))
    lent.wire.socket.shutdown(socket.SHUT_WR)
    assert lent.wire.rest() == b"+OK\r\n" * PIPELINE
    assert wire(f"GET {lent.name}:15") == b"last"


def test_a_protocol_error_ends_it_with_redis_words(port: int, wire: Wire) -> None:
    lent = Lent(port, wire)
    lent.wire.socket.sendall(encode_commands([[b"SET", b"a", b"b"]] * PIPELINE) + b"*1\r\n:3\r\n")
    assert lent.wire.rest() == b"+OK\r\n" * PIPELINE + b"-ERR Protocol error: expected '$', got ':'\r\n"


def test_who_is_killed_is_gone_at_once(port: int, wire: Wire) -> None:
    lent = Lent(port, wire)
    client = str(lent.wire("CLIENT ID")).encode()
    lent.go()
    assert wire([b"CLIENT", b"KILL", b"ID", client]) == 1
    assert lent.wire.rest() == b""
    eventually(lambda: not lent.is_lent)


def test_monitor_and_refusals_reach_every_command(port: int, wire: Wire, lent: Lent) -> None:
    with Wire(port) as monitor:
        assert monitor("MONITOR") == b"OK"
        lent.pipeline("seen")
        seen = [bytes(monitor.reply()) for _ in range(PIPELINE)]  # type: ignore[call-overload]
    assert all(f'"SET" "{lent.name}:{n}" "seen{n}"'.encode() in line for n, line in enumerate(seen))
    lent.go()
    assert wire("CONFIG SET maxmemory 1") == b"OK"
    try:
        eventually(lambda: "OOM" in str(wire("SET refused 1")))
        lent.wire.send(*(f"SET {lent.name}:{number} refused" for number in range(PIPELINE)))
        assert {str(lent.wire.reply())[:11] for _ in range(PIPELINE)} == {"OOM command"}
    finally:
        assert wire("CONFIG SET maxmemory 0") == b"OK"
    eventually(lambda: wire("SET refused 1") == b"OK")
    lent.pipeline("again")
    assert wire(f"GET {lent.name}:3") == b"again3"


def test_a_pause_holds_it(lent: Lent, wire: Wire) -> None:
    assert wire("CLIENT PAUSE 100000 WRITE") == b"OK"
    for _ in range(3):
        lent.wire.send(*(f"SET {lent.name}:{number} paused" for number in range(PIPELINE)))
        time.sleep(0.05)
    assert wire(f"GET {lent.name}:0") != b"paused"
    assert wire("CLIENT UNPAUSE") == b"OK"
    assert [lent.wire.reply() for _ in range(3 * PIPELINE)] == [b"OK"] * 3 * PIPELINE
    assert wire(f"GET {lent.name}:0") == b"paused"


def test_who_does_not_take_its_replies_is_not_read_on(lent: Lent, wire: Wire) -> None:
    lent.wire.socket.settimeout(2)
    lent.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    data = encode_commands([[b"SET", b"slow", b"x"]] * 10_000)
    sent = 0
    try:
        while sent < 400_000:
            lent.wire.socket.sendall(data)
            sent += 10_000
    except TimeoutError:
        pass
    assert wire("PING") == b"PONG"
    [line] = [each for each in bytes(wire("CLIENT LIST")).decode().splitlines() if lent.name in each]  # type: ignore[call-overload]
    fields = dict(field.split("=", 1) for field in line.split())
    assert int(fields["omem"]) < 4 << 20
    assert int(fields["qbuf"]) < 4 << 20


def test_others_do_not_notice_when_one_is_killed(port: int, wire: Wire) -> None:
    """Although what it sent came together with what they sent."""
    others = [Lent(port, wire) for _ in range(3)]
    ended = threading.Event()

    def go_on(lent: Lent) -> None:
        data = encode_commands([[b"SET", b"%s:%d" % (lent.name.encode(), number), b"x" * 50] for number in range(64)])
        for cut in itertools.cycle(range(1, len(data), 97)):
            if ended.is_set():
                return
            lent.wire.socket.sendall(data[:cut])
            lent.wire.socket.sendall(data[cut:])
            assert [lent.wire.reply() for _ in range(64)] == [b"OK"] * 64

    with ThreadPoolExecutor() as pool:
        going = [pool.submit(go_on, lent) for lent in others]
        try:
            for _ in range(20):
                victim = Lent(port, wire)
                victim.wire.send(*(f"SET {victim.name}:{number} c" for number in range(4000)))
                wire(f"CLIENT KILL ADDR {HOST}:{victim.wire.socket.getsockname()[1]}")
                victim.wire.socket.close()
        finally:
            ended.set()
        for each in going:
            each.result()
    for lent in others:
        lent.pipeline("d")
        lent.wire.socket.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_when_the_intake_dies_or_hangs_its_clients_are_closed_and_the_next_get_another(
    lent: Lent, wire: Wire, port: int, number: int
) -> None:
    intake, value = lent.intake, f"{number}-"
    lent.pipeline(value)
    os.kill(intake, number)
    lent.wire.send("SET lost 1")
    assert lent.wire.rest() == b""
    assert wire(f"GET {lent.name}:15") == f"{value}15".encode()
    eventually(lambda: state_of(intake) == "")
    with Wire(port) as other:
        assert other("SET a 1") == b"OK"
    again = Lent(port, wire)
    assert again.intake != intake
    again.pipeline("c")
    again.wire.socket.close()


def test_the_intake_ends_with_its_node_however_that_ends(tmp_path: Path) -> None:
    with respkv(tmp_path, "--intake", "yes") as port, Wire(port) as wire:
        lent = Lent(port, wire)
        intake = lent.intake
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a terminal or a service manager sends them
            os.kill(intake, number)
        lent.pipeline("b")
        os.kill(lent.node, signal.SIGKILL)
        eventually(lambda: state_of(intake) == "")
        assert lent.wire.rest() == b""
    with respkv(tmp_path, "--intake", "yes") as port, Wire(port) as wire:
        lent = Lent(port, wire)
        intake = lent.intake
        assert wire(f"GET {lent.name}:0") is not None
        os.kill(lent.node, signal.SIGTERM)
        assert lent.wire.rest() == b""
        eventually(lambda: state_of(intake) == "")


def test_without_it_there_is_no_process(tmp_path: Path) -> None:
    with respkv(tmp_path, "--intake", "no") as port, Wire(port) as wire:
        for _ in range(4 * LEND_AFTER):
            wire.send(*["SET a 1"] * PIPELINE)
            assert [wire.reply() for _ in range(PIPELINE)] == [b"OK"] * PIPELINE
        assert info(wire, "io_threads_active") == "0"
        assert children(int(info(wire, "process_id"))) == []


def test_a_cluster_client_is_told_when_the_slots_have_moved(tmp_path: Path) -> None:
    """Its SETs go to a node that led their shard when it was lent, and leads it no more."""
    with respkv_cluster(tmp_path, 3, shards=1, replicas=3) as ports, Wire(ports[0]) as admin:
        lent = Lent(ports[0] + 1000, admin)
        replies: list[str] = []

        def is_told() -> bool:
            lent.wire.send(*(f"SET {lent.name}:{number} {len(replies)}" for number in range(PIPELINE)))
            replies.extend(str(lent.wire.reply()) for _ in range(PIPELINE))
            return replies[-1].startswith("MOVED")

        with Wire(ports[1]) as other:
            os.kill(lent.node, signal.SIGSTOP)
            try:
                eventually(lambda: "role=leader" in info(other, "shard0") or ",leader=n3" in info(other, "shard0"))
            finally:
                os.kill(lent.node, signal.SIGCONT)
            eventually(is_told)
            assert {reply.split()[0] for reply in replies} <= {"b'OK'", "MOVED", "CLUSTERDOWN", "TIMEOUT"}
            acknowledged = [number for number in range(0, len(replies), PIPELINE) if replies[number] == "b'OK'"]
            if acknowledged:
                assert int(bytes(other(f"GET {lent.name}:0"))) >= acknowledged[-1]  # type: ignore[call-overload]
            eventually(lambda: not lent.is_lent)


class Shard(Gathering):
    """A proposer that leads and proposes nothing by itself."""

    def __init__(self, shard: int) -> None:
        super().__init__(lambda: 0.0)
        self.shard = shard
        self.leads = True
        self.refusal: RespError | None = None

    def begun(self) -> None:
        pass


class Taker:
    """A connection that takes bursts."""

    def __init__(self, number: int, server: Any) -> None:
        self.session = SimpleNamespace(id=number, cluster_view=False)
        self.server = server
        self.closing = self.half_closed = self.lent = False
        self.reading = True
        self.pipelines = self.open_bytes = 0
        self.waiting: deque[PutBurst] = deque()
        self.ran: list[list[bytes]] = []

    @property
    def wires(self) -> list[bytes]:
        return [data for connection, data in self.server.posted if connection is self]

    def takes_puts(self, leads: bool) -> bool:
        return leads

    def take_puts(self, burst: PutBurst, now: float) -> None:
        self.waiting.append(burst)

    def run(self, commands: list[list[bytes]], size: int) -> None:
        self.ran += commands

    def lend(self) -> int:
        raise AssertionError("there is nobody to lend it to")


@pytest.fixture
def node() -> tuple[Lending, list[Shard], list[Taker]]:
    """A node's end, two shards and two clients that are lent."""
    shards = [Shard(0), Shard(1)]
    server = SimpleNamespace(
        proposers=shards,
        proposer_of_slot=[shards[slot % 2] for slot in range(SLOTS)],
        shard_of_slot=bytes(slot % 2 for slot in range(SLOTS)),
        stats=SimpleNamespace(burst_reads=0, burst_commands=0, plain_sets=0),
        watch=SimpleNamespace(sample_puts=False),
        wake=lambda: None,
        posted=[],
    )
    lending = Lending(cast("Any", None), cast("Any", server))
    clients = [Taker(number, server) for number in range(2)]
    lending._lent = cast("Any", {client.session.id: client for client in clients})
    return lending, shards, clients


def key_of(shard: int) -> bytes:
    return next(key for key in (b"%d" % number for number in range(99)) if slot_of(key) % 2 == shard)


def frame_of(*keys: bytes) -> Frame:
    """One SET of each client."""
    slots = list(map(slot_of, keys))
    puts = [
        (slot % 2, encode_puts_run(Puts([slot], [key], *encode_puts([key], [b"v"]))))
        for slot, key in zip(slots, keys, strict=True)
    ]
    count, shards = len(keys), [bytes([slot % 2]) for slot in slots]
    return Frame(list(range(count)), [1] * count, [30] * count, shards, b"".join(shards), puts, [])


def test_a_client_waits_for_the_shards_of_its_own_keys_alone(node: tuple[Lending, list[Shard], list[Taker]]) -> None:
    """A shard that has no majority holds up nobody else, though all of a frame came together."""
    lending, shards, clients = node
    lending._take(frame_of(key_of(0), key_of(1)))
    batches = [shard._seal() for shard in shards]
    assert [len(batch.parts) for batch in batches] == [1, 1]
    batches[1].applied([])
    assert (clients[0].wires, clients[1].wires) == ([], [b"+OK\r\n"])
    batches[0].fail(RespError("CLUSTERDOWN no"))
    assert clients[0].wires == [b"-CLUSTERDOWN no\r\n"]
    assert [len(client.waiting) for client in clients] == [0, 0]
    assert shards[0].pending_bytes == 30


def test_bursts_of_one_client_wait_in_the_order_in_which_they_came(
    node: tuple[Lending, list[Shard], list[Taker]],
) -> None:
    """Also where the first waits for other shards than the second, which travels with another client's."""
    lending, shards, (one, other) = node
    key = key_of(0), key_of(1)
    by_shard = [[key[0]] * 3, [key[1]] * 2]
    puts = [
        (shard, encode_puts_run(Puts(list(map(slot_of, keys)), keys, *encode_puts(keys, [b"v"] * len(keys)))))
        for shard, keys in enumerate(by_shard)
    ]
    lending._take(Frame([1, 0, 0], [2, 1, 2], [60, 30, 60], [b"\0\1", b"\0", b"\0\1"], b"\0\1\0\0\1", puts, []))
    assert [burst.shards for burst in one.waiting] == [b"\0", b"\0\1"]
    assert [burst.shards for burst in other.waiting] == [b"\0\1"]
    assert [shard.pending_bytes for shard in shards] == [150, 120]
    assert [len(shard._seal().parts) for shard in shards] == [2, 1]


@pytest.mark.parametrize("reason", ["another node leads", "the shard refuses"])
def test_what_cannot_be_taken_unseen_is_run_as_commands(
    node: tuple[Lending, list[Shard], list[Taker]], reason: str
) -> None:
    lending, shards, clients = node
    there, lending._control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if reason == "another node leads":
        shards[1].leads = False
    else:
        shards[1].refusal = RespError("OOM")
    with there, lending._control:
        there.setblocking(False)
        lending._take(frame_of(key_of(0), key_of(1)))
        recalled = []
        with contextlib.suppress(BlockingIOError):
            while True:
                recalled.append(CONTROL.unpack(there.recv(100)))
    assert [client.ran for client in clients] == [[[b"SET", key_of(shard), b"v"]] for shard in (0, 1)]
    assert not any(client.waiting for client in clients)
    assert recalled == ([(RECALL, 0), (RECALL, 1)] if reason == "another node leads" else [])


def test_a_cluster_client_has_its_bursts_looked_at_where_another_node_leads() -> None:
    for cluster_view, leads, taken in ((True, False, False), (True, True, True), (False, False, True)):
        connection = SimpleNamespace(
            fast=True, reading=True, _backlog=[], closing=False, session=SimpleNamespace(cluster_view=cluster_view)
        )
        assert Connection.takes_puts(cast("Any", connection), leads) is taken


def test_each_view_has_its_share_of_what_is_counted(node: tuple[Lending, list[Shard], list[Taker]]) -> None:
    lending, shards, (one, other) = node
    one.session.cluster_view = True
    keys = [key_of(0)] * 12
    slots = list(map(slot_of, keys))
    puts = [(0, encode_puts_run(Puts(slots, keys, *encode_puts(keys, [b"v"] * 12))))]
    lending._take(Frame([0, 1], [9, 3], [270, 90], [b"\0"] * 2, bytes(12), puts, []))
    assert [shard.asked for shard in shards] == [[3, 9], [0, 0]]
    assert len(one.waiting) == len(other.waiting) == 1


def test_by_itself_it_is_used_where_there_is_a_second_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, wanted in (({3}, [False, True, False]), ({0, 1}, [True, True, False])):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cores=cores: cores)
        assert [wants_intake(Config(intake=word)) for word in ("auto", "yes", "no")] == wanted


def test_who_is_lent_is_not_lent_again(node: tuple[Lending, list[Shard], list[Taker]]) -> None:
    """Two would read the same socket then: its SETs may come by way of the node itself, taken apart."""
    lending, _, clients = node
    lending.ready, lending._process = True, cast("Any", "running")
    clients[0].lent = True
    for _ in range(5 * LEND_AFTER):
        lending.pipelined(cast("Any", clients[0]))
    clients[1].pipelines = LEND_AFTER
    with pytest.raises(AssertionError):
        lending.pipelined(cast("Any", clients[1]))


def test_an_intake_that_cannot_be_started_harms_nobody(
    node: tuple[Lending, list[Shard], list[Taker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lending, _, clients = node

    def no_process(*_: object, **__: object) -> None:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5 * LEND_AFTER):
        lending.pipelined(cast("Any", clients[0]))
    assert not lending.ready
    assert len(list(Path("/proc/self/fd").iterdir())) == before
