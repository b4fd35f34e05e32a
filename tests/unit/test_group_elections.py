"""Elections of a Raft group, on a virtual clock, network and disk, and leadership that is handed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft.group import Timing
from respkv.raft.messages import ACK, APPEND, PREVOTE, PREVOTED, TIMEOUT_NOW, VOTE
from tests.unit.raft_world import World
from tests.unit.worlds import applied, worlds

MIN = Timing().election_min


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch)


# --- elections ---


# hole 14
def test_a_replica_that_was_cut_off_does_not_depose_the_leader_when_it_comes_back(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    term = leader.group.term
    for notice in (True, False):
        world.isolate("c", notice=notice)
        world.run(20 * MIN)
        world.heal()
        world.run(5 * MIN)
        assert leader.group.leader
        assert all(node.group.term == term for node in world.nodes.values())


def test_a_promised_vote_is_worth_nothing_once_the_leader_was_heard_again(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    candidate, other = world.followers()
    delayed: list[Any] = []

    def slow(source: str, target: str, message: Any) -> bool:
        if leader.name in {source, target}:
            if target == candidate.name:
                delayed.append(message)
            return False
        return message[0] != PREVOTED

    world.intercept = slow
    world.record = True
    world.run_until(lambda: any(message[0] == PREVOTED and message[3] for _, _, message in world.sent))
    world.record = False
    term = candidate.group.term
    stood = candidate if candidate.group.elections.prevotes else other
    assert stood is candidate or stood is other
    stood.group.receive(leader.name, (APPEND, 0, term, 0, *stood.group.log[-1][1:], world.now, []))
    peer = other if stood is candidate else candidate
    stood.group.receive(peer.name, (PREVOTED, 0, term + 1, True))
    assert stood.group.term == term


def test_no_vote_is_given_while_a_leader_was_heard_within_the_minimum_election_timeout(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.35)
    world.intercept = lambda source, target, message: source == "test"
    follower = world.followers()[0]
    heard = follower.group.elections.heard
    request = (VOTE, 0, leader.group.term + 1, 99, 99, False)
    world.now = heard + MIN - 0.001
    follower.group.receive("c" if follower.name == "b" else "b", request)
    assert follower.group.term == leader.group.term
    world.now = heard + MIN + 0.001
    follower.group.receive("c" if follower.name == "b" else "b", request)
    assert follower.group.term == leader.group.term + 1


def test_no_vote_is_given_for_the_minimum_election_timeout_after_a_start(make: Callable[..., World]) -> None:
    world = make(3)
    world.leader()
    world.settle(0.3)
    node = world.nodes["c"]
    world.run(10)
    node.crash()
    world.run(10)
    world.intercept = lambda source, target, message: False
    node.start()
    term = node.group.term
    world.now += MIN - 0.001
    node.group.receive("b", (VOTE, 0, term + 1, 99, 99, False))
    node.group.receive("b", (PREVOTE, 0, term + 1, 99, 99))
    assert node.group.term == term
    world.now += 0.002
    node.group.receive("b", (VOTE, 0, term + 1, 99, 99, False))
    assert node.group.term == term + 1


def test_a_leader_gives_no_vote_and_no_promise(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.record = True
    leader.group.receive("b", (VOTE, 0, 50, 99, 99, False))
    leader.group.receive("b", (PREVOTE, 0, 50, 99, 99))
    assert leader.group.leader
    assert [message[3] for _, _, message in world.sent if message[0] == PREVOTED] == [False]


def test_a_replica_with_a_shorter_log_is_promised_nothing(make: Callable[..., World]) -> None:
    world = make(3)
    world.write(b"x")
    world.settle(0.3)
    world.intercept = lambda source, target, message: False
    world.record = True
    node = world.followers()[0]
    world.run(3 * MIN)
    world.sent.clear()
    last = node.group.log[-1]
    for index, term, granted in ((last[1] - 1, last[2], False), (last[1] + 9, last[2] - 1, False), (*last[1:], True)):
        node.group.receive("a", (PREVOTE, 0, node.group.term + 1, index, term))
        assert [m for _, _, m in world.sent if m[0] == PREVOTED][-1][3] is granted


# hole: leaderFallbackTimeout
def test_a_leader_that_no_majority_answers_steps_down_within_about_an_election_timeout(
    make: Callable[..., World],
) -> None:
    for notice in (True, False):
        world = make(5)
        leader = world.leader()
        world.settle(0.3)
        world.isolate(leader.name, notice=notice)
        world.run(1.5 * MIN)
        assert not leader.group.leader
        assert leader.group.leader_id is None


def test_a_follower_of_a_higher_term_makes_a_stale_leader_step_down_and_a_leader_is_found(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    follower = world.nodes["b"]
    follower.group.step_down(leader.group.term + 7)
    follower.wake()
    world.run_until(lambda: not leader.group.leader, 1.0)
    again = world.leader()
    assert again.group.term > 7
    world.write(b"x")
    world.settle()
    assert all(applied(node) == [b"x"] for node in world.nodes.values())


def test_an_ack_of_a_higher_term_makes_a_leader_step_down_and_a_refused_prevote_lifts_a_candidate(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    leader.group.receive("b", (ACK, 0, 40, 1, False, False, world.now))
    assert not leader.group.leader
    assert leader.group.term == 40
    leader.group.receive("b", (PREVOTED, 0, 50, False))
    assert leader.group.term == 50


@pytest.mark.parametrize("seed", range(6))
def test_a_new_leader_is_found_soon_after_the_old_one_dies(make: Callable[..., World], seed: int) -> None:
    world = make(3, seed=seed)
    leader = world.leader()
    world.settle(0.3)
    died_at = world.now
    leader.crash()
    world.leader()
    assert world.now - died_at < 5 * MIN


# --- handing over ---


# hole 17
@pytest.mark.parametrize("seed", range(4))
def test_leadership_is_handed_over_while_writes_come(make: Callable[..., World], seed: int) -> None:
    world = make(3, seed=seed)
    leader = world.leader()
    for n in range(20):
        world.write(b"%d" % n, on=leader)
        world.run(0.002)
    leader.group.transfer("c")
    started = world.now
    world.run_until(lambda: world.nodes["c"].group.readable, 1.0)
    assert world.now - started < MIN / 2
    world.settle(0.5)
    assert applied(world.nodes["c"]) == [b"%d" % n for n in range(20)]
    assert not leader.group.leader


def test_the_lease_is_not_used_again_in_the_term_in_which_the_lead_was_offered(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != TIMEOUT_NOW
    leader.group.transfer("b")
    world.run(2 * MIN)
    assert leader.group.leader
    assert leader.group.transferring is None, "it gives up after an election timeout"
    assert leader.group.lease_until < world.now
    assert leader.group.confirmed > world.now - 0.2
    world.write(b"still led")
    world.settle(0.3)
    assert applied(leader) == [b"still led"]
    world.intercept = lambda source, target, message: True
    leader.group.transfer("b")
    world.run_until(lambda: world.nodes["b"].group.readable, 1.0)


def test_a_leader_knows_who_has_handed_leadership_to_it(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    assert leader.group.elections.giver is None, "it was elected"
    heir = world.followers()[0]
    leader.group.transfer(heir.name)
    world.run_until(lambda: heir.group.readable, 1.0)
    assert heir.group.elections.giver == leader.name
    heir.crash()
    world.run_until(lambda: any(node.group.readable for node in world.nodes.values() if node is not heir), 5.0)
    assert world.leader().group.elections.giver is None


def test_an_offer_of_another_term_or_of_somebody_else_is_not_taken(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    term = leader.group.term
    follower, other = world.followers()
    follower.group.receive(other.name, (TIMEOUT_NOW, 0, term))
    follower.group.receive(leader.name, (TIMEOUT_NOW, 0, term - 1))
    assert follower.group.term == term
    follower.group.receive(leader.name, (TIMEOUT_NOW, 0, term))
    assert follower.group.term == term + 1


def test_nothing_is_handed_to_a_follower_that_lacks_entries(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    world.isolate("c", notice=False)
    world.write(b"x", on=leader)
    world.record = True
    leader.group.transfer("c")
    world.run(0.3)
    assert not [message for _, _, message in world.sent if message[0] == TIMEOUT_NOW]


def test_one_that_is_about_to_stop_takes_no_offer_and_gets_none(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    stopping, other = world.followers()
    term = leader.group.term
    assert leader.group.may_lead(stopping.name)
    leader.group.transfer(stopping.name)
    stopping.group.elections.stand_aside()
    stopping.group.receive(leader.name, (TIMEOUT_NOW, 0, term))
    world.run_until(lambda: leader.group.transferring is None, MIN / 2)  # not after an election timeout
    assert stopping.group.term == term
    assert not leader.group.may_lead(stopping.name)
    assert leader.group.may_lead(other.name)
    leader.group.disconnected(stopping.name)
    leader.group.connected(stopping.name)
    assert leader.group.may_lead(stopping.name), "it was started again"


def test_one_that_is_about_to_stop_does_not_stand_and_votes_for_others(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    stopping, other = world.followers()
    stopping.group.elections.stand_aside()
    leader.crash()
    world.run_until(lambda: other.group.readable, 20 * MIN)
    assert not stopping.group.leader
