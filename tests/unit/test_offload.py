"""Syncing away from the loop: every request has its outcome, the newest stands for those before it, errors arrive."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from respkv.disk import Disk
from respkv.offload import Syncer, Worker

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
