"""Links between nodes over real loopback sockets: what arrives, and what ends a link."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from zlib import crc32

import pytest

from respkv.cluster import frames
from respkv.cluster import link as link_module
from respkv.cluster.codec import decode, encode
from respkv.cluster.frames import FRAGMENT_BYTES, LONG_BYTES, FrameReader, Parts
from respkv.cluster.handshake import Handshake
from respkv.cluster.link import HELLO, PING
from respkv.cluster.peers import LEAVE_S, Peers
from respkv.cluster.topology import Node, Topology

SECRET = b"secret"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def topology(ports: list[int], cluster: str = "c") -> Topology:
    nodes = [Node(f"n{n + 1}", "127.0.0.1", 1, 2, port) for n, port in enumerate(ports)]
    return Topology.build(nodes, 1, len(nodes), cluster_id=cluster)


class End:
    """One node's links, and what they have reported."""

    def __init__(self, topology: Topology, name: str, secret: bytes = SECRET, agreement: str = "same") -> None:
        self.name = name
        self.port = topology.node(name).peer_port
        self.got: list[tuple[str, Any]] = []
        self.events: list[str] = []
        self.peers = Peers(
            topology,
            name,
            secret,
            agreement,
            deliver=lambda peer, message: self.got.append((peer, message)),
            connected=lambda peer: self.events.append(f"+{peer}"),
            disconnected=lambda peer: self.events.append(f"-{peer}"),
            dirty=lambda: asyncio.get_running_loop().call_soon(self.peers.flush) if self.turns else None,
        )
        self.turns = False

    async def start(self) -> End:
        await self.peers.start(["127.0.0.1"], self.port)
        return self

    def say(self, peer: str, *messages: Any) -> bool:
        sent = [self.peers.send(peer, message) for message in messages]
        self.peers.flush()
        return all(sent)


async def until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - several things, none of which has an event
            await asyncio.sleep(0.005)


def running(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def started(*ends: End) -> AsyncIterator[None]:
    try:
        for end in ends:
            await end.start()
        yield
    finally:
        for end in ends:
            await end.peers.stop()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    import functools

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        running(lambda: test(**arguments))

    return run


class Stranger:
    """A raw socket that behaves as it is told to."""

    def __init__(self) -> None:
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def dial(self, port: int, *, secret: bytes = SECRET) -> Stranger:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        handshake = Handshake(secret, dialer=True)
        self.writer.write(handshake.take_output())
        handshake.feed(await self.reader.readexactly(64))
        self.writer.write(handshake.take_output())
        return self

    async def hello(self, end: End, name: str) -> Stranger:
        self.writer.write(frame([[HELLO, name, *end.peers.hello[1:]]]))
        await until(lambda: name in end.peers.links)
        return self

    async def ended(self) -> bool:
        """Whether the other side closes the connection."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(8):
                while await self.reader.read(65536):
                    pass
        return True

    def close(self) -> None:
        self.writer.close()


def frame(messages: Any) -> bytes:
    payload = encode(messages)
    return len(payload).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little") + payload


@in_a_loop
async def test_nodes_find_each_other_and_messages_arrive_in_order_as_one_frame_a_turn() -> None:
    cluster = topology(free_ports(3))
    ends = [End(cluster, node.id) for node in cluster.nodes]
    async with started(*ends):
        await until(lambda: all(len(end.peers.links) == 2 for end in ends))
        for end in ends:
            others = [other.name for other in ends if other is not end]
            assert sorted(end.events) == [f"+{name}" for name in others]
            for other in others:
                assert end.say(other, *[(20, 0, n, end.name) for n in range(50)])
        await until(lambda: all(len(end.got) == 100 for end in ends))
        for end in ends:
            for other in ends:
                if other is not end:
                    said = [message[2] for peer, message in end.got if peer == other.name]
                    assert said == list(range(50))


@in_a_loop
async def test_a_message_without_a_link_is_dropped_and_says_so() -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        assert not end.say("n1", (20, 0))
        assert not end.say("nobody", (20, 0))


@in_a_loop
async def test_frames_arrive_however_the_bytes_are_split() -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        stranger = await (await Stranger().dial(end.port)).hello(end, "n1")
        stranger.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = end.peers.links["n1"]
        data = frame([[20, 0, 1], [20, 0, b"x" * 30]]) + frame([]) + frame([[PING]]) + frame([[20, 0, 2]])
        expected = [("n1", [20, 0, 1]), ("n1", [20, 0, b"x" * 30]), ("n1", [20, 0, 2])]
        for step in range(1, len(data) + 1):
            for start in range(0, len(data), step):
                link.data_received(data[start : start + step])
            assert end.got == expected, f"pieces of {step}"
            end.got.clear()
        for byte in data:
            stranger.writer.write(bytes([byte]))
            await stranger.writer.drain()
        await until(lambda: end.got == expected)
        stranger.close()


@pytest.mark.parametrize("size", [LONG_BYTES - 100, LONG_BYTES, LONG_BYTES + 1, 3 * LONG_BYTES + FRAGMENT_BYTES])
@in_a_loop
async def test_a_long_message_arrives_whole_among_short_ones(size: int) -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        content = os.urandom(1 << 20) * (size // (1 << 20) + 1)
        one.say("n2", (20, 0, b"before"), (20, 0, content[:size]), (20, 0, b"behind"))
        one.say("n2", (1, 0, b"urgent"))
        one.say("n2", (20, 0, b"last"))
        await until(lambda: len(two.got) == 5, 20)
        in_turn = [message[2] for _, message in two.got if message[0] == 20]
        assert in_turn == [b"before", content[:size], b"behind", b"last"]


@pytest.mark.parametrize(
    "bad",
    [
        frame([[20, 0, 1]])[:4] + b"\0\0\0\0" + frame([[20, 0, 1]])[8:],
        (3).to_bytes(4, "little") + crc32(b"\xc1\xc1\xc1").to_bytes(4, "little") + b"\xc1\xc1\xc1",
    ],
    ids=["crc", "messagepack"],
)
@in_a_loop
async def test_a_bad_frame_breaks_the_link_and_nothing_of_it_is_delivered(bad: bytes) -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        stranger = await (await Stranger().dial(end.port)).hello(end, "n1")
        stranger.writer.write(frame([[20, 0, b"good"]]) + bad + frame([[20, 0, b"behind"]]))
        await stranger.ended()
        await until(lambda: end.events == ["+n1", "-n1"])
        assert end.got == [("n1", [20, 0, b"good"])]
        again = await (await Stranger().dial(end.port)).hello(end, "n1")
        again.close()


@pytest.mark.parametrize(
    "first",
    [
        frame([[20, 0, b"no hello"]]),
        frame([]),
        frame([[HELLO, "n1"]]),
        (1 << 28).to_bytes(4, "little") + bytes(4),
        frame([[HELLO, "n1", b"x" * 5000, "", ""]]),
    ],
    ids=["no hello", "empty", "short", "huge", "long"],
)
@in_a_loop
async def test_a_link_that_does_not_begin_with_a_short_hello_is_broken(first: bytes) -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        stranger = await Stranger().dial(end.port)
        stranger.writer.write(first)
        assert await stranger.ended()
        assert end.events == end.got == []


@pytest.mark.parametrize("what", ["name", "itself", "cluster", "fingerprint", "agreement"])
@in_a_loop
async def test_a_node_that_is_not_of_this_cluster_as_we_know_it_is_refused(what: str) -> None:
    end = End(topology(free_ports(2)), "n2")
    _, cluster, fingerprint, agreement = end.peers.hello
    hello = [HELLO, "n1", cluster, fingerprint, agreement]
    wrong = {"name": (1, "n9"), "itself": (1, "n2"), "cluster": (2, "x"), "fingerprint": (3, "0"), "agreement": (4, "")}
    position, value = wrong[what]
    hello[position] = value
    async with started(end):
        stranger = await Stranger().dial(end.port)
        stranger.writer.write(frame([hello]))
        assert await stranger.ended()
        assert end.events == []


@in_a_loop
async def test_nodes_with_different_secrets_stay_apart() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2", secret=b"other")
    async with started(one, two):
        await asyncio.sleep(0.4)
        assert one.events == two.events == []


@in_a_loop
async def test_garbage_on_the_port_is_answered_with_silence_and_hurts_nobody() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(200), b"RKV1" + bytes(32 + 32)):
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            writer.write(garbage)
            with contextlib.suppress(ConnectionError):
                assert len(await reader.read()) in {0, 64}
            writer.close()
        await until(lambda: len(two.peers.links) == 1)
        assert one.say("n2", (20, 0, b"x"))
        await until(lambda: len(two.got) == 1)


@in_a_loop
async def test_a_broken_link_is_told_once_and_made_again() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        for round_number in range(3):
            await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
            assert one.events == two_names(one, "n2", round_number)
            assert two.events == two_names(two, "n1", round_number)
            (one if round_number % 2 else two).peers.links["n2" if round_number % 2 else "n1"].abort()
            await until(lambda count=round_number: one.events.count("-n2") == two.events.count("-n1") == count + 1)
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        assert one.say("n2", (20, 0, b"still here"))
        await until(lambda: len(two.got) == 1)


@in_a_loop
async def test_what_went_over_links_is_counted_and_outlives_them() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        assert one.say("n2", (20, 0, b"a"), (20, 0, b"b"), (20, 0, b"c" * LONG_BYTES))
        await until(lambda: len(two.got) == 3)
        counts = one.peers.counts
        assert (counts.sent, two.peers.counts.received) == (4, 4)  # a HELLO and these
        assert counts.sent_bytes == two.peers.counts.received_bytes > LONG_BYTES
        await until(lambda: one.say("n2") and two.peers.counts.received_pings > 0)
        assert counts.sent_pings >= two.peers.counts.received_pings
        before = counts.sent_bytes
        one.peers.links["n2"].abort()
        await until(lambda: one.events == two_names(one, "n2", 1))
        assert counts.sent_bytes > before


@in_a_loop
async def test_who_leaves_hears_and_answers_what_was_sent_before_and_is_sent_nothing_more() -> None:
    cluster = topology(free_ports(3))
    one, two, three = ends = [End(cluster, f"n{number}") for number in (1, 2, 3)]
    async with started(*ends):
        for end in ends:
            end.turns = True
        await until(lambda: all(len(end.peers.links) == 2 for end in ends))
        leaving = asyncio.create_task(two.peers.leave())
        await asyncio.sleep(0)
        assert one.say("n2", (20, 0, b"on its way"))
        await until(lambda: one.peers.links["n2"].parting)
        assert not one.say("n2", (20, 0, b"too late"))
        await until(lambda: two.got == [("n1", [20, 0, b"on its way"])])
        assert two.say("n1", (21, 0, b"answer"))
        await leaving
        await until(lambda: one.got == [("n2", [21, 0, b"answer"])])
        assert one.events == ["+n2", "+n3"] or one.events == ["+n3", "+n2"]
        assert one.say("n3", (20, 0, b"as ever"))
        await two.peers.stop()
        await until(lambda: one.events[2:] == ["-n2"] and "-n2" in three.events)


@in_a_loop
async def test_what_was_sent_before_is_heard_even_if_it_is_long() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        one.turns = two.turns = True
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        assert one.say("n2", (20, 0, b"v" * (48 << 20)))
        await two.peers.leave()
        assert len(two.got) == 1


@in_a_loop
async def test_who_leaves_does_not_wait_long_for_one_that_says_nothing() -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        stranger = await (await Stranger().dial(end.port)).hello(end, "n1")
        before = asyncio.get_running_loop().time()
        await end.peers.leave()
        assert LEAVE_S <= asyncio.get_running_loop().time() - before < 10 * LEAVE_S
        stranger.close()
        await until(lambda: not end.peers.links)
        await end.peers.leave()  # from nobody


@in_a_loop
async def test_two_that_leave_together_do_not_wait_for_each_other() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        one.turns = two.turns = True
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        async with asyncio.timeout(LEAVE_S / 2):
            await asyncio.gather(one.peers.leave(), two.peers.leave())
        assert one.peers.links["n2"].parting
        assert two.peers.links["n1"].parting


def two_names(end: End, other: str, broken: int) -> list[str]:
    assert end.name != other
    return [f"+{other}", f"-{other}"] * broken + [f"+{other}"]


@in_a_loop
async def test_a_second_link_of_a_node_replaces_the_first_and_is_told_as_broken_and_made() -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        old = await (await Stranger().dial(end.port)).hello(end, "n1")
        first = end.peers.links["n1"]
        new = await Stranger().dial(end.port)
        new.writer.write(frame([[HELLO, "n1", *end.peers.hello[1:]], [20, 0, b"with the hello"]]))
        await until(lambda: end.peers.links["n1"] is not first)
        assert await old.ended()
        old.close()
        await asyncio.sleep(0.05)
        assert end.events == ["+n1", "-n1", "+n1"]
        assert end.got == [("n1", [20, 0, b"with the hello"])]
        assert end.say("n1", (20, 0, b"to the new one"))
        handed = b""
        while b"to the new one" not in handed:
            handed += await new.reader.read(4096)
        new.close()


@in_a_loop
async def test_a_message_that_is_said_while_the_link_waits_for_its_turn_is_in_the_same_frame() -> None:
    end = End(topology(free_ports(2)), "n2")
    async with started(end):
        stranger = await (await Stranger().dial(end.port)).hello(end, "n1")
        header = await stranger.reader.readexactly(8)
        await stranger.reader.readexactly(int.from_bytes(header[:4], "little"))  # its HELLO
        end.peers.send("n1", (20, 0, 1))
        end.peers.send("n1", (20, 0, 2))
        end.peers.flush()
        end.peers.flush()
        header = await stranger.reader.readexactly(8)
        payload = await stranger.reader.readexactly(int.from_bytes(header[:4], "little"))
        assert crc32(payload) == int.from_bytes(header[4:], "little")
        assert decode(payload) == [[20, 0, 1], [20, 0, 2]]
        stranger.close()


@in_a_loop
async def test_the_only_node_of_a_cluster_listens_to_nobody() -> None:
    end = End(topology(free_ports(1)), "n1")
    async with started(end):
        with pytest.raises(OSError, match=r".*"):
            await asyncio.open_connection("127.0.0.1", end.port)


@in_a_loop
async def test_parts_arrive_as_their_bytes_cut_at_least_where_they_were_cut() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        parts = Parts([os.urandom(3 * FRAGMENT_BYTES + 1), b"", b"short", os.urandom(FRAGMENT_BYTES)])
        one.say("n2", (24, 0, 7, b"runs", parts), (20, 0, b"behind"))
        await until(lambda: len(two.got) == 2, 20)
        kind, shard, request, runs, body = two.got[0][1]
        assert (kind, shard, request, runs) == (24, 0, 7, b"runs")
        assert b"".join(body) == b"".join(parts)
        ends = [sum(map(len, body[: n + 1])) for n in range(len(body))]
        assert {sum(map(len, parts[: n + 1])) for n in range(len(parts))} <= set(ends)
        assert two.got[1][1] == [20, 0, b"behind"]


@in_a_loop
async def test_a_long_message_holds_back_its_own_shard_alone() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        one.say("n2", (24, 0, Parts([os.urandom(64 << 20)])))
        one.say("n2", (20, 0, b"same shard"))
        one.say("n2", (20, 1, b"other shard"), (1, 0, b"raft"))
        await until(lambda: len(two.got) == 4, 20)
        assert [message[:2] for _, message in two.got] == [[20, 1], [1, 0], [24, 0], [20, 0]]


@in_a_loop
async def test_a_peer_that_takes_nothing_is_given_up_and_what_waits_for_it_is_bounded() -> None:
    cluster = topology(free_ports(2))
    two = End(cluster, "n2")
    async with started(two):
        stranger = await (await Stranger().dial(two.port)).hello(two, "n1")
        stranger.writer.transport.pause_reading()  # type: ignore[attr-defined]
        link = two.peers.links["n1"]
        two.say("n1", (24, 0, Parts([bytes(64 << 20)])))
        now = two.peers.loop.time()
        link.check(now)
        assert "n1" in two.peers.links
        link.heard_at = now + link_module.DEAD_AFTER_S + 1  # it says something, but reads nothing
        link.check(now + link_module.DEAD_AFTER_S + 1)
        await until(lambda: "n1" not in two.peers.links)


@in_a_loop
async def test_more_than_the_send_buffer_holds_breaks_the_link() -> None:
    cluster = topology(free_ports(2))
    two = End(cluster, "n2")
    limit, link_module.SEND_BUFFER_BYTES_MAX = link_module.SEND_BUFFER_BYTES_MAX, 32 << 20
    try:
        async with started(two):
            stranger = await (await Stranger().dial(two.port)).hello(two, "n1")
            stranger.writer.transport.pause_reading()  # type: ignore[attr-defined]
            two.say("n1", (24, 0, Parts([bytes(24 << 20)])))
            assert "n1" in two.peers.links
            two.say("n1", (24, 0, Parts([bytes(24 << 20)])))
            await until(lambda: "n1" not in two.peers.links)
    finally:
        link_module.SEND_BUFFER_BYTES_MAX = limit


@in_a_loop
async def test_a_peer_that_floods_gets_its_share_of_each_turn_and_no_more() -> None:
    cluster = topology(free_ports(3))
    end = End(cluster, "n3")
    async with started(end):
        flooding = await (await Stranger().dial(end.port)).hello(end, "n1")
        other = await (await Stranger().dial(end.port)).hello(end, "n2")
        turns: list[int] = []

        def turn() -> None:
            turns.append(len(end.got))
            if len(end.got) < 50_001:
                end.peers.loop.call_soon(turn)

        end.peers.loop.call_soon(turn)
        flooding.writer.write(frame([[20, 0, n] for n in range(25_000)]))
        flooding.writer.write(b"".join(frame([[20, 0, n]]) for n in range(25_000, 50_000)))
        await until(lambda: len(end.got) > 0)
        other.writer.write(frame([[20, 0, b"me too"]]))
        await until(lambda: len(end.got) == 50_001, 20)
        assert max(after - before for before, after in itertools.pairwise(turns)) <= 2048
        assert [message[2] for peer, message in end.got if peer == "n1"] == list(range(50_000))
        assert end.got[-1][0] == "n1"
        flooding.close()
        other.close()


def read(data: bytes, *, trusted: bool = True) -> list[Any]:
    reader = FrameReader()
    reader.trusted = trusted
    reader.feed(data)
    found = []
    while (messages := reader.next()) is not None:
        found.append(messages)
    return found


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((frames.FRAME_BYTES_MAX + 1).to_bytes(4, "little"), "too long"),
        (frames.LAST.to_bytes(4, "little"), "flags"),
        (frames.RAW.to_bytes(4, "little"), "flags"),
        ((1 | frames.FRAGMENT | frames.RAW).to_bytes(4, "little") + crc32(b"x").to_bytes(4, "little") + b"x", None),
    ],
    ids=["length", "last", "raw", "a raw fragment alone"],
)
def test_what_no_sender_makes_is_refused_before_it_is_kept(bad: bytes, reason: str | None) -> None:
    good = frame([[20, 0, 1]])
    if reason is None:
        assert read(good + bad) == [[[20, 0, 1]]]
        return
    with pytest.raises(frames.BadFrame, match=reason):
        read(good + bad.ljust(8, b"\0"))


def test_fragments_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MESSAGE_BYTES_MAX", 10_000)
    fragment = frames.header(bytes(1000), frames.FRAGMENT | frames.RAW) + bytes(1000)
    assert read(10 * fragment) == []
    with pytest.raises(frames.BadFrame, match="a message is too long"):
        read(11 * fragment)


@in_a_loop
async def test_a_turn_with_more_than_a_frame_may_hold_arrives_all_the_same() -> None:
    cluster = topology(free_ports(2))
    one, two = End(cluster, "n1"), End(cluster, "n2")
    async with started(one, two):
        await until(lambda: len(one.peers.links) == len(two.peers.links) == 1)
        content = os.urandom(LONG_BYTES - 1)
        one.say("n2", *[(20, shard, content) for shard in range(10)], (20, 0, b"last"))
        await until(lambda: len(two.got) == 11, 20)
        assert sorted(message[1] for _, message in two.got) == [0, 0, *range(1, 10)]
        assert [message[2] for _, message in two.got if message[1] == 0] == [content, b"last"]
