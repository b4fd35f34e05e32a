"""A Raft group on a virtual clock, network and disk: what PySyncObj leaves open must be closed here.

The numbers of holes are those of `tests/unit/test_holes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft import sending
from respkv.raft.group import LogDivergence, Timing
from respkv.raft.messages import ACK, APPEND, PREVOTE, PREVOTED, VOTE, VOTED
from tests.unit.raft_world import World
from tests.unit.worlds import append, applied, last_ack, worlds

MIN = Timing().election_min


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch)


# --- the plain way ---


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_what_is_proposed_is_applied_in_order_on_every_replica(make: Callable[..., World], size: int) -> None:
    world = make(size)
    commands = [b"%d" % n for n in range(50)]
    for command in commands:
        world.write(command)
        world.run(0.001)
    world.settle()
    assert all(applied(node) == commands for node in world.nodes.values())


def test_the_preferred_replica_leads_first_and_its_first_entry_makes_it_readable(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    assert leader.name == "a"
    assert world.now < 1000 + 1.5 * MIN
    assert leader.group.term == 1


# the chunking hole (1): sizes around multiples of 64 KiB
@pytest.mark.parametrize("around", [1 << 16, 2 << 16, 3 << 16, 16 << 16])
def test_entries_of_all_sizes_around_multiples_of_64_kib_replicate(make: Callable[..., World], around: int) -> None:
    world = make()
    sizes = [around + extra for extra in (-200, -60, -17, -2, -1, 0, 1, 2, 17, 60)]
    for size in sizes:
        world.write(b"x" * (size - 1))
    world.settle()
    assert all([len(command) + 1 for command in applied(node)] == sizes for node in world.nodes.values())


def test_an_entry_of_three_megabytes_replicates_between_small_ones(make: Callable[..., World]) -> None:
    world = make()
    commands = [b"small", b"y" * 3_000_000, b"small again"]
    world.write(*commands)
    world.settle()
    assert all(applied(node) == commands for node in world.nodes.values())


# --- durability ---


def test_the_leader_counts_itself_only_when_its_own_disk_has_the_entry(make: Callable[..., World]) -> None:
    world = make(2)
    leader = world.leader()
    world.settle(0.5)
    leader.journal.sync_request = lambda descriptors, sequence: None
    index = world.write(b"x")
    world.settle(0.2)
    follower = world.followers()[0]
    assert follower.group.log.durable == index
    assert leader.group.commit < index
    leader.journal.sync_request = leader._sync_wanted
    world.write(b"y")
    world.settle(0.2)
    assert leader.group.commit == index + 1


def test_a_majority_of_followers_commits_without_the_leaders_disk(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.5)
    leader.journal.sync_request = lambda descriptors, sequence: None
    index = world.write(b"x")
    world.run_until(lambda: leader.group.commit == index)
    assert leader.group.log.durable < index


def test_one_durable_copy_of_three_commits_nothing(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.5)
    for node in world.nodes.values():
        if node is not leader:
            node.journal.sync_request = lambda descriptors, sequence: None
    index = world.write(b"x")
    world.settle(0.4)
    assert leader.group.log.durable == index
    assert all(node.group.log.last_index == index for node in world.nodes.values())
    assert leader.group.commit < index


def test_a_replica_alone_applies_only_what_is_durable(make: Callable[..., World]) -> None:
    world = make(1)
    node = world.leader()
    node.journal.sync_request = lambda descriptors, sequence: None
    index = world.write(b"x")
    world.settle()
    assert node.group.commit == node.group.applied == index - 1
    node.journal.sync_request = node._sync_wanted
    world.write(b"y")
    world.settle()
    assert applied(node) == [b"x", b"y"]


def test_a_replica_alone_that_has_just_restarted_commits_nothing_that_is_not_durable(
    make: Callable[..., World],
) -> None:
    world = make(1)
    node = world.leader()
    world.write(b"x")
    world.settle()
    node.crash()
    node.start()
    node.journal.sync_request = lambda descriptors, sequence: None
    world.settle(0.2)
    assert node.group.leader
    assert node.group.commit <= node.group.log.durable < node.group.log.last_index


def test_an_acknowledgement_leaves_after_its_entries_are_durable_and_says_no_more(make: Callable[..., World]) -> None:
    world = make(3, seed=3)
    world.sync_s = (0.02, 0.2)
    world.leader()

    def checked(source: str, target: str, message: Any) -> bool:
        if message[0] == ACK and message[4]:
            shard_log = world.nodes[source].group.log
            assert message[3] - 1 <= shard_log.durable, "an entry was acknowledged that is not durable"
            assert shard_log.state_durable, "a term was acknowledged that is not durable"
        return True

    world.intercept = checked
    for n in range(200):
        world.write(b"%d" % n)
        world.run(0.004)
    world.settle()
    assert all(len(applied(node)) == 200 for node in world.nodes.values())


def test_acknowledgements_keep_coming_while_new_entries_come_faster_than_the_disk_syncs(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    world.sync_s = (0.03, 0.03)
    before = leader.group.commit
    for n in range(50):
        world.write(b"%d" % n, on=leader)
        world.run(0.003)
    assert leader.group.commit > before + 10


def test_no_vote_leaves_before_term_and_vote_are_durable(make: Callable[..., World]) -> None:
    world = make(5, seed=2)
    world.sync_s = (0.01, 0.1)
    checked = []

    def check(source: str, target: str, message: Any) -> bool:
        if message[0] in {VOTE, VOTED}:
            shard_log = world.nodes[source].group.log
            assert shard_log.state_durable
            assert message[2] <= shard_log.term
            checked.append(message[0])
        return True

    world.intercept = check
    for _ in range(4):
        world.leader()
        world.isolate(world.leader().name)
        world.settle(2)
        world.heal()
    assert checked.count(VOTED) >= 8


# hole 13: a vote is remembered
@pytest.mark.parametrize("power_cut", [False, True])
def test_a_restarted_replica_votes_for_no_second_candidate_of_the_term(
    make: Callable[..., World], power_cut: bool
) -> None:
    world = make(3)
    world.leader()
    world.settle(0.5)
    world.record = True
    world.intercept = lambda source, target, message: target == "c" and source == "test"
    voter = world.nodes["c"]
    world.run(2 * MIN)
    last = voter.group.log[-1]
    term = voter.group.term + 5
    voter.group.receive("a", (VOTE, 0, term, last[1], last[2], False))
    if power_cut:
        voter.disk.pending.clear()  # nothing was flushed yet: nothing may have been said either
    else:
        world.run(0.1)
    said = [message for source, _, message in world.sent if source == "c" and message[0] == VOTED]
    assert bool(said) is not power_cut
    voter.crash()
    voter.start()
    world.run(1.1 * MIN)
    world.sent.clear()
    voter.group.receive("b", (VOTE, 0, term, last[1] + 9, last[2], False))
    world.run(0.1)
    said = [message for source, _, message in world.sent if source == "c" and message[0] == VOTED]
    assert bool(said) is power_cut


def test_a_vote_held_back_for_the_disk_is_dropped_when_the_term_has_passed(make: Callable[..., World]) -> None:
    world = make(3)
    world.leader()
    world.settle(0.5)
    voter = world.nodes["c"]
    world.intercept = lambda source, target, message: False
    world.run(MIN)
    voter.journal.sync_request = lambda descriptors, sequence: None
    last, term = voter.group.log[-1], voter.group.term
    world.record = True
    voter.group.receive("a", (VOTE, 0, term + 5, last[1], last[2], False))
    voter.group.receive("b", (VOTE, 0, term + 6, last[1], last[2], False))
    voter.journal.sync_request = voter._sync_wanted
    world.run(0.05)
    votes = [(target, message[2]) for source, target, message in world.sent if message[0] == VOTED]
    assert votes == [("b", term + 6)]


# --- acks, commits ---


# hole 5
def test_an_acknowledgement_of_another_term_counts_for_nothing(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    world.intercept = lambda source, target, message: False
    index = world.write(b"x")
    world.run(0.05)
    for term in range(leader.group.term):
        leader.group.receive("b", (ACK, 0, term, index + 1, True, False, world.now))
        leader.group.receive("c", (ACK, 0, term, index + 1, True, False, world.now))
    world.run(0.05)
    assert leader.group.commit < index
    assert leader.group.confirmed < world.now - 0.05


def test_an_acknowledgement_beyond_the_log_is_dropped(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    leader.group.receive("b", (ACK, 0, leader.group.term, 1000, True, False, world.now))
    world.write(b"x")
    world.settle()
    assert all(applied(node) == [b"x"] for node in world.nodes.values())


def test_a_refusal_of_an_old_term_confirms_nothing(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.intercept = lambda source, target, message: False
    world.settle(0.2)
    before = leader.group.confirmed
    leader.group.receive("b", (ACK, 0, leader.group.term, 0, False, False, world.now))
    assert leader.group.confirmed == before


def test_entries_of_an_earlier_term_are_not_committed_by_counting_their_copies(make: Callable[..., World]) -> None:
    """Raft, figure 8: only an entry of the leader's own term commits, and what is before it with it."""
    world = make(3)
    world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK
    index = world.write(b"of the first term")
    world.run(0.05)
    world.nodes["a"].crash()
    world.run_until(lambda: bool(world.leaders_now()))
    new = world.leaders_now()[0]
    other = "b" if new.name == "c" else "c"
    assert new.group.term > 1
    assert new.group.log.term_at(index) == 1
    new.group.receive(other, (ACK, 0, new.group.term, index + 1, True, False, world.now))
    world.run(0.05)
    assert new.group.commit < index
    new.group.tick()
    assert new.group.commit < index
    new.group.receive(other, (ACK, 0, new.group.term, index + 2, True, False, world.now))
    world.run(0.05)
    assert new.group.commit == index + 1


def test_an_acknowledgement_of_the_first_of_two_messages_does_not_send_the_second_again(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    world.intercept = lambda source, target, message: message[0] != ACK
    first = world.write(b"1")
    world.run(0.005)
    world.write(b"2")
    world.run(0.005)
    world.record = True
    leader.group.receive("b", (ACK, 0, leader.group.term, first + 1, True, False, world.now))
    world.run(0.005)
    assert list(world.appends()) == []


def test_a_new_leader_is_told_only_what_was_verified_against_its_own_log(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.write(*[b"%d" % n for n in range(9)])
    world.settle(0.3)
    follower, other = world.followers()
    log = follower.group.log
    world.record = True
    world.intercept = lambda source, target, message: False
    early = log[4]
    follower.group.receive(other.name, (APPEND, 0, leader.group.term + 1, 0, *early[1:], world.now, []))
    world.run(0.05)
    assert last_ack(world, follower.name)[3] == early[1] + 1


# hole 6
def test_a_vote_that_arrives_twice_counts_once(make: Callable[..., World]) -> None:
    world = make(5)
    world.intercept = lambda source, target, message: message[0] in {PREVOTE, PREVOTED, VOTE}
    candidate = world.nodes["a"]
    world.run_until(lambda: candidate.group.term == 1)
    for _ in range(10):
        candidate.group.receive("b", (VOTED, 0, 1))
    assert not candidate.group.leader
    candidate.group.receive("c", (VOTED, 0, 1))
    assert candidate.group.leader


def test_a_vote_of_an_earlier_term_does_not_count(make: Callable[..., World]) -> None:
    world = make(3)
    world.intercept = lambda source, target, message: message[0] in {PREVOTE, PREVOTED, VOTE}
    candidate = world.nodes["a"]
    world.run_until(lambda: candidate.group.term == 2)
    candidate.group.receive("b", (VOTED, 0, 1))
    assert not candidate.group.leader


# hole 7
def test_an_acknowledgement_that_comes_late_or_twice_steps_nothing_back(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    index = world.write(*[b"%d" % n for n in range(20)])
    world.settle(0.2)
    world.record = True
    for old in (2, index - 5, index + 1):
        leader.group.receive("b", (ACK, 0, leader.group.term, old, True, False, world.now))
    leader.wake()
    world.run(0.05)
    assert list(world.appends()) == []
    assert leader.group.lag() == {"b": 0, "c": 0}


def test_an_append_that_is_old_or_repeated_truncates_nothing(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    index = world.write(*[b"%d" % n for n in range(20)])
    world.settle(0.2)
    follower = world.followers()[0]
    before = list(follower.group.log)
    durable = follower.group.log.durable
    for first in (2, 5, index - 1):
        entries = [list(entry) for entry in before[first - 1 : first + 3]]
        follower.group.receive(leader.name, append(world, leader, (first - 1, before[first - 2][2]), entries))
    assert list(follower.group.log) == before
    assert follower.group.log.durable == durable


def test_overlapping_appends_add_only_what_is_missing(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.write(b"1", b"2", b"3")
    world.settle(0.2)
    follower = world.followers()[0]
    known = list(follower.group.log)
    more = [*known[-2:], (b"\0new", known[-1][1] + 1, leader.group.term)]
    follower.group.receive(leader.name, append(world, leader, known[-3][1:], [list(entry) for entry in more]))
    assert list(follower.group.log) == [*known[:-2], *[tuple(entry) for entry in more]]


# holes 2 and 11
def test_the_commit_index_never_passes_what_was_verified_against_the_leader(make: Callable[..., World]) -> None:
    world = make(3)
    old = world.leader()
    world.write(b"shared")
    world.settle(0.3)
    world.isolate(old.name)
    world.write(*[b"never %d" % n for n in range(5)], on=old)
    world.run(0.05)
    world.run_until(lambda: any(node.group.readable for node in world.nodes.values() if node is not old))
    new = world.leader()
    index = world.write(*[b"kept %d" % n for n in range(8)], on=new)
    world.settle(0.3)
    # A heartbeat that names an early entry and a late commit index: the tail behind it is not the leader's.
    before = old.group.commit
    old.group.receive(new.name, append(world, new, (before, 1), [], commit=index))
    assert old.group.commit <= before
    old.group.receive(new.name, append(world, new, new.group.log[-1][1:], [], commit=index))
    assert old.group.commit <= before
    world.heal()
    world.settle()
    assert all(applied(node) == applied(new) for node in world.nodes.values())
    assert b"never 0" not in applied(new)


def test_an_append_behind_the_base_is_taken_from_the_base_on(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.write(*[b"%d" % n for n in range(20)])
    world.settle(0.3)
    follower = world.followers()[0]
    before = list(follower.group.log)
    follower.group.log.trim(15)
    term = leader.group.term
    new = (b"\0new", before[-1][1] + 1, term)
    entries = [list(entry) for entry in [*before[5:], new]]
    follower.group.receive(leader.name, append(world, leader, before[4][1:], entries))
    assert follower.group.log[-1] == new
    assert follower.group.log.base_index == 15
    follower.group.receive(leader.name, append(world, leader, before[4][1:], [list(e) for e in before[5:8]]))
    assert follower.group.log[-1] == new


# hole 8
def test_an_exception_in_apply_escapes_the_pump_and_the_entry_is_not_counted_as_applied(
    make: Callable[..., World],
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    before = leader.group.applied

    def fail(index: int, term: int, command: bytes) -> None:
        raise ZeroDivisionError

    leader.group._apply = fail
    world.write(b"x")
    with pytest.raises(ZeroDivisionError):
        world.settle(0.5)
    assert leader.group.applied == before


def test_a_leader_tells_of_its_last_commit_whatever_it_told_when_it_led_before(make: Callable[..., World]) -> None:
    """It may have lost its log since, and have less of it."""
    leader = make(3).leader()
    sending = leader.group.sending
    sending._told = sending.promised = 1 << 40
    leader.group.step_down(leader.group.term + 1)
    assert (sending._told, sending.promised) == (0, 0)


def test_followers_learn_of_the_last_commit_long_before_the_next_heartbeat(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.record = True
    world.write(b"last")
    world.run_until(lambda: applied(leader)[-1:] == [b"last"])
    world.run(0.02)
    assert all(applied(node)[-1] == b"last" for node in world.nodes.values())
    appends = [target for source, target, message in world.sent if message[0] == APPEND]
    assert len(appends) <= 6  # to each of two: the entry, the word, and a heartbeat that was due, at the most


def test_followers_learn_of_commits_in_a_row_by_the_next_entry_and_of_the_last_one_soon(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.record = True
    for number in range(20):
        world.write(b"%d" % number)
        world.run_until(lambda number=number: applied(leader)[-1:] == [b"%d" % number])  # type: ignore[misc]
    appends = [target for source, target, message in world.sent if message[0] == APPEND]
    assert len(appends) <= 2 * 20 + 2 + 2 * 4  # the entries, the word of the first, and what ticks and heartbeats say
    world.run(0.03)
    assert all(applied(node)[-1] == b"19" for node in world.nodes.values())


def test_followers_learn_of_a_commit_only_when_the_leader_has_applied_it(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("respkv.raft.group.APPLY_BYTES", 1000)
    world = make(3, seed=5)
    leader = world.leader()
    world.settle(0.3)
    said = []

    def check(source: str, target: str, message: Any) -> bool:
        if message[0] == APPEND:
            said.append(message[3])
            assert message[3] <= world.nodes[source].group.applied
        return True

    world.intercept = check
    world.write(*[b"z" * 600 for _ in range(8)])  # more than one pump applies
    world.run_until(lambda: leader.group.applied < leader.group.commit)
    leader.group.confirm()
    world.settle()  # World.check_lease compares at every event
    assert all(len(applied(node)) == 8 for node in world.nodes.values())
    assert leader.group.leader
    assert max(said) == leader.group.applied


# --- divergence and repair ---


def test_a_divergent_tail_is_replaced_by_the_leaders_log(make: Callable[..., World]) -> None:
    world = make(5, seed=4)
    world.write(b"shared")
    world.settle(0.3)
    for round_number in range(4):
        old = world.leader()
        world.isolate(old.name)
        world.write(*[b"lost %d %d" % (round_number, n) for n in range(7)], on=old)
        world.run(3 * MIN)
        world.write(*[b"kept %d %d" % (round_number, n) for n in range(3)])
        world.run(0.3)
        world.heal()
        world.run(1.0)
    world.settle()
    logs = [applied(node) for node in world.nodes.values()]
    assert all(log == logs[0] for log in logs)
    assert [command for command in logs[0] if command.startswith(b"kept")] == [
        b"kept %d %d" % (r, n) for r in range(4) for n in range(3)
    ]


def test_a_leader_that_contradicts_an_applied_entry_is_not_believed(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    index = world.write(b"x", b"y")
    world.settle(0.3)
    follower = world.followers()[0]
    other = [b"\0other", index, leader.group.term + 1]
    log = follower.group.log
    message = list(append(world, leader, (index - 1, log.term_at(index - 1)), [other]))
    message[2] += 1
    with pytest.raises(LogDivergence, match=str(index)):
        follower.group.receive(leader.name, tuple(message))
    message = list(append(world, leader, (index, leader.group.term + 1), []))
    message[2] += 1
    with pytest.raises(LogDivergence, match=str(index)):
        follower.group.receive(leader.name, tuple(message))


def test_what_makes_no_majority_is_not_worth_a_pump(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.3)
    late: list[Any] = []
    slow = world.followers()[1]

    def keep_acks(source: str, target: str, message: Any) -> bool:
        if message[0] == ACK and source == slow.name:
            late.append(message)
            return False
        return True

    world.intercept = keep_acks
    index = world.write(b"x", on=leader)
    world.run_until(lambda: leader.group.applied >= index, 1.0)
    woken: list[None] = []
    monkeypatch.setattr(leader.group, "_wake", lambda: woken.append(None))
    [ack] = [message for message in late if message[3] == index + 1][:1]
    leader.group.receive(slow.name, (*ack[:3], index, False, True, ack[6]))
    assert woken, "it lacks an entry"
    woken.clear()
    leader.group.receive(slow.name, ack)
    assert not woken, "the entry is applied"
    assert leader.group.matched(slow.name) == index, "but it counts"


def test_messages_of_strangers_are_dropped(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    leader.group.receive("z", (ACK, 0, 99, 1, True, False, 0.0))
    assert leader.group.leader


def test_a_follower_that_refuses_several_messages_at_once_gets_the_entries_that_it_lacks_once_more(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MESSAGE_BYTES", 1)
    world = make()
    world.latency = (0.001, 0.001)
    deposed = world.leader()
    world.settle(0.5)
    world.isolate(deposed.name)
    world.write(b"never committed", on=deposed)
    world.run_until(lambda: not deposed.group.leader)
    world.write(*(b"%d" % n for n in range(20)))
    world.settle(0.5)
    world.record = True
    world.heal()
    world.settle(0.5)
    assert deposed.group.applied == world.leader().group.applied
    assert sum(target == deposed.name for _, target, _ in world.appends()) <= 2 * 21
