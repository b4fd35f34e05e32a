"""The simulation as part of the tests: new seeds, old seeds, exact replay, and whether it finds what was planted.

Each runs `python -m tests.sim` in a process of its own, which fixes the order of sets for exact replay.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.shard.long import LongApply
from tests.sim.seams import Worker

FRESH_SECONDS = "30"


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.sim", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout.splitlines()[-1]


@pytest.mark.timeout(600)
def test_new_seeds_break_no_promise() -> None:
    result = simulate(SECONDS=FRESH_SECONDS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(last_line(result).split()[0]) >= 5, "the machine is too slow to say anything"


@pytest.mark.timeout(600)
def test_seeds_that_once_found_something_find_nothing_any_more() -> None:
    result = simulate("regressions")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(600)
def test_a_seed_does_the_same_in_every_process() -> None:
    traces = {last_line(simulate("replay", "57")) for _ in range(2)}
    assert len(traces) == 1
    assert traces.pop().endswith("the same twice")


@pytest.mark.timeout(600)
def test_a_failing_seed_tells_its_story() -> None:
    result = simulate("planted", "own_clock")
    assert result.returncode == 0, result.stdout + result.stderr
    for word in ("Scenario(nodes=3", "APPEND shard 0", "the replicas differ", "fault"):
        assert word in result.stdout


@pytest.mark.timeout(900)
def test_every_planted_mistake_is_found() -> None:
    result = simulate("mutations", "known")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "NOT FOUND" not in result.stdout


def test_a_long_entry_is_dropped_without_waiting_for_a_time_that_only_comes_later() -> None:
    """What is under way ends first, as it does on a node, where a thread goes on with it."""
    events: list[Callable[[], None]] = []
    world: Any = SimpleNamespace(work_s=random.random, later=lambda _seconds, event: events.append(event))
    order: list[str] = []

    def slices() -> Any:
        yield lambda: order.append("written")
        return []

    apply = LongApply(Worker(world).submit, lambda: order.append("resumed"), lambda error: None)
    assert apply.advance(slices) is None
    apply.drop()
    order.append("closed")
    while events:
        events.pop()()
    assert order == ["written", "closed"]
