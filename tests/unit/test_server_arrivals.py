"""What clients send command by command: run once per turn, in order, and by the short way only where that may be."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from respkv import errors
from respkv.cluster.slots import SLOTS, slot_of
from respkv.raft.clock import Clock
from respkv.resp.limits import Limits
from respkv.server import server as server_module
from respkv.server.answers import Answers
from respkv.server.arrivals import SHORT_BYTES, Arrivals
from respkv.server.burst import LonePuts
from respkv.server.connection import Connection
from respkv.server.server import Server, drop
from respkv.server.stats import Stats
from respkv.server.watch import Watch
from respkv.shard.gathering import Gathering
from respkv.shard.waiting import Part
from respkv.storage.cache import ReadCache
from respkv.storage.errors import Damaged


def command(*args: bytes) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def get(key: bytes) -> bytes:
    return command(b"GET", key)


def put(key: bytes, value: bytes = b"v") -> bytes:
    return command(b"SET", key, value)


class Shard(Gathering):
    """A proposer that leads."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.lease = SimpleNamespace(lease_until=float("inf"))
        self.refusal: Any = None
        self.leads = True
        self.cache = ReadCache(10_000)
        self.at_hand = self.cache.at_hand
        self.stored: dict[bytes, Any] = {}
        self.reads = 0

    def begun(self) -> None:
        pass

    def tell_of_cache(self, told: Any) -> None:
        self.cache.told = told

    def get_plain(self, slot: int, key: bytes) -> Any:
        assert slot == slot_of(key)
        self.reads += 1
        value = self.stored.get(key)
        if isinstance(value, Exception):
            raise value
        if isinstance(value, bytes):
            self.cache.add(key, value)
        return value


class World:
    """Two doors, one shard of each half of the slots, and what was left to the long way."""

    def __init__(self) -> None:
        self.proposers = [Shard(), Shard()]
        self.shard_of_slot = bytes(slot * 2 // SLOTS for slot in range(SLOTS))
        self.proposer_of_slot = [self.proposers[shard] for shard in self.shard_of_slot]
        self.answers = Answers(cast("Any", self.proposers))
        self.posted: list[tuple[Connection, bytes]] = []
        self.sent: list[tuple[Connection, bytes]] = []
        self.pending_bytes_max = 1 << 30
        self.stats = Stats()
        self.watch = Watch(self.stats)
        self.watch.configure(cast("Any", SimpleNamespace(
            slowlog_slower_than_us=10_000, slowlog_length_max=9, latency_monitor_threshold_ms=0, latency_tracking=True,
        )))  # fmt: skip
        self.woken = 0
        self.taken: list[tuple[Client, bytes]] = []
        self.faults: list[tuple[Connection, Exception]] = []
        self.arrivals = tuple(Arrivals(cast("Any", self), cluster_view=view) for view in (False, True))
        self.access = SimpleNamespace(newcomer=lambda: SimpleNamespace(everything=True), open=True)
        self.hindrances = 0
        self.limits = Limits()
        self.traffic = SimpleNamespace(gone=lambda _: None)
        self.forget = self.log_output_limit = lambda _: None

    def wake(self) -> None:
        self.woken += 1

    def send_posted(self) -> None:
        self.sent, self.posted = self.posted, []

    def run_arrivals(self) -> None:
        Server.run_arrivals(cast("Any", self))

    def fault(self, connection: Connection, error: Exception) -> None:
        self.faults.append((connection, error))

    def shard(self, key: bytes) -> Shard:
        return self.proposer_of_slot[slot_of(key)]

    def client(self, *, cluster_view: bool = False) -> Client:
        return Client(cast("Any", self), cluster_view)


class Client(Connection):
    server: Any

    def take(self, data: bytes) -> None:
        self.server.taken.append((self, data))
        if data == b"reset":
            self.server.stats.reset()
        if data == b"fault":
            raise RuntimeError("a fault of ours")
        self.parser.feed(data)

    def replies(self) -> bytes:
        return b"".join(data for connection, data in self.server.posted if connection is self)


@pytest.fixture
def world() -> World:
    return World()


def test_a_short_chunk_waits_for_the_turn_that_it_asks_for(world: World) -> None:
    first, second = world.client(), world.client(cluster_view=True)
    world.shard(b"a").stored[b"a"] = b"1"
    first.data_received(get(b"a"))
    first_woke = world.woken
    second.data_received(get(b"a"))
    assert (first_woke, world.posted, world.taken) == (1, [], [])
    world.run_arrivals()
    assert first.replies() == second.replies() == b"$1\r\n1\r\n"
    assert world.taken == []
    assert world.shard(b"a").asked == [1, 1]
    world.run_arrivals()
    assert len(world.posted) == 2


def test_a_client_that_sends_more_is_run_in_order(world: World) -> None:
    client, other = world.client(), world.client()
    world.shard(b"a").stored[b"a"] = b"1"
    client.data_received(get(b"a"))
    other.data_received(b"PING\r\n")
    client.data_received(b"PING\r\n")  # what waits is run first
    assert client.replies() == b"$1\r\n1\r\n"
    assert world.taken == [(other, b"PING\r\n"), (client, b"PING\r\n")]
    long = put(b"a", bytes(SHORT_BYTES))
    other.data_received(get(b"a"))
    client.data_received(long)
    assert world.taken[-1] == (client, long)
    assert other.replies() == b""  # it has not sent more
    other.data_received(long)
    assert other.replies() == b"$1\r\n1\r\n"
    assert world.taken[-1] == (other, long)


@pytest.mark.parametrize("end", [Connection.eof_received, lambda client: client.connection_lost(None)])
def test_what_a_client_has_sent_is_run_before_it_is_gone(world: World, end: Callable[[Connection], None]) -> None:
    client = world.client()
    client.data_received(put(b"a"))
    end(client)
    assert world.shard(b"a").keys == [b"a"]


def test_a_client_that_closes_its_side_at_once_gets_its_reply_before_the_transport_closes(world: World) -> None:
    client = world.client()
    world.shard(b"a").stored[b"a"] = b"1"
    client.data_received(get(b"a"))
    assert client.eof_received() is False
    assert world.sent == [(client, b"$1\r\n1\r\n")]


def test_gets_are_answered_whether_there_is_a_value_or_not(world: World) -> None:
    two, three = world.client(), world.client()
    three.session.protocol = 3
    for key, value in ((b"short", b"n" * 9), (b"long", b"f" * 1000), (b"nil", None), (b"{a}b", b"tag")):
        world.shard(key).stored[key] = value
        for client in (two, three):
            client.data_received(get(key).replace(b"GET", b"get" if client is two else b"GET"))
        world.run_arrivals()
    replies = b"$9\r\nnnnnnnnnn\r\n$1000\r\n%b\r\n$-1\r\n$3\r\ntag\r\n" % (b"f" * 1000)
    assert two.replies() == replies
    assert three.replies() == replies.replace(b"$-1", b"_")
    assert (world.stats.hits, world.stats.misses, world.stats.lone) == (6, 2, 8)
    assert two.session.last_command == three.session.last_command == "get"
    assert world.taken == []


@pytest.mark.parametrize(
    "what",
    ["no lease", "damage", "another type", "long", "hindered", "pausing", "waiting", "closing", "within a command"],
)
def test_a_get_that_cannot_be_answered_now_goes_the_long_way(world: World, what: str) -> None:
    client, shard = world.client(), world.shard(b"a")
    found = {"damage": Damaged(cast("Any", "f"), 0, ""), "another type": False, "long": bytes(5000)}
    shard.stored[b"a"] = found.get(what, b"1")
    if what == "no lease":
        shard.stored[b"a"] = b"1"
        shard.lease.lease_until = Clock.now() - 1
    elif what == "hindered":
        client.hinder(1, on=True)
    elif what == "pausing":
        client.reading = False
    elif what == "waiting":
        client.waiting.append(LonePuts())
    elif what == "closing":
        client.close_after_replies()
    elif what == "within a command":
        client.data_received(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % len(get(b"a")))
        world.run_arrivals()
        world.taken.clear()
    client.data_received(get(b"a"))
    world.run_arrivals()
    assert world.taken == [(client, get(b"a"))]
    assert world.posted == []
    assert (world.stats.hits, world.stats.misses, world.stats.lone) == (0, 0, 0)


def test_sets_join_the_batches_of_their_shards(world: World) -> None:
    clients = [world.client(cluster_view=n == 3) for n in range(4)]
    keys = [b"a", b"b", b"c", b"a"]
    assert world.shard(b"a") is not world.shard(b"b")
    for client, key in zip(clients, keys, strict=True):
        client.data_received(put(key, b"of " + key))
    world.run_arrivals()
    for key in keys:
        shard = world.shard(key)
        mine = [n for n, other in enumerate(keys) if world.shard(other) is shard]
        assert shard.keys == [keys[n] for n in mine]
        assert shard.values == [b"of " + keys[n] for n in mine]
        assert shard.slots == [slot_of(keys[n]) for n in mine]
        parts = [part for part in shard._parts if isinstance(part, LonePuts)]
        assert [client for part in parts for client in part.connections] == [clients[n] for n in mine]
        assert all(list(client.waiting) == [part] for part in parts for client in part.connections)
        assert len(parts) == len({clients[n].session.cluster_view for n in mine})  # one for each door
        assert shard.pending_bytes == sum(len(put(keys[n], b"of " + keys[n])) for n in mine)
    assert sum(shard.asked[0] for shard in world.proposers) == 3
    assert sum(shard.asked[1] for shard in world.proposers) == 1
    assert (world.stats.plain_sets, world.stats.lone) == (4, 4)
    assert clients[0].session.last_command == "set"


def test_a_set_that_may_not_join_goes_the_long_way(world: World) -> None:
    standalone, clustered = world.client(), world.client(cluster_view=True)
    world.shard(b"a").leads = False  # the standalone view forwards it
    for client in (standalone, clustered):
        client.data_received(put(b"a"))
    world.run_arrivals()
    assert world.taken == [(clustered, put(b"a"))]
    assert world.shard(b"a").keys == [b"a"]
    world.shard(b"a").refusal = errors.misconf("the disk is full")
    standalone.waiting.clear()
    standalone.data_received(put(b"a"))
    world.run_arrivals()
    assert world.taken[1:] == [(standalone, put(b"a"))]


def test_a_shard_with_too_much_under_way_is_not_given_more_by_those_that_filled_it(world: World) -> None:
    client, other = world.client(), world.client()
    client.transport = cast("Any", SimpleNamespace(pause_reading=lambda: None))
    world.pending_bytes_max = len(put(b"a")) - 1
    for each, key in ((client, b"a"), (other, b"b")):
        each.data_received(put(key, b"" if each is other else b"v"))
    world.run_arrivals()
    assert (client.reading, other.reading) == (False, True)


def test_puts_join_what_others_have_begun_and_come_behind_it(world: World) -> None:
    first, other, last = (world.client() for _ in range(3))
    shard = world.shard(b"a")
    first.data_received(put(b"a", b"1"))
    world.run_arrivals()
    shard.write(Part(), 0, [b"INCR", b"a"])
    last.data_received(put(b"a", b"2"))
    other.data_received(put(b"a", b"3"))
    world.run_arrivals()
    batch = shard._seal()
    assert [type(run).__name__ for run in batch.runs] == ["Puts", "Ops", "Puts"]
    assert [list(part.connections) for part in batch.parts if isinstance(part, LonePuts)] == [[first], [last, other]]


def test_a_fault_costs_the_client_that_met_it_and_nobody_else(world: World) -> None:
    clients = [world.client() for _ in range(3)]
    for client, chunk in zip(clients, (put(b"a"), b"fault", put(b"b")), strict=True):
        client.data_received(chunk)
    world.run_arrivals()
    assert [connection for connection, _ in world.faults] == [clients[1]]
    assert world.shard(b"a").keys + world.shard(b"b").keys == [b"a", b"b"]


def test_a_sample_is_right_even_if_statistics_begin_anew_meanwhile(world: World) -> None:
    clients = [world.client() for _ in range(3)]
    for _ in range(5):
        clients[0].data_received(get(b"a"))
    world.run_arrivals()
    world.watch.want_samples()
    clients[1].data_received(b"reset")
    world.run_arrivals()
    assert world.stats.plain[b"GET"].calls == 0
    assert world.watch.notable_s == 0.0  # a sample is wanted still
    for client, chunk in zip(clients, (get(b"a"), b"reset", get(b"b")), strict=True):
        client.data_received(chunk)
    world.run_arrivals()
    assert world.stats.plain[b"GET"].calls == 0  # the short way comes first
    world.watch.want_samples()
    clients[1].data_received(b"something long")
    clients[0].data_received(get(b"a"))
    world.run_arrivals()
    assert world.stats.plain[b"GET"].calls == 1
    assert world.stats.plain[b"GET"].seconds > 0


def test_who_meets_a_fault_is_disconnected_and_it_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted: list[bool] = []
    logged: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        server_module, "log", SimpleNamespace(error=lambda event, **fields: logged.append((event, fields)))
    )
    session, error = SimpleNamespace(id=7, address="1.2.3.4:5"), RuntimeError("a fault")
    drop(cast("Any", SimpleNamespace(session=session, abort=lambda: aborted.append(True))), error)
    assert aborted == [True]
    assert logged == [("connection_failed", {"client": 7, "address": "1.2.3.4:5", "exc_info": error})]


def test_a_client_that_has_sent_something_is_not_lent(world: World) -> None:
    client = world.client()
    client.transport = cast("Any", SimpleNamespace(pause_reading=lambda: None))
    client.direct_fd = 7
    client.data_received(put(b"a"))
    assert client.lend() == -1
    world.run_arrivals()
    client.waiting.clear()
    assert client.lend() == 7


def test_what_a_turn_has_brought_is_a_sample_and_a_slow_read_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(Clock, "now", lambda: now)
    client, other = world.client(), world.client()

    class Slow(dict[bytes, bytes]):
        def get(self, key: bytes, default: Any = None) -> Any:
            nonlocal now
            now += 0.5
            return b"1"

    shard = world.shard(b"a")
    shard.stored = Slow()
    client.data_received(get(b"a"))
    other.data_received(put(b"b"))
    world.run_arrivals()
    found = world.stats.plain
    assert (found[b"GET"].calls, found[b"GET"].seconds) == (1, 0.25)
    assert (found[b"SET"].calls, found[b"SET"].seconds) == (1, 0.25)
    [entry] = world.watch.slowlog.newest(9)
    assert (entry.args, entry.micros) == ([b"GET", b"a"], 500_000)
    client.data_received(get(b"a"))
    world.run_arrivals()
    assert found[b"GET"].calls == 1
