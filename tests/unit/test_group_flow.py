"""How a Raft leader feeds followers: what they take, again what was lost, a snapshot if they are too far behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft import sending
from respkv.raft.group import WINDOW_BYTES
from respkv.raft.messages import ACK, APPEND
from tests.unit.raft_world import World, WorldNode
from tests.unit.worlds import applied, worlds


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield from worlds(tmp_path, monkeypatch)


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
    assert leader.group.commit < index
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: leader.group.commit == index)
    world.settle()
    assert all(applied(node) == [b"%d" % n for n in range(10)] for node in world.nodes.values())


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
