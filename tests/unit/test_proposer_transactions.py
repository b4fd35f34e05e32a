"""Transactions with watched keys on their way through the proposer: the leader judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from respkv.shard.transaction import Watched, exec_args
from tests.unit.raft_world import Client, World, WorldNode, writes
from tests.unit.worlds import idle, watch, worlds


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch, proposers=True)


def executes(node: WorldNode, watched: Watched, name: bytes) -> Client:
    client = Client(node.name, [name])
    assert node.proposer is not None
    node.proposer.write_guarded(client, 0, exec_args([watched], [[b"SET", name, b"1"]]))
    return client


def test_the_leader_judges_transactions_wherever_they_come_from(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    follower = world.followers()[0]
    known, unknown = watch(leader, b"k"), watch(follower, b"k")
    clients = [executes(node, watched, b"x") for node in (leader, follower) for watched in (known, unknown)]
    world.settle(0.3)
    assert [client.answers[0] is None for client in clients] == [False, True, False, True]
    idle(world)


def test_a_transaction_waits_for_what_is_under_way_and_may_write_its_keys(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    watched = watch(leader, b"k")
    first = Client(leader.name, [b"k"])
    leader.proposer.write(first, 0, [b"SET", b"k", b"1"])
    leader.proposer.pump()  # it is under way
    assert leader.proposer._proposals
    second = executes(leader, watched, b"x")
    behind = writes(world, leader, [b"behind"])
    leader.proposer.pump()
    assert len(leader.proposer._proposals) == 1
    leader.machine.watches.wrote([b"k"])  # as the machine does when it is applied
    world.settle(0.3)
    assert (first.ended, second.answers, behind.ended) == (1, {0: None}, 1)
    assert leader.machine.ops[-2:] == [b"k", b"behind"]
    idle(world)


def test_a_new_leader_does_not_know_what_the_last_one_vouched_for(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    watched = watch(leader, b"k")
    follower = world.followers()[0]
    leader.group.transfer(follower.name)
    world.settle(0.5)
    assert world.leader() is follower
    client = executes(leader, watched, b"x")
    world.settle(0.3)
    assert client.answers == {0: None}
    assert leader.machine.watches.stamps == {}
    idle(world)
