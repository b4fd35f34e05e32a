"""Deadlines: what is due is exactly what the truth says, whatever happened to keys and clock in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from respkv.keyspace import expiry
from respkv.keyspace.expiry import Deadlines


class DeadlinesMachine(RuleBasedStateMachine):
    """Against a plain dict: keys come, change, go behind the index's back; the clock may go back too."""

    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[bytes, int] = {}
        self.deadlines = Deadlines(self.truth)
        self.now_ms = 50

    @rule(key=st.integers(0, 20), at_ms=st.integers(1, 100))
    def give(self, key: int, at_ms: int) -> None:
        self.truth[b"%d" % key] = at_ms
        self.deadlines.add(b"%d" % key, at_ms)

    @rule(key=st.integers(0, 20))
    def take_away(self, key: int) -> None:
        self.truth.pop(b"%d" % key, None)

    @rule(now_ms=st.integers(0, 110))
    def tick(self, now_ms: int) -> None:
        self.now_ms = now_ms

    @rule(limit=st.integers(0, 5))
    def some_are_due(self, limit: int) -> None:
        found = self.deadlines.due(self.now_ms, limit)
        expected = self.expected()
        assert len(found) == min(limit, len(expected))
        assert set(found) <= expected

    @rule()
    def start_anew(self) -> None:
        self.deadlines = Deadlines(self.truth)

    @invariant()
    def all_due(self) -> None:
        assert set(self.deadlines.due_keys(self.now_ms)) == self.expected()
        assert len(self.deadlines) == len(self.truth)

    def expected(self) -> set[bytes]:
        return {key for key, at_ms in self.truth.items() if at_ms <= self.now_ms}


TestDeadlines = DeadlinesMachine.TestCase


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=50))
def test_next_ms_is_never_late(times: list[int]) -> None:
    deadlines = Deadlines({b"%d" % i: at_ms for i, at_ms in enumerate(times)})
    assert deadlines.next_ms() == min(times)
    assert not deadlines.due(min(times) - 1, 10)
    assert deadlines.due(min(times), 100)


def test_a_key_that_is_written_again_and_again_does_not_fill_the_index() -> None:
    truth: dict[bytes, int] = {}
    deadlines = Deadlines(truth)
    for at_ms in range(1, 50_000):
        truth[b"k"] = at_ms
        deadlines.add(b"k", at_ms)
    assert sum(map(len, deadlines._heaps)) < 1000
    assert deadlines.due(49_999, 10) == [b"k"]
    assert deadlines.due(49_998, 10) == []


def test_masses_that_fall_due_at_once_all_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_POPS_MAX", 20)
    deadlines = Deadlines({b"%d" % i: 5 + i % 2 for i in range(40_000)})
    assert len(list(deadlines.due_keys(4))) == 0
    assert len(list(deadlines.due_keys(5))) == 20_000
    assert len(list(deadlines.due_keys(6))) == 40_000
