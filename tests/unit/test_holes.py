"""The 19 holes of PySyncObj 0.3.17: each is closed, and the test that says so fails when the closure is taken away.

`HOLES` is the table: what the library does as shipped, the scenario that shows that a group does not, and how to undo
what closes the hole. Every scenario runs twice: as the code is, where it must pass, and undone, where it must not. A
hole may have several closures; each is undone by itself. Two holes (4, 16) are in what is switched off, and shown so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from respkv.raft import group as raft_group
from respkv.raft import sending as raft_sending
from respkv.raft.core import Core
from respkv.raft.elections import Elections
from respkv.raft.group import Group
from respkv.raft.log import ShardLog
from respkv.raft.messages import ACK
from respkv.raft.receiving import Receiving
from respkv.raft.sending import Sending
from respkv.shard.proposer import Proposer
from tests.unit import test_group, test_group_elections, test_group_flow, test_proposer
from tests.unit.raft_world import World
from tests.unit.worlds import applied

make = test_group.make

Make = Callable[..., World]
Patch = pytest.MonkeyPatch

# --- scenarios that stand nowhere else ---


def a_restarted_replica_applies_nothing_that_no_quorum_has_confirmed(make: Make) -> None:
    world = make(3)
    leader = world.leader()
    world.write(b"committed")
    world.settle(0.5)
    world.isolate(leader.name)
    world.write(b"never committed", on=leader)
    world.run(0.1)
    for node in world.nodes.values():
        node.crash()
    leader.saved = []
    leader.start()
    world.run(3.0)
    assert applied(leader) == []


def more_commands_than_a_pipe_holds_are_taken(make: Make) -> None:
    world = make(1)
    leader = world.leader()
    count = 66_000
    for _ in range(count // 1000):
        world.write(*[b""] * 1000, on=leader)
        world.run(0.01)
    world.settle()
    assert len(applied(leader)) == count


def an_entry_of_any_kind_is_applied_in_its_place(make: Make) -> None:
    world = make(3)
    leader = world.leader()
    for command in (b"\0one", b"\3\0\0\0\7", b"\2whatever", b"\0two"):
        leader.group.propose(command)
    leader.wake()
    world.settle()
    for node in world.nodes.values():
        assert [command for _, _, command in node.history][-4:] == [b"\0one", b"\3\0\0\0\7", b"\2whatever", b"\0two"]


def a_restart_has_the_members_of_the_map_whatever_is_in_the_journal(make: Make) -> None:
    world = make(3)
    leader = world.leader()
    leader.group.propose(b"\2" + b"add d")
    leader.wake()
    world.settle()
    for node in world.nodes.values():
        node.trim()
        node.crash()
        node.start()
    assert all(set(node.group.nodes) == set("abc") - {node.name} for node in world.nodes.values())
    assert all({other.id for other in node.group.otherNodes} == set(node.group.nodes) for node in world.nodes.values())
    world.leader()


# --- how to undo ---


def library_sends(patch: Patch) -> None:
    patch.delattr(Core, "_SyncObj__sendAppendEntries")
    patch.setattr(Sending, "feed", lambda self: self._core._SyncObj__sendAppendEntries())


def everything_counts_as_verified(patch: Patch) -> None:
    patch.setattr(Receiving, "verified", property(lambda self: 1 << 60, lambda self, value: None), raising=False)


def a_snapshot_drops_the_log(patch: Patch) -> None:
    def installed(self: Group, index: int, term: int) -> None:
        self.log.reset(index, term)
        self.jump_to(index)

    patch.setattr(Group, "installed", installed)


def terms_of_acknowledgements_are_not_looked_at(patch: Patch) -> None:
    def on_ack(self: Group, name: str, message: Any) -> None:
        Group._on_ack(self, name, (*message[:2], self.term, *message[3:]))

    patch.setitem(raft_group._RECEIVERS, ACK, on_ack)


def votes_are_not_told_apart(patch: Patch) -> None:
    def on_voted(self: Elections, name: str, message: Any) -> None:
        self._core.take(name, {"type": "response_vote", "term": message[2]})

    patch.setattr(Elections, "on_voted", on_voted)


def entries_that_are_there_go_to_the_library(patch: Patch) -> None:
    patch.setattr(Receiving, "_new_entries", lambda self, entries: entries)


def old_answers_step_back(patch: Patch) -> None:
    def acknowledged(self: Sending, name: str, next_index: int, sent: float, *, success: bool, reset: bool) -> None:
        self._windows[name].acknowledged(next_index - 1)
        self._core.take(
            name, {"type": "next_node_idx", "next_node_idx": next_index, "success": success, "reset": reset}
        )

    patch.setattr(Sending, "acknowledged", acknowledged)


def exceptions_in_apply_are_swallowed(patch: Patch) -> None:
    apply_committed = Group.apply_committed

    def swallow(self: Group) -> None:
        try:
            apply_committed(self)
        except Exception:  # noqa: BLE001 - what the library does
            pass

    patch.setattr(Group, "apply_committed", swallow)


def nobody_looks_for_lost_batches(patch: Patch) -> None:
    patch.setattr(Proposer, "_resolve_older", lambda self, term: None)
    patch.setattr(Proposer, "tick", lambda self: None)


def nothing_ends_by_itself(patch: Patch) -> None:
    patch.setattr(Proposer, "tick", lambda self: None)


def the_commit_index_is_that_of_the_journal(patch: Patch) -> None:
    def jump_to(self: Core, index: int) -> None:
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = self.log.last_index

    patch.setattr(Core, "jump_to", jump_to)


def commands_go_through_the_librarys_queue(patch: Patch) -> None:
    configuration = Core._configuration

    def without_batches(self: Core) -> Any:
        conf = configuration(self)
        conf.appendEntriesUseBatch = False
        return conf

    patch.setattr(Core, "_configuration", without_batches)

    def propose(self: Group, command: bytes) -> int:
        self._applyCommand(command[1:], None)
        return self.log.last_index + 1

    patch.setattr(Group, "propose", propose)


def term_and_vote_are_not_written(patch: Patch) -> None:
    def set_current_term(self: ShardLog, term: int, voted_for: str | None) -> None:
        self.term, self.voted_for = term, voted_for

    patch.setattr(ShardLog, "setCurrentTerm", set_current_term)


def nobody_asks_before_an_election(patch: Patch) -> None:
    def tick(self: Elections, now: float) -> None:
        if self._core.election_deadline <= now:
            self._campaign()

    patch.setattr(Elections, "tick", tick)


def votes_are_given_while_a_leader_is_heard(patch: Patch) -> None:
    patch.setattr(Elections, "_sticky", property(lambda self: False))


def leadership_goes_the_librarys_way(patch: Patch) -> None:
    def transfer(self: Group, target: str) -> None:
        self.transferLeadership(self.nodes[target])

    patch.setattr(Group, "transfer", transfer)


def the_library_applies(patch: Patch) -> None:
    patch.delattr(Core, "_SyncObj__applyLogEntries")
    patch.setattr(Group, "apply_committed", lambda self: self._SyncObj__applyLogEntries())


def members_come_from_the_journal(patch: Patch) -> None:
    start = Core.__init__

    def init(self: Core, *args: Any) -> None:
        start(self, *args)
        if any(command[:1] == b"\2" for command, _, _ in self.log[1:]):
            self.nodes["d"] = next(iter(self.nodes.values()))

    patch.setattr(Core, "__init__", init)


def nothing_bounds_what_is_under_way(patch: Patch) -> None:
    patch.setattr(raft_sending, "WINDOW_BYTES", 1 << 60)


@dataclass(frozen=True)
class Hole:
    """One row: what the library does, what must hold instead, and how to undo what makes it hold."""

    number: int
    what: str
    scenario: Callable[..., None]
    undo: Callable[[Patch], None]
    arguments: tuple[Any, ...] = ()


HOLES = [
    Hole(
        1,
        "commands of 108 sizes near multiples of 64 KiB never replicate",
        test_group.test_entries_of_all_sizes_around_multiples_of_64_kib_replicate,
        library_sends,
        (2 << 16,),
    ),
    Hole(
        2,
        "a message without a log match moves the commit index over a conflicting log",
        test_group.test_the_commit_index_never_passes_what_was_verified_against_the_leader,
        everything_counts_as_verified,
    ),
    Hole(
        3,
        "a snapshot drops acknowledged entries behind it",
        test_group_flow.test_a_snapshot_keeps_what_the_log_holds_behind_it,
        a_snapshot_drops_the_log,
    ),
    Hole(
        5,
        "an acknowledgement of term 1 commits in term 3",
        test_group.test_an_acknowledgement_of_another_term_counts_for_nothing,
        terms_of_acknowledgements_are_not_looked_at,
    ),
    Hole(
        6,
        "a vote that arrives twice counts twice",
        test_group.test_a_vote_that_arrives_twice_counts_once,
        votes_are_not_told_apart,
    ),
    Hole(
        7,
        "a late acknowledgement steps the next index back, and what is sent again",
        test_group.test_an_acknowledgement_of_the_first_of_two_messages_does_not_send_the_second_again,
        old_answers_step_back,
    ),
    Hole(
        7,
        "truncates what the follower has acknowledged",
        test_group.test_an_append_that_is_old_or_repeated_truncates_nothing,
        entries_that_are_there_go_to_the_library,
    ),
    Hole(
        8,
        "an exception in apply is swallowed and the entry retried",
        test_group.test_an_exception_in_apply_escapes_the_pump_and_the_entry_is_not_counted_as_applied,
        exceptions_in_apply_are_swallowed,
    ),
    Hole(
        9,
        "a leader that steps down never answers what is pending",
        test_proposer.test_a_proposal_without_a_majority_ends_as_may_have_been_applied_and_may_be_so,
        nobody_looks_for_lost_batches,
    ),
    Hole(
        10,
        "a forwarded command that is lost is never answered",
        test_proposer.test_a_forwarded_batch_whose_answer_never_comes_ends_as_may_have_been_applied,
        nothing_ends_by_itself,
    ),
    Hole(
        11,
        "a stored commit index applies entries without a quorum",
        a_restarted_replica_applies_nothing_that_no_quorum_has_confirmed,
        the_commit_index_is_that_of_the_journal,
    ),
    Hole(
        12,
        "the notifying pipe is full after 65,536 commands",
        more_commands_than_a_pipe_holds_are_taken,
        commands_go_through_the_librarys_queue,
    ),
    Hole(
        13,
        "a restarted replica votes twice in a term",
        test_group.test_a_restarted_replica_votes_for_no_second_candidate_of_the_term,
        term_and_vote_are_not_written,
        (False,),
    ),
    Hole(
        14,
        "a replica that comes back deposes a healthy leader",
        test_group_elections.test_a_replica_that_was_cut_off_does_not_depose_the_leader_when_it_comes_back,
        nobody_asks_before_an_election,
    ),
    Hole(
        14,
        "and is given votes while the leader is heard",
        test_group_elections.test_no_vote_is_given_while_a_leader_was_heard_within_the_minimum_election_timeout,
        votes_are_given_while_a_leader_is_heard,
    ),
    Hole(
        15,
        "the members after a restart depend on what is applied again",
        a_restart_has_the_members_of_the_map_whatever_is_in_the_journal,
        members_come_from_the_journal,
    ),
    Hole(
        17,
        "leadership is not handed over while anything is unacknowledged",
        test_group_elections.test_leadership_is_handed_over_while_writes_come,
        leadership_goes_the_librarys_way,
        (0,),
    ),
    Hole(
        18,
        "an entry that the library cannot apply misaligns all that follow",
        an_entry_of_any_kind_is_applied_in_its_place,
        the_library_applies,
    ),
    Hole(
        19,
        "a follower that lags is sent the whole tail at once",
        test_group_flow.test_what_is_under_way_to_a_follower_is_bounded,
        nothing_bounds_what_is_under_way,
    ),
]
SWITCHED_OFF = {4: "several changes of members under way", 16: "a leader cannot remove itself"}
rows = pytest.mark.parametrize("hole", HOLES, ids=[f"{hole.number}-{hole.undo.__name__}" for hole in HOLES])


def test_the_table_has_all_19() -> None:
    assert sorted({hole.number for hole in HOLES} | SWITCHED_OFF.keys()) == list(range(1, 20))


@rows
def test_the_hole_is_closed(make: Make, hole: Hole) -> None:
    hole.scenario(_for(hole, make), *hole.arguments)


@rows
def test_without_what_closes_it_the_hole_is_open(make: Make, monkeypatch: Patch, hole: Hole) -> None:
    hole.undo(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017 - an assertion, an invariant of the world, or a crash
        hole.scenario(_for(hole, make), *hole.arguments)


def _for(hole: Hole, make: Make) -> Make:
    if hole.scenario.__module__ != test_proposer.__name__:
        return make
    return lambda *args, **options: make(*args, proposers=True, **options)


def test_the_librarys_changes_of_members_are_switched_off(make: Make) -> None:
    """Holes 4 and 16: members are those of the cluster's map."""
    leader = make(3).leader()
    for change in (leader.group.addNodeToCluster, leader.group.removeNodeFromCluster):
        with pytest.raises(Exception, match="dynamicMembershipChange is disabled"):
            change("b")
    assert {node.id for node in leader.group.otherNodes} == {"b", "c"}


__all__ = ["make"]
