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
from tests.sim.model import CLEARS, commands_of, reply_of
from tests.sim.watch import Broken

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

LATENCY_S = (0.0001, 0.001)
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
        self._life = 0
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
        self.waiting, self._replies = [], []
        if self.node is not None and self.node.up and self.node.life == self._life and self._connection is not None:
            self.world.at(self.world.now, self.node, partial(self._connection.connection_lost, None))
        self.node = self._connection = None
        self._later(self._rng.uniform(0.01, 0.1), self._go)

    def connect(self) -> bool:
        """Chooses a node that runs; False if there is none."""
        up = self.world.up()
        if not up:
            return False
        self.node = self._rng.choice(up)
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
        world, node = self.world, self.node
        assert node is not None
        session = (self.number, len(world.history.operations))
        self.waiting = [world.history.invoke(self.number, args, world.now, session) for args in commands]
        data = b"".join(_encoded(words) for args in commands for words in _sent(args))
        world.at(world.now + self._rng.uniform(*LATENCY_S), node, partial(self._arrive, self._epoch, data))
        self._later(world.timeout_ms / 1000 + PATIENCE_S, partial(self._impatient, len(world.history.operations)))

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
        self.world.at(self.world.now + self._rng.uniform(*LATENCY_S), None, partial(self._hear, epoch, data))

    def _hear(self, epoch: int, data: bytes) -> None:
        if epoch != self._epoch:
            return
        self._reader.feed(data)
        while self.waiting and (reply := self._reader.gets()) is not False:
            self._replies.append(reply)
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
        result, watched = replies[-1], operation.args[1]
        if watched and any(isinstance(reply, Exception) for reply in replies[:2]):  # so nothing is watched
            operation.args = (operation.args[0], b"", *operation.args[2:])
            watched = b""
        if isinstance(result, Exception):
            self._complete(operation, result)
        elif isinstance(result, list):
            told = [
                reply_of(words, reply, error=isinstance(reply, Exception))
                for words, reply in zip(commands_of(operation.args), result, strict=True)
            ]
            operation.complete(self.world.now, [replies[1], *told] if watched else told)
        elif watched:
            operation.args = (b"GET", watched)
            self._complete(operation, replies[1])
        else:
            raise Broken(f"a transaction that watches nothing was called off: {operation}")


def _sent(args: Sequence[bytes]) -> list[Sequence[bytes]]:
    """The commands that one operation consists of."""
    if args[0] != b"TRANSACTION":
        return [args]
    watch: list[Sequence[bytes]] = [[b"WATCH", args[1]], [b"GET", args[1]]] if args[1] else []
    return [*watch, [b"MULTI"], *commands_of(args), [b"EXEC"]]


def _encoded(args: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)


