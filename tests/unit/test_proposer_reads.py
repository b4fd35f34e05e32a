"""Reads by way of the proposer: none is stale, none overtakes another, each is answered once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from respkv.raft.messages import ACK
from respkv.reply import LongBulk, RespError
from respkv.shard.border import FAILED
from respkv.shard.long import LONG_BYTES
from respkv.shard.machine import InDoubt
from respkv.shard.proposer import FORWARDED, READ_DONE, REFUSED
from respkv.shard.requests import Forwarded
from tests.unit.raft_world import Client, Recorder, World, reads, writes
from tests.unit.worlds import idle, outcome, worlds


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch, proposers=True)


@pytest.mark.parametrize("lease", [True, False])
def test_a_read_anywhere_sees_every_write_answered_before_it(make: Callable[..., World], lease: bool) -> None:
    world = make(seed=3, lease=lease)
    world.leader()
    for n in range(30):
        nodes = list(world.nodes.values())
        client = writes(world, nodes[n % 3], [b"%d" % n])
        world.run_until(lambda client=client: client.ended == 1)
        asked = [reads(node) for node in nodes]
        world.run_until(lambda asked=asked: all(client.ended for client in asked))
        assert [client.answers for client in asked] == [{0: n + 1}] * 3
    idle(world)


def test_under_the_lease_a_read_is_served_at_once_and_without_it_after_a_majority_has_answered(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    assert reads(leader).ended == 1
    other = make(lease=False)
    leader = other.leader()
    other.settle(0.3)
    client = reads(leader)
    assert client.ended == 0
    before = other.now
    other.run_until(lambda: client.ended == 1)
    assert 0 < other.now - before < 0.02


def test_without_the_lease_an_answer_that_was_under_way_before_the_read_confirms_nothing(
    make: Callable[..., World],
) -> None:
    world = make(lease=False)
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: False
    sent = world.now
    world.now += 0.01
    client = reads(leader)
    leader.receive("b", [ACK, 0, leader.group.term, 2, True, False, sent])
    world.run(0.02)
    assert client.ended == 0
    leader.receive("b", [ACK, 0, leader.group.term, 2, True, False, world.now])
    world.run(0.02)
    assert client.ended == 1


@pytest.mark.parametrize("lease", [True, False])
def test_a_deposed_leader_that_does_not_know_it_yet_answers_no_read(make: Callable[..., World], lease: bool) -> None:
    world = make(lease=lease)
    old = world.leader()
    world.settle(0.3)
    old.proposer.timeout_s = 10.0
    old.pause(3)
    world.run_until(lambda: any(node.group.readable for node in world.nodes.values() if node is not old), 2.5)
    new = next(node for node in world.leaders_now() if node is not old)
    client = writes(world, new, [b"x"])
    world.run(0.2)
    assert outcome(client) == "applied"
    stale = reads(old)  # it stands still, but the read would be the first thing it does
    assert stale.ended == 0
    world.settle(4)
    assert stale.answers[0] == 1


def test_a_read_that_waits_goes_into_the_next_batch_before_its_writes(make: Callable[..., World]) -> None:
    world = make(lease=False)
    leader = world.leader()
    world.settle(0.3)
    read = reads(leader)
    write = writes(world, leader, [b"x"])
    after = Client(leader.name, [b"read"])
    leader.proposer.write(after, 0, [b"READ"])
    world.settle(0.3)
    assert (read.answers, write.answers, after.answers) == ({0: 0}, {0: 1}, {0: 1})


def test_a_forwarded_read_keeps_its_place_before_the_write_behind_it(make: Callable[..., World]) -> None:
    for lease in (True, False):
        world = make(lease=lease)
        world.leader()
        world.settle(0.3)
        origin = world.followers()[0]
        for n in range(20):
            read = reads(origin)
            writes(world, origin, [b"%d" % n], behind=read)
            world.run(0.05)
            assert read.answers == {0: n}


@pytest.mark.parametrize("in_one_turn", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_a_read_whose_answer_is_lost_does_not_see_the_write_behind_it(
    make: Callable[..., World], in_one_turn: bool, plain: bool
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] not in {READ_DONE, FORWARDED}
    read = reads(origin)
    if not in_one_turn:
        world.run(0.01)
    write = writes(world, origin, [b"x"], plain=plain, behind=read)
    world.run_until(lambda: bool(leader.machine.ops), 1)
    leader.crash()
    world.intercept = lambda source, target, message: True
    world.settle(1.9)
    assert read.answers == {0: 0}
    assert outcome(write) == "applied"


def test_a_node_that_comes_to_lead_answers_what_it_has_asked_of_another(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = next(node for node in world.followers() if node.name != "a")
    world.intercept = lambda source, target, message: message[0] != READ_DONE
    read = reads(origin)
    world.run(0.01)
    assert read.ended == 0
    leader.group.transfer(origin.name)
    write = writes(world, origin, [b"x"], behind=read)
    world.run_until(lambda: origin.group.leader, 1)
    world.run(0.3)
    assert read.answers == {0: 0}
    assert outcome(write) == "applied"


def test_the_place_of_a_read_that_was_answered_elsewhere_may_fail(make: Callable[..., World]) -> None:
    world = make(lease=False)
    leader = world.leader()
    world.settle(0.3)
    origin = next(node for node in world.followers() if node.name != "a")
    world.intercept = lambda source, target, message: message[0] != READ_DONE
    read = reads(origin)
    world.run(0.01)
    write = writes(world, origin, [b"x"], behind=read)
    world.run_until(lambda: write.ended == 1, 1)
    assert read.answers == {0: 0}
    leader.group.transfer(origin.name)
    world.run_until(lambda: origin.group.leader, 1)
    world.intercept = lambda source, target, message: message[0] != ACK
    late = writes(world, origin, [b"y"])
    world.run(0.1)
    world.partition("a", "b", "c")
    world.run(world.timeout_s + 1)
    assert outcome(late) == "TIMEOUT"


def test_a_long_write_waits_for_the_reads_before_it(make: Callable[..., World]) -> None:
    world = make(lease=False)
    leader = world.leader()
    world.settle(0.3)
    assert leader.proposer is not None
    read = reads(leader)
    write = Client(leader.name, [b"x"], read)
    leader.proposer.join(write)
    leader.proposer.put(0, b"long", b"v" * LONG_BYTES)
    world.intercept = lambda source, target, message: message[0] != ACK
    world.run(0.1)
    world.intercept = lambda source, target, message: True
    world.settle(0.5)
    assert read.answers == {0: 0}
    assert write.ended == 1
    assert write.ok_failed is None


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("on_leader", [True, False])
def test_a_read_in_doubt_is_answered_by_an_entry_in_its_place(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, lease: bool, on_leader: bool
) -> None:
    world = make(lease=lease)
    leader = world.leader()
    world.settle(0.3)
    node = leader if on_leader else world.followers()[0]

    def in_doubt(self: Recorder, args: list[bytes]) -> Any:
        raise InDoubt

    monkeypatch.setattr(Recorder, "read", in_doubt)
    before = writes(world, leader, [b"1"])
    world.run_until(lambda: before.ended == 1, 1)
    read = reads(node, 2)
    world.run(0.01)
    behind = writes(world, node, [b"2"], behind=read)
    world.settle(0.5)
    assert read.answers == {0: 1, 1: 1}
    assert behind.answers == {0: 2}
    idle(world)


def test_a_read_in_doubt_that_had_to_wait_goes_before_what_its_client_wrote_behind_it(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    certain = Recorder.read

    def in_doubt(self: Recorder, args: list[bytes]) -> Any:
        if doubts:
            doubts.pop()
            raise InDoubt
        return certain(self, args)

    doubts = [True]
    monkeypatch.setattr(Recorder, "read", in_doubt)
    leader.group.lease_until, until = float("-inf"), leader.group.lease_until
    read = reads(leader, 2)
    behind = writes(world, leader, [b"1"], behind=read)
    leader.group.lease_until = until
    world.settle(0.5)
    assert read.answers == {0: 0, 1: 0}
    assert behind.answers == {0: 1}
    idle(world)


def test_a_read_does_not_overtake_one_that_waits(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    leader.group.lease_until, until = float("-inf"), leader.group.lease_until
    waiting = reads(leader)
    leader.group.lease_until = until
    behind = reads(leader)
    assert (waiting.ended, behind.ended) == (0, 0)
    world.run(0.001)
    assert waiting.answers == behind.answers == {0: 0}
    assert reads(leader).ended == 1


def test_what_another_node_asks_behind_a_read_in_doubt_does_not_overtake_it(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    certain, doubts = Recorder.read, [True]

    def in_doubt_once(self: Recorder, args: list[bytes]) -> Any:
        if doubts:
            doubts.pop()
            raise InDoubt
        return certain(self, args)

    monkeypatch.setattr(Recorder, "read", in_doubt_once)
    world.intercept = lambda source, target, message: message[0] != ACK
    writes(world, leader, [b"1"])
    world.run(0.002)
    asked = reads(world.followers()[0], 2)
    world.run(0.01)
    world.intercept = lambda source, target, message: True
    world.settle(0.5)
    assert asked.answers == {0: 1, 1: 1}
    idle(world)


def test_a_read_that_goes_into_an_entry_is_known_to_be_on_its_way(make: Callable[..., World]) -> None:
    """Else one behind it, answered at once when the lease is back, would see less."""
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK
    writes(world, leader, [b"1"])
    world.run(0.002)
    leader.group.lease_until = float("-inf")
    read = reads(leader)
    writes(world, leader, [b"2" * 10])
    world.run(0.002)
    assert read.ended == 0
    assert leader.proposer in read.joined
    world.intercept = lambda source, target, message: True
    world.settle(0.5)
    assert read.answers == {0: 1}
    idle(world)


def test_a_read_without_a_leader_ends_at_its_deadline(make: Callable[..., World]) -> None:
    world = make()
    world.leader()
    world.settle(0.3)
    world.partition("a", "b", "c")
    world.run(1.5)
    clients = [reads(node, 2) for node in world.nodes.values()]
    world.run(2.5)
    assert {outcome(client) for client in clients} == {"CLUSTERDOWN"}
    idle(world)


def test_reads_sent_to_a_leader_that_dies_are_asked_again(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != READ_DONE
    client = reads(world.followers()[0])
    world.run(0.01)
    leader.crash()
    world.intercept = lambda source, target, message: True
    world.settle(1.9)
    assert outcome(client) == "applied"


def test_a_read_sent_to_a_leader_that_stands_still_is_asked_again_when_there_is_another(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    leader.pause(30.0)
    client = reads(origin)
    world.run_until(lambda: origin.group.leader_id not in {None, leader.name})
    world.run(0.2)
    assert outcome(client) == "applied"
    assert world.has_link(origin.name, leader.name)


def test_reads_in_an_entry_whose_outcome_the_leader_does_not_learn_are_asked_again(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data were damaged, say. What writes cannot be told (`-TIMEOUT`, may have been applied), reads can: anew."""
    world = make()
    leader = world.leader()
    world.settle(0.3)

    def in_doubt(self: Recorder, args: list[bytes]) -> Any:
        raise InDoubt

    monkeypatch.setattr(Recorder, "read", in_doubt)
    world.intercept = lambda source, target, message: message[0] != ACK
    asked = reads(world.followers()[0], 2)
    world.run_until(lambda: bool(leader.proposer and leader.proposer._proposals), 1)
    assert leader.proposer is not None
    leader.proposer.installed()
    world.intercept = lambda source, target, message: True
    world.settle(0.5)
    assert asked.answers == {0: 0, 1: 0}
    idle(world)


@pytest.mark.parametrize("lease", [True, False])
def test_a_long_value_for_which_there_is_no_descriptor_is_an_error_of_its_read_alone(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, lease: bool
) -> None:
    world = make(lease=lease)
    leader = world.leader()
    world.settle(0.3)

    def refused(self: Recorder, args: list[bytes]) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "long_value", refused)
        client = reads(leader)
        world.run_until(lambda: client.ended == 1)
    assert client.answers == {0: RespError("ERR the value cannot be read now: Too many open files")}
    later = reads(leader)
    world.run_until(lambda: later.ended == 1)
    assert later.answers == {0: 0}
    idle(world)


@pytest.mark.parametrize(
    ("kind", "told"), [(FORWARDED, [FAILED, "error"]), (READ_DONE, [REFUSED, ("b", 3)])], ids=["writes", "reads"]
)
def test_what_has_failed_takes_no_parts_of_long_values_along(kind: int, told: list[Any]) -> None:
    proposer: Any = MagicMock(shard=0)
    proposer.leader.return_value = ("b", 3)
    part = Forwarded(proposer, "c", kind, 7, 2)
    part.put(0, LongBulk(5, [b"value"]))
    part.fail(b"", "error")  # type: ignore[arg-type]
    part.done()
    proposer.send.assert_called_once_with("c", (kind, 0, 7, *told))
