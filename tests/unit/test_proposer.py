"""The proposer: every batch has one true outcome, in order; every waiter is answered once; no read is stale."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.cluster.topology import Shard
from respkv.raft.group import Clock
from respkv.raft.messages import ACK, APPEND, TIMEOUT_NOW
from respkv.reply import RespError
from respkv.shard.batch import Ops, encode_runs
from respkv.shard.long import LONG_BYTES
from respkv.shard.machine import InDoubt, Watcher
from respkv.shard.proposer import FORWARD, FORWARDED, READ, READ_DONE, Proposer
from respkv.shard.transaction import Watched, exec_args
from tests.unit.raft_world import Broken, Client, Recorder, World, WorldNode, reads, writes
from tests.unit.test_group_faults import memory_directory, restart

APPLIED, REFUSED, FAILED = 0, 1, 2


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    monkeypatch.setattr(Clock, "now", Clock.now)
    made: list[World] = []

    def build(size: int = 3, **options: Any) -> World:
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(World(root, size, proposers=True, **options))
        return made[-1]

    yield build
    for world in made:
        world.close()


def outcome(client: Client, token: int = 0) -> str:
    """ "applied", or the first word of the error, of a command (of a plain put: of the whole batch)."""
    assert client.ended == 1
    value = client.answers.get(token) if client.answers else client.ok_failed
    return str(value).split()[0] if isinstance(value, RespError) else "applied"


def idle(world: World) -> None:
    """Nothing is open anywhere."""
    for node in world.nodes.values():
        proposer = node.proposer
        assert proposer is not None
        assert proposer.pending_bytes == 0
        open_writes = (proposer._queue, proposer._parts, proposer._forwards, proposer._proposals)
        open_reads = (proposer._reads, proposer._reads.asked, proposer._entries_by_index)
        assert not any(open_writes)
        assert not any(open_reads)


# --- writes ---


def test_writes_on_the_leader_are_applied_in_order_and_answered_with_their_replies(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    clients = [writes(world, leader, [b"%d" % n, b"%d'" % n]) for n in range(5)]
    world.settle(0.3)
    assert [client.answers for client in clients] == [{0: 2 * n + 1, 1: 2 * n + 2} for n in range(5)]
    assert leader.machine.ops == [b"%d%s" % (n, mark) for n in range(5) for mark in (b"", b"'")]
    idle(world)


def test_what_comes_in_one_turn_is_one_entry(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    before = leader.proposer.proposed
    for n in range(50):
        writes(world, leader, [b"%d" % n], plain=n % 3 == 0)
    world.settle(0.3)
    assert leader.proposer.proposed == before + 1
    assert leader.machine.ops == [b"%d" % n for n in range(50)]


@pytest.mark.parametrize("looks", ["nobody", "a read", "a transaction", "a subscriber"])
def test_plain_puts_are_answered_and_followers_told_before_they_are_applied_if_nobody_looks(
    make: Callable[..., World], looks: str
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    index = leader.group.log[-1][1] + 1
    seen: list[tuple[int, list[bytes]]] = []
    told: list[list[bytes]] = []
    flush = leader.journal.flush

    def look() -> None:
        seen.append((client.ended, list(leader.machine.ops)))
        if client.ended:
            leader.group.confirm()  # what a heartbeat says that is due just now
        flush()

    def hear(source: str, target: str, message: Any) -> bool:
        if message[0] == APPEND and message[3] >= index:
            told.append(list(leader.machine.ops))
        return message[0] != ACK or message[3] > index  # the one that commits it renews the lease

    leader.journal.flush = look  # type: ignore[method-assign]
    world.intercept = hear
    client = writes(world, leader, [b"x"], plain=True)
    if looks == "a read":
        world.run(0.0001)  # so that it is not in the entry
        leader.group.lease_until = float("-inf")
        reader = reads(leader)
    elif looks == "a transaction":
        watch(leader, b"other")
    elif looks == "a subscriber":
        leader.proposer.watch(Watcher())
    world.settle(0.3)
    assert ((1, []) in seen) is (looks == "nobody")
    assert ([] in told) is (looks == "nobody")
    assert looks != "a read" or reader.answers == {0: 1}
    assert (client.ended, leader.machine.ops) == (1, [b"x"])
    idle(world)


def test_at_most_three_entries_are_under_way_and_the_rest_gathers(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK
    for n in range(10):
        writes(world, leader, [b"%d" % n])
        world.run(0.002)
    assert len(leader.proposer._proposals) == 3
    world.intercept = lambda source, target, message: True
    world.settle(0.5)
    assert leader.machine.ops == [b"%d" % n for n in range(10)]


def test_writes_on_other_nodes_reach_the_leader_in_order_and_are_answered(make: Callable[..., World]) -> None:
    world = make(seed=8)
    world.leader()
    world.settle(0.3)
    clients = []
    for n in range(60):
        clients += [writes(world, node, [node.name.encode() + b"%d" % n]) for node in world.followers()]
        world.run(0.001)
    world.settle(0.5)
    assert {outcome(client) for client in clients} == {"applied"}
    for name in (b"b", b"c"):
        own = [op for op in world.leader().machine.ops if op.startswith(name)]
        assert own == [name + b"%d" % n for n in range(60)]
    idle(world)


def test_a_forwarded_batch_is_known_to_be_applied_from_the_own_log_when_the_leader_dies(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    follower = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARDED
    client = writes(world, follower, [b"x"])
    world.run_until(lambda: leader.machine.ops == [b"x"])
    leader.crash()
    world.settle(1.9)
    assert outcome(client) == "applied"
    assert follower.machine.ops == [b"x"]
    idle_nodes = [node for node in world.nodes.values() if node.up]
    assert all(node.proposer.pending_bytes == 0 for node in idle_nodes)


def test_a_batch_that_a_dead_leader_lost_is_proposed_again_by_its_origin_alone(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    follower = world.followers()[0]
    world.intercept = lambda source, target, message: not (message[0] == APPEND and message[7])
    client = writes(world, follower, [b"x"])
    world.run(0.05)
    assert leader.group.log[-1][0][0] == 0, "the leader has it in its log"
    leader.crash()
    world.intercept = lambda source, target, message: True
    world.run(1.0)
    leader.start()
    world.settle(2)
    assert outcome(client) == "applied"
    assert all(node.machine.ops == [b"x"] for node in world.nodes.values())
    idle(world)


def test_a_batch_forwarded_to_a_leader_that_steps_down_before_it_proposes_is_applied_once(
    make: Callable[..., World],
) -> None:
    world = make()
    old = world.leader()
    world.settle(0.3)
    other = world.followers()[0]
    other.proposer.timeout_s = 10.0

    def deaf(source: str, target: str, message: Any) -> bool:
        return not (old.group.term == 1 and old.name in {source, target} and message[0] in {ACK, APPEND})

    world.intercept = deaf
    for n in range(2):  # fills the pipeline
        writes(world, old, [b"own %d" % n])
        world.run(0.01)
    client = writes(world, other, [b"x"])
    world.run(0.05)
    assert len(old.proposer._queue) == 1
    world.settle(4)
    assert outcome(client) == "applied"
    assert all(node.machine.ops.count(b"x") == 1 for node in world.nodes.values())
    idle(world)


def test_batches_keep_their_order_over_a_change_of_the_leader(make: Callable[..., World]) -> None:
    for seed in range(5):
        world = make(seed=seed)
        world.timeout_s = 5.0
        for node in world.nodes.values():
            node.proposer.timeout_s = 5.0
        leader = world.leader()
        world.settle(0.3)
        origin = world.followers()[1]
        clients = []
        for n in range(40):
            clients.append(writes(world, origin, [b"%02d" % n]))
            world.run(0.004)
            if n == 15:
                leader.group.transfer(world.followers()[0].name)
            if n == 25:
                leader.crash()
        world.settle(3)
        assert {outcome(client) for client in clients} == {"applied"}
        assert origin.machine.ops == [b"%02d" % n for n in range(40)]


def test_batches_keep_their_order_through_an_offer_of_the_lead_that_nobody_takes(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != TIMEOUT_NOW
    leader.group.transfer("c")
    clients = []
    for n in range(80):
        clients.append(writes(world, origin, [b"%02d" % n]))
        world.run(0.01)
    world.settle(1)
    assert leader.group.leader
    assert origin.machine.ops == [b"%02d" % n for n in range(80)]
    assert {outcome(client) for client in clients} == {"applied"}


def test_a_batch_lost_with_its_link_is_never_applied_behind_a_later_one(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARD
    first = writes(world, origin, [b"first"])
    world.run(0.02)
    world.relink(leader.name, origin.name)
    world.intercept = lambda source, target, message: True
    second = writes(world, origin, [b"second"])
    world.run(0.3)
    leader.group.transfer("c" if origin.name == "b" else "b")
    world.settle(4)
    assert outcome(second) == "applied"
    assert origin.machine.ops in ([b"second"], [b"first", b"second"])
    if origin.machine.ops == [b"second"]:
        assert outcome(first) in {"CLUSTERDOWN", "TIMEOUT"}


def test_what_is_less_than_a_batch_lost_with_its_link_does_not_wait_for_that(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARD
    writes(world, origin, [b"%d" % n for n in range(20)])
    world.run(0.02)
    world.relink(leader.name, origin.name)
    world.intercept = lambda source, target, message: True
    behind = writes(world, origin, [b"behind"])
    world.run(0.1)
    assert outcome(behind) == "applied"


def test_a_batch_lost_with_its_leader_is_not_given_up_for_a_later_one_that_was_refused(
    make: Callable[..., World],
) -> None:
    """The leader's node is back before anybody noticed; what it is sent as if it still led is not applied either."""
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARD
    first = writes(world, origin, [b"first"])
    world.run(0.02)
    leader.crash()
    leader.start()
    world.intercept = lambda source, target, message: True
    second = writes(world, origin, [b"second"])
    world.run(0.02)
    assert origin.group.leader_id == leader.name, "the origin has not noticed yet"
    assert first.ended == second.ended == 0
    world.settle(3)
    assert [outcome(first), outcome(second)] == ["applied", "applied"]
    assert all(node.machine.ops == [b"first", b"second"] for node in world.nodes.values())
    idle(world)


# --- deadlines ---


def test_without_a_leader_a_write_waits_and_is_then_refused_as_not_applied(make: Callable[..., World]) -> None:
    world = make()
    world.leader()
    world.settle(0.3)
    world.partition("a", "b", "c")
    world.run(2.0)
    clients = [writes(world, node, [b"x"], plain=plain) for node in world.nodes.values() for plain in (True, False)]
    world.run(1.0)
    assert all(client.ended == 0 for client in clients)
    world.run(1.5)
    assert {outcome(client) for client in clients} == {"CLUSTERDOWN"}
    world.heal()
    world.settle(2)
    assert world.leader().machine.ops == []
    idle(world)


def test_a_write_that_waits_for_a_leader_is_applied_when_there_is_one(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    leader.crash()
    world.run(0.05)
    clients = [writes(world, node, [node.name.encode()]) for node in world.nodes.values() if node.up]
    world.settle(1.9)
    assert {outcome(client) for client in clients} == {"applied"}


def test_a_proposal_without_a_majority_ends_as_may_have_been_applied_and_may_be_so(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK or source == "x"
    client = writes(world, leader, [b"x"])
    plain = writes(world, leader, [b"y"], plain=True)
    world.run(0.05)
    world.isolate(leader.name)
    world.run(2.2)
    assert {outcome(client), outcome(plain)} == {"TIMEOUT"}
    world.intercept = lambda source, target, message: True
    world.heal()
    world.settle(2)
    assert all(node.machine.ops == [b"x", b"y"] for node in world.nodes.values()), "the followers had it"
    idle(world)


def test_a_forwarded_batch_whose_answer_never_comes_ends_as_may_have_been_applied(make: Callable[..., World]) -> None:
    world = make()
    world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARD
    client = writes(world, origin, [b"x"])
    world.run(2.3)
    assert outcome(client) == "TIMEOUT"
    idle(world)


def test_a_full_disk_of_the_leader_refuses_what_is_forwarded(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    leader.proposer.refusal = RespError("MISCONF no room")
    origin = world.followers()[0]
    client = writes(world, origin, [b"x"])
    world.settle(0.3)
    assert outcome(client) == "MISCONF"
    assert origin.machine.ops == []
    idle(world)


# --- snapshots ---


def test_a_snapshot_ends_what_is_under_way_as_may_have_been_applied_and_nothing_hangs(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK
    own = writes(world, leader, [b"own"])
    world.run(0.02)
    world.isolate(leader.name)
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: any(node.group.readable for node in world.nodes.values() if node is not leader))
    new = next(node for node in world.leaders_now() if node is not leader)
    for n in range(20):
        writes(world, new, [b"%d" % n])
        world.run(0.01)
    new.group.log.trim(new.group.applied)
    queued = writes(world, leader, [b"queued"])
    world.heal()
    world.run(0.3)
    if new.group.snapshot_wanted:
        world.supply_snapshots()
    world.settle(2.5)
    assert outcome(own) in {"TIMEOUT", "applied"}
    assert outcome(queued) == "applied"
    assert leader.machine.ops == new.machine.ops
    idle(world)


def test_a_snapshot_ends_what_this_node_proposed_and_what_it_forwarded_waits_for_the_leaders_word(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    held: list[tuple[str, str, Any]] = []
    world.intercept = lambda source, target, message: message[0] != ACK and not _hold(held, source, target, message)
    follower = world.followers()[0]
    forwarded, proposed = writes(world, follower, [b"f"]), writes(world, leader, [b"p"])
    world.run(0.02)
    follower.proposer.installed()
    assert forwarded.ended == 0
    world.intercept = lambda source, target, message: True
    world.run(0.02)
    for source, target, message in held:
        world.nodes[target].proposer.receive(source, message)
    world.settle(0.3)
    assert (outcome(forwarded), outcome(proposed)) == ("applied", "applied")
    own = writes(world, leader, [b"own"])
    world.run(0.0001)
    leader.proposer.installed()
    assert outcome(own) == "TIMEOUT"
    world.settle(3)
    idle(world)


def test_a_leader_that_lost_its_state_says_nothing_of_what_nodes_with_a_replica_forwarded(
    make: Callable[..., World],
) -> None:
    """Their own logs tell them, as if it had died: their clients see no error."""
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK
    forwarded, own = writes(world, world.followers()[0], [b"f"]), writes(world, leader, [b"own"])
    world.run(0.02)
    assert leader.proposer._proposals
    leader.proposer.installed()
    assert outcome(own) == "TIMEOUT"
    assert forwarded.ended == 0
    world.intercept = lambda source, target, message: True
    world.settle(0.5)
    assert outcome(forwarded) == "applied"
    idle(world)


@pytest.mark.parametrize("first", ["the snapshot", "the link"])
def test_a_forwarded_batch_of_which_nobody_can_tell_any_more_is_unknown_at_once(
    make: Callable[..., World], first: str
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] not in {FORWARDED, APPEND}
    follower = world.followers()[0]
    client = writes(world, follower, [b"f"])
    world.run(0.02)
    steps = [follower.proposer.installed, lambda: follower.proposer.link_lost(leader.name)]
    for step in steps if first == "the snapshot" else reversed(steps):
        assert client.ended == 0
        step()
    assert outcome(client) == "TIMEOUT"
    world.intercept = lambda source, target, message: True
    world.settle(3)
    idle(world)


def test_a_forwarded_batch_that_a_snapshot_may_hold_is_not_proposed_again_in_a_later_term(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != FORWARDED
    follower = world.followers()[0]
    client = writes(world, follower, [b"f"])
    world.run_until(lambda: leader.machine.ops == [b"f"] and follower.proposer._forwards)
    follower.proposer.installed()
    follower.proposer._resolve_older(leader.group.term + 1)
    assert outcome(client) == "TIMEOUT"
    assert not follower.proposer._queue
    world.intercept = lambda source, target, message: True
    world.settle(3)
    assert leader.machine.ops == [b"f"]
    idle(world)


def _hold(held: list[tuple[str, str, Any]], source: str, target: str, message: Any) -> bool:
    if message[0] == FORWARDED:
        held.append((source, target, message))
    return message[0] == FORWARDED


# --- reads ---


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


def test_a_read_that_is_cut_from_an_answer_does_not_see_the_write_behind_it() -> None:
    outside = Outside()
    first, second = Client("x", [b"1"]), Client("x", [b"2"])
    for client in (first, second):
        outside.proposer.read(client, 0, [b"READ"])
    outside.proposer.pump()
    outside.proposer.write(behind := Client("x", [b"3"], second), 0, [b"ADD", b"3"])
    outside.proposer.pump()
    (_, asked), (_, forwarded) = outside.sent
    assert forwarded[4] == encode_runs([Ops([[b"READ"]]), Ops([[b"ADD", b"3"]])])
    outside.proposer.receive("a", [READ_DONE, 0, asked[2], APPLIED, [0]])
    assert (first.answers, second.ended) == ({0: 0}, 0)
    outside.proposer.receive("a", [FORWARDED, 0, forwarded[2], APPLIED, [0, 1]])
    assert (second.answers, behind.answers) == ({0: 0}, {0: 1})


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


# --- a node without a replica ---


class Outside:
    """A proposer without a group, whose messages are kept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[tuple[str, Any]] = []
        self.links = {"a", "b", "c"}
        self.woken = 0
        self.proposer = Proposer(
            Shard(0, (), ("a", "b", "c")), "x", None, None, send=self._send, wake=self._wake, now=lambda: self.now
        )

    def _send(self, peer: str, message: Any) -> bool:
        if peer not in self.links:
            return False
        self.sent.append((peer, message))
        return True

    def _wake(self) -> None:
        self.woken += 1

    def write(self, name: bytes) -> Client:
        client = Client("x", [name])
        self.proposer.write(client, 0, [b"ADD", name])
        self.proposer.pump()
        return client

    def turn(self, seconds: float = 0.1) -> None:
        self.now += seconds
        self.proposer.tick()
        self.proposer.pump()


def test_without_a_replica_one_batch_at_a_time_goes_to_the_likely_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside()
    first, second = outside.write(b"1"), outside.write(b"2")
    assert [(peer, message[:2], message[3]) for peer, message in outside.sent] == [("a", (FORWARD, 0), -1)]
    request = outside.sent[0][1][2]
    outside.proposer.receive("a", [FORWARDED, 0, request, REFUSED, ["c", 9]])
    outside.proposer.pump()
    assert [peer for peer, _ in outside.sent] == ["a", "c"]
    assert outside.sent[1][1][4] == encode_runs([Ops([[b"ADD", b"1"]])]), "in their old order"
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[1][1][2], APPLIED, [1]])
    outside.proposer.pump()
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[2][1][2], APPLIED, [2]])
    assert (first.answers, second.answers) == ({0: 1}, {0: 2})
    assert outside.proposer.pending_bytes == 0


def test_an_answer_to_a_request_that_is_over_is_ignored() -> None:
    outside = Outside()
    client = outside.write(b"1")
    request = outside.sent[0][1][2]
    outside.turn(6)
    assert outcome(client) == "TIMEOUT"
    for status, content in ((APPLIED, [1]), (REFUSED, None), (FAILED, RespError("ERR no"))):
        outside.proposer.receive("a", [FORWARDED, 0, request, status, content])
    assert client.ended == 1
    assert outside.proposer.pending_bytes == 0


def test_without_a_replica_a_lost_link_ends_the_batch_as_may_have_been_applied_and_reads_go_elsewhere() -> None:
    outside = Outside()
    client = outside.write(b"1")
    read = Client("x", [b"r"])
    outside.proposer.read(read, 0, [b"READ"])
    outside.proposer.pump()
    outside.links.discard("a")
    outside.proposer.link_lost("a")
    assert outcome(client) == "TIMEOUT"
    outside.turn()
    assert [(peer, message[0]) for peer, message in outside.sent] == [("a", FORWARD), ("a", READ), ("b", READ)]
    outside.proposer.receive("b", [READ_DONE, 0, outside.sent[-1][1][2], APPLIED, [7]])
    assert read.answers == {0: 7}


def test_a_read_is_not_answered_before_one_that_is_asked_again() -> None:
    outside = Outside()
    reads = [Client("x", [b"%d" % number]) for number in range(4)]
    for read in reads[:2]:
        outside.proposer.read(read, 0, [b"READ", read.ids[0]])
    outside.proposer.pump()
    outside.proposer.read(reads[2], 0, [b"READ", b"2"])
    outside.proposer.pump()
    assert [message[4] for _, message in outside.sent] == [[[b"READ", b"0"], [b"READ", b"1"]]]
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[-1][1][2], APPLIED, [0]])  # the second was too much
    outside.proposer.pump()
    outside.proposer.read(reads[3], 0, [b"READ", b"3"])
    outside.proposer.pump()
    assert [message[4] for _, message in outside.sent[1:]] == [[[b"READ", b"1"], [b"READ", b"2"]]]
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[-1][1][2], REFUSED, ["c", 9]])
    outside.proposer.pump()
    assert (outside.sent[2][0], outside.sent[2][1][4]) == ("c", [[b"READ", b"1"], [b"READ", b"2"], [b"READ", b"3"]])
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[1][1][2], APPLIED, [8, 8]])  # not asked any more
    outside.proposer.receive("c", [READ_DONE, 0, outside.sent[2][1][2], APPLIED, [1, 2, 3]])
    assert [read.answers for read in reads] == [{0: 0}, {0: 1}, {0: 2}, {0: 3}]


def test_another_leader_is_asked_what_the_last_one_has_not_answered() -> None:
    outside = Outside()
    first, second = Client("x", [b"1"]), Client("x", [b"2"])
    outside.proposer.read(first, 0, [b"READ", b"1"])
    outside.proposer.pump()
    outside.proposer.note_hint(["b", 7])
    outside.proposer.read(second, 0, [b"READ", b"2"])
    outside.proposer.pump()
    assert (outside.sent[1][0], outside.sent[1][1][4]) == ("b", [[b"READ", b"1"], [b"READ", b"2"]])
    outside.proposer.receive("a", [READ_DONE, 0, outside.sent[0][1][2], APPLIED, [8]])
    outside.proposer.receive("b", [READ_DONE, 0, outside.sent[1][1][2], APPLIED, [1, 2]])
    assert (first.answers, second.answers) == ({0: 1}, {0: 2})


def test_without_a_replica_a_node_that_cannot_be_reached_is_not_waited_for() -> None:
    outside = Outside()
    outside.links = {"c"}
    client = outside.write(b"1")
    for _ in range(4):
        outside.turn()
    assert [peer for peer, _ in outside.sent] == ["c"]
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[0][1][2], REFUSED, ["a", 3]])  # still believes in a
    outside.turn()
    for _ in range(6):
        outside.turn()
    assert [peer for peer, _ in outside.sent] == ["c", "c"]
    outside.proposer.receive("c", [FORWARDED, 0, outside.sent[1][1][2], APPLIED, [1]])
    assert outcome(client) == "applied"


def test_nothing_reachable_ends_as_not_applied() -> None:
    outside = Outside()
    outside.links = set()
    client = outside.write(b"1")
    for _ in range(60):
        outside.turn()
    assert outcome(client) == "CLUSTERDOWN"
    assert outside.proposer.pending_bytes == 0


# --- any order of events ---


class Trial:
    """One seed: clients write and read everywhere while things break; then everything they were told is checked."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        world = World(root, self.rng.choice((2, 3, 3, 5)), seed=seed, proposers=True, lease=self.rng.random() < 0.7)
        self.world = world
        self.writers: list[tuple[Client, WorldNode, int]] = []
        self.readers: list[tuple[Client, WorldNode, int, int]] = []
        self.count = 0
        if self.rng.random() < 0.4:
            world.drop, world.duplicate, world.reorder = (self.rng.random() * 0.1 for _ in range(3))
        world.sync_s = self.rng.choice(((0.0005, 0.004), (0.001, 0.05)))

    def acknowledged(self) -> int:
        """How much was applied as far as any client knows."""
        known = [v for client, _, _ in self.writers if client.ended for v in client.answers.values()]
        return max((value for value in known if isinstance(value, int)), default=0)

    def write(self, node: WorldNode) -> None:
        ids = [b"%s%d" % (node.name.encode(), self.count + n) for n in range(self.rng.randint(1, 3))]
        self.count += len(ids)
        if self.rng.random() < 0.05:
            ids = [name + b"-" * 20_000 for name in ids]
        client = writes(self.world, node, ids, plain=self.rng.random() < 0.3)
        self.writers.append((client, node, node.life))

    def step(self) -> None:
        world, rng = self.world, self.rng
        up = [node for node in world.nodes.values() if node.up]
        node, names = rng.choice(up), list(world.names)
        breaks = ("cut", "silent", "heal", "flap", "crash", "start", "lead", "trim", "pause")
        match rng.choice(("write",) * 5 + ("read",) * 2 + breaks):
            case "write":
                for writer in rng.sample(up, rng.randint(1, len(up))):
                    self.write(writer)
            case "read":
                floor = self.acknowledged()
                self.readers.append((reads(node, 2), node, node.life, floor))
            case "cut" | "silent" as kind:
                rng.shuffle(names)
                split = rng.randint(1, len(names) - 1)
                world.partition("".join(names[:split]), "".join(names[split:]), notice=kind == "cut")
            case "heal":
                world.heal()
            case "flap":
                world.relink(*rng.sample(names, 2))
            case "crash" if len(up) > 1:
                node.crash()
            case "start":
                restart(world, names)
            case "lead":
                for leader in world.leaders_now():
                    leader.group.transfer(rng.choice([name for name in names if name != leader.name]))
            case "trim":
                node.trim()
            case "pause":
                node.pause(rng.random() * 1.5)
        world.supply_snapshots()
        world.run(rng.choice((0, 0.001, 0.004, 0.02, 0.1, 0.6)) * rng.random() * 2)

    def end(self) -> list[bytes]:
        world = self.world
        world.drop = world.duplicate = world.reorder = 0.0
        restart(world, list(world.names))
        world.heal()
        for _ in range(10):
            world.run(0.6)
            world.supply_snapshots()
        leader = world.leader()
        world.run(0.5)
        for node in world.nodes.values():
            assert node.machine.ops == leader.machine.ops
        idle(world)
        return leader.machine.ops

    def judge(self, ops: list[bytes]) -> None:
        place = {name: position for position, name in enumerate(ops)}
        assert len(place) == len(ops), "something was applied twice"
        newest: dict[tuple[str, int], int] = {}
        for client, node, life in self.writers:
            if node.life != life and not client.ended:
                continue  # the client was connected to a process that died
            for token, name in enumerate(client.ids):
                told = outcome(client, token)
                assert told in {"applied", "CLUSTERDOWN", "TIMEOUT"}
                assert told != "applied" or name in place, f"{name!r} was lost"
                assert told != "CLUSTERDOWN" or name not in place, f"{name!r} was said not to be applied"
                if told == "applied":
                    assert not client.answers or client.answers[token] == place[name] + 1
                    assert place[name] > newest.get((node.name, life), -1), f"{name!r} overtook an earlier one"
                    newest[node.name, life] = place[name]
        for client, node, life, floor in self.readers:
            assert client.ended or node.life != life, "a read was never answered"
            for value in client.answers.values():
                assert isinstance(value, RespError) or value >= floor, f"stale: {value} after {floor}"


def one_seed(seed: int, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    trial = Trial(seed, root)
    try:
        trial.world.run(trial.rng.random() * 2)
        for _ in range(40):
            trial.step()
        trial.judge(trial.end())
    finally:
        trial.world.close()
        shutil.rmtree(root, ignore_errors=True)


SEEDS_MIN = 20


def test_whatever_breaks_every_client_is_told_the_truth_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "now", Clock.now)
    root, end = memory_directory(tmp_path), time.monotonic() + 12.0
    for seed in range(300):
        try:
            one_seed(seed, root)
        except (Exception, Broken) as error:
            raise AssertionError(f"seed {seed}") from error
        if seed >= SEEDS_MIN and time.monotonic() > end:
            break


def test_a_recorder_replays_its_history() -> None:
    assert Recorder([]).ops == []


# --- transactions with watched keys ---


class AllAbsent:
    """A database without keys."""

    def __init__(self) -> None:
        self.changes: dict[bytes, Any] = {}

    def fingerprint(self, key: bytes) -> bytes:
        return b""


def watch(node: WorldNode, key: bytes) -> Watched:
    fingerprint, stamp = node.machine.watches.issue(AllAbsent(), [key])  # type: ignore[arg-type]
    return Watched(key, fingerprint, stamp)


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


@pytest.mark.parametrize("leads", [True, False])
def test_a_second_batch_is_under_way_only_if_it_holds_as_much_as_the_first(
    make: Callable[..., World], leads: bool
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    node = leader if leads else next(node for node in world.nodes.values() if node is not leader)
    proposer = node.proposer
    assert proposer is not None

    def under_way() -> int:
        proposer.pump()
        return len(proposer._proposals if leads else proposer._forwards)

    clients = [writes(world, node, [b"%d" % n for n in range(8)])]
    assert under_way() == 1
    clients.append(writes(world, node, [b"little"]))
    assert under_way() == 1
    clients.append(writes(world, node, [b"%d" % n for n in range(8, 16)]))
    assert under_way() == 2
    clients.append(writes(world, node, [b"after all"]))
    world.settle(0.3)
    assert {outcome(client) for client in clients} == {"applied"}
    idle(world)
