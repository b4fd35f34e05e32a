"""The lease of a Raft leader: over before another leader can exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from respkv.raft.group import DRIFT, Timing
from respkv.raft.messages import ACK, APPEND
from tests.unit.raft_world import World
from tests.unit.worlds import worlds

MIN = Timing().election_min


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch)


@pytest.mark.parametrize("seed", range(8))
def test_a_lease_is_over_before_another_leader_can_exist(make: Callable[..., World], seed: int) -> None:
    world = make(3 + 2 * (seed % 2), seed=seed)  # World.check_lease looks at every event
    for notice in (True, False, True):
        leader = world.leader()
        world.settle(0.3)
        assert leader.group.lease_until > world.now
        world.isolate(leader.name, notice=notice)
        lease_until = leader.group.lease_until
        world.run_until(lambda old=leader: any(n is not old for n in world.leaders_now()))
        assert world.now > lease_until
        world.heal()


def test_the_lease_runs_from_the_time_of_sending_and_is_shorter_than_the_election_timeout(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: False
    sent = world.now
    leader.group.receive("b", (ACK, 0, leader.group.term, 2, True, False, sent))
    assert leader.group.lease_until == sent + DRIFT * MIN
    assert DRIFT < 1
    world.now += 0.2
    leader.group.receive("c", (ACK, 0, leader.group.term, 2, True, False, sent - 0.1))
    assert leader.group.lease_until == sent + DRIFT * MIN


@pytest.mark.parametrize(("size", "answers"), [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)])
def test_only_a_majority_gives_a_lease(make: Callable[..., World], size: int, answers: int) -> None:
    world = make(size)
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: False
    world.run(0.05)
    before = leader.group.lease_until
    assert world.now < before < world.now + MIN
    for name in world.names[1:answers]:
        leader.group.receive(name, (ACK, 0, leader.group.term, 2, True, False, world.now))
    assert leader.group.lease_until <= before
    leader.group.receive(world.names[answers], (ACK, 0, leader.group.term, 2, True, False, world.now))
    assert leader.group.lease_until == world.now + DRIFT * MIN


def test_there_is_no_lease_before_the_leaders_own_first_entry_is_applied(make: Callable[..., World]) -> None:
    world = make(3)
    world.intercept = lambda source, target, message: not (message[0] == APPEND and message[7])
    node = world.nodes["a"]
    world.run_until(lambda: node.group.leader)
    world.run(0.3)
    assert node.group.leader
    assert node.group.confirmed > world.now - 0.2, "a majority answers"
    assert not node.group.readable
    assert node.group.lease_until < world.now
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: node.group.lease_until > world.now)
    assert node.group.readable


def test_a_leader_told_not_to_use_leases_has_none(make: Callable[..., World]) -> None:
    world = make(3, lease=False)
    leader = world.leader()
    world.settle(0.5)
    assert leader.group.lease_until < world.now
    before = world.now
    leader.group.confirm()
    world.run_until(lambda: leader.group.confirmed >= before, 0.05)


def test_a_leader_that_stepped_down_has_no_lease(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    assert leader.group.lease_until > world.now
    leader.group.step_down(leader.group.term + 1)
    assert leader.group.lease_until < world.now
    assert leader.group.confirmed < world.now - 100


def test_a_process_that_stood_still_has_no_lease_when_it_wakes(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    leader.pause(4 * MIN)
    world.run_until(lambda: len(world.leaders_now()) == 2)
    assert leader.group.lease_until < world.now
    world.settle()
    assert not leader.group.leader
