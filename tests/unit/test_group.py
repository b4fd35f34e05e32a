"""A Raft group on a virtual clock, network and disk: what PySyncObj leaves open must be closed here.

The numbers of holes are those of `tests/unit/test_holes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft import sending
from respkv.raft.group import DRIFT, WINDOW_BYTES, Clock, LogDivergence, Timing
from respkv.raft.messages import ACK, APPEND, PREVOTE, PREVOTED, TIMEOUT_NOW, VOTE, VOTED
from tests.unit.raft_world import World, WorldNode

MIN = Timing().election_min


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    monkeypatch.setattr(Clock, "now", Clock.now)
    made: list[World] = []

    def build(size: int = 3, **options: Any) -> World:
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(World(root, size, **options))
        return made[-1]

    yield build
    for world in made:
        world.close()


def applied(node: WorldNode) -> list[bytes]:
    return [command[1:] for _, _, command in node.history if command[0] == 0]


def last_ack(world: World, source: str) -> Any:
    return [message for sender, _, message in world.sent if sender == source and message[0] == ACK][-1]


def append(world: World, leader: WorldNode, prev: tuple[int, int], entries: list[Any], commit: int = 0) -> Any:
    return (APPEND, 0, leader.group.term, commit, *prev, world.now, entries)


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


# --- flow control and followers far behind ---


# hole 19
def test_what_is_under_way_to_a_follower_is_bounded(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.isolate("c")
    for _ in range(60):
        world.write(b"x" * 500_000, on=leader)
        world.run(0.01)
    world.run(0.3)
    under_way = most = 0

    def count(source: str, target: str, message: Any) -> bool:
        nonlocal under_way, most
        if target == "c" and message[0] == APPEND:
            under_way += sum(len(entry[0]) for entry in message[7])
            assert sum(len(entry[0]) for entry in message[7]) < (2 << 20)
            most = max(most, under_way)
        if source == "c" and message[0] == ACK and message[4]:
            under_way = sum(
                len(entry[0])
                for entry in leader.group.log
                if message[3] <= entry[1] < leader.group.next[_node(leader)]
            )
        return True

    world.intercept = count
    world.heal()
    world.settle()
    assert len(applied(world.nodes["c"])) == 60
    assert most <= WINDOW_BYTES + (2 << 20)


def _node(leader: WorldNode) -> Any:
    return leader.group.nodes["c"]


def test_lost_appends_are_sent_again_without_a_new_link(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    world.intercept = lambda source, target, message: not (message[0] == APPEND and message[7])
    index = world.write(*[b"%d" % n for n in range(10)])
    world.run(0.15)
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: leader.group.commit == index)


def test_lost_appends_are_sent_again_even_if_they_fill_the_window(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "WINDOW_BYTES", 1000)
    world = make(3)
    leader = world.leader()
    world.settle(0.2)
    world.intercept = lambda source, target, message: not (message[0] == APPEND and message[7])
    index = world.write(b"x" * 2000)
    world.run(1.2 * sending.LOST_AFTER_S)  # and once more
    assert leader.group.commit < index
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: leader.group.commit == index, 2 * sending.LOST_AFTER_S)


def test_how_long_a_message_may_be_on_its_way_is_bounded_and_starts_over_with_the_link() -> None:
    window = sending._Window()
    window.add(1, 100, 0.0)
    asked = [now for now in range(400) if window.seems_lost(now)]
    assert asked == [5, 15, 35, 75, 135, 195, 255, 315, 375]
    window.clear()
    window.add(1, 100, 1000.0)
    assert [now for now in range(1000, 1012) if window.seems_lost(now)] == [1005]


def test_a_follower_behind_the_base_wants_a_snapshot_and_goes_on_behind_it(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.isolate("c")
    world.write(*[b"%d" % n for n in range(50)], on=leader)
    world.run(0.4)
    leader.group.log.trim(leader.group.applied - 3)
    world.heal()
    world.run(0.4)
    assert leader.group.leader
    assert leader.group.snapshot_wanted == {"c"}
    assert len(applied(world.nodes["c"])) == 0
    world.supply_snapshots()
    world.write(b"more", on=leader)
    world.settle(0.5)
    assert leader.group.snapshot_wanted == set()
    assert applied(world.nodes["c"]) == applied(leader)


def test_a_snapshot_keeps_what_the_log_holds_behind_it(make: Callable[..., World]) -> None:
    world = make(3)
    world.leader()
    world.write(*[b"%d" % n for n in range(9)])
    world.settle(0.3)
    follower = world.followers()[0]
    log = follower.group.log
    index = log.last_index - 4
    follower.group.jump_to(2)
    durable, last = log.durable, log.last_index
    follower.group.installed(index, log.term_at(index) or 0)
    assert (log.base_index, log.last_index, log.durable) == (index, last, durable)


def test_a_snapshot_that_contradicts_the_log_replaces_it(make: Callable[..., World]) -> None:
    world = make(3)
    world.leader()
    world.settle(0.3)
    log = world.followers()[0].group.log
    world.followers()[0].group.installed(log.last_index + 5, 9)
    assert list(log) == [(b"\x01", log.base_index, 9)]


def test_a_restart_goes_on_behind_the_applied_index_with_a_trimmed_journal(make: Callable[..., World]) -> None:
    world = make(3)
    world.leader()
    world.write(*[b"%d" % n for n in range(30)])
    world.settle(0.5)
    for node in world.nodes.values():
        node.trim()
    world.settle(0.2)
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.start()
        assert node.group.applied == node.history[-1][0] >= node.group.log.base_index
    world.write(b"after")
    world.settle()
    assert all(applied(node) == [*[b"%d" % n for n in range(30)], b"after"] for node in world.nodes.values())


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


# --- the lease ---


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
