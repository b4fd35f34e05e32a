"""A replica that lost what it promised: it has no voice before it has again what it could be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft.group import Clock, Group
from respkv.raft.identity import Identity
from respkv.raft.log import Standing
from respkv.raft.membership import Membership
from tests.unit import raft_world
from tests.unit.forgetful import LOSSES, ForgetfulNode, Trouble
from tests.unit.raft_world import Broken, World


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    monkeypatch.setattr(Clock, "now", Clock.now)
    monkeypatch.setattr(raft_world, "WorldNode", ForgetfulNode)
    made: list[World] = []

    def build(size: int = 3, **options: Any) -> World:
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(World(root, size, **options))
        return made[-1]

    yield build
    for world in made:
        world.close()


def standings(world: World) -> dict[str, Standing]:
    return {node.name: node.group.log.standing for node in world.nodes.values()}


def all_vote(world: World) -> bool:
    return all(node.up and node.group.votes for node in world.nodes.values())


def test_a_new_cluster_votes_as_soon_as_its_nodes_have_met(make: Callable[..., World]) -> None:
    world = make()
    assert set(standings(world).values()) == {Standing.NEW}
    world.run_until(lambda: all_vote(world), 0.4)
    world.write(b"1")
    world.settle()
    assert all(node.group.learners == set() for node in world.nodes.values())


@pytest.mark.parametrize(("size", "met"), [(2, 2), (3, 3), (4, 3), (5, 4)])
def test_a_new_cluster_waits_until_no_two_parts_of_it_could_begin_apart(
    make: Callable[..., World], size: int, met: int
) -> None:
    world = make(size)
    world.partition(world.names[: met - 1], world.names[met - 1 :])
    world.run(30)
    assert not any(node.group.votes for node in world.nodes.values() if node.name in world.names[: met - 1])
    world.partition(world.names[:met], world.names[met:])
    world.run_until(lambda: all(world.nodes[name].group.votes for name in world.names[:met]), 5)


@pytest.mark.parametrize("what", LOSSES)
@pytest.mark.parametrize("size", [3, 5])
def test_whatever_was_lost_the_node_votes_again_with_all_that_it_had(
    make: Callable[..., World], size: int, what: str
) -> None:
    world = make(size)
    world.leader()
    world.write(*(b"%d" % number for number in range(100)))
    world.settle()
    for node in world.nodes.values():
        node.trim()
        node.group.log.trim(50)
    world.settle()
    node = world.followers()[0]
    assert isinstance(node, ForgetfulNode)
    if what == "running":
        node.lose(what)
    else:
        node.crash()
        node.lose(what)
        world.run(1)
        node.start()
    assert not node.group.votes
    for _ in range(20):
        world.run(0.1)
        world.supply_snapshots()
    assert node.group.votes
    assert all(other.group.learners == set() for other in world.nodes.values())
    assert (node.repairs, [command for _, _, command in node.history if command[:1] == b"\0"][-1]) == (1, b"\x0099")


def test_a_replica_that_lost_everything_gives_no_vote_while_it_knows_nothing(make: Callable[..., World]) -> None:
    """The other two of three: one has every entry and is down, one has none. No leader may come of that."""
    world = make()
    behind = world.followers()[0]
    world.isolate(behind.name)
    world.write(b"committed without it")
    world.settle()
    leader = world.leader()
    other = next(node for node in world.nodes.values() if node not in (leader, behind))
    other.crash()
    other.lose("both")
    leader.crash()
    world.heal()
    other.start()
    world.run(20)
    assert not any(node.group.leader for node in (behind, other))
    leader.start()
    world.run_until(lambda: all_vote(world), 20)
    assert all(b"\0committed without it" in [command for _, _, command in n.history] for n in world.nodes.values())


def test_the_term_of_every_other_replica_is_needed_to_bound_a_lost_vote(make: Callable[..., World]) -> None:
    world = make(5)
    leader = world.leader()
    world.settle()
    lost, silent = world.followers()[:2]
    silent.crash()
    lost.crash()
    lost.lose("journal")
    lost.start()
    world.run(5)
    assert standings(world)[lost.name] is Standing.STRANGER
    assert world.leader() is leader
    silent.start()
    world.run_until(lambda: lost.group.votes, 5)
    assert lost.group.term >= max(node.group.term for node in world.nodes.values())


def test_a_majority_that_lost_its_memory_elects_nobody(make: Callable[..., World]) -> None:
    world = make()
    world.leader()
    world.write(b"kept by one")
    world.settle()
    followers = world.followers()
    for node in world.nodes.values():
        node.crash()
    for node in followers:
        node.lose("both")
    for node in world.nodes.values():
        node.start()
    world.run(30)
    assert world.leaders_now() == []
    assert sorted(standings(world).values()) == [Standing.VOTER, Standing.LEARNER, Standing.LEARNER]


@pytest.mark.parametrize("seed", range(30))
def test_no_loss_of_a_minority_loses_a_committed_entry(make: Callable[..., World], seed: int) -> None:
    world = make(3 if seed % 3 else 5, seed=seed)
    trouble = Trouble(world)
    trouble.tell(60)
    trouble.restart()
    world.drop = world.duplicate = world.reorder = 0.0
    world.heal()
    for _ in range(60):
        world.run(0.5)
        world.supply_snapshots()
    assert all_vote(world)
    world.write(b"last")
    world.settle()
    assert {node.history[-1] for node in world.nodes.values()} == {world.leader().history[-1]}


def _believe_at_once(self: Membership) -> None:
    if self.standing is Standing.LEARNER:
        self._group.log.stand(Standing.VOTER)


MUTATIONS: dict[str, tuple[type, str, Any]] = {
    "a learner is a voter at once": (Membership, "_check_target", _believe_at_once),
    "a learner may vote": (Group, "votes", property(lambda self: self.log.standing <= Standing.LEARNER)),
    "every life is known": (Identity, "met", lambda self, shard, node: None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_stories_above_find_each_rule_that_is_left_out(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, mutation: str
) -> None:
    monkeypatch.setattr(*MUTATIONS[mutation])
    for seed in range(200):
        try:
            world = make(3, seed=seed)
            Trouble(world).tell(60)
        except Broken:
            return
    raise AssertionError("not found")
