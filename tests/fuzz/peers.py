"""What may come over the peer port: any bytes before the handshake, bad messages of a node that knows the secret."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Self

from respkv.acl.user import User
from respkv.border import BadMessage
from respkv.checksum import crc32
from respkv.cluster.codec import decode, encode
from respkv.cluster.frames import FRAGMENT, LAST, RAW
from respkv.cluster.handshake import MAGIC, Handshake, HandshakeError
from respkv.cluster.link import HELLO, LEAVING, LEFT, PING, Link
from respkv.cluster.peers import Peers
from respkv.cluster.topology import Node, Shard, Topology
from respkv.config import load
from respkv.config.live import Live
from respkv.disk import Disk
from respkv.raft import messages as raft
from respkv.raft.clock import Clock
from respkv.raft.journal import Journal
from respkv.raft.log import Standing
from respkv.raft.long import LAST as LAST_PIECE
from respkv.raft.long import PIECE
from respkv.raft.receiving import LogDivergence
from respkv.reply import NULL_ARRAY, OK, LongBulk, RespError, Simple, Verbatim
from respkv.resp.encoder import encode as encode_reply
from respkv.server import news
from respkv.server.access import Access
from respkv.server.announce import ANNOUNCE, Endpoints
from respkv.server.channels import CHANNEL, PATTERN, Channels
from respkv.server.evict import SHARD_FULL, Evictor
from respkv.server.feed import Feed
from respkv.server.holders import HOLDERS_ASK, HOLDERS_HINT, HOLDERS_TELL, Holders
from respkv.server.messaging import Messaging
from respkv.server.notify import Notifier
from respkv.server.pause import Pause
from respkv.server.roll import USERS_HAVE, USERS_TELL, Roll
from respkv.server.session import Session
from respkv.server.tracking import Tracker, Tracking
from respkv.shard import border
from respkv.shard.batch import Entry, Guarded, Ops, Puts, encode_entry, encode_runs
from respkv.shard.long import LongEntry, LongPut, encode_head
from respkv.shard.replica import Replica
from respkv.shard.transaction import WATCH_OP, Watched, exec_args
from respkv.shard.waiting import Part
from respkv.storage.record import encode_puts
from tests.fuzz.source import anything, bend, cut, mutate, some_bytes

SECRET = b"secret"
FRAGMENTS = (FRAGMENT, FRAGMENT | LAST, FRAGMENT | RAW, FRAGMENT | RAW | LAST)
PEERS = ("n2", "n3")
TOPOLOGY = Topology.build([Node(f"n{n}", "127.0.0.1", n, 10 + n, 20 + n) for n in (1, 2, 3)], 1, 3, cluster_id="c")


class Wire:
    """Stands for a transport: keeps nothing but whether it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def writelines(self, parts: Any) -> None:
        self.written += sum(map(len, parts))

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


def links() -> Peers:
    async def make() -> Peers:
        return Peers(
            TOPOLOGY, "n1", SECRET, "same", deliver=lambda peer, message: None, connected=lambda peer: None,
            disconnected=lambda peer: None, dirty=lambda: None,
        )

    made = asyncio.run(make())
    soon: list[Any] = []
    made.loop = SimpleNamespace(  # type: ignore[assignment]
        time=lambda: 0.0, call_later=lambda *_: SimpleNamespace(cancel=lambda: None), call_soon=soon.append, soon=soon
    )
    return made


def receive(link: Link, wire: Wire, chunks: list[bytes]) -> None:
    for chunk in chunks:
        if wire.closed:
            break
        link.data_received(chunk)
        while soon := link._peers.loop.soon:  # type: ignore[attr-defined]
            soon.pop(0)()
    if wire.closed:
        link.connection_lost(None)


def before_the_handshake(rng: Random) -> None:
    """Whoever does not know the secret gets at most a nonce and a proof, whatever he sends, and never delivers."""
    peers, wire = links(), Wire()
    peers.deliver = lambda peer, message: (_ for _ in ()).throw(AssertionError("a stranger was heard"))  # type: ignore[assignment]
    link = Link(peers, rng.choice((None, "n2")))
    link.connection_made(wire)  # type: ignore[arg-type]
    start = rng.choice((MAGIC + bytes(32), MAGIC + some_bytes(rng, 80), some_bytes(rng, 200), bytes(64)))
    receive(link, wire, cut(rng, mutate(rng, start) if rng.randrange(2) else start + some_bytes(rng, 100)))
    assert wire.written <= 36 + 64
    assert not peers.links


def the_handshake(rng: Random) -> None:
    """A bent handshake ends in a `HandshakeError` or waits for more; only an unbent one ends in trust."""
    dialer, acceptor = Handshake(SECRET, dialer=True), Handshake(SECRET, dialer=False)
    bent = rng.randrange(3)
    steps = [(acceptor, dialer), (dialer, acceptor), (acceptor, dialer)]
    try:
        for number, (to, by) in enumerate(steps):
            data = sent = by.take_output()
            if number == bent and rng.randrange(5):
                data = mutate(rng, sent)
            for chunk in cut(rng, data):
                to.feed(chunk)
            if data[: len(sent)] != sent:  # shorter, or changed where it counts
                assert not to.done or (bent == 1 and to is acceptor) or len(data) < len(sent)
                assert not (to is dialer and to.done)
    except HandshakeError:
        pass


def frame(payload: bytes, flags: int = 0) -> bytes:
    return (len(payload) | flags).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little") + payload


def frames_after_the_handshake(rng: Random) -> None:
    """Frames of a node that knows the secret: it is heard, or its link is broken; nothing else happens."""
    peers, wire = links(), Wire()

    def deliver(peer: str, message: Any) -> None:
        assert peer == "n2"
        assert type(message) is list
        if rng.randrange(4) == 0:
            raise BadMessage("by chance")

    peers.deliver = deliver
    link, other = Link(peers, None), Handshake(SECRET, dialer=True)
    link.connection_made(wire)  # type: ignore[arg-type]
    link.data_received(other.take_output())
    assert link._handshake is not None
    other.feed(link._handshake._nonce + link._handshake._proof(b"acceptor"))
    hello: Any = [HELLO, "n2", *peers.hello[1:]]
    if rng.randrange(3) == 0:
        hello = bend(rng, hello)
    stream = other.take_output() + frame(encode([hello]))
    for _ in range(rng.randrange(6)):
        said = [rng.randrange(30), 0, *(anything(rng) for _ in range(rng.randrange(5)))]
        content: Any = [[PING], said, [rng.choice((PING, LEAVING, LEFT))]]
        payload = encode(bend(rng, content) if rng.randrange(2) else content)
        if rng.randrange(4) == 0:
            payload = mutate(rng, payload)
        if rng.randrange(4) == 0:
            payload = b"\x91" * rng.choice((10, 20_000))
        stream += frame(payload, rng.choice((0, 0, 0, *FRAGMENTS)))
    if rng.randrange(3) == 0:
        stream = stream[:100] + mutate(rng, stream[100:])
    receive(link, wire, cut(rng, stream))
    assert wire.closed or "n2" in peers.links or len(peers.links) == 0


# --- messages

_READS = [[b"GET", b"k"], [b"DBSIZE"], [b"SCAN", b"0"]]


def runs(rng: Random) -> list[Any]:
    keys, values = [b"a", b"b"], [some_bytes(rng), b"v"]
    sizes, records = encode_puts(keys, values)
    transaction = exec_args([Watched(b"k", b"", 1)], [[b"INCR", b"n"], [b"GET", b"k"]])
    return [
        Puts([1, 2], keys, sizes, records),
        Ops([[b"INCR", b"n"], [b"SET", b"k", b"v", b"EX", b"9"], [WATCH_OP, b"k"], transaction]),
        Guarded([transaction]),
    ]


def entries(rng: Random, index: int, term: int) -> list[Any]:
    """Entries of a leader from `index` on: plain ones, an election's, and long commands in pieces."""
    made: list[Any] = []
    for _ in range(rng.randrange(4)):
        kind = rng.randrange(4)
        if kind == 0:
            made.append(b"\x01")
        elif kind == 1:
            head = encode_head(LongEntry(1, 2, [("n2", 7, 0, 0)], [LongPut(5, b"long", 9)]))
            made += [bytes([PIECE]) + b"five+", bytes([PIECE]) + b"four"]
            made.append(bytes([LAST_PIECE]) + (2).to_bytes(4, "little") + head)
        elif kind == 2:
            whole = encode_entry(Entry(1, 2, [], runs(rng)))
            made += [bytes([PIECE]) + whole, bytes([LAST_PIECE]) + (1).to_bytes(4, "little")]
        else:
            made.append(encode_entry(Entry(1, 2, [("n2", 7, 0, 2)], runs(rng))))
    return [[command, index + number, term] for number, command in enumerate(made)]


def replies(rng: Random, count: int) -> list[Any]:
    kinds = (b"x", 1, None, 1.5, True, [b"a", [1]], {b"a": 1}, OK, Simple(b"a"), RespError("ERR x"))
    return [rng.choice((*kinds, Verbatim(b"x"), NULL_ARRAY, LongBulk(4, []))) for _ in range(count)]


def raft_message(rng: Random, replica: Replica) -> list[Any]:
    """What a replica in order could say to this one now, of any kind."""
    group = replica.group
    term = group.term + rng.choice((0, 0, 0, 1, 1, 2, 100))
    log = group.log
    last, last_term = log[-1][1], log[-1][2]
    prev = rng.choice((last, last, last, last - 1, last + 3, log.base_index, 0))
    prev_term = log.term_at(prev) or 0
    following = entries(rng, prev + 1, max(term, prev_term))
    data = some_bytes(rng, 30)
    return rng.choice(
        (
            [raft.APPEND, 0, term, rng.choice((last, prev, 0)), prev, prev_term, 1.0, following],
            [raft.APPEND, 0, term, prev + len(following), prev, prev_term, 1.0, following],
            [raft.APPEND, 0, term, last, last, last_term, 1.0, []],
            [raft.ACK, 0, term, last + 1, True, False, 0.5],
            [raft.ACK, 0, group.term, last + 1, True, False, 1001.0],
            [raft.ACK, 0, term, rng.randrange(last + 2), False, bool(rng.randrange(2)), 0.5],
            [raft.VOTE, 0, term, last, last_term, bool(rng.randrange(2))],
            [raft.VOTED, 0, term],
            [raft.PREVOTE, 0, term, last, last_term],
            [raft.PREVOTED, 0, group.term + 1, True],
            [raft.PREVOTED, 0, term, bool(rng.randrange(2))],
            [raft.TIMEOUT_NOW, 0, term],
            [raft.ASIDE, 0],
            [raft.SNAPSHOT_BEGIN, 0, 5, term, last + 10, term, [["000001.0.data", 30], ["000002.0.data", 0]]],
            [raft.SNAPSHOT_CHUNK, 0, 5, rng.randrange(2), rng.randrange(2), rng.choice((0, 0, len(data))), data],
            [raft.SNAPSHOT_END, 0, 5, rng.randrange(3)],
            [raft.SNAPSHOT_ACK, 0, 5, rng.randrange(-1, 4)],
            [raft.INTRODUCE, 0, 9, rng.choice(("life", "other")), rng.randrange(4)],
            [raft.INTRODUCED, 0, replica.membership._question, bool(rng.randrange(2)), term, rng.choice((-1, last))],
        )
    )


def proposers_message(rng: Random, replica: Replica, requests: list[int]) -> list[Any]:
    """What another node's proposer could say now, of any kind."""
    term = rng.choice((-1, replica.group.term))
    request = rng.choice(requests or [1])
    outcome: Any = rng.choice(
        ([0, replies(rng, rng.randrange(4))], [1, None], [1, ["n3", 4]], [2, RespError("MISCONF x")])
    )
    long_runs = encode_runs([LongPut(1, b"long", 4), *runs(rng)])  # type: ignore[list-item]
    return rng.choice(
        (
            [border.FORWARD, 0, 1, term, encode_runs(runs(rng))],
            [border.FORWARDED, 0, request, *outcome],
            [border.READ, 0, 3, term, [*_READS, exec_args([], _READS), [WATCH_OP, b"k"]]],
            [border.READ_DONE, 0, request, *outcome],
            [border.READ_DONE, 0, request, 0, [LongBulk(4, [])], [b"ab", b"cd"]],
            [border.FORWARD_LONG, 0, 1, term, long_runs, [b"lo", b"ng"]],
            [border.READ_LATER, 0, request, 1 << 20],
            [HOLDERS_ASK, 0, 1, rng.choice((0, 5))],
            [HOLDERS_TELL, 0, 1, 5, 2],
            [HOLDERS_HINT, 0, 1, rng.choice((None, ("n2", term)))],
            [SHARD_FULL, 0, rng.random() < 0.5],
            [ANNOUNCE, 0, rng.choice(("", "10.0.0.9")), rng.choice((0, 7001)), rng.choice(("", "n2.example"))],
            [USERS_TELL, 0, rng.randrange(9), rng.choice((b"", b"user a on >x ~k* (+get &c)\nuser default off\n"))],
            [USERS_HAVE, 0, rng.randrange(9)],
        )
    )


class Waiter(Part):
    """A client of this node whose commands were forwarded."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    def put(self, token: int, value: Any) -> None:
        encode_reply(value, 2)

    def fail(self, ok: bytes, error: RespError) -> None: ...

    def done(self) -> None:
        self.ended += 1
        assert self.ended == 1, "a client was answered twice"


class AtOnce:
    """Stands for the worker thread."""

    def submit(self, job: Any, done: Any) -> Any:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - as the worker has it
            done(error)
        else:
            done(None)
        return lambda: None


class Listener:
    """A connection, as far as messages are concerned."""

    closing = False

    def __init__(self, session: Session) -> None:
        self.session = session


class Talk:
    """What a node's server has to do with other nodes, with one client that listens to all and caches all."""

    def __init__(self, replica: Replica, send: Any) -> None:
        peers: Any = SimpleNamespace(links=dict.fromkeys(PEERS), send=send, waiting_bytes=lambda _: 0)
        session = Session(cluster_view=False, user=User(b"default"), authenticated=True)
        connection: Any = Listener(session)
        outbox: Any = SimpleNamespace(push=lambda client, data: None)
        self.news = news.News(peers)
        channels = Channels(outbox.push)
        channels.subscribe(connection, PATTERN, b"*")
        channels.subscribe(connection, CHANNEL, b"c")
        self.tracking = Tracking({session.id: connection}, outbox, [0] * 16384, 1, "life")
        self.tracking.turn_on(Tracker(connection, b"mark"), [b""])
        self.messaging = Messaging(channels, self.news)
        self.feed = Feed("n1", [replica.proposer], self.news, self.tracking)
        self.notifier = Notifier([replica.proposer], channels, self.news, self.feed, lambda _: None)
        self.notifier.configure("KEAmn")
        self.pause = Pause(self.news, lambda _: None)
        self.feed.begin()

    def turn(self) -> None:
        self.tracking.end_turn()
        self.feed.tick()
        self.pause.tick()
        self.news.tick()


def news_message(rng: Random) -> list[Any]:
    """What another node's server could say, of any kind."""
    key, mark = some_bytes(rng, 9), rng.choice((b"", b"mark"))
    return rng.choice(
        (
            [news.PUBLISH, 0, 1, bool(rng.randrange(2)), b"c", some_bytes(rng)],
            [news.ASK, 0, 1, rng.randrange(10), rng.choice(([], [b"c"], [b"*", b"c"]))],
            [news.TOLD, 0, rng.randrange(3), [1, 2], [b"c"]],
            [news.WANTS, 0, rng.randrange(1 << 16), bool(rng.randrange(2))],
            [news.EVENTS, 0, [[1 << rng.randrange(16), b"set", key]]],
            [news.CHANGED, 0, rng.randrange(9), rng.randrange(2), bool(rng.randrange(2)), [[key, mark]]],
            [news.PAUSE, 0, 1, rng.randrange(2), bool(rng.randrange(2))],
        )
    )


class FuzzedNode:
    """A replica with all that belongs to it, and the border as `respkv.node` has it."""

    def __init__(self, path: Path, standing: Standing) -> None:
        self.journal = Journal.open(path / "journal", [0], segment_bytes=1 << 16)
        flags = {"dir": str(path), "journal-segment-bytes": "64kb", "segment-bytes": "64kb", "read-cache-bytes": "0"}
        self.sent: list[Any] = []
        self.replica = Replica(
            Shard(0, (0,), ("n1", *PEERS)), "n1", load(environ={}, flags=flags), self.journal, send=self._send,
            wake=lambda _: None, worker=AtOnce(), fatal=_fatal, disk=Disk(), now=lambda: 0.0,  # type: ignore[arg-type]
        )
        self.holders = Holders("n1", [self.replica.proposer], self._send)
        self.evictor = Evictor("n1", [self.replica.proposer], [self.replica], lambda _: None, lambda *_: None)
        nodes = [Node(name, "127.0.0.1", 1, 2, 3) for name in ("n1", *PEERS)]
        self.endpoints = Endpoints(Topology.build(nodes, 1, len(nodes)), "n1", lambda _: None)
        links: Any = SimpleNamespace(links=dict.fromkeys(PEERS), send=self._send)
        roll: Any = (self.replica.proposer, self.replica, links, path / "users", AtOnce(), Disk())
        self.roll = Roll(Access(Live(load(environ={}, flags=flags)), {}), *roll)
        self.roll.start()
        self.talk = Talk(self.replica, self._send)
        self.replica.group.log.stand(standing)
        self.turn()
        for peer in PEERS:
            self.replica.link_up(peer)

    def _send(self, peer: str, sent: Any) -> bool:
        encode(tuple(sent))  # all that leaves can travel
        self.sent.append(sent)
        return True

    def deliver(self, peer: str, received: Any) -> None:
        if received[0] <= raft.REPLICA_KIND_MAX:
            self.replica.receive(peer, received)
        elif received[0] == SHARD_FULL:
            self.evictor.receive(peer, received)
        elif received[0] == ANNOUNCE:
            self.endpoints.receive(peer, received)
        elif received[0] in {USERS_TELL, USERS_HAVE}:
            self.roll.receive(peer, received)
        elif received[0] >= news.PUBLISH:
            self.talk.news.receive(peer, received)
        elif received[0] >= HOLDERS_ASK:
            self.holders.receive(peer, received)
        else:
            self.replica.proposer.receive(peer, received)

    def turn(self) -> None:
        self.replica.pump()
        self.talk.turn()
        self.journal.flush()
        self.replica.catch_up()
        for shard_log in self.journal.count_written():
            if shard_log is self.replica.group.log:
                self.replica.group.durable_moved()

    def client(self, rng: Random) -> Waiter:
        waiter = Waiter()
        proposer = self.replica.proposer
        if rng.randrange(2):
            proposer.write(waiter, 0, [b"SET", b"k", b"v"])
        else:
            proposer.read(waiter, 0, [b"GET", b"k"])
        return waiter

    def requests(self) -> list[int]:
        proposer = self.replica.proposer
        return [*proposer._forwards, *([asked.request] if (asked := proposer._reads.asked) else [])]

    def close(self) -> None:
        self.replica.close()
        self.journal.close()


def _fatal(error: BaseException) -> None:
    raise AssertionError(f"the node would stop: {error!r}") from error


class Time:
    """The clock of elections and leases, which moves when it is told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __enter__(self) -> Self:
        self._now = Clock.now
        Clock.now = lambda: self.at  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Clock.now = self._now  # type: ignore[method-assign]


def messages_of_a_peer(rng: Random) -> None:
    """A conversation in which every other message is bad: it is refused as a `BadMessage` before anything changes,
    or is harmless; what is sent can travel, nobody is answered twice, and the replica goes on."""
    path = Path(tempfile.mkdtemp(prefix="respkv-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    with Time() as time:
        node = FuzzedNode(path, rng.choice((Standing.VOTER, Standing.VOTER, *Standing)))
        try:
            _converse(rng, node, time)
            group = node.replica.group
            assert group.log.base_index <= max(1, group.applied) <= group.commit <= group.log.last_index
            assert [e[1] for e in group.log] == list(range(group.log[0][1], group.log[-1][1] + 1))
        except LogDivergence:
            pass  # a peer that contradicts what is applied: the one thing that may stop a node
        finally:
            node.close()
            shutil.rmtree(path)


def _elect(node: FuzzedNode, time: Time) -> None:
    """Makes the replica the leader of its shard, if it may vote."""
    group = node.replica.group
    time.at += 5.0
    node.replica.tick()  # a process that stood still waits a little before it stands for election
    for _ in range(40):
        time.at += 0.1
        node.replica.tick()
    node.deliver("n2", [raft.PREVOTED, 0, group.term + 1, True])
    node.turn()
    node.deliver("n2", [raft.VOTED, 0, group.term])
    node.turn()
    for peer in PEERS:
        node.deliver(peer, [raft.ACK, 0, group.term, group.log.last_index + 1, True, False, time.at])
    node.turn()


def _converse(rng: Random, node: FuzzedNode, time: Time) -> None:
    group = node.replica.group
    if rng.randrange(2):
        _elect(node, time)
        assert group.readable or group.log.standing is not Standing.VOTER
    else:
        node.deliver("n2", [raft.APPEND, 0, group.term + 1, 0, group.log.last_index, group.log[-1][2], time.at, []])
    for _ in range(rng.randrange(1, 20)):
        time.at += rng.choice((0.0, 0.01, 0.01, 0.3, 0.6))
        node.replica.tick()
        node.replica.proposer.tick()
        if rng.randrange(4) == 0:
            node.client(rng)
            node.turn()
        kind = rng.randrange(4)
        if kind > 1:
            fair = raft_message(rng, node.replica)
        else:
            fair = news_message(rng) if kind else proposers_message(rng, node.replica, node.requests())
        said = decode(encode(bend(rng, fair) if rng.randrange(2) else fair))
        if not said or type(said) is not list or type(said[0]) is not int or len(said) < 2 or said[1] != 0:
            continue  # for the link and the node: see `frames_after_the_handshake`
        before = (group.term, group.commit, group.log.last_index)
        try:
            node.deliver(rng.choice(PEERS), said)
        except BadMessage:
            assert (group.term, group.commit, group.log.last_index) == before
        node.turn()
