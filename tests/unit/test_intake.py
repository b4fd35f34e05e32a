"""The intake by itself: what it takes and what it gives back are the stream that came, whatever that is."""

import asyncio
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.cluster.slots import SLOTS, slot_of
from respkv.intake import CONTROL, LENGTH, PIPELINE_MIN, PROBE, RECALL, Client, Frame, Intake
from respkv.resp.encoder import encode_commands
from respkv.resp.limits import Limits
from respkv.resp.strict import StrictParser
from respkv.shard.batch import decode_puts_run
from respkv.storage.record import encode_puts

SHARD_OF_SLOT = bytes(slot % 3 for slot in range(SLOTS))
decode = msgspec.msgpack.Decoder(Frame).decode


class Transport:
    """Of a client or of the node: remembers what was asked of it."""

    def __init__(self) -> None:
        self._reading = True
        self.closed = False
        self.written = b""

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading

    def close(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class Loop:
    """Runs what was asked for when told to."""

    def __init__(self) -> None:
        self.soon: list[Any] = []

    def call_soon(self, call: Any) -> None:
        self.soon.append(call)

    def add_reader(self, fd: int, call: Any) -> None:
        self.control = call

    def create_task(self, task: Any) -> Any:
        task.close()
        return asyncio.Future(loop=asyncio.new_event_loop())


class Bench:
    """An intake without sockets, and what the node gets of it."""

    def __init__(self, shard_of_slot: bytes = SHARD_OF_SLOT) -> None:
        self.loop = Loop()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        self.intake = Intake(self.loop, theirs, shard_of_slot)  # type: ignore[arg-type]
        self.node = Transport()
        self.intake.connection_made(self.node)  # type: ignore[arg-type]

    def client(self, number: int) -> tuple[Client, Transport]:
        self.intake.clients[number] = client = Client(self.intake, number)
        transport = Transport()
        client.connection_made(transport)  # type: ignore[arg-type]
        self.intake.connected(client)
        return client, transport

    def tell(self, what: int, client: int = 0) -> None:
        self.control.send(CONTROL.pack(what, client))
        self.loop.control()

    def frames(self) -> list[Frame]:
        """What has come since the last time."""
        soon, self.loop.soon = self.loop.soon, []
        for call in soon:
            call()
        data, self.node.written = self.node.written, b""
        found = []
        while data:
            (size,) = LENGTH.unpack_from(data)
            found.append(decode(data[LENGTH.size : LENGTH.size + size]))
            data = data[LENGTH.size + size :]
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    assert bench.frames() == [Frame([], [], [], [], b"", [], [])]  # ready
    yield bench
    bench.control.close()


def puts_of(frame: Frame) -> list[tuple[int, list[bytes]]]:
    """The SETs of a frame as `(client, command)`, in order; checks that its columns fit each other."""
    by_shard = {}
    for shard, encoded in frame.puts:
        puts = decode_puts_run(encoded)
        assert len(puts.slots) == len(puts.keys) == len(puts.sizes)
        values, start = [], 0
        for key, size in zip(puts.keys, puts.sizes, strict=True):
            values.append(puts.records[start + 17 + len(key) : start + size - 4])
            start += size
        assert encode_puts(puts.keys, values) == (puts.sizes, puts.records)
        assert puts.slots == [slot_of(key) for key in puts.keys]
        assert {SHARD_OF_SLOT[slot] for slot in puts.slots} == {shard}
        by_shard[shard] = iter(zip(puts.keys, values, strict=True))
    found, order = [], iter(frame.order)
    for client, count, shards in zip(frame.clients, frame.counts, frame.shards, strict=True):
        touched = [next(order) for _ in range(count)]
        assert sorted(shards) == sorted(set(touched))
        for shard in touched:
            key, value = next(by_shard[shard])
            found.append((client, [b"SET", key, value]))
    assert [next(rest, None) for rest in by_shard.values()] == [None] * len(by_shard)
    assert next(order, None) is None
    return found


def sets(*numbers: int) -> list[list[bytes]]:
    return [[b"SET", b"key%d" % number, b"v" * (number % 50)] for number in numbers]


def test_what_all_clients_send_in_a_turn_is_one_frame_and_keeps_its_order(bench: Bench) -> None:
    (first, _), (second, _) = bench.client(1), bench.client(2)
    sent = {1: sets(*range(20), 3, 3), 2: sets(5, 3)}
    first.data_received(encode_commands(sent[1][:10]))
    second.data_received(encode_commands(sent[2]).replace(b"SET", b"set"))
    first.data_received(encode_commands(sent[1][10:]))
    [frame] = bench.frames()
    assert (frame.clients, frame.counts, frame.returned) == ([1, 2, 1], [10, 2, 12], [])
    assert sum(frame.sizes) == len(encode_commands(sent[1] + sent[2]))
    found = puts_of(frame)
    assert found[:10] + found[12:] == [(1, command) for command in sent[1]]
    assert found[10:12] == [(2, command) for command in sent[2]]
    assert bench.frames() == []


def test_keys_of_one_shard_are_one_column() -> None:
    bench = Bench(bytes(SLOTS))
    client, _ = bench.client(7)
    bench.frames()
    client.data_received(encode_commands(sets(1, 2)))
    [frame] = bench.frames()
    [(shard, encoded)] = frame.puts
    puts = decode_puts_run(encoded)
    assert (shard, puts.keys, puts.slots) == (0, [b"key1", b"key2"], [slot_of(b"key1"), slot_of(b"key2")])
    assert frame.order == bytes(2)


other = st.lists(st.binary(max_size=20), min_size=1, max_size=4)
plain = st.tuples(st.just(b"SET"), st.binary(max_size=30), st.binary(max_size=60)).map(list)
stream = st.one_of(
    st.lists(plain, max_size=30).map(encode_commands),
    st.lists(st.one_of(plain, other), max_size=10).map(encode_commands),
    st.tuples(st.lists(plain, max_size=10).map(encode_commands), st.binary(max_size=40)).map(b"".join),
)


@given(stream, st.lists(st.integers(0, 400), max_size=12))
def test_what_is_taken_and_what_is_given_back_are_what_came(data: bytes, cuts: list[int]) -> None:
    """However it is cut, and whatever comes between and behind the SETs."""
    bench = Bench()
    client, transport = bench.client(1)
    bench.frames()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    unread = b""
    for start, end in pairwise(edges):
        if transport.is_reading() and end > start:
            client.data_received(data[start:end])
        else:
            unread += data[start:end]
    if transport.is_reading():
        bench.tell(RECALL, 1)
    taken, returned = [], []
    for frame in bench.frames():
        taken += [command for _, command in puts_of(frame)]
        returned += frame.returned
        assert not (frame.clients and returned[:-1])
    [(number, rest)] = returned
    assert number == 1
    assert transport.closed
    behind = rest + unread
    assert data.endswith(behind)
    commands = StrictParser(Limits()).feed(data[: len(data) - len(behind)])
    assert [[b"SET", *arguments] for _, *arguments in commands] == taken


@pytest.mark.parametrize(
    "data",
    [
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
        b"*5\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\nEX\r\n$1\r\n9\r\n",
        b"PING\r\n",
        b"*1000000000\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$999999999999\r\n",
        encode_commands([[b"SET", b"k", b"v" * 20_000]]),
        encode_commands([[b"SET", b"k" * 20_000, b"v"]]),
        encode_commands([[b"GETSET", b"k", b"v"]]),
    ],
)
def test_anything_but_short_plain_sets_goes_back_as_it_came(bench: Bench, data: bytes) -> None:
    client, transport = bench.client(1)
    before = encode_commands(sets(1, 2, 3))
    client.data_received(before)
    client.data_received(encode_commands(sets(4)) + data)
    client.data_received(b"too late, the transport may have had it already")
    [frame] = bench.frames()
    assert [command for _, command in puts_of(frame)] == sets(1, 2, 3)
    assert frame.returned == [(1, encode_commands(sets(4)) + data)]
    assert transport.closed
    assert not transport.is_reading()
    assert bench.intake.clients == {}


def test_a_command_that_does_not_end_goes_back_before_it_takes_memory(bench: Bench) -> None:
    client, transport = bench.client(1)
    data = encode_commands([[b"SET", b"k", b"v" * 100_000]])
    for start in range(0, len(data), 4096):
        if transport.is_reading():
            client.data_received(data[start : start + 4096])
    [frame] = bench.frames()
    [(_, returned)] = frame.returned
    assert data.startswith(returned)
    assert len(returned) <= 5 * 4096


def test_a_client_that_ends_or_fails_goes_back_with_what_it_has_begun(bench: Bench) -> None:
    for end in (Client.eof_received, lambda client: client.connection_lost(None), lambda client: bench.tell(RECALL, 1)):
        client, transport = bench.client(1)
        client.data_received(encode_commands(sets(1)) + b"*3\r\n$3\r\nSE")
        end(client)
        client.connection_lost(None)
        [frame] = bench.frames()
        assert frame.returned == [(1, b"*3\r\n$3\r\nSE")]
        assert len(puts_of(frame)) == 1
        assert transport.closed


def test_a_client_recalled_before_its_socket_has_come_goes_back_at_once(bench: Bench) -> None:
    bench.intake.clients[5] = client = Client(bench.intake, 5)
    bench.tell(RECALL, 5)
    bench.tell(RECALL, 6)  # back already
    assert bench.frames() == []
    transport = Transport()
    client.connection_made(transport)  # type: ignore[arg-type]
    [frame] = bench.frames()
    assert frame.returned == [(5, b"")]
    assert transport.closed


def test_clients_that_send_single_commands_go_back(bench: Bench) -> None:
    client, transport = bench.client(1)
    for _ in range(100):
        client.data_received(encode_commands(sets(*range(PIPELINE_MIN))))
        client.data_received(encode_commands(sets(1)))
    assert transport.is_reading()
    singles = 0
    while transport.is_reading():
        client.data_received(encode_commands(sets(1)))
        singles += 1
    assert 10 < singles < 100
    taken = [command for frame in bench.frames() for _, command in puts_of(frame)]
    assert len(taken) == 100 * (PIPELINE_MIN + 1) + singles


def test_nothing_is_read_while_the_node_does_not_take_it(bench: Bench) -> None:
    _, first = bench.client(1)
    bench.intake.pause_writing()
    late, second = bench.client(2)
    assert not first.is_reading()
    assert not second.is_reading()
    bench.intake.resume_writing()
    assert first.is_reading()
    assert second.is_reading()
    bench.intake.pause_writing()
    late.give_back()
    bench.intake.resume_writing()
    assert not second.is_reading()
    assert [frame.returned for frame in bench.frames()] == [[(2, b"")]]


def test_a_frame_does_not_grow_without_limit(bench: Bench) -> None:
    """It leaves before the turn ends, and so the node's end can say that it is enough."""
    client, _ = bench.client(1)
    data = encode_commands([[b"SET", b"k%d" % number, b"v" * 1000] for number in range(200)])
    for _ in range(10):
        client.data_received(data)
    assert len(bench.node.written) > 5 * len(data)
    frames = bench.frames()
    assert 3 <= len(frames) <= 6
    assert sum(len(frame.order) for frame in frames) == 2000


def test_a_probe_is_answered_by_an_empty_frame(bench: Bench) -> None:
    bench.tell(PROBE)
    assert bench.frames() == [Frame([], [], [], [], b"", [], [])]
