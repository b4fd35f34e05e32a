"""Messages, step by step on a real redis-server and on respkv: subscriptions of every kind, what is published, and the
keyspace notifications of every command. After each step every client must have got the same, in the same order.
"""

from __future__ import annotations

import shutil
import time
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import respkv.server.commands  # noqa: F401  (fills the table)
from tests.cluster import NodeProcess
from tests.compat.asked import commands, is_atomic_over_shards, key_commands, string_commands, words
from tests.compat.targets import Command, SocketTarget, comparable

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH"),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
    pytest.mark.timeout(600),  # a failure is made small first
]

CLIENTS = 3
LATE_S = 5.0
clients = st.integers(0, CLIENTS - 1)
channels = st.lists(st.sampled_from([b"news", b"{one}weather", b"", b"n*", b"__keyevent@0__:set"]), max_size=3)
patterns = st.lists(st.sampled_from([b"news", b"n*", b"*", b"?ews", b"[mn]ews", b"__key*__:*"]), max_size=3)
anything = st.one_of(string_commands, key_commands, commands).filter(
    lambda args: not is_atomic_over_shards(args) and args[0].upper() != b"DBSIZE"
)


class Messages(RuleBasedStateMachine):
    """Three clients of each server; `ports` are those of Redis and of respkv."""

    ports: tuple[int, int] = (0, 0)

    def __init__(self) -> None:
        super().__init__()
        self.sides = [[SocketTarget(port) for _ in range(CLIENTS)] for port in self.ports]
        self.history: list[tuple[int, Command]] = []

    @initialize(events=st.sampled_from([b"", b"KEA", b"KEAnm", b"K$g", b"Elx", b"AE"]))
    def start(self, events: bytes) -> None:
        for side in self.sides:
            assert side[0].gather([b"FLUSHALL"]) == [("+", b"OK")]
        self.step(0, [b"CONFIG", b"SET", b"notify-keyspace-events", events])

    def teardown(self) -> None:
        for side in self.sides:
            for listener in side:
                listener.close()

    def step(self, client: int, args: Command) -> None:
        """One command, and what all clients have got after it."""
        self.history.append((client, args))
        theirs, ours = (side[client].gather(args) for side in self.sides)
        self.compare(client, args, theirs, ours)
        for number in range(CLIENTS):
            theirs, ours = (side[number].gather() for side in self.sides)
            self.compare(number, args, theirs, ours)

    def compare(self, client: int, args: Command, theirs: list[Any], ours: list[Any]) -> None:
        """Messages of ours may come a little later than Redis's: behind the reply to what caused them."""
        deadline = time.monotonic() + LATE_S
        while len(ours) < len(theirs) and time.monotonic() < deadline:
            time.sleep(0.002)
            ours += self.sides[1][client].gather()
        theirs, ours = comparable_all(args, theirs), comparable_all(args, ours)
        assert ours == theirs, (client, args, theirs, ours, self.history)

    # -- rules

    @rule(client=clients, command=words(b"SUBSCRIBE", b"UNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"), names=channels)
    def change_channels(self, client: int, command: bytes, names: list[bytes]) -> None:
        self.step(client, [command, *names])

    @rule(client=clients, command=words(b"PSUBSCRIBE", b"PUNSUBSCRIBE"), names=patterns)
    def change_patterns(self, client: int, command: bytes, names: list[bytes]) -> None:
        self.step(client, [command, *names])

    @rule(client=clients, command=words(b"PUBLISH", b"SPUBLISH"), names=channels)
    def publish(self, client: int, command: bytes, names: list[bytes]) -> None:
        for name in names:
            self.step(client, [command, name, b"to " + name])

    @rule(client=clients, args=anything)
    def command(self, client: int, args: Command) -> None:
        self.step(client, args)

    @rule(client=clients, question=words(b"CHANNELS", b"NUMSUB", b"NUMPAT", b"SHARDCHANNELS", b"SHARDNUMSUB", b"x"),
          names=channels)  # fmt: skip
    def ask(self, client: int, question: bytes, names: list[bytes]) -> None:
        self.step(client, [b"PUBSUB", question, *names])

    @rule(client=clients, protocol=st.sampled_from([b"2", b"3"]))
    def hello(self, client: int, protocol: bytes) -> None:
        """What it tells about the server is another server's."""
        self.history.append((client, [b"HELLO", protocol]))
        theirs, ours = (side[client].gather([b"HELLO", protocol]) for side in self.sides)
        assert list(map(type, ours)) == list(map(type, theirs)), (theirs, ours, self.history)

    @rule(client=clients)
    def reset(self, client: int) -> None:
        self.step(client, [b"RESET"])


def comparable_all(args: Command, replies: list[Any]) -> list[Any]:
    """What came after a command: its reply as such, and messages as they are."""
    if args[0].upper() in (b"PUBSUB", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"):
        return sorted(repr(word) for reply in replies for word in flat(reply))  # Redis keeps channels without an order
    messages: list[Any] = []
    for _, run in groupby(filter(is_message, replies), key=lambda message: of_message(message)[-2:]):
        messages += sorted(run, key=by_pattern)
    return messages + [comparable(args, reply) for reply in replies if not is_message(reply)]


def of_message(reply: Any) -> list[Any]:
    return list(reply[1] if isinstance(reply, tuple) else reply)


def by_pattern(message: Any) -> bytes:
    """Behind those for the channel itself; Redis keeps patterns without an order."""
    kind, name, *_ = of_message(message)
    return bytes(name) if kind == b"pmessage" else b""


def is_message(reply: Any) -> bool:
    if isinstance(reply, tuple):
        return reply[0] == ">"
    return isinstance(reply, list) and bool(reply) and reply[0] in {b"message", b"pmessage", b"smessage"}


def flat(reply: Any) -> list[Any]:
    """The words of a reply, lists in lists as one."""
    if isinstance(reply, list | tuple):
        return [word for item in reply for word in flat(item)]
    return [reply]


def test_messages_on_a_node_come_as_on_redis(redis_port: int, single: NodeProcess) -> None:
    machine = type("MessagesHere", (Messages,), {"ports": (redis_port, single.port)})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
        )
    finally:
        for port in (redis_port, single.port):
            SocketTarget(port).gather([b"CONFIG", b"SET", b"notify-keyspace-events", b""])
