"""Lending: clients that send pipelines of plain SETs are read by a process of their own (`respkv.intake`).

A connection that is lent is the same `Connection` as before: only its transport does not read. Whatever it sent comes
here as bursts that are parsed and encoded already, and joins the shards' batches as if it had been read here. It is
recalled as soon as the node has any reason not to take such bursts unseen (`Connection.takes_puts`); what has come
until it is back, and what a shard refuses, is taken apart again and run as commands. Order holds, as a client is read
by one process at a time, and what the intake read comes before the news that it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from respkv.intake import CONTROL, LEND, LENGTH, PROBE, RECALL, Frame
from respkv.raft.group import Clock
from respkv.server.burst import Convoy, PutBurst
from respkv.shard.batch import Puts, decode_puts_run
from respkv.shard.waiting import Part
from respkv.storage.record import HEADER_BYTES, TRAILER_BYTES

if TYPE_CHECKING:
    from respkv.server.connection import Connection
    from respkv.server.server import Server

log = structlog.get_logger()

LEND_AFTER: Final = 8
"""Pipelines of plain SETs before a client is lent."""
LEND_AGAIN: Final = 64
"""So many more before one is lent again that came back."""
_RESTART_S: Final = 1.0
_STOP_S: Final = 1.0
_SILENT_TICKS_MAX: Final = 50  # about five seconds
_BUFFER_BYTES: Final = 1 << 20

_decode = msgspec.msgpack.Decoder(Frame).decode


class Lending(asyncio.Protocol):
    """The node's end: the process, and who was lent to it. The process is started when the first client is worth it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self.ready = False
        self._loop = loop
        self._server = server
        self._lent: dict[int, Connection] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._not_before = float("-inf")
        self._stopped = False
        self._silent_ticks = 0
        self._received = bytearray()
        self._task: asyncio.Task[Any] | None = None

    # -- the process

    def _start(self) -> None:
        try:
            with contextlib.ExitStack() as opened:
                frames, their_frames = map(opened.enter_context, socket.socketpair())
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                control, their_control = map(opened.enter_context, pair)
                their_frames.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                control.send(self._server.shard_of_slot)
                descriptors = their_frames.fileno(), their_control.fileno()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "respkv.intake", *map(str, descriptors)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                )
                stream, self._control = (socket.socket(fileno=own.detach()) for own in (frames, control))
        except OSError as error:  # too many processes or descriptors
            self._not_before = Clock.now() + _RESTART_S
            log.warning("intake_cannot_start", error=str(error))
            return
        stream.setblocking(False)
        self._control.setblocking(False)
        self._task = self._loop.create_task(self._loop.create_unix_connection(lambda: self, sock=stream))
        log.info("intake_started", pid=self._process.pid)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended: what it had read is not known, and its clients cannot go on."""
        self.ready = False
        self._received.clear()
        process, self._process = self._process, None
        if self._control is not None:
            self._control.close()
            self._control = None
        if process is None:
            return
        process.kill()
        process.wait()
        lost, self._lent = self._lent, {}
        for connection in lost.values():
            connection.abort()
        if not self._stopped:
            self._not_before = Clock.now() + _RESTART_S
            log.error("intake_lost", status=process.returncode, clients=len(lost))

    def stop(self) -> None:
        """The process ends, and with it the connections that it reads."""
        self._stopped = True
        if self._process is not None and self._control is not None:
            self._control.close()
            self._control = None
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def tick(self) -> None:
        """To be called about ten times per second. A process that has clients and says nothing is ended."""
        if self._process is None or not self._lent:
            return
        if self._silent_ticks == _SILENT_TICKS_MAX:
            self._process.kill()
        elif self._silent_ticks % 10 == 0:
            self._tell(PROBE, 0)
        self._silent_ticks += 1

    # -- clients go and come back

    def pipelined(self, connection: Connection) -> None:
        """`connection` has sent a pipeline of plain SETs: lends it if it has done so often enough, and if possible."""
        connection.pipelines += 1
        if connection.pipelines < LEND_AFTER or connection.lent:
            return
        if self._process is None:
            if not self._stopped and Clock.now() >= self._not_before:
                self._start()
        elif self.ready and (descriptor := connection.lend()) >= 0:
            client = connection.session.id
            if self._tell(LEND, client, descriptor):
                self._lent[client] = connection
            else:
                connection.come_back(b"")

    def recall(self, connection: Connection) -> None:
        """It is to come back, or closed: the intake is to let it go."""
        self._tell(RECALL, connection.session.id)

    def _tell(self, what: int, client: int, *descriptors: int) -> bool:
        if self._control is None:
            return False
        try:
            socket.send_fds(self._control, [CONTROL.pack(what, client)], descriptors)
        except BlockingIOError:
            if what == RECALL:  # cannot be left out
                self._loop.call_later(0.01, self._tell, what, client)
            return False
        except OSError:  # it is gone: `connection_lost` will follow
            return False
        return True

    # -- what they sent

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start, end = 0, len(received)
        with memoryview(received) as view:
            while end - start >= LENGTH.size:
                size = LENGTH.unpack_from(view, start)[0]
                if end - start < LENGTH.size + size:
                    break
                start += LENGTH.size
                frame = _decode(bytes(view[start : start + size]))  # a copy, as what is encoded in it stays so
                start += size
                self._take(frame)
        del received[:start]

    def _take(self, frame: Frame) -> None:
        self.ready = True
        self._silent_ticks = 0
        if frame.clients:
            self._take_puts(frame)
        for client, data in frame.returned:
            connection = self._lent.pop(client)
            connection.pipelines = -LEND_AGAIN
            connection.come_back(data)

    def _take_puts(self, frame: Frame) -> None:
        server = self._server
        proposers = server.proposers
        leads = True
        for shard, _ in frame.puts:
            if proposers[shard].refusal is not None:
                self._run_apart(frame)
                return
            leads = leads and proposers[shard].leads
        now, start, order, clustered = Clock.now(), 0, frame.order, 0
        convoys: dict[bytes, Convoy] = {}
        bursts: list[PutBurst] = []
        for client, count, size, shards in zip(frame.clients, frame.counts, frame.sizes, frame.shards, strict=True):
            connection = self._lent[client]
            if not connection.takes_puts(leads):
                self._run_apart(frame)
                return
            if connection.session.cluster_view:
                clustered += count
            burst = PutBurst(connection, size, order[start : start + count])
            start += count
            if (convoy := convoys.get(shards)) is None:
                convoy = convoys[shards] = Convoy()
            convoy.add(burst)
            bursts.append(burst)
        parts: dict[int, list[Part]] = {shard: [] for shard, _ in frame.puts}
        for shards, convoy in convoys.items():
            convoy.pending = len(shards)
            for shard in shards:
                convoy.joined.append(proposers[shard])
                parts[shard].append(convoy)
        for shard, encoded in frame.puts:
            puts = decode_puts_run(encoded)
            proposers[shard].put_encoded(parts[shard], puts, encoded)
            share = len(puts.keys) * clustered // len(order)
            proposers[shard].asked[0] += len(puts.keys) - share
            proposers[shard].asked[1] += share
        for burst in bursts:
            burst.connection.take_puts(burst, now)
        stats = server.stats
        stats.burst_reads += len(bursts)
        stats.burst_commands += len(order)
        stats.plain_sets += len(order)
        if server.watch.sample_puts:
            server.watch.plain_puts(Clock.now() - now, len(order))

    def _run_apart(self, frame: Frame) -> None:
        """Runs the bursts one by one, as commands, and recalls the clients whose bursts cannot be taken otherwise."""
        leads = all(self._server.proposers[shard].leads for shard, _ in frame.puts)
        next_put = {shard: _each(decode_puts_run(puts)).__next__ for shard, puts in frame.puts}
        commands = [[b"SET", *next_put[shard]()] for shard in frame.order]
        start = 0
        for client, count, size in zip(frame.clients, frame.counts, frame.sizes, strict=True):
            connection = self._lent[client]
            if not connection.takes_puts(leads):
                self.recall(connection)
            if not connection.closing:
                connection.run(commands[start : start + count], size)
            start += count


def _each(puts: Puts) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values, in order."""
    start = 0
    for key, size in zip(puts.keys, puts.sizes, strict=True):
        yield key, puts.records[start + HEADER_BYTES + len(key) : start + size - TRAILER_BYTES]
        start += size
