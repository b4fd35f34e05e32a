"""Syncing, away from the loop or at the end of its turn: every request has its outcome, the newest stands for those
before it, errors arrive."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from respkv import offload
from respkv.disk import Disk
from respkv.offload import QUICK_S, REST, SAMPLES, STALL_S, Syncer, Worker

Outcomes = list[tuple[int, BaseException | None]]
Body = Callable[[Syncer], object]


class OwnDisk(Disk):
    """Not the plain one: its `sync` must be used."""

    def __init__(self) -> None:
        self.synced: list[int] = []

    def sync(self, fd: int) -> None:
        self.synced.append(fd)


def with_syncer(body: Body, wanted: Callable[[Outcomes], bool], disk: Disk | None = None) -> Outcomes:
    """Runs `body(syncer)` on a loop until `wanted(outcomes)`."""

    async def run() -> Outcomes:
        outcomes: Outcomes = []
        sync = (disk or Disk()).sync
        syncer = Syncer(asyncio.get_running_loop(), lambda *outcome: outcomes.append(outcome), sync)
        body(syncer)
        async with asyncio.timeout(20):
            while not wanted(outcomes):  # noqa: ASYNC110 - they come without an event
                await asyncio.sleep(0.001)
        syncer.stop()
        return outcomes

    return asyncio.run(run())


@pytest.fixture
def descriptor(tmp_path: Path) -> int:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"bytes")
    return fd


def test_a_request_is_done_once(descriptor: int) -> None:
    disk = OwnDisk()
    assert with_syncer(lambda syncer: syncer.request((descriptor,), 7), bool, disk) == [(7, None)]
    assert disk.synced == [descriptor]


def test_the_newest_of_the_requests_that_waited_stands_for_them(descriptor: int) -> None:
    def ask(syncer: Syncer) -> None:
        for sequence in range(1, 101):
            syncer.request((descriptor, descriptor), sequence)

    outcomes = with_syncer(ask, lambda outcomes: bool(outcomes) and outcomes[-1][0] == 100)
    sequences = [sequence for sequence, _ in outcomes]
    assert sequences == sorted(set(sequences))
    assert len(sequences) < 100
    assert all(error is None for _, error in outcomes)


def test_an_error_arrives_and_nothing_is_synced_after_it(descriptor: int) -> None:
    reader, writer = os.pipe()  # a pipe cannot be synced
    outcomes = with_syncer(lambda syncer: syncer.request((descriptor, writer), 3), bool)
    ((sequence, error),) = outcomes
    assert sequence == 3
    assert isinstance(error, OSError)
    assert error.errno == errno.EINVAL
    os.close(reader)
    os.close(writer)


def test_what_was_asked_is_done_before_the_end(descriptor: int) -> None:
    disk = OwnDisk()

    async def run() -> None:
        syncer = Syncer(asyncio.get_running_loop(), lambda *_: None, disk.sync)
        for sequence in range(20):
            syncer.request((descriptor,), sequence)
        syncer.stop()

    asyncio.run(run())
    assert disk.synced


class TimedDisk:
    """Its syncs take `seconds`, by the clock that the syncer looks at."""

    def __init__(self) -> None:
        self.seconds = QUICK_S / 2
        self.error: OSError | None = None
        self.threads: list[threading.Thread] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def pass_s(self, seconds: float) -> None:
        self._now += seconds

    def sync(self, _descriptor: int) -> None:
        self.threads.append(threading.current_thread())
        assert self.may_go_on.wait(20)
        self._now += self.seconds
        if self.error is not None:
            raise self.error


class Turns:
    """A syncer whose requests are each followed by the end of a turn. `outcomes` and `took` are what it told."""

    def __init__(self, disk: TimedDisk) -> None:
        self.outcomes: Outcomes = []
        self.took: list[float] = []
        self.disk = disk
        self.loop = asyncio.new_event_loop()
        self.syncer = Syncer(self.loop, lambda *outcome: self.outcomes.append(outcome), disk.sync, self.took.append)
        self._sequence = 0

    def sync(self) -> bool:
        """One request and its outcome; tells whether the loop itself has synced."""
        self._sequence += 1
        self.syncer.request_at_once((7,), self._sequence)
        assert not self.outcomes or self.outcomes[-1][0] < self._sequence
        self.syncer.end_turn()
        at_once = bool(self.outcomes) and self.outcomes[-1][0] == self._sequence
        self.wait()
        assert (self.disk.threads[-1] is threading.current_thread()) is at_once
        return at_once

    def wait(self) -> None:
        """Until the newest request has its outcome."""
        for _ in range(2000):
            if self.outcomes and self.outcomes[-1][0] == self._sequence:
                return
            self.loop.run_until_complete(asyncio.sleep(0.005))
        raise AssertionError("no outcome")

    def become_quick(self) -> None:
        while not self.sync():
            assert len(self.took) < 3 * SAMPLES


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    disk = TimedDisk()
    monkeypatch.setattr(offload, "time", SimpleNamespace(monotonic=disk.monotonic))
    turns = Turns(disk)
    yield turns
    turns.syncer.stop()
    turns.loop.close()


def test_a_quick_disk_is_synced_at_the_end_of_the_turn_once_it_is_known(turns: Turns) -> None:
    assert [turns.sync() for _ in range(SAMPLES + 3)] == [False] * SAMPLES + [True] * 3
    assert turns.outcomes == [(sequence, None) for sequence in range(1, SAMPLES + 4)]
    assert turns.took == pytest.approx([QUICK_S / 2] * (SAMPLES + 3))


def test_a_quarter_of_the_syncs_tells_how_quick_a_disk_is(turns: Turns) -> None:
    quick, slow, quarter = QUICK_S / 2, QUICK_S * 2, SAMPLES // 4
    for quicks, at_once in (quarter, False), (quarter + 1, True), (quarter, False):
        for position in range(SAMPLES):
            turns.disk.seconds = quick if position < quicks else slow
            turns.sync()
        assert turns.syncer._quick is at_once


def test_a_sync_that_stalls_holds_the_loop_once(turns: Turns) -> None:
    turns.become_quick()
    turns.disk.seconds = STALL_S
    assert turns.sync()
    assert [turns.sync() for _ in range(3)] == [False] * 3
    turns.disk.seconds = QUICK_S / 2
    assert [turns.sync() for _ in range(SAMPLES + 1)] == [False] * SAMPLES + [True]


def test_a_long_stall_is_followed_by_a_long_rest(turns: Turns) -> None:
    turns.become_quick()
    turns.disk.seconds = STALL_S + 0.05
    assert turns.sync()
    turns.disk.seconds = QUICK_S / 2
    assert not any(turns.sync() for _ in range(2 * SAMPLES))
    turns.disk.pass_s(REST * 0.05)
    assert [turns.sync() for _ in range(SAMPLES + 1)] == [False] * SAMPLES + [True]


def test_what_the_thread_has_under_way_is_not_overtaken(turns: Turns) -> None:
    turns.become_quick()
    turns.disk.may_go_on.clear()
    turns._sequence += 1
    turns.syncer.request((7,), turns._sequence)
    turns._sequence += 1
    turns.syncer.request_at_once((7,), turns._sequence)
    turns.syncer.end_turn()
    turns.disk.may_go_on.set()
    turns.wait()
    sequences = [sequence for sequence, _ in turns.outcomes]
    assert sequences == sorted(sequences)
    assert turns.disk.threads[-1] is not threading.current_thread()
    assert turns.sync()


def test_an_error_at_the_end_of_the_turn_arrives(turns: Turns) -> None:
    turns.become_quick()
    turns.disk.error = OSError(errno.EIO, "the disk is gone")
    assert turns.sync()
    assert turns.outcomes[-1] == (turns._sequence, turns.disk.error)


def test_slices_of_many_on_the_loop_come_one_at_a_time_with_a_pause_between_any_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asleep, story, sleep = 0, [], asyncio.sleep

    async def slept(seconds: float) -> None:
        nonlocal asleep
        asleep += 1
        assert asleep == 1
        story.append("pause")
        await sleep(0)
        asleep -= 1

    async def background(worker: Worker, name: str) -> None:
        for _ in range(5):
            story.append(name)
            await worker.pause()

    async def run() -> None:
        worker = Worker(asyncio.get_running_loop(), "test")
        await asyncio.gather(*(background(worker, name) for name in "abc"))
        worker.stop()

    monkeypatch.setattr(asyncio, "sleep", slept)
    asyncio.run(run())
    assert sorted(story) == sorted([*"abc" * 5, *["pause"] * 15])
    settled = story[story.index("a", 1) :]  # each has had its first slice
    assert all("pause" in two for two in pairwise(settled)), story
