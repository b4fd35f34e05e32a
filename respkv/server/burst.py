"""What one read of a connection brought, waiting for its replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from respkv.reply import LongBulk, Reply, RespError
from respkv.resp.encoder import OK, encode, parts_of
from respkv.shard.proposer import Proposer
from respkv.shard.waiting import Part

if TYPE_CHECKING:
    from respkv.server.connection import Connection

_OKS: Final = tuple(OK * count for count in range(1025))


class Burst(Part):
    """Commands of any kind: `replies` in order, encoded; the reply at a place is that of the command there."""

    __slots__ = ("commands", "connection", "expected_bytes", "protocol", "replies")

    def __init__(
        self, connection: Connection, size: int, replies: list[bytes], commands: list[list[bytes]]
    ) -> None:
        self.pending = 0
        self.expected_bytes = 0
        self.size = size
        self.joined = []
        self.connection = connection
        self.protocol = connection.session.protocol
        self.replies = replies
        self.commands = commands

    @property
    def client(self) -> Connection:
        return self.connection

    def put(self, token: int, value: Reply) -> None:
        if type(value) is RespError:
            self.connection.server.watch.failed(self.commands[token], value)
        # A long one stands for itself until it is written.
        self.replies[token] = cast("bytes", value) if type(value) is LongBulk else encode(value, self.protocol)

    def fail(self, ok: bytes, error: RespError) -> None:
        line = encode(error, self.protocol)
        self.replies[:] = [line if reply is ok else reply for reply in self.replies]

    def expect(self, value_bytes: int) -> None:
        self.expected_bytes += value_bytes

    def done(self) -> None:
        self.connection.settled(self)

    def wire(self) -> bytes | list[bytes]:
        """All replies; in parts if there is a long one among them."""
        replies = self.replies
        try:
            return b"".join(replies)
        except TypeError:  # a `LongBulk` cannot be joined
            return list(parts_of(replies))


class MutedBurst(Burst):
    """Commands whose replies the client does not want (CLIENT REPLY)."""

    __slots__ = ()

    def wire(self) -> bytes:
        return b""


class Pushed(Part):
    """Messages that answer no command and wait for the replies before them."""

    __slots__ = ("_messages", "size_bytes")

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[bytes] = []
        self.size_bytes = 0

    def add(self, data: bytes) -> None:
        self._messages.append(data)
        self.size_bytes += len(data)

    def wire(self) -> bytes:
        return b"".join(self._messages)


class LonePuts(Part):
    """Plain SETs to one shard, each all that its connection waits for: they get the same reply."""

    __slots__ = ("_reply", "connections")

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Connection] = []
        self._reply = OK

    def put(self, token: int, value: Reply) -> None:
        raise AssertionError("a plain SET has no reply of its own")

    def fail(self, ok: bytes, error: RespError) -> None:
        self._reply = encode(error, 2)

    def done(self) -> None:
        reply, server = self._reply, self.connections[0].server
        server.wake()
        post = server.posted.append
        for connection in self.connections:
            waiting = connection.waiting
            if len(waiting) == 1 and connection.reading and not (connection.closing or connection.half_closed):
                waiting.clear()
                post((connection, reply))
            else:
                server.finished(connection)

    def wire(self) -> bytes:
        """The reply to each of them."""
        return self._reply


class PutBurst(Part):
    """Nothing but plain SETs, to `shards` one after the other: as long as none fails, the replies need not be kept."""

    __slots__ = ("_failed", "connection", "shards")

    def __init__(self, connection: Connection, size: int, shards: bytes) -> None:
        self.pending = 0
        self.size = size
        self.joined: list[Proposer] = []
        self.connection = connection
        self.shards = shards
        self._failed: dict[int, bytes] | None = None

    @property
    def client(self) -> Connection:
        return self.connection

    def put(self, token: int, value: Reply) -> None:
        raise AssertionError("a plain SET has no reply of its own")

    def fail(self, ok: bytes, error: RespError) -> None:
        if self._failed is None:
            self._failed = {}
        for proposer in self.joined:
            if proposer.ok is ok:
                self._failed[proposer.shard] = encode(error, 2)

    def done(self) -> None:
        self.connection.settled(self)

    def wire(self) -> bytes:
        """All replies."""
        count, failed = len(self.shards), self._failed
        if failed is None:
            return _OKS[count] if count < len(_OKS) else OK * count
        return b"".join([failed.get(shard, OK) for shard in self.shards])


class Convoy(Part):
    """Bursts of plain SETs of several connections to the same shards: they wait together."""

    __slots__ = ("bursts",)

    def __init__(self) -> None:
        super().__init__()
        self.bursts: list[PutBurst] = []

    def add(self, burst: PutBurst) -> None:
        burst.pending = 1
        burst.joined = self.joined
        self.bursts.append(burst)
        self.size += burst.size

    def put(self, token: int, value: Reply) -> None:
        raise AssertionError("a plain SET has no reply of its own")

    def fail(self, ok: bytes, error: RespError) -> None:
        for burst in self.bursts:
            burst.fail(ok, error)

    def done(self) -> None:
        server = self.bursts[0].connection.server
        server.wake()
        post = server.posted.append
        for burst in self.bursts:
            burst.pending = 0
            connection = burst.connection
            waiting = connection.waiting
            if len(waiting) == 1 and connection.reading and not (connection.closing or connection.half_closed):
                waiting.clear()
                connection.open_bytes = 0
                post((connection, burst.wire()))
            else:
                server.finished(connection)
