"""Clients that use every command that there is, record what they asked and were told, and never stop for a fault.

A `Client` is connected to one node, by either view, and sends one command or a pipeline at a time. Commands about keys
go into the `History`, with monotonic times, for the checker in tests.sim; keys come in small groups that share a hash
tag (commands about several keys stay on one shard, and are atomic there) and are given up for new ones every
`GENERATION_S`, so that what stays unknown does not burden the search for ever. A reply that never came is an unknown
outcome.

A `Watcher` asks for what no state of a few keys explains: SCAN, KEYS, DBSIZE and RANDOMKEY over keys that stay,
INCRBYFLOAT on a key of its own, and the commands about the server. It says in `fault` what cannot be true.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis

from tests.cluster import NodeProcess
from tests.sim.linearizable import History, Operation
from tests.sim.model import Failure

GENERATION_S = 2.0
REPLY_S = 20.0
RETRY_S = 0.05
BIG_BYTES = 100_000
FAR_S = 10_000_000  # an expiry that never comes in a test, whatever the clocks are made to say
SIMPLE = frozenset((b"SET", b"SETEX", b"PSETEX", b"MSET", b"FLUSHALL", b"FLUSHDB"))
STAYING = 300
ORDER_S = 1e-7  # between commands of one pipeline, so that the times tell their order
FLOAT_STEP = 0.25

Command = tuple[bytes, ...]


class Connection(threading.Thread):
    """What both kinds share: a connection that is made anew when it breaks, and commands until `stop`."""

    def __init__(self, node: NodeProcess, name: str, *, cluster_view: bool = False) -> None:
        super().__init__(name=name, daemon=True)
        self.node = node
        self.cluster_view = cluster_view
        self.random = random.Random(name)
        self.errors: list[tuple[float, str]] = []
        self.reconnects = 0
        self.replies = 0
        self.pause_s = 0.0
        self.fault: str | None = None
        self.think_s = 0.0
        self._heard_at = time.monotonic()
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()
        self._home = (node.host, node.cluster_port if cluster_view else node.port)
        self._address = self._home
        self._moved_to: tuple[str, int] | None = None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                if self._socket is not None:
                    self.turn()
                    self._follow()
                    self._stopping.wait(self.think_s * self.random.random() * 2)
                elif not self._connect():
                    self._stopping.wait(RETRY_S)
        except Exception as error:  # noqa: BLE001 - told by the trial
            self.fault = f"{type(error).__name__}: {error}"
        finally:
            if self._socket is not None:
                self._socket.close()

    def stop(self) -> None:
        self._stopping.set()

    def restart_clock(self) -> None:
        """`pause_s`, the longest time without a reply, counts from now."""
        self.pause_s, self._heard_at = 0.0, time.monotonic()

    def turn(self) -> None:
        """One exchange."""
        raise NotImplementedError

    def exchange(self, commands: Sequence[Command]) -> Iterable[tuple[int, Any]]:
        """Sends all, then yields (position, reply) as they come; ends early when the connection breaks."""
        assert self._socket is not None
        position = 0
        try:
            self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))
            while position < len(commands):
                reply = self._reader.gets()
                if reply is False:
                    data = self._socket.recv(1 << 16)
                    if not data:
                        raise ConnectionResetError
                    self._reader.feed(data)
                    continue
                now = time.monotonic()
                self.pause_s, self._heard_at = max(self.pause_s, now - self._heard_at), now
                self.replies += 1
                yield position, reply
                position += 1
        except OSError as error:
            if isinstance(error, TimeoutError):
                self.errors.append((time.monotonic(), f"no reply to {commands[position][0].decode()}"))
            self._disconnect()
            self.reconnects += 1

    def note_error(self, reply: Exception) -> str:
        """Remembers an error that a client would have to deal with; returns its first word."""
        text = str(reply)
        code = text.split(" ", 1)[0]
        if code == "MOVED":
            host, _, port = text.rsplit(" ", 1)[1].rpartition(":")
            self._moved_to = (host, int(port))
        else:
            self.errors.append((time.monotonic(), text))
        return code

    def _follow(self) -> None:
        """As a client of a Redis Cluster does: goes on at the node that was named."""
        if self._moved_to is not None:
            self._address, self._moved_to = self._moved_to, None
            self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> bool:
        try:
            self._socket = socket.create_connection(self._address, REPLY_S)
        except OSError:
            self._address = self._home
            return False
        self._reader = hiredis.Reader()
        self._heard_at = time.monotonic()
        return True


class Client(Connection):
    """Commands about keys, recorded in `history`."""

    def __init__(
        self,
        node: NodeProcess,
        name: str,
        history: History,
        groups: Groups,
        *,
        pipeline: int = 1,
        cluster_view: bool = False,
    ) -> None:
        super().__init__(node, name, cluster_view=cluster_view)
        self.think_s = 0.01
        self._history = history
        self._groups = groups
        self._pipeline = pipeline
        self._number = 0
        self._session = 0
        self._keys: list[bytes] = []
        self._was_moved = False

    def turn(self) -> None:
        count = self.random.randint(1, self._pipeline)
        if self.cluster_view:  # all on one node, as its clients send them, and again where it was told to go
            self._keys = self._keys if self._was_moved else self._groups.keys(self.random)
            self._was_moved = False
        commands = [self._command(self._keys or self._groups.keys(self.random)) for _ in range(count)]
        self._session += 1
        session, now = (self.name, self._session), time.monotonic()
        asked = [
            self._history.invoke(self.name, args, now + position * ORDER_S, session)
            for position, args in enumerate(commands)
        ]
        for position, reply in self.exchange(commands):
            self._note(asked[position], reply)

    def _note(self, operation: Operation, reply: Any) -> None:
        name = operation.args[0]
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith(("ERR ", "WRONGTYPE ")):
                operation.complete(time.monotonic(), Failure("ERR"))
            elif self.note_error(reply) == "MOVED":
                operation.outcome = "not applied"
                self._was_moved = True
            else:
                operation.complete(time.monotonic(), Failure(str(reply).split(" ", 1)[0]))
            return
        if (name in SIMPLE and reply == b"OK") or name == b"TYPE":
            reply = reply.decode()
        operation.complete(time.monotonic(), reply)

    def _value(self) -> bytes:
        self._number += 1
        value = f"{self.name}.{self._number}".encode()
        return value + b"x" * BIG_BYTES if self.random.random() < 0.004 else value

    def _command(self, keys: list[bytes]) -> Command:
        name = self.random.choice(NAMES)
        key, number = self.random.choice(keys[:3]), b"%d" % self.random.randrange(1, 100)
        some = self.random.sample(keys[:3], self.random.randint(1, 3))
        far = b"%d" % FAR_S
        if name in {b"INCR", b"DECR"}:
            return (name, keys[3])
        if name in {b"INCRBY", b"DECRBY"}:
            return (name, keys[3], number)
        if name in {b"MGET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"}:
            return (name, *some)
        if name in {b"MSET", b"MSETNX"}:
            return (name, *(part for key in some for part in (key, self._value())))
        if name in {b"SETEX", b"PSETEX"}:
            return (name, key, far + b"000" * (name == b"PSETEX"), self._value())
        if name in {b"EXPIRE", b"PEXPIRE"}:
            later = far + b"000" * (name == b"PEXPIRE")
            return (name, key, self.random.choice([later, later, b"-1"]))
        if name in {b"EXPIREAT", b"PEXPIREAT"}:
            return (name, key, b"%d" % ((int(time.time()) + FAR_S) * (1000 if name == b"PEXPIREAT" else 1)))
        if name == b"GETEX":
            return (name, key, *self.random.choice([(), (b"PERSIST",), (b"EX", far)]))
        if name == b"SET":
            return (name, key, self._value(), *self.random.choice(SET_OPTIONS))
        if name in {b"SETNX", b"GETSET", b"APPEND"}:
            return (name, key, self._value())
        return (name, self.random.choice(keys))


SET_OPTIONS: list[Command] = [
    (), (), (), (), (b"NX",), (b"XX",), (b"GET",), (b"XX", b"GET"), (b"KEEPTTL",), (b"EX", b"%d" % FAR_S),
    (b"PX", b"%d000" % FAR_S),
]  # fmt: skip

NAMES: list[bytes] = [b"SET"] * 12 + [b"GET"] * 12 + [b"INCR"] * 6 + (
    b"SETNX SETEX PSETEX GETSET GETDEL GETEX APPEND STRLEN DECR INCRBY DECRBY DEL UNLINK EXISTS TOUCH TYPE MGET MGET "
    b"MSET MSET MSETNX EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST TTL PTTL EXPIRETIME PEXPIRETIME"
).split()


class Groups:
    """The groups of keys in use at the moment: four keys each, the last of them for numbers."""

    def __init__(self, seed: int, width: int) -> None:
        self._seed = seed
        self._width = width
        self._since = time.monotonic()

    def keys(self, choice: random.Random) -> list[bytes]:
        generation = int((time.monotonic() - self._since) / GENERATION_S)
        tag = f"{{{self._seed}.{generation}.{choice.randrange(self._width)}}}".encode()
        return [b"a" + tag, b"b" + tag, b"c" + tag, b"n" + tag]


def staying_keys() -> dict[str, str]:
    """Keys that nobody changes during a trial."""
    return {f"stay:{number}": f"here {number}" for number in range(STAYING)}


SERVER_COMMANDS: list[Command] = [
    (b"PING",), (b"ECHO", b"x"), (b"TIME",), (b"ROLE",), (b"INFO",), (b"DBSIZE",), (b"COMMAND", b"COUNT"),
    (b"SELECT", b"0"), (b"CLUSTER", b"INFO"), (b"CLUSTER", b"SLOTS"), (b"CLUSTER", b"SHARDS"), (b"CLUSTER", b"NODES"),
    (b"CLUSTER", b"MYID"), (b"CLIENT", b"ID"), (b"CLIENT", b"INFO"), (b"CLIENT", b"SETNAME", b"watcher"),
    (b"CONFIG", b"GET", b"maxclients"), (b"DEBUG", b"DIGEST", b"SHARD", b"0"), (b"RANDOMKEY",),
    (b"MGET", b"stay:0", b"stay:1", b"stay:2", b"stay:3"),
    (b"EXISTS", b"stay:4", b"stay:5", b"stay:6", b"stay:7"),
]  # fmt: skip


class Watcher(Connection):
    """Commands about all keys and about the server."""

    def __init__(self, node: NodeProcess, name: str) -> None:
        super().__init__(node, name)
        self.think_s = 0.1
        self._added = self._unknown = 0

    def turn(self) -> None:
        self.random.choice([self._scan, self._keys, self._add, self._add, self._server])()

    def _ask(self, *command: bytes) -> Any:
        for _, reply in self.exchange([command]):
            if not isinstance(reply, hiredis.ReplyError):
                return reply
            self.note_error(reply)
            return reply
        return ConnectionResetError()

    def _scan(self) -> None:
        cursor, found = b"0", set()
        while True:
            reply = self._ask(b"SCAN", cursor, b"MATCH", b"stay:*", b"COUNT", b"500")
            if isinstance(reply, Exception):
                return
            cursor = reply[0]
            found.update(reply[1])
            if cursor == b"0":
                break
        assert len(found) == STAYING, f"a whole SCAN found {len(found)} of {STAYING} keys that stay"

    def _keys(self) -> None:
        reply = self._ask(b"KEYS", b"stay:*")
        assert isinstance(reply, Exception) or len(set(reply)) == len(reply) == STAYING, "KEYS"

    def _add(self) -> None:
        reply = self._ask(b"INCRBYFLOAT", b"float:" + self.name.encode(), str(FLOAT_STEP).encode())
        if isinstance(reply, Exception):
            self._unknown += "not applied" not in str(reply)
            return
        times = float(reply) / FLOAT_STEP
        assert self._added < times <= self._added + self._unknown + 1, f"INCRBYFLOAT: {reply!r}"
        self._unknown -= int(times) - self._added - 1
        self._added = int(times)

    def _server(self) -> None:
        command = self.random.choice(SERVER_COMMANDS)
        reply = self._ask(*command)
        if isinstance(reply, Exception):
            return
        if command[0] == b"DBSIZE":
            assert reply >= STAYING, f"DBSIZE {reply}"
        elif command[0] == b"MGET":
            assert reply == [b"here %d" % number for number in range(4)], f"MGET {reply}"
        elif command[0] == b"EXISTS":
            assert reply == 4, f"EXISTS {reply}"
