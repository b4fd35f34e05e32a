"""A link: the connection to one other node, with one frame per loop turn in each direction (`respkv.cluster.frames`).

Out: what a turn gathers leaves as one frame. Long messages leave in fragments as the connection drains, so that
heartbeats and what concerns other shards slip in between. A link that sends nothing, or takes nothing of what it is
sent, for `DEAD_AFTER_S` is broken on purpose, as is one with more than `SEND_BUFFER_BYTES_MAX` to send already when
there is more.

In: a peer gets `TURN_BUDGET` of a loop turn, in messages and KiB; what it has sent beyond waits for the next turn, and
its connection is not read meanwhile. Anything that may not come breaks the link.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import structlog

from respkv.border import BadMessage
from respkv.cluster.codec import encode
from respkv.cluster.frames import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    LAST,
    BadFrame,
    FrameReader,
    Message,
    fragments,
    header,
    is_long,
    shard_of,
)
from respkv.cluster.handshake import Handshake, HandshakeError

if TYPE_CHECKING:
    from respkv.cluster.peers import Peers

log = structlog.get_logger()

WRITE_BUFFER_BYTES = 1 << 20
URGENT_KIND_MAX = 6  # Raft's own messages may overtake a long one; everything else keeps its place
DEAD_AFTER_S = 4.0
SEND_BUFFER_BYTES_MAX = 1 << 30  # two values of the largest size
TURN_BUDGET = 1024

HELLO = 250
PING = 251
LEAVING = 252  # the sender is about to stop: send it nothing more
LEFT = 253  # the answer: that was all


class Link(asyncio.Protocol):
    """One connection to another node. `name` is None until its HELLO has come; `parting` is whether its LEAVING has."""

    def __init__(self, peers: Peers, dialed: str | None) -> None:
        self.name: str | None = None
        self.parting = False
        self.out: list[Message] = []
        self.heard_at = peers.loop.time()
        self.created_ms = time.time_ns() // 1_000_000
        self.sent_bytes = 0
        self.closed = asyncio.Event()
        self._peers = peers
        self._dialed = dialed
        self._handshake: Handshake | None = Handshake(peers.secret, dialer=dialed is not None)
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._messages: Iterator[Any] = iter(())  # of a frame, those that are not delivered yet
        self._spent = 0
        self._resting = False
        self._bulk: deque[tuple[memoryview, int, int | None]] = deque()  # fragment, flags, shard
        self._bulk_bytes = 0
        self._bulk_shards: Counter[int | None] = Counter()  # messages that wait in it
        self._write_blocked = False
        self._taken_bytes = -1
        self._taken_at = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        assert self._handshake is not None
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._peers.admit(self)
        self._transport.write(self._handshake.take_output())

    def data_received(self, data: bytes) -> None:
        now = self._peers.loop.time()  # the same in a whole turn of the loop
        if now != self.heard_at:
            self.heard_at, self._spent = now, 0
        if self._handshake is not None:
            data = self._shake(data)
            if not data:
                return
        self._peers.counts.received_bytes += len(data)
        self._reader.feed(data)
        if not self._resting:
            self._read()

    def pause_writing(self) -> None:
        self._write_blocked = True

    def resume_writing(self) -> None:
        self._write_blocked = False
        self._send_fragments()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.closed.set()
        self._peers.lost(self)

    # -- inside

    def _shake(self, data: bytes) -> bytes:
        assert self._handshake is not None
        assert self._transport is not None
        try:
            self._handshake.feed(data)
        except HandshakeError as error:
            self._peers.refused(str(error), self._transport.get_extra_info("peername"))
            self.abort()
            return b""
        self._transport.write(self._handshake.take_output())
        if not self._handshake.done:
            return b""
        rest, self._handshake = self._handshake.rest, None
        self.send_now([(HELLO, *self._peers.hello)])
        return rest

    def _read(self) -> None:
        """Delivers what has come, as far as this turn's budget goes."""
        self._resting = False
        try:
            while self._transport is not None and not self._transport.is_closing():
                for message in self._messages:
                    self._deliver(message)
                    self._spent += 1
                    if self._spent >= TURN_BUDGET:
                        self._rest()
                        return
                messages = self._reader.next()
                if messages is None:
                    return
                self._spent += self._reader.frame_bytes >> 10
                self._peers.counts.received += len(messages)
                self._messages = iter(messages)
                if self.name is None:
                    self._greet(next(self._messages, None))
        except BadFrame as error:
            self._refuse(str(error))
        except BadMessage as error:
            self._refuse(f"a bad message: {error}")

    def _rest(self) -> None:
        assert self._transport is not None
        self._resting = True
        self._transport.pause_reading()
        self._peers.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._spent = 0
        self._read()
        if not self._resting and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _greet(self, hello: Any) -> None:
        if type(hello) is not list or len(hello) != 5 or hello[0] != HELLO:
            raise BadFrame("no HELLO")
        reason = self._peers.welcome(self, *hello[1:], dialed=self._dialed)
        if reason:
            raise BadFrame(reason)
        self._reader.trusted = True

    def _deliver(self, message: Any) -> None:
        if type(message) is not list or not message or type(message[0]) is not int:
            raise BadMessage("not a message")
        if message[0] == PING:
            self._peers.counts.received_pings += 1
        elif message[0] == LEAVING:
            self._peers.dismiss(self)
        elif message[0] == LEFT:
            self._peers.said_all(self)
        else:
            self._peers.deliver(str(self.name), message)

    def _refuse(self, reason: str) -> None:
        log.warning("peer_link_broken", peer=self.name or self._dialed, reason=reason)
        self.abort()

    def flush(self) -> None:
        messages, self.out = self.out, []
        if not self._bulk and not any(is_long(message) for message in messages):
            self.send_now(messages)
            return
        at_once, in_turn, behind = [], [], set(self._bulk_shards)
        for message in messages:
            if message[0] <= URGENT_KIND_MAX and not is_long(message):
                at_once.append(message)
            elif is_long(message) or shard_of(message) in behind or message[0] == LEFT:
                behind.add(shard_of(message))
                in_turn.append(message)
            else:
                at_once.append(message)
        if at_once:
            self.send_now(at_once)
        self._send_in_turn(in_turn)

    def _send_in_turn(self, messages: list[Message]) -> None:
        """Sends messages behind the fragments that wait, the long ones in fragments themselves."""
        self._peers.counts.sent += len(messages)
        for message in messages:
            size = self._bulk_bytes
            for fragment, flags in fragments(message):
                self._bulk.append((fragment, flags, shard_of(message)))
                self._bulk_bytes += len(fragment)
            self._bulk_shards[shard_of(message)] += 1
            if size and self._bulk_bytes > SEND_BUFFER_BYTES_MAX:
                self._refuse("the peer does not read")
                return
        self._send_fragments()

    def _send_fragments(self) -> None:
        while self._bulk and not self._write_blocked and self._transport is not None:
            fragment, flags, shard = self._bulk.popleft()
            if flags & LAST:
                self._bulk_shards[shard] -= 1
                if not self._bulk_shards[shard]:
                    del self._bulk_shards[shard]
            self._bulk_bytes -= len(fragment)
            self._count_bytes(HEADER_BYTES + len(fragment))
            self._transport.writelines((header(fragment, flags), fragment))

    def send_now(self, messages: list[Message]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        payload = encode(messages)
        if len(payload) > FRAME_BYTES_MAX:
            self._send_in_turn(messages)
            return
        self._peers.counts.sent += len(messages)
        self._count_bytes(HEADER_BYTES + len(payload))
        if len(payload) < 65536:
            transport.write(header(payload) + payload)
        else:
            transport.writelines((header(payload), payload))
        if transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX + len(payload):
            self._refuse("the peer does not read")

    def _count_bytes(self, count: int) -> None:
        self.sent_bytes += count
        self._peers.counts.sent_bytes += count

    @property
    def waiting_bytes(self) -> int:
        """What the peer has not taken yet."""
        return self._bulk_bytes + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def check(self, now: float) -> None:
        """Breaks a link that nothing comes from, or that takes nothing of what it is sent."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if not waiting or self.sent_bytes - waiting != self._taken_bytes:
            self._taken_bytes, self._taken_at = self.sent_bytes - waiting, now
        if now - self.heard_at > DEAD_AFTER_S:
            self._refuse(f"nothing was heard for {DEAD_AFTER_S} s")
        elif now - self._taken_at > DEAD_AFTER_S:
            self._refuse(f"the peer has read nothing for {DEAD_AFTER_S} s")

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
