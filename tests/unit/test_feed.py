"""How a node learns that what its clients cache has changed, and when it must doubt that it has learned everything."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.acl.user import User
from respkv.border import BadMessage
from respkv.cluster.slots import slot_of
from respkv.raft.group import Clock
from respkv.resp.encoder import encode
from respkv.server.channels import Subscriptions
from respkv.server.feed import LINGER_S, READY_S, SILENT_S, Feed
from respkv.server.news import CHANGED, PEER_BYTES_MAX, WANTS, News
from respkv.server.session import Session
from respkv.server.tracking import Tracker, Tracking

SHARDS = 2


class Now:
    """A clock that stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1000.0
        monkeypatch.setattr(Clock, "now", lambda: self.at)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    return Now(monkeypatch)


class Peers:
    def __init__(self, *names: str) -> None:
        self.links = dict.fromkeys(names)
        self.sent: list[tuple[str, Any]] = []
        self.waiting = 0

    def waiting_bytes(self, name: str) -> int:
        return self.waiting

    def send(self, name: str, message: Any) -> bool:
        self.sent.append((name, message))
        return name in self.links


class Node:
    """A node `me` of three with two shards; `led` are the shards that it leads."""

    def __init__(self, now: Now, led: tuple[int, ...] = ()) -> None:
        self.peers = Peers("a", "b")
        self.clients: dict[int, Any] = {}
        self.pushed: list[tuple[Any, bytes]] = []
        outbox = SimpleNamespace(push=lambda connection, data: self.pushed.append((connection, data)))
        self.groups = [
            SimpleNamespace(leader=shard in led, readable=shard in led, nodes=("a", "b"), confirmed=now.at, term=3)
            for shard in range(SHARDS)
        ]
        proposers = [SimpleNamespace(shard=shard, group=self.groups[shard]) for shard in range(SHARDS)]
        self.news = News(self.peers)  # type: ignore[arg-type]
        slots = [slot % SHARDS for slot in range(16384)]
        self.tracking = Tracking(self.clients, outbox, slots, SHARDS, "life")  # type: ignore[arg-type]
        self.feed = Feed("me", proposers, self.news, self.tracking)  # type: ignore[arg-type]
        keys = [b"%d" % number for number in range(100)]
        self.key = [next(key for key in keys if slot_of(key) % SHARDS == shard) for shard in range(SHARDS)]

    def client(self, protocol: int = 3, **options: Any) -> Tracker:
        prefixes = options.pop("prefixes", [])
        session = Session(cluster_view=False, user=User(b"default"), authenticated=True)
        session.protocol = protocol
        connection: Any = SimpleNamespace(session=session, closing=False)
        self.clients[session.id] = connection
        tracker = Tracker(connection, self.tracking.mark_of(session.id))
        for name, value in options.items():
            setattr(tracker, name, value)
        self.tracking.turn_on(tracker, prefixes)
        return tracker

    def told(self) -> list[Any]:
        """What clients were told since the last look: (connection, keys or None)."""
        self.tracking.end_turn()
        pushed, self.pushed = self.pushed, []
        return pushed

    def says(self, peer: str, shard: int, term: int, *keys: bytes, generation: int = 0, whole: bool = False) -> None:
        self.news.receive(peer, [CHANGED, shard, term, generation, whole, [[key, b""] for key in keys]])

    def is_fed(self, *leaders: str) -> None:
        """It hears of both shards from `leaders`, in term 1."""
        self.feed.begin()
        for shard, leader in enumerate(leaders):
            self.says(leader, shard, 1)


def invalidation(*keys: bytes) -> bytes:
    items = b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in keys)
    return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n" % len(keys) + items


EVERYTHING = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


# --- where changes come from


def test_a_change_is_told_once_until_the_key_is_read_again(now: Now) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    client = node.client()
    key = node.key[0]
    node.tracking.remember(client, [key])
    node.says("a", 0, 1, key)
    assert node.told() == [(client.connection, invalidation(key))]
    node.says("a", 0, 1, key)
    assert node.told() == []
    node.tracking.remember(client, [key])
    node.says("a", 0, 1, key)
    assert node.told() == [(client.connection, invalidation(key))]


def _link_breaks(node: Node, now: Now) -> None:
    node.feed.link_down("a")


def _another_leader(node: Node, now: Now) -> None:
    node.says("b", 0, 2)


def _another_term(node: Node, now: Now) -> None:
    node.says("a", 0, 2)


def _something_dropped(node: Node, now: Now) -> None:
    node.says("a", 0, 1, generation=1)


def _silence(node: Node, now: Now) -> None:
    now.at += SILENT_S * 0.9
    node.says("b", 1, 1)
    now.at += SILENT_S * 0.2
    node.feed.tick()


@pytest.mark.parametrize(
    "happens", [_link_breaks, _another_leader, _another_term, _something_dropped, _silence], ids=lambda f: f.__name__
)
def test_in_doubt_everything_of_the_shard_is_forgotten(now: Now, happens: Callable[[Node, Now], None]) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    holds, other, everything = node.client(), node.client(), node.client(bcast=True, prefixes=[b""])
    node.tracking.remember(holds, [node.key[0]])
    node.tracking.remember(other, [node.key[1]])
    node.told()
    happens(node, now)
    assert node.told() == [(holds.connection, EVERYTHING), (everything.connection, EVERYTHING)]
    node.says("b", 1, 1, node.key[1])
    assert (other.connection, invalidation(node.key[1])) in node.told()


def test_a_deposed_leader_that_does_not_know_it_is_not_listened_to(now: Now) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    node.says("b", 0, 2)
    client = node.client()
    node.tracking.remember(client, [node.key[0]])
    node.says("a", 0, 1)
    assert node.told() == []
    node.says("b", 0, 2, node.key[0])
    assert node.told() == [(client.connection, invalidation(node.key[0]))]


def test_what_this_node_leads_is_told_without_a_message(now: Now) -> None:
    node = Node(now, led=(0, 1))
    assert node.feed.begin()
    client = node.client()
    node.tracking.remember(client, [node.key[0]])
    node.feed.changed(0, 3, [(node.key[0], b"")], whole=False)
    assert node.told() == [(client.connection, invalidation(node.key[0]))]
    node.tracking.remember(client, [node.key[0]])
    node.groups[0].term = 5  # it led no more, and leads again
    node.feed.tick()
    assert node.told() == [(client.connection, EVERYTHING)]


def test_a_leader_that_nobody_follows_keeps_silent(now: Now) -> None:
    node = Node(now, led=(0, 1))
    node.feed.watched_by("a", wants=True)
    assert [message[:4] for _, message in node.peers.sent] == [(CHANGED, 0, 3, 0), (CHANGED, 1, 3, 0)]
    node.peers.sent.clear()
    now.at += SILENT_S
    node.feed.tick()
    assert node.peers.sent == []


def test_who_watches_gets_every_change_and_who_does_not_none(now: Now) -> None:
    node = Node(now, led=(0,))
    node.feed.watched_by("b", wants=True)
    node.peers.sent.clear()
    node.feed.changed(0, 3, [(b"k", b"mark")], whole=True)
    assert node.peers.sent == [("b", (CHANGED, 0, 3, 0, True, [(b"k", b"mark")]))]
    node.feed.watched_by("b", wants=False)
    assert not node.feed.active


def test_what_was_dropped_for_a_node_that_does_not_read_moves_its_generation(now: Now) -> None:
    node = Node(now, led=(0,))
    node.feed.watched_by("b", wants=True)
    node.peers.sent.clear()
    node.peers.waiting = PEER_BYTES_MAX + 1
    node.feed.changed(0, 3, [(b"k", b"")], whole=False)
    assert node.peers.sent == []
    assert node.news.dropped == 1
    node.peers.waiting = 0
    node.feed.tick()
    assert node.peers.sent == [("b", (CHANGED, 0, 3, 1, False, []))]


def test_what_was_not_wanted_for_a_while_moves_the_generation_too(now: Now) -> None:
    """Wishes and changes of other shards do not wait for each other on a link: one may hear of no pause in between."""
    leader = Node(now, led=(0,))
    for wants in (True, False, True):
        leader.feed.watched_by("a", wants=wants)
    assert leader.peers.sent == [("a", (CHANGED, 0, 3, generation, False, [])) for generation in (0, 1)]


def test_being_ready_means_to_hear_of_every_shard(now: Now) -> None:
    node, ready = Node(now), []
    assert not node.feed.begin()
    node.feed.when_ready(lambda: ready.append(1))
    node.says("a", 0, 1)
    assert not ready
    node.says("a", 1, 1)
    assert ready == [1]
    assert node.feed.begin()


def test_without_a_leader_being_ready_takes_no_longer_than_it_may(now: Now) -> None:
    node, ready = Node(now), []
    assert not node.feed.begin()
    node.feed.when_ready(lambda: ready.append(1))
    node.feed.tick()
    assert not ready
    now.at += READY_S
    node.feed.tick()
    assert ready == [1]


def test_a_node_whose_clients_cache_no_more_stops_asking_for_changes(now: Now) -> None:
    node = Node(now)
    wants: list[bool] = []
    node.feed.wants_changed = lambda: wants.append(node.feed.caches)
    node.is_fed("a", "b")
    client = node.client()
    now.at += LINGER_S * 2
    node.feed.tick()
    node.tracking.turn_off(client.connection)
    now.at += LINGER_S * 0.9
    node.feed.tick()
    assert wants == [True]
    now.at += LINGER_S * 0.2
    node.feed.tick()
    assert wants == [True, False]


@pytest.mark.parametrize(
    "message", [[CHANGED, 0, 1, 0, False, [[b"k"]]], [CHANGED, 0, -1, 0, False, []], [WANTS, 0, 1 << 20, True], [57, 0]]
)
def test_a_message_that_cannot_be_breaks_the_link(now: Now, message: list[Any]) -> None:
    with pytest.raises(BadMessage):
        Node(now).news.receive("a", message)


# --- what clients are told


def test_own_writes_are_not_told_to_those_who_do_not_want_it_and_stay_remembered(now: Now) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    quiet, other = node.client(noloop=True), node.client()
    key = node.key[0]
    node.tracking.remember(quiet, [key])
    node.tracking.remember(other, [key])
    node.tracking.changed(0, [(key, quiet.mark)])
    assert node.told() == [(other.connection, invalidation(key))]
    node.tracking.changed(0, [(key, other.mark)])
    assert node.told() == [(quiet.connection, invalidation(key))]
    assert node.tracking.items == 0


def test_broadcasting_gathers_the_keys_of_a_prefix_and_leaves_out_own_writes(now: Now) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    client = node.client(bcast=True, noloop=True, prefixes=[b"a:", b"bb"])
    mark = client.mark
    node.tracking.changed(0, [(b"a:1", b""), (b"a:2", mark), (b"bb", b""), (b"b", b""), (b"c", b""), (b"a:3", mark)])
    node.tracking.changed(0, [(b"a:3", b"")])  # somebody else, too
    assert node.told() == [
        (client.connection, invalidation(b"a:1", b"a:3")),
        (client.connection, invalidation(b"bb")),
    ]
    node.tracking.turn_off(client.connection)
    node.tracking.changed(0, [(b"a:1", b"")])
    assert node.told() == []
    assert node.tracking.prefixes_count() == 0


def test_a_flush_over_all_shards_is_told_once(now: Now) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    client, idle = node.client(), node.client()
    node.tracking.remember(client, node.key)
    for shard in range(SHARDS):
        node.tracking.changed(shard, [], whole=True)
    assert node.told() == [(client.connection, EVERYTHING), (idle.connection, EVERYTHING)]
    assert (node.tracking.keys_count(), node.tracking.items) == (0, 0)


def test_too_many_keys_are_invalidated_the_oldest_first(now: Now) -> None:
    node = Node(now)
    node.is_fed("a", "b")
    client = node.client()
    node.tracking.keys_max = 2
    node.tracking.remember(client, [node.key[0]])
    others = [b"%d" % i for i in range(100, 200) if slot_of(b"%d" % i) % SHARDS == 0][:2]
    node.tracking.remember(client, others)
    assert node.told() == [(client.connection, invalidation(node.key[0]))]
    assert node.tracking.keys_count() == 2


def test_choosing_in_and_out(now: Now) -> None:
    node = Node(now)
    chooser, refuser = node.client(optin=True), node.client(optout=True)
    for tracker in (chooser, refuser):
        node.tracking.remember(tracker, [node.key[0]])
    assert node.tracking.items == 1
    chooser.caching = refuser.caching = True
    for tracker in (chooser, refuser):
        node.tracking.remember(tracker, [node.key[1]])
    assert node.tracking.items == 2
    node.tracking.changed(0, [(node.key[0], b"")])
    node.tracking.changed(1, [(node.key[1], b"")])
    told = [connection for connection, _ in node.told()]
    assert told == [refuser.connection, chooser.connection]


def test_another_connection_is_told_in_the_place_of_the_client(now: Now) -> None:
    node = Node(now)
    target = node.client(protocol=2)
    node.tracking.turn_off(target.connection)
    client = node.client(protocol=2, redirect=target.connection.session.id)
    key = node.key[0]
    node.tracking.remember(client, [key])
    node.tracking.changed(0, [(key, b"")])
    assert node.told() == []  # it does not subscribe, so there is no way
    target.connection.session.subscriptions = Subscriptions()
    node.tracking.remember(client, [key])
    node.tracking.changed(0, [(key, b"")])
    message = encode([b"message", b"__redis__:invalidate", [key]], 2)
    assert node.told() == [(target.connection, message)]
    client.connection.session.protocol = 3
    target.connection.closing = True
    node.tracking.remember(client, [key])
    node.tracking.changed(0, [(key, b"")])
    assert node.told()[0][1].startswith(b">2\r\n$21\r\ntracking-redir-broken\r\n:")
    assert client.broken


def test_a_value_on_its_way_beside_the_invalidation_is_not_forgotten(now: Now) -> None:
    """With REDIRECT a reply may come after a null that was told on another connection: the next doubt counts again."""
    node = Node(now)
    node.is_fed("a", "b")
    target = node.client()
    client = node.client(redirect=target.connection.session.id)
    node.tracking.remember(client, node.key)
    node.feed.link_down("a")
    assert node.told() == [(target.connection, EVERYTHING)]
    node.feed.link_down("b")
    assert node.told() == [(target.connection, EVERYTHING)]
