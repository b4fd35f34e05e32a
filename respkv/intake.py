"""The intake: a process of its own that reads pipelines of plain SETs for its node, so that the node need not.

Two fifths of what a SET costs are reading, parsing and encoding, before anything depends on anything else. For clients
that send many in a row a second process can do that on a second core (`respkv.server.lending` lends their sockets and
takes what comes). It knows nothing but plain SETs: at the first bytes that are anything else, at the client's end, and
when the node asks, it gives the client back, with what it has read and not understood, and the node reads on.

    node -> intake, datagrams: the shard of each slot; then LEND (with the socket) or RECALL and the client; or PROBE
    intake -> node, a stream of frames: u32 length, MessagePack of `Frame`; an empty one says "ready", or answers PROBE

Per loop turn it makes one frame (more if it would be long) of what all its clients sent, with the records in it as the
Bitcask log will hold them. It ends when the node does, and only then: signals that the node's whole process group gets
are not for it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from itertools import accumulate, compress, pairwise
from struct import Struct
from typing import Any, Final, cast

import msgspec
import uvloop

from respkv.cluster.slots import slot_of
from respkv.resp.limits import Limits, ProtocolError
from respkv.resp.parser import Parser
from respkv.shard.batch import Puts, encode_puts_run
from respkv.storage.record import encode_puts

LEND: Final = 0
RECALL: Final = 1
PROBE: Final = 2
CONTROL: Final = Struct("<BQ")
"""What is asked for, and for which client."""
LENGTH: Final = Struct("<I")
DATAGRAM_BYTES_MAX: Final = 32 << 10

PIPELINE_MIN: Final = 8
"""Shorter pipelines cost more this way than they save."""
_SHORT_MAX: Final = 64  # short pipelines in a row before a client is given back
_ARGUMENT_BYTES_MAX: Final = 16 << 10
_CHUNK_BYTES_MAX: Final = 1 << 20
_FRAME_BYTES_MAX: Final = 256 << 10  # and what one read adds
_UNSENT_BYTES_MAX: Final = 4 << 20
_SET: Final = frozenset((b"SET", b"set"))


class Frame(msgspec.Struct, array_like=True, gc=False):
    """What the clients of an intake sent in one turn, in the order in which it came.

    clients   whose bursts of plain SETs these are: a client may be there several times
    counts    how many SETs are in each burst
    sizes     how many bytes each took on the wire
    shards    to which shards they go
    order     the shard of each SET, burst by burst
    puts      the same SETs by shard, in order, each as it will be in an entry
    returned  clients that are given back now, behind their bursts, with the bytes that the node is to read first
    """

    clients: list[int]
    counts: list[int]
    sizes: list[int]
    shards: list[bytes]
    order: bytes
    puts: list[tuple[int, msgspec.Raw]]
    returned: list[tuple[int, bytes]]


_encode = msgspec.msgpack.Encoder().encode


def _empty_frame() -> Frame:
    return Frame([], [], [], [], b"", [], [])


class Client(asyncio.Protocol):
    """A client that was lent."""

    __slots__ = ("_intake", "_parser", "_short", "_tail", "_transport", "id", "recalled")

    def __init__(self, intake: Intake, client: int) -> None:
        self.id = client
        self.recalled = False
        self._intake = intake
        self._parser = Parser(intake.limits)
        self._tail = b""  # of a command that is not complete
        self._short = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.recalled:
            self.give_back()

    def data_received(self, data: bytes) -> None:
        if self.id not in self._intake.clients:
            return
        parser = self._parser
        whole = self._tail + data if self._tail else data
        try:
            commands = parser.feed(data)
        except ProtocolError:
            self.give_back(whole)
            return
        pending = parser.pending_bytes
        if commands:
            try:
                names, keys, values = zip(*commands, strict=True)
            except ValueError:
                self.give_back(whole)
                return
            count = len(names)
            if (
                names.count(names[0]) < count
                or names[0] not in _SET
                or len(whole) > _CHUNK_BYTES_MAX
                or max(map(len, keys)) > _ARGUMENT_BYTES_MAX
                or max(map(len, values)) > _ARGUMENT_BYTES_MAX
            ):
                self.give_back(whole)
                return
            self._intake.add(self.id, len(whole) - pending, keys, values)
            self._short = 0 if count >= PIPELINE_MIN else self._short + 1
        self._tail = whole[len(whole) - pending :] if pending else b""
        if pending > _ARGUMENT_BYTES_MAX or self._short > _SHORT_MAX:
            self.give_back()

    def eof_received(self) -> bool:
        self.give_back()  # the node will find the end, too
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_back()

    def give_back(self, data: bytes | None = None) -> None:
        """From now on the node reads, after `data` (what there is of a command)."""
        if self._intake.clients.pop(self.id, None) is not None:
            self._intake.return_client(self.id, self._tail if data is None else data)
            if self._transport is not None:
                self._transport.pause_reading()
                self._transport.close()

    def recall(self) -> None:
        if self._transport is None:
            self.recalled = True
        else:
            self.give_back()

    def block(self, blocked: bool) -> None:
        """Whether to stop reading for now."""
        if self._transport is not None:
            if blocked:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


class Intake(asyncio.Protocol):
    """All that were lent, and the way to the node."""

    def __init__(self, loop: asyncio.AbstractEventLoop, control: socket.socket, shard_of_slot: bytes) -> None:
        self.limits = Limits()
        self.clients: dict[int, Client] = {}
        self.blocked = False
        self._loop = loop
        self._control = control
        self._shard_of_slot = shard_of_slot
        self._choices = {shard: bytes(shard == each for each in range(256)) for shard in set(shard_of_slot)}
        self._node: asyncio.Transport | None = None
        self._scheduled = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._gathered_bytes = 0
        self._frame = _empty_frame()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._node = cast("asyncio.Transport", transport)
        self._node.set_write_buffer_limits(high=_UNSENT_BYTES_MAX)
        self._loop.add_reader(self._control.fileno(), self._hear)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        os._exit(0)  # the node is gone

    def pause_writing(self) -> None:
        self._block(True)

    def resume_writing(self) -> None:
        self._block(False)

    def _block(self, blocked: bool) -> None:
        self.blocked = blocked
        for client in self.clients.values():
            client.block(blocked)

    def add(self, client: int, size: int, keys: tuple[bytes, ...], values: tuple[bytes, ...]) -> None:
        """A burst of plain SETs."""
        frame = self._frame
        frame.clients.append(client)
        frame.counts.append(len(keys))
        frame.sizes.append(size)
        self._keys += keys
        self._values += values
        self._gathered_bytes += size
        if self._gathered_bytes > _FRAME_BYTES_MAX:
            self._send()
        else:
            self._schedule()

    def return_client(self, client: int, data: bytes) -> None:
        self._frame.returned.append((client, data))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self._send()

    def _send(self) -> None:
        """What was gathered, even if it is nothing."""
        assert self._node is not None
        frame, self._frame = self._frame, _empty_frame()
        if self._keys:
            keys, values = self._keys, self._values
            self._keys, self._values, self._gathered_bytes = [], [], 0
            slots = list(map(slot_of, keys))
            frame.order = shards = bytes(map(self._shard_of_slot.__getitem__, slots))
            ends = list(accumulate(frame.counts, initial=0))
            frame.shards = [bytes(set(shards[start:end])) for start, end in pairwise(ends)]
            frame.puts = self._by_shard(shards, slots, keys, values)
        body = _encode(frame)
        self._node.write(LENGTH.pack(len(body)) + body)

    def _by_shard(
        self, shards: bytes, slots: list[int], keys: list[bytes], values: list[bytes]
    ) -> list[tuple[int, msgspec.Raw]]:
        present = set(shards)
        if len(present) == 1:
            return [(shards[0], encode_puts_run(Puts(slots, keys, *encode_puts(keys, values))))]
        found = []
        for shard in present:
            chosen = shards.translate(self._choices[shard])
            own = list(compress(keys, chosen))
            puts = Puts(list(compress(slots, chosen)), own, *encode_puts(own, list(compress(values, chosen))))
            found.append((shard, encode_puts_run(puts)))
        return found

    def _hear(self) -> None:
        """Does what the node asks for."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._control, DATAGRAM_BYTES_MAX, 1)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if not message:
                os._exit(0)
            asked, client = CONTROL.unpack(message)
            if asked == LEND:
                self._borrow(client, descriptors)
            elif asked == PROBE:
                self._schedule()
            elif client in self.clients:
                self.clients[client].recall()

    def _borrow(self, client: int, descriptors: list[int]) -> None:
        if not descriptors:  # there are too many open here
            self.return_client(client, b"")
            return
        sock = socket.socket(fileno=descriptors[0])
        self.clients[client] = borrowed = Client(self, client)
        task = self._loop.create_task(self._connect(borrowed, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: Client, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: client, sock)
        except OSError:  # it is gone already
            client.give_back()
        else:
            self.connected(client)

    def connected(self, client: Client) -> None:
        """It is read now: before, asking it to pause has no effect."""
        if self.blocked:
            client.block(True)


async def _main(frames: socket.socket, control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    frames.setblocking(False)
    shard_of_slot = control.recv(DATAGRAM_BYTES_MAX)
    control.setblocking(False)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await loop.create_unix_connection(lambda: Intake(loop, control, shard_of_slot), sock=frames)
    await loop.create_future()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_main(*(socket.socket(fileno=int(word)) for word in sys.argv[1:3])))
