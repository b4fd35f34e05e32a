"""Clients of the simulated nodes: real connections (`respkv.server.connection`) on transports that lead here.

A client sends some commands at once, waits for all replies, thinks, and goes on; it changes its node when that ends,
when a reply does not come for long, and now and then. What it sent and was told is its history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis

from respkv.server.connection import Connection
from tests.sim.linearizable import Operation
from tests.sim.model import CLEARS, Failure, commands_of, reply_of
from tests.sim.watch import Broken

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

LATENCY_S = (0.0001, 0.001)
WATCH_AND_GET = 2
PATIENCE_S = 4.0  # beyond the time that the server allows itself


class Transport:
    """The server's end of a connection to a simulated client."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self.closed = False

    def write(self, data: bytes) -> None:
        self._receive(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Client:
    """One client. `node` is the one it is connected to, None while it looks for another."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.node: SimNode | None = None
        self.stopped = False
        self.waiting: list[Operation] = []
        self._replies: list[Any] = []
        self._unsent: list[bytes] = []
        self._life = 0
        self._hears_at = 0.0
        self._epoch = 0
        self._connection: Connection | None = None
        self._reader = hiredis.Reader()
        self._rng = world.rng
        self._later(self._rng.random() * 0.1, self._go)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.at(self.world.now + seconds, None, partial(self._if_same, self._epoch, action))

    def _if_same(self, epoch: int, action: Callable[[], None]) -> None:
        if epoch == self._epoch:
            action()

    # -- connecting

    def lost(self, life: int) -> None:
        """The node's process has ended: nobody knows what became of what is open."""
        if self.node is not None and self._life < life:
            self._leave()

    def _leave(self) -> None:
        self._epoch += 1
        self.waiting, self._replies, self._unsent = [], [], []
        if self.node is not None and self.node.up and self.node.life == self._life and self._connection is not None:
            self.world.at(self.world.now, self.node, partial(self._connection.connection_lost, None))
        self.node = self._connection = None
        self._later(self._rng.uniform(0.01, 0.1), self._go)

    def connect(self) -> bool:
        """Chooses a node that runs; False if there is none."""
        up = self.world.up()
        if not up:
            return False
        crowded = self.world.scenario.crowd and self._rng.random() < 0.9
        self.node = up[0] if crowded else self._rng.choice(up)
        self._life = self.node.life
        self._reader = hiredis.Reader()
        return True

    # -- commands

    def _go(self) -> None:
        if self.stopped:
            return
        if self.node is not None and self._rng.random() < 0.03:
            self._leave()
            return
        if self.node is None and not self.connect():
            self._later(0.1, self._go)
            return
        count = self._rng.randint(1, self.world.scenario.burst_max)
        self.send([self.world.workload.command(self._rng) for _ in range(count)])

    def send(self, commands: list[list[bytes]]) -> None:
        world = self.world
        session = (self.number, len(world.history.operations))
        self.waiting = [world.history.invoke(self.number, args, world.now, session) for args in commands]
        self._unsent = _chunks(commands)
        self._send_next()
        self._later(world.timeout_ms / 1000 + PATIENCE_S, partial(self._impatient, len(world.history.operations)))

    def _send_next(self) -> None:
        at = self.world.now + self._rng.uniform(*LATENCY_S)
        self.world.at(at, self.node, partial(self._arrive, self._epoch, self._unsent.pop(0)))

    def _arrive(self, epoch: int, data: bytes) -> None:
        if epoch != self._epoch or self.node is None:
            return
        if self._connection is None:
            self._connection = Connection(self.node.server, cluster_view=False)
            self._connection.connection_made(Transport(partial(self._receive, epoch)))  # type: ignore[arg-type]
        self._connection.data_received(data)

    def _impatient(self, then: int) -> None:
        if self.waiting and self.waiting[-1] is self.world.history.operations[then - 1]:
            self._leave()

    def _receive(self, epoch: int, data: bytes) -> None:
        """In the order in which it was sent."""
        self._hears_at = max(self._hears_at, self.world.now + self._rng.uniform(*LATENCY_S))
        self.world.at(self._hears_at, None, partial(self._hear, epoch, data))

    def _hear(self, epoch: int, data: bytes) -> None:
        if epoch != self._epoch:
            return
        self._reader.feed(data)
        while self.waiting and (reply := self._reader.gets()) is not False:
            self._replies.append(reply)
            if len(self._replies) == WATCH_AND_GET and _watches(self.waiting[0].args):
                self._send_next()
            if len(self._replies) < len(_sent(self.waiting[0].args)):
                continue
            operation, replies, self._replies = self.waiting.pop(0), self._replies, []
            if operation.args[0] == b"TRANSACTION":
                self._complete_transaction(operation, replies)
            else:
                self._complete(operation, reply)
            if not self.waiting:
                self._later(self._rng.expovariate(1 / self.world.scenario.think_s), self._go)

    def _complete(self, operation: Operation, reply: Any) -> None:
        error = isinstance(reply, Exception)
        if error and operation.args[0] in CLEARS and len(self.world.topology.shards) > 1:
            return  # some shards may have done it
        operation.complete(self.world.now, reply_of(operation.args, str(reply) if error else reply, error=error))


    def _complete_transaction(self, operation: Operation, replies: list[Any]) -> None:
        """A transaction that was called off has told what the watched key was, and no more."""
        result, now = replies[-1], self.world.now
        is_guarded = operation.args[1] != b"" and not isinstance(replies[0], Exception)
        has_read = is_guarded and not isinstance(replies[1], Exception)
        if isinstance(result, Exception):
            self._complete(operation, result)
        elif isinstance(result, list):
            told = [
                reply_of(words, reply, error=isinstance(reply, Exception))
                for words, reply in zip(commands_of(operation.args), result, strict=True)
            ]
            if not has_read:
                operation.args = (operation.args[0], b"", *operation.args[2:])
            operation.complete(now, [replies[1], *told] if has_read else told)
        elif has_read:
            operation.args = (b"GET", operation.args[1])
            self._complete(operation, replies[1])
        elif is_guarded:
            operation.complete(now, Failure("EXECABORT"))
        else:
            raise Broken(f"a transaction that watches nothing was called off: {operation}")


def _watches(args: Sequence[bytes]) -> bool:
    return args[0] == b"TRANSACTION" and args[1] != b""


def _chunks(commands: list[list[bytes]]) -> list[bytes]:
    """The commands as they are sent: what was watched and read is heard before the transaction goes."""
    chunks = [b""]
    for args in commands:
        for number, words in enumerate(_sent(args)):
            if number == WATCH_AND_GET and _watches(args):
                chunks.append(b"")
            chunks[-1] += _encoded(words)
    return chunks


def _sent(args: Sequence[bytes]) -> list[Sequence[bytes]]:
    """The commands that one operation consists of."""
    if args[0] != b"TRANSACTION":
        return [args]
    watch: list[Sequence[bytes]] = [[b"WATCH", args[1]], [b"GET", args[1]]] if args[1] else []
    return [*watch, [b"MULTI"], *commands_of(args), [b"EXEC"]]


def _encoded(args: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)


