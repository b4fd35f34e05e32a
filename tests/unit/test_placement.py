"""Where a shard's leader should be: with the clients if nearly all are at one node, else on the preferred replica."""

from __future__ import annotations

import pytest

from respkv.shard.placement import BUSY_PER_S, LOOKS, QUIET_S, Placement

REPLICAS = ("a", "b", "c")
Asked = dict[str, int]


class Looks:
    """A placement that is looked at once a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.placement = Placement(REPLICAS, self.now)

    def look(self, times: int = 1, **asked: int) -> str:
        """`asked` are commands per second; the home after so many looks."""
        for _ in range(times):
            self.now += 1.0
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
def test_the_leader_goes_where_nearly_all_commands_come_from(asked: Asked, home: str) -> None:
    assert Looks().look(LOOKS, **asked) == home


def test_one_look_moves_nobody() -> None:
    looks = Looks()
    for _ in range(5):
        assert looks.look(b=2000) == "a"
        assert looks.look(a=700, b=700, c=700) == "a"


def test_it_stays_as_long_as_most_come_from_there_and_returns_then() -> None:
    looks = Looks()
    assert looks.look(LOOKS, b=2000) == "b"
    assert looks.look(10, a=400, b=600) == "b"
    assert looks.look(1, a=600, b=400) == "b"
    assert looks.look(LOOKS - 1, a=600, b=400) == "a"
    assert looks.look(10, a=400, b=600) == "a", "what keeps a leader does not bring it"


def test_it_goes_from_one_crowd_to_the_next() -> None:
    looks = Looks()
    assert looks.look(LOOKS, b=2000) == "b"
    assert looks.look(LOOKS, c=2000) == "c"


def test_it_returns_when_it_has_been_quiet_for_long() -> None:
    looks = Looks()
    assert looks.look(LOOKS, b=2000) == "b"
    assert looks.look(int(QUIET_S) - 1, b=3) == "b"
    assert looks.look(LOOKS, b=2000) == "b"
    assert looks.look(int(QUIET_S) - 1) == "b"
    assert looks.look() == "a"


def test_a_look_that_comes_late_counts_commands_per_second() -> None:
    looks = Looks()
    for _ in range(LOOKS):
        looks.now += 9.0
        looks.look(b=9 * BUSY_PER_S)
    assert looks.placement.home == "a"
