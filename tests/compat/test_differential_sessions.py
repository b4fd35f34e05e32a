"""What needs several connections and their state, step by step on a real redis-server and on respkv: transactions, with
other clients in between; WATCH; protocol switches; RESET. Every reply of every step must be equal.

The model knows only what decides which replies to expect: who is in a transaction, and what it queued.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import respkv.server.commands  # noqa: F401  (fills the table)
from respkv.cluster.slots import slot_of
from respkv.commands.table import resolve, spec_keys
from respkv.reply import RespError
from tests.cluster import NodeProcess, TestCluster
from tests.compat.asked import commands, in_one_slot, key_commands, string_commands, values
from tests.compat.targets import Command, SocketTarget, comparable

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH"),
    pytest.mark.timeout(600),  # a failure is made small first
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]

CLIENTS = 3
clients = st.integers(0, CLIENTS - 1)
some_keys = st.lists(st.sampled_from([b"{one}a", b"{one}b", b"{one}c"]), min_size=1, max_size=3)


def is_in_one_slot(args: Command) -> bool:
    """All its keys are where those of the other commands are, so that a transaction may hold it."""
    try:
        return {slot_of(key) for key in spec_keys(resolve(args), args)} <= {slot_of(b"{one}")}
    except RespError:
        return True


anything = st.one_of(string_commands, key_commands, commands).map(in_one_slot).filter(is_in_one_slot)
writes = st.builds(lambda key, value: [b"SET", key, value], st.sampled_from([b"{one}a", b"{one}b"]), values)


class Pair:
    """One client of each side, and what decides which replies it gets."""

    def __init__(self, redis_port: int, our_port: int) -> None:
        self.sides = [SocketTarget(port) for port in (redis_port, our_port)]
        self.queued: list[Command] | None = None  # inside MULTI

    def ask(self, args: Command) -> list[Any]:
        """The replies of Redis and of respkv."""
        return [side.run([args])[0] for side in self.sides]

    def close(self) -> None:
        for side in self.sides:
            side.close()


class Sessions(RuleBasedStateMachine):
    """Three clients of each server."""

    redis_port = 0
    our_ports: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.pairs = [Pair(self.redis_port, self.our_ports[n % len(self.our_ports)]) for n in range(CLIENTS)]
        self.history: list[tuple[int, Command]] = []

    @initialize()
    def empty(self) -> None:
        assert self.pairs[0].ask([b"FLUSHALL"]) == [("+", b"OK")] * 2

    def teardown(self) -> None:
        for pair in self.pairs:
            pair.close()

    def check(self, client: int, args: Command) -> Any:
        self.history.append((client, args))
        theirs, ours = self.pairs[client].ask(args)
        return self.equal(args, theirs, ours)

    def equal(self, args: Command, theirs: Any, ours: Any) -> Any:
        assert comparable(args, ours) == comparable(args, theirs), (args, theirs, ours, self.history)
        return theirs

    # -- rules

    @rule(client=clients, args=anything)
    def command(self, client: int, args: Command) -> None:
        pair = self.pairs[client]
        if pair.queued is None:
            self.check(client, args)
        elif self.check(client, [b"PING"] if args[0].upper() == b"DBSIZE" else args) == ("+", b"QUEUED"):
            pair.queued.append([b"PING"] if args[0].upper() == b"DBSIZE" else args)

    @rule(client=clients, args=writes)
    def write(self, client: int, args: Command) -> None:
        self.command(client, args)

    @rule(client=clients)
    def multi(self, client: int) -> None:
        reply = self.check(client, [b"MULTI"])
        if reply == ("+", b"OK"):
            self.pairs[client].queued = []

    @rule(client=clients)
    def exec(self, client: int) -> None:
        pair = self.pairs[client]
        self.history.append((client, [b"EXEC"]))
        theirs, ours = pair.ask([b"EXEC"])
        queued, pair.queued = pair.queued or [], None
        if not (isinstance(theirs, list) and isinstance(ours, list)):
            assert ours == theirs, self.history
            return
        assert len(ours) == len(theirs) == len(queued), (theirs, ours, self.history)
        for args, each, own in zip(queued, theirs, ours, strict=True):
            self.equal(args, each, own)

    @rule(client=clients)
    def discard(self, client: int) -> None:
        self.check(client, [b"DISCARD"])
        self.pairs[client].queued = None

    @rule(
        client=clients, other=clients, watched=some_keys, meddling=st.lists(writes, max_size=1),
        queue=st.lists(st.one_of(anything, writes), min_size=1, max_size=5), between=st.lists(writes, max_size=2),
    )  # fmt: skip
    def transaction(
        self, client: int, other: int, watched: list[bytes], meddling: list[Command], queue: list[Command],
        between: list[Command],
    ) -> None:  # fmt: skip
        """A whole one, so that most steps are not spent on half of one; somebody else may write meanwhile."""
        self.watch(client, watched)
        for args in meddling:
            self.command(other, args)
        if self.pairs[client].queued is None:
            self.multi(client)
        for args in queue:
            self.command(client, args)
        for args in between:
            self.command(other, args)
        self.exec(client)

    @precondition(lambda self: any(pair.queued for pair in self.pairs))
    @rule()
    def exec_what_is_queued(self) -> None:
        self.exec(next(n for n, pair in enumerate(self.pairs) if pair.queued))

    @rule(client=clients, keys=some_keys)
    def watch(self, client: int, keys: list[bytes]) -> None:
        self.check(client, [b"WATCH", *keys])

    @rule(client=clients)
    def unwatch(self, client: int) -> None:
        if self.check(client, [b"UNWATCH"]) == ("+", b"QUEUED"):
            queued = self.pairs[client].queued
            assert queued is not None
            queued.append([b"UNWATCH"])

    @rule(client=clients, protocol=st.sampled_from([b"2", b"3", b"4", b"x"]))
    def hello(self, client: int, protocol: bytes) -> None:
        """What it tells about the server is another server's; refusals are the same."""
        pair = self.pairs[client]
        if pair.queued is None:
            theirs, ours = pair.ask([b"HELLO", protocol])
            assert type(ours) is type(theirs), (theirs, ours, self.history)
            assert not isinstance(theirs, tuple) or theirs == ours

    @rule(client=clients)
    def reset(self, client: int) -> None:
        self.check(client, [b"RESET"])
        self.pairs[client].queued = None


def same_sessions(redis_port: int, our_ports: tuple[int, ...], examples: int) -> None:
    machine: Callable[[], RuleBasedStateMachine] = type(
        "SessionsHere", (Sessions,), {"redis_port": redis_port, "our_ports": our_ports}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )


def test_sessions_on_a_node_go_as_on_redis(redis_port: int, single: NodeProcess) -> None:
    same_sessions(redis_port, (single.port,), 30)


def test_sessions_on_all_nodes_of_a_cluster_go_as_on_one_redis(redis_port: int, cluster: TestCluster) -> None:
    same_sessions(redis_port, tuple(node.port for node in cluster.nodes), 10)
