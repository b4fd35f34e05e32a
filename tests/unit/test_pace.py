"""The pace of entries: what clients write is gathered while they are still sending."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from respkv.shard.pace import PATIENCE_S, TRUSTED, Pace
from respkv.shard.proposer import HELD_BYTES_MAX
from tests.unit.nodes import Waiter, alone, serving
from tests.unit.raft_world import World, writes
from tests.unit.worlds import idle, outcome, worlds


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch, proposers=True)


@pytest.mark.parametrize(
    ("gathered", "held"),
    [
        ([0], [False]),
        ([1], [False]),  # a client that comes alone
        ([8, 8], [True, False]),
        ([8, 9], [True, False]),
        ([8, 10, 30, 30], [True, True, True, False]),
        ([8, 8, 8, 8], [True, False, False, False]),  # what waits behind others that are under way
        ([8, 0, 3], [True, False, True]),
        ([8, 8, 0, 6, 8], [True, False, False, True, False]),  # all are there again
        ([16, 16, 0, 4, 4, 0, 14], [True, False, False, True, False, False, False]),  # nearly all
        ([16, 16, 0, 4, 4, 0, 13], [True, False, False, True, False, False, True]),
    ],
)
def test_it_holds_as_long_as_each_turn_brings_more(gathered: list[int], held: list[bool]) -> None:
    pace = Pace(lambda: 0.0)
    found = []
    for count in gathered:
        pace.look(count)
        found.append(pace.holds)
    assert found == held


def test_halves_that_have_parted_find_each_other() -> None:
    pace = Pace(lambda: 0.0)
    for gathered in 1, 25:  # after a client that was alone, the first half comes
        pace.look(gathered)
    held = []
    for _ in range(2 * TRUSTED):
        pace.look(25)
        held.append(pace.holds)
        if pace.holds:
            break
    assert held == [False] * (len(held) - 1) + [True]
    assert len(held) <= TRUSTED + 1
    pace.look(50)  # the other half has come back meanwhile
    pace.look(50)
    assert not pace.holds
    pace.look(0)
    pace.look(25)
    assert pace.holds


def test_it_loses_patience_with_clients_that_do_not_end() -> None:
    now = 7.0
    pace = Pace(lambda: now)
    for count, after_s, holds in [(2, 0.0, True), (4, 0.9, True), (6, 1.0, False), (2, 1.1, True), (4, 2.0, True)]:
        now = 7.0 + after_s * PATIENCE_S
        pace.look(count)
        assert pace.holds is holds


@pytest.mark.parametrize(
    ("size", "value_bytes", "entries"),
    [(1, 1, 1), (1, HELD_BYTES_MAX, 2), (3, 1, 1), (3, HELD_BYTES_MAX, 2)],
    ids=["alone", "alone and long", "replicas", "replicas and long"],
)
def test_a_shard_waits_if_it_has_not_much_to_write(
    make: Callable[..., World], size: int, value_bytes: int, entries: int
) -> None:
    world = make(size)
    leader = world.leader()
    world.settle(0.3)
    proposer = leader.proposer
    assert proposer is not None
    before = proposer.proposed
    proposer._pace.holds = True
    clients = [writes(world, leader, [b"a"], plain=True)]
    proposer.join(Waiter(value_bytes))
    proposer.put(0, b"a'", b"v")
    proposer.pump()
    assert proposer.proposed - before == entries - 1
    assert leader.scheduled  # it is pumped again in the next turn
    clients.append(writes(world, leader, [b"b"]))
    proposer._pace.holds = False
    world.settle(0.3)
    assert proposer.proposed - before == entries
    assert {outcome(client) for client in clients} == {"applied"}
    idle(world)


def test_a_node_gathers_for_all_its_shards_until_a_turn_brings_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(alone(tmp_path)) as (node,):
            node._pace._now = lambda: 0.0  # however slow the machine is
            proposers = node.proposers
            before = [proposer.proposed for proposer in proposers]
            part = Waiter()
            for each_brings, proposed in (1, [0, 0, 0]), (2, [0, 0, 0]), (0, [1, 1, 0]):
                for proposer in proposers[:2]:
                    for _ in range(each_brings):
                        proposer.write(part, 0, [b"INCR", b"key"])
                node._turn()
                assert [each.proposed - last for each, last in zip(proposers, before, strict=True)] == proposed
            await part.wait()
            assert part.replies == [1, 2, 3] * 2

    asyncio.run(scenario())
