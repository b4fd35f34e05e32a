"""The proposer: every batch has one true outcome, in order; every waiter is answered once; no read is stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft.messages import ACK, APPEND, TIMEOUT_NOW
from respkv.reply import RespError
from respkv.shard.long import LONG_BYTES
from respkv.shard.machine import Watcher
from respkv.shard.proposer import FORWARD, FORWARD_LONG, FORWARDED, IN_FLIGHT_MAX
from tests.unit.raft_world import Client, World, reads, writes
from tests.unit.worlds import idle, outcome, watch, worlds


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch, proposers=True)


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


def test_a_batch_lost_with_its_link_is_not_proposed_behind_a_long_one_that_was_found_in_the_log(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARD
    first = writes(world, origin, [b"first"])
    world.run(0.02)
    world.relink(leader.name, origin.name)
    world.intercept = lambda source, target, message: message[0] != FORWARDED
    second = Client(origin.name, [b"second"], first)
    origin.proposer.join(second)
    origin.proposer.put(0, b"second", b"v" * LONG_BYTES)
    world.run_until(lambda: second.ended == 1)
    world.intercept = lambda source, target, message: True
    leader.group.transfer("c" if origin.name == "b" else "b")
    world.settle(4)
    assert origin.machine.ops == [b"second"]
    assert (outcome(first), outcome(second)) == ("CLUSTERDOWN", "applied")
    idle(world)


def test_a_long_batch_lost_with_its_link_is_not_proposed_behind_one_whose_outcome_was_not_told_in_time(
    make: Callable[..., World],
) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] not in {FORWARD, FORWARD_LONG}
    first = Client(origin.name, [b"first"])
    origin.proposer.join(first)
    origin.proposer.put(0, b"first", b"v" * (30 << 20))  # has more time
    world.run(0.02)
    world.relink(leader.name, origin.name)
    held = {FORWARDED, APPEND}  # so that it is not found in the log, either
    world.intercept = lambda source, target, message: message[0] not in held or target != origin.name
    second = writes(world, origin, [b"second"], behind=first)
    world.run_until(lambda: second.ended == 1)
    assert outcome(second) == "TIMEOUT"
    assert first.ended == 0
    assert leader.machine.ops == [b"second"]
    world.intercept = lambda source, target, message: True
    leader.group.transfer("c" if origin.name == "b" else "b")
    world.settle(8)
    assert origin.machine.ops == [b"second"]
    assert outcome(first) == "CLUSTERDOWN"


def test_however_many_batches_were_lost_with_their_link_others_go(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    origin = world.followers()[0]
    world.intercept = lambda source, target, message: message[0] != FORWARD
    for number in range(IN_FLIGHT_MAX):
        writes(world, origin, [b"%d" % number] * 2**number)
        world.run(0.004)
    assert len(origin.proposer._forwards) == IN_FLIGHT_MAX
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


def test_a_leader_owes_other_nodes_the_outcome_of_what_they_forwarded(make: Callable[..., World]) -> None:
    world = make()
    leader = world.leader()
    world.settle(0.3)
    world.intercept = lambda source, target, message: message[0] != ACK
    writes(world, leader, [b"own"])
    world.run(0.02)
    assert not leader.proposer.owes
    client = writes(world, world.followers()[0], [b"f"])
    world.run(0.02)
    assert leader.proposer.owes
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: client.ended == 1)
    assert not leader.proposer.owes


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
