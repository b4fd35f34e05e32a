"""Where a shard's leader should be: with the clients if nearly all are at one node, else on the preferred replica."""

from __future__ import annotations

from math import ceil

import pytest

from respkv.shard.placement import BUSY_PER_S, LOOK_S, LOOKS, QUIET_S, REST_S, Placement

REPLICAS = ("a", "b", "c")
LONG = ceil(QUIET_S / LOOK_S)


class Leader:
    """A replica that leads, and looks as often as it may."""

    def __init__(self, node: str, giver: str | None = None) -> None:
        self.now = 100.0
        self.placement = Placement(REPLICAS)
        self.lead(node, giver)

    def lead(self, node: str, giver: str | None = None) -> None:
        self.placement.begin(node, giver, self.now)

    def look(self, times: int = 1, **asked: int) -> str:
        """`asked` are commands per second; the home after so many looks."""
        for _ in range(times):
            self.now += LOOK_S
            self.placement.look(asked, self.now)
        return self.placement.home


@pytest.mark.parametrize(
    ("asked", "home"),
    [
        pytest.param({"b": 2000}, "b", id="all at one node"),
        pytest.param({"a": 250, "b": 600, "c": 150}, "a", id="most, but not nearly all"),
        pytest.param({"a": 150, "b": 800, "c": 50}, "b", id="nearly all"),
        pytest.param({"a": 700, "b": 700, "c": 700}, "a", id="spread"),
        pytest.param({"d": 2000}, "a", id="all at a node that holds no replica"),
        pytest.param({"a": 2000}, "a", id="all at the preferred one"),
        pytest.param({"b": BUSY_PER_S - 1}, "a", id="few"),
        pytest.param({}, "a", id="none"),
    ],
)
def test_the_leader_goes_where_nearly_all_commands_come_from(asked: dict[str, int], home: str) -> None:
    assert Leader("a").look(LOOKS, **asked) == home
    assert Leader("c").look(max(LOOKS, LONG), **asked) == home


@pytest.mark.parametrize("between", [{"a": 700, "b": 700, "c": 700}, {"b": 10}, {}])
def test_looks_in_a_row_must_agree(between: dict[str, int]) -> None:
    leader = Leader("a")
    for _ in range(5):
        assert leader.look(LOOKS - 1, b=2000) == "a"
        assert leader.look(1, **between) == "a"


def test_it_stays_as_long_as_most_come_from_there_and_returns_then() -> None:
    leader = Leader("b", "a")
    assert leader.look(LOOKS, b=2000) == "b"
    assert leader.look(10, a=400, b=600) == "b"
    assert leader.look(LOOKS - 1, a=600, b=400) == "b"
    assert leader.look(1, a=600, b=400) == "a"


def test_most_keep_nobody_whom_nearly_all_have_not_brought() -> None:
    """One that was elected in the place of another, say."""
    leader = Leader("b")
    assert leader.look(LOOKS - 1, a=400, b=600) == "b"
    assert leader.look(1, a=400, b=600) == "a"


def test_it_goes_from_one_crowd_to_the_next() -> None:
    leader = Leader("b", "a")
    assert leader.look(LOOKS, b=2000) == "b"
    assert leader.look(LOOKS, c=2000) == "c"


def test_it_returns_when_it_has_been_quiet_for_long() -> None:
    leader = Leader("b")
    assert leader.look(LONG - 1, b=3) == "b"
    assert leader.look(LOOKS, b=2000) == "b"
    assert leader.look(LONG - 1) == "b"
    assert leader.look() == "a"


def test_a_look_that_comes_late_counts_commands_per_second() -> None:
    leader = Leader("a")
    for _ in range(LOOKS):
        leader.now += 9 * LOOK_S
        leader.look(b=9 * BUSY_PER_S)
    assert leader.placement.home == "a"


def test_looks_are_not_due_more_often() -> None:
    leader = Leader("a")
    assert not leader.placement.is_due(leader.now + 0.9 * LOOK_S)
    assert leader.placement.is_due(leader.now + LOOK_S)
    leader.look()
    assert not leader.placement.is_due(leader.now + 0.9 * LOOK_S)


def test_a_new_leader_stays_until_it_knows_better_and_knows_nothing_from_before() -> None:
    leader = Leader("a")
    assert leader.look(LOOKS, b=2000) == "b"
    leader.lead("a", "b")
    assert leader.look(LOOKS - 1, b=2000) == "a"
    leader.lead("c")
    assert leader.look(1, b=2000) == "c"


def test_who_has_handed_it_over_does_not_get_it_back_at_once_nor_who_has_not_taken_it() -> None:
    leader = Leader("b", "a")
    leader.placement.settle()
    assert leader.placement.home == "a"
    assert leader.placement.rests(leader.now + REST_S - 0.1)
    assert not leader.placement.rests(leader.now + REST_S)
    leader.look(LOOKS, c=2000)
    assert not leader.placement.rests(leader.now), "c has handed nothing over"
    leader.placement.tried(leader.now)
    assert leader.placement.rests(leader.now + REST_S - 0.1)
    assert not leader.placement.rests(leader.now + REST_S)
    leader.lead("b")
    assert not leader.placement.rests(leader.now)


def test_it_settles_at_once_when_it_is_told_so() -> None:
    leader = Leader("b", "c")
    assert leader.look(LOOKS, b=2000) == "b"
    leader.placement.settle()
    assert leader.placement.home == "a"
