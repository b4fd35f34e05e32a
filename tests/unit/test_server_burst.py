"""Bursts of plain SETs: one OK each, and where a shard failed, its error in the places of its keys alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from respkv import errors
from respkv.server.burst import LonePuts, PutBurst


def burst_over(shards: list[int]) -> tuple[PutBurst, list[Any], list[PutBurst]]:
    """A burst with a key in slot 0, 1, ... of these shards; the shards' proposers; where settled bursts arrive."""
    proposers = [SimpleNamespace(shard=shard, ok=bytes(bytearray(b"+OK\r\n"))) for shard in range(3)]
    settled: list[PutBurst] = []
    table = tuple(proposers[shard] for shard in shards)
    connection = SimpleNamespace(server=SimpleNamespace(proposer_of_slot=table), settled=settled.append)
    burst = PutBurst(cast("Any", connection), 0, list(range(len(shards))))
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


def test_sets_that_came_alone_get_the_same_reply() -> None:
    for fails in (False, True):
        settled: list[LonePuts] = []
        puts = LonePuts()
        puts.connections += [cast("Any", SimpleNamespace(settled=settled.append)) for _ in range(3)]
        if fails:
            puts.fail(b"", errors.timeout())
        puts.done()
        assert settled == [puts] * 3
        assert puts.wire().startswith(b"-TIMEOUT" if fails else b"+OK\r\n")
