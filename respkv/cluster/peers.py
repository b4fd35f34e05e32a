"""The links between nodes: one connection per pair of nodes for all shards, one frame per peer and loop turn.

A frame is `payload_bytes u32 | crc32 u32 | payload` (little endian), the payload a MessagePack array of messages
(`respkv.cluster.codec`). A long message travels as fragments of `FRAGMENT_BYTES` (top bit of the length set; the next
bit too in its last one), sent as the connection drains, so that heartbeats and what concerns other shards slip in
between. A message whose last field is `Parts` carries these raw, in fragments of their own (third bit set) behind a
MessagePack array of its other fields; they arrive as a list of bytes, cut further, and are copied once. Before the
first frame both ends prove that they know the cluster's secret (`handshake`); the first message names the sender, its
cluster and the fingerprint of its topology. The node that comes first in the topology dials.

Delivery is at most once and in order while a link lasts; a link that breaks loses what was under way, and
`disconnected` says so. A link on which nothing was received, or nothing sent was taken, for `DEAD_AFTER_S` is broken on
purpose, as is one with more than `SEND_BUFFER_BYTES_MAX` to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import structlog

from respkv.border import BadMessage
from respkv.checksum import crc32
from respkv.cluster.codec import decode, encode
from respkv.cluster.handshake import Handshake, HandshakeError
from respkv.cluster.topology import Topology
from respkv.listener import listen

log = structlog.get_logger()

HEADER_BYTES = 8
FRAME_BYTES_MAX = (1 << 30) - 1
FRAGMENT = 1 << 31
LAST = 1 << 30
RAW = 1 << 29
FRAGMENT_LENGTH = RAW - 1
FRAGMENT_BYTES = 256 << 10
LONG_BYTES = 8 << 20  # from here on a message is sent in fragments
WRITE_BUFFER_BYTES = 1 << 20
URGENT_KIND_MAX = 6  # Raft's own messages may overtake a long one; everything else keeps its place
HANDSHAKE_S = 5.0
DEAD_AFTER_S = 4.0
REFUSED_TOLD_S = 1.0
HANDSHAKES_MAX = 128
BACKLOG = 512
SEND_BUFFER_BYTES_MAX = 2 << 30

HELLO = 250
PING = 251

Message = Any


class Parts(list[bytes]):
    """A long last field of a message. The receiver gets the same bytes in smaller parts; none spans two of these."""


class Link(asyncio.Protocol):
    """One connection to another node. `name` is None until its HELLO has come."""

    def __init__(self, peers: Peers, dialed: str | None) -> None:
        self.name: str | None = None
        self.out: list[Message] = []
        self.heard_at = peers.loop.time()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.closed = asyncio.Event()
        self._peers = peers
        self._dialed = dialed
        self._handshake: Handshake | None = Handshake(peers.secret, dialer=dialed is not None)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES
        self._fragments: list[bytes] = []
        self._fragments_bytes = 0
        self._raw: list[bytes] = []
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
        self.heard_at = self._peers.loop.time()
        if self._handshake is not None:
            data = self._shake(data)
            if not data:
                return
        self.received_bytes += len(data)
        self._parts.append(data)
        self._have += len(data)
        if self._have >= self._need:
            self._read_frames()

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

    def _read_frames(self) -> None:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        at, size = 0, len(data)
        self._need = HEADER_BYTES
        while size - at >= HEADER_BYTES and self._transport is not None:
            flags = int.from_bytes(data[at : at + 4], "little")
            length = flags & (FRAGMENT_LENGTH if flags & FRAGMENT else FRAME_BYTES_MAX)
            end = at + HEADER_BYTES + length
            if self.name is None and length > 4096:
                self._refuse("the first message is too long")
                return
            if end > size:
                self._need = end - at
                break
            payload = memoryview(data)[at + HEADER_BYTES : end]
            if crc32(payload) != int.from_bytes(data[at + 4 : at + 8], "little"):
                self._refuse("a frame does not check")
                return
            at = end
            raw: list[bytes] = []
            if flags & FRAGMENT:
                (self._raw if flags & RAW else self._fragments).append(bytes(payload))
                self._fragments_bytes += length
                if self.name is None or self._fragments_bytes > SEND_BUFFER_BYTES_MAX:
                    self._refuse("a message is too long")
                    return
                if not flags & LAST:
                    continue
                payload, self._fragments, self._fragments_bytes = memoryview(b"".join(self._fragments)), [], 0
                raw, self._raw = self._raw, []
            try:
                messages = decode(payload)
                if raw:
                    messages[0].append(raw)
            except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
                self._refuse(f"a frame is no MessagePack: {error}")
                return
            self._deliver(messages)
        self._parts = [data[at:]] if at < size else []
        self._have = size - at

    def _deliver(self, messages: Any) -> None:
        if type(messages) is not list:
            self._refuse("a frame is no list of messages")
            return
        if self.name is None:
            hello = messages.pop(0) if messages else None
            if type(hello) is not list or len(hello) != 5 or hello[0] != HELLO:
                self._refuse("no HELLO")
                return
            reason = self._peers.welcome(self, *hello[1:], dialed=self._dialed)
            if reason:
                self._refuse(reason)
                return
        deliver, name = self._peers.deliver, str(self.name)
        try:
            for message in messages:
                if type(message) is not list or not message or type(message[0]) is not int:
                    raise BadMessage("not a message")
                if message[0] != PING:
                    deliver(name, message)
        except BadMessage as error:
            self._refuse(f"a bad message: {error}")

    def _refuse(self, reason: str) -> None:
        log.warning("peer_link_broken", peer=self.name or self._dialed, reason=reason)
        self.abort()

    def flush(self) -> None:
        messages, self.out = self.out, []
        if not self._bulk and not any(_is_long(message) for message in messages):
            self.send_now(messages)
            return
        at_once, in_turn, behind = [], [], set(self._bulk_shards)
        for message in messages:
            if message[0] <= URGENT_KIND_MAX and not _is_long(message):
                at_once.append(message)
            elif _is_long(message) or _shard(message) in behind:
                behind.add(_shard(message))
                in_turn.append(message)
            else:
                at_once.append(message)
        if at_once:
            self.send_now(at_once)
        self._send_in_turn(in_turn)

    def _send_in_turn(self, messages: list[Message]) -> None:
        """Sends messages behind the fragments that wait, the long ones in fragments themselves."""
        for message in messages:
            size = self._bulk_bytes
            for fragment, flags in _fragments(message):
                self._bulk.append((fragment, flags, _shard(message)))
                self._bulk_bytes += len(fragment)
            self._bulk_shards[_shard(message)] += 1
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
            header = (len(fragment) | flags).to_bytes(4, "little") + crc32(fragment).to_bytes(4, "little")
            self.sent_bytes += HEADER_BYTES + len(fragment)
            self._transport.writelines((header, fragment))

    def send_now(self, messages: list[Message]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        payload = encode(messages)
        if len(payload) > FRAME_BYTES_MAX:
            self._send_in_turn(messages)
            return
        header = len(payload).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little")
        self.sent_bytes += HEADER_BYTES + len(payload)
        if len(payload) < 65536:
            transport.write(header + payload)
        else:
            transport.writelines((header, payload))
        if transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX + len(payload):
            self._refuse("the peer does not read")

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


def _shard(message: Message) -> int | None:
    return message[1] if len(message) > 1 else None


def _fragments(message: Message) -> Iterator[tuple[memoryview, int]]:
    """The fragments of one message and their flags."""
    raw = message[-1] if isinstance(message[-1], Parts) else []
    parts: list[tuple[bytes, int]] = [(encode([message[:-1] if raw else message]), FRAGMENT)]
    parts += [(part, FRAGMENT | RAW) for part in raw if part]
    for position, (part, flags) in enumerate(parts):
        view = memoryview(part)
        for start in range(0, len(view), FRAGMENT_BYTES):
            last = position == len(parts) - 1 and start + FRAGMENT_BYTES >= len(view)
            yield view[start : start + FRAGMENT_BYTES], flags | (LAST if last else 0)


def _is_long(message: Message) -> bool:
    """Whether a message carries so many bytes that others should not wait behind it. Looks at what can be large
    only."""
    content = message[-1]
    if type(content) is Parts:
        return True
    if type(content) is bytes:
        return len(content) >= LONG_BYTES
    if type(content) is not list:
        return False
    size = 0
    for item in content:
        part = item[0] if type(item) is tuple else item
        if type(part) is bytes:
            size += len(part)
    return size >= LONG_BYTES


class Peers:
    """All links of this node.

    Args:
        agreement: settings that all nodes must share, as text; a node with other ones is refused.
        deliver: called as `deliver(node_id, message)` for each message received, a list that begins with an int; a
            `BadMessage` that it raises breaks the link.
        connected, disconnected: called with the node's id when a link is ready and when it is gone.
        dirty: called when there is something to flush this turn.
    """

    def __init__(
        self,
        topology: Topology,
        node: str,
        secret: bytes,
        agreement: str,
        *,
        deliver: Callable[[str, Message], None],
        connected: Callable[[str], None],
        disconnected: Callable[[str], None],
        dirty: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.secret = secret
        self.hello = (node, topology.cluster_id, topology.fingerprint, agreement)
        self.deliver = deliver
        self.links: dict[str, Link] = {}
        self._topology = topology
        self._node = node
        self._connected = connected
        self._disconnected = disconnected
        self._dirty = dirty
        self._waiting: list[Link] = []
        self._greeting: dict[Link, asyncio.TimerHandle] = {}  # in the order of their coming
        self._refused: dict[str, tuple[float, int]] = {}  # by reason: when one was told of, and how many were not since
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, addresses: Sequence[str], port: int) -> None:
        """Listens on the peer port and dials the nodes that come after this one. Raises OSError."""
        if len(self._topology.nodes) == 1:
            return
        for address in addresses:
            self._servers += await listen(self.loop, lambda: Link(self, None), address, port, BACKLOG)
        names = [node.id for node in self._topology.nodes]
        for name in names[names.index(self._node) + 1 :]:
            self._tasks.append(self.loop.create_task(self._dial(name)))
        self._tasks.append(self.loop.create_task(self._watch()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        for link in (*self.links.values(), *self._greeting):
            link.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, name: str, message: Message) -> bool:
        """Joins this turn's frame to node `name`; False if there is no link (the message is dropped)."""
        link = self.links.get(name)
        if link is None:
            return False
        if not link.out:
            self._waiting.append(link)
            self._dirty()
        link.out.append(message)
        return True

    def waiting_bytes(self, name: str) -> int:
        """What node `name` has not taken yet of what was sent in earlier turns."""
        link = self.links.get(name)
        return 0 if link is None else link.waiting_bytes

    def flush(self) -> None:
        """Sends what this turn has gathered, one frame per peer."""
        waiting, self._waiting = self._waiting, []
        for link in waiting:
            link.flush()

    # -- called by links

    def admit(self, link: Link) -> None:
        """Counts a connection whose other end has not named itself; the oldest of too many goes."""
        if len(self._greeting) >= HANDSHAKES_MAX:
            oldest = next(iter(self._greeting))
            self._over(oldest)
            oldest.abort()
        self._greeting[link] = self.loop.call_later(HANDSHAKE_S, link.abort)

    def _over(self, link: Link) -> None:
        timer = self._greeting.pop(link, None)
        if timer is not None:
            timer.cancel()

    def refused(self, reason: str, address: Any) -> None:
        """Logs a stranger who was thrown out: of many with the same reason one per second, and how many others."""
        now = self.loop.time()
        told_at, untold = self._refused.get(reason, (float("-inf"), 0))
        if now - told_at < REFUSED_TOLD_S:
            self._refused[reason] = (told_at, untold + 1)
            return
        log.warning("peer_refused", reason=reason, address=address, untold_before=untold)
        self._refused[reason] = (now, 0)

    def welcome(
        self, link: Link, name: Any, cluster: Any, fingerprint: Any, agreement: Any, *, dialed: str | None
    ) -> str | None:
        """Takes a link whose other end has named itself; returns why not, if not."""
        known = [node.id for node in self._topology.nodes if node.id != self._node]
        if name not in known or (dialed is not None and name != dialed):
            return f"unexpected node {name!r}"
        if cluster != self._topology.cluster_id or fingerprint != self._topology.fingerprint:
            return f"node {name} has another cluster map"
        if agreement != self.hello[3]:
            return f"node {name} has {agreement!r}, this one {self.hello[3]!r}"
        self._over(link)
        old = self.links.pop(name, None)
        if old is not None:
            old.abort()
            old.name = None
            self._disconnected(name)
        link.name = name
        self.links[name] = link
        log.info("peer_connected", peer=name)
        self._connected(name)
        return None

    def lost(self, link: Link) -> None:
        self._over(link)
        name = link.name
        if name is not None and self.links.get(name) is link:
            del self.links[name]
            log.info("peer_disconnected", peer=name)
            self._disconnected(name)

    # -- tasks

    async def _dial(self, name: str) -> None:
        peer = self._topology.node(name)
        delay = 0.05
        while True:
            if name not in self.links:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(HANDSHAKE_S):
                        _, link = await self.loop.create_connection(
                            lambda: Link(self, name), peer.host, peer.peer_port
                        )
                    await link.closed.wait()
                    delay = 0.05 if link.name is not None else delay
            await asyncio.sleep(delay * (0.75 + random.random() / 2))
            delay = min(delay * 1.5, 1.0)

    async def _watch(self) -> None:
        """Keeps idle links known to be alive, and breaks those on which nothing comes any more."""
        while True:
            await asyncio.sleep(DEAD_AFTER_S / 4)
            for name, link in list(self.links.items()):
                link.check(self.loop.time())
                self.send(name, (PING,))
