"""Bursts of plain SETs: one OK each, and where a shard failed, its error in the places of its keys alone."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

from respkv import errors
from respkv.commands.spread import Spread
from respkv.server.burst import Burst, Convoy, LonePuts, Pushed, PutBurst
from respkv.server.connection import Connection
from respkv.server.dispatch import Call, Spanning, has_open_writes
from respkv.server.steps import Steps


def burst_over(shards: list[int]) -> tuple[PutBurst, list[Any], list[PutBurst]]:
    """A burst of a SET to each of these shards; the shards' proposers; where settled bursts arrive."""
    proposers = [SimpleNamespace(shard=shard, ok=bytes(bytearray(b"+OK\r\n"))) for shard in range(3)]
    settled: list[PutBurst] = []
    connection = SimpleNamespace(settled=settled.append)
    burst = PutBurst(cast("Any", connection), 0, bytes(shards))
    burst.joined += [proposers[shard] for shard in sorted(set(shards))]
    return burst, proposers, settled


def test_every_set_of_a_burst_is_answered() -> None:
    burst, _, settled = burst_over([0, 1, 2, 0])
    burst.done()
    assert settled == [burst]
    assert burst.wire() == b"+OK\r\n" * 4
    assert burst_over([0] * 3000)[0].wire() == b"+OK\r\n" * 3000


def test_the_error_of_a_shard_stands_in_the_places_of_its_keys() -> None:
    burst, proposers, _ = burst_over([0, 1, 2, 0])
    burst.fail(proposers[0].ok, errors.timeout())
    burst.fail(proposers[2].ok, errors.cluster_down())
    lines = burst.wire().split(b"\r\n")
    assert lines[0] == lines[3]
    assert lines[0].startswith(b"-TIMEOUT")
    assert lines[1] == b"+OK"
    assert lines[2].startswith(b"-CLUSTERDOWN")
    assert lines[4:] == [b""]


CLIENTS: list[dict[str, Any]] = [
    {}, {"reading": False}, {"closing": True}, {"half_closed": True}, {"others": 1}, {}
]  # fmt: skip
"""The first and the last can be answered at once."""


def test_bursts_that_wait_together_are_answered_at_once_or_in_their_turn() -> None:
    finished: list[Any] = []
    server = SimpleNamespace(posted=[], wake=lambda: None, finished=finished.append)
    proposers = [SimpleNamespace(shard=shard, ok=bytes(bytearray(b"+OK\r\n"))) for shard in range(2)]
    convoy = Convoy()
    convoy.joined += proposers
    for number, state in enumerate(CLIENTS):
        client = {"reading": True, "closing": False, "half_closed": False, "server": server, "open_bytes": 9, **state}
        others = [Pushed()] * client.pop("others", 0)
        burst = PutBurst(cast("Any", SimpleNamespace(**client)), 10, bytes([0, 1] * number))
        burst.connection.waiting = deque([burst, *others])
        convoy.add(burst)
    first, *rest, last = convoy.bursts
    assert convoy.size == 10 * len(CLIENTS)
    assert all(burst.pending and burst.joined == proposers for burst in convoy.bursts)
    convoy.fail(proposers[1].ok, errors.timeout())
    convoy.done()
    failed = [b"+OK\r\n-TIMEOUT" in burst.wire() for burst in convoy.bursts]
    assert failed == [False] + [True] * (len(CLIENTS) - 1)  # the first is empty
    assert server.posted == [(burst.connection, burst.wire()) for burst in (first, last)]
    assert [burst.connection.open_bytes for burst in (first, last)] == [0, 0]
    assert finished == [burst.connection for burst in rest]
    assert not any(burst.pending for burst in convoy.bursts)
    assert [len(burst.connection.waiting) for burst in convoy.bursts] == [0, 1, 1, 1, 2, 0]


@pytest.mark.parametrize("fails", [False, True])
def test_sets_that_came_alone_get_the_same_reply_at_once_or_in_their_turn(fails: bool) -> None:
    finished: list[Any] = []
    server = SimpleNamespace(posted=[], wake=lambda: None, finished=finished.append)
    puts = LonePuts()
    for state in CLIENTS:
        client = {"reading": True, "closing": False, "half_closed": False, "server": server, **state}
        waiting = deque([puts] + [Pushed()] * client.pop("others", 0))
        puts.connections.append(cast("Any", SimpleNamespace(waiting=waiting, **client)))
    if fails:
        puts.fail(b"", errors.timeout())
    puts.done()
    first, *others, last = puts.connections
    assert server.posted == [(first, puts.wire()), (last, puts.wire())]
    assert not first.waiting
    assert not last.waiting
    assert finished == others
    assert all(connection.waiting[0] is puts for connection in others)
    assert puts.wire().startswith(b"-TIMEOUT" if fails else b"+OK\r\n")


def test_replies_in_their_turn_leave_no_bytes_open() -> None:
    """A SET that came alone was never counted, and has the size of all that joined it."""
    puts = LonePuts()
    puts.size = 1000
    burst = PutBurst(cast("Any", None), 10, b"\0")
    client: Any = SimpleNamespace(waiting=deque([puts, burst]), open_bytes=10, _running=True, _write=lambda _: None)
    Connection.flush(client)
    assert client.open_bytes == 0


def test_what_a_command_that_waits_brings_into_the_log_later_is_open_for_those_behind_it() -> None:
    """A read of MGET or EXEC may have to be answered by an entry, which shows only when the command is under way."""
    connection: Any = SimpleNamespace(waiting=[], session=SimpleNamespace(protocol=2))
    for make in (
        lambda burst: Spanning(burst, 0, [b"MGET", b"a", b"b"], cast("Spread", None), [(0, []), (1, [])]),
        lambda burst: type("Waiting", (Steps,), {"run": lambda self: iter(())})(Call(connection, burst, 0, []), burst),
    ):
        burst, proposer = Burst(connection, 0, [b""], [[b"MGET"]]), cast("Any", object())
        part = make(burst)
        assert not has_open_writes(connection, burst, proposer)
        part.joined.append(proposer)
        assert has_open_writes(connection, burst, proposer)
