"""Syncing away from the loop: every request has its outcome, the newest stands for those before it, errors arrive."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from respkv.aio import AioContext
from respkv.disk import Disk
from respkv.offload import AioSyncer, Syncer, make_syncer

Outcomes = list[tuple[int, BaseException | None]]
Body = Callable[[Syncer | AioSyncer, Outcomes], object]


class OwnDisk(Disk):
    """Not the plain one: its `sync` must be used."""

    def __init__(self) -> None:
        self.synced: list[int] = []

    def sync(self, fd: int) -> None:
        self.synced.append(fd)


def with_syncer(body: Body, wanted: Callable[[Outcomes], bool], *, thread: bool) -> Outcomes:
    """Runs `body(syncer, outcomes)` on a loop until `wanted(outcomes)`."""

    async def run() -> Outcomes:
        outcomes: Outcomes = []
        loop = asyncio.get_running_loop()
        syncer = make_syncer(loop, lambda *outcome: outcomes.append(outcome), Disk(), lambda _: None, thread=thread)
        assert isinstance(syncer, Syncer if thread else AioSyncer)
        body(syncer, outcomes)
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


def kernel_offers_it() -> bool:
    try:
        AioContext().close()
    except OSError:
        return False
    return True


ways = pytest.mark.parametrize("thread", [True] + [False] * kernel_offers_it())


@ways
def test_a_request_is_done_once(descriptor: int, thread: bool) -> None:
    outcomes = with_syncer(lambda syncer, _: syncer.request((descriptor,), 7), bool, thread=thread)
    assert outcomes == [(7, None)]


@ways
def test_the_newest_of_the_requests_that_waited_stands_for_them(descriptor: int, thread: bool) -> None:
    def ask(syncer: Syncer | AioSyncer, _: Outcomes) -> None:
        for sequence in range(1, 101):
            syncer.request((descriptor, descriptor), sequence)

    outcomes = with_syncer(ask, lambda outcomes: bool(outcomes) and outcomes[-1][0] == 100, thread=thread)
    sequences = [sequence for sequence, _ in outcomes]
    assert sequences == sorted(set(sequences))
    assert len(sequences) < 100
    assert all(error is None for _, error in outcomes)


@ways
def test_an_error_arrives_and_nothing_is_synced_after_it(descriptor: int, thread: bool) -> None:
    reader, writer = os.pipe()  # a pipe cannot be synced
    outcomes = with_syncer(lambda syncer, _: syncer.request((descriptor, writer), 3), bool, thread=thread)
    ((sequence, error),) = outcomes
    assert sequence == 3
    assert isinstance(error, OSError)
    assert error.errno == errno.EINVAL
    os.close(reader)
    os.close(writer)


def test_another_disk_than_the_plain_one_is_asked_itself(descriptor: int) -> None:
    disk = OwnDisk()

    async def run() -> None:
        done = asyncio.Event()
        syncer = make_syncer(asyncio.get_running_loop(), lambda *_: done.set(), disk, lambda _: None)
        syncer.request((descriptor,), 1)
        async with asyncio.timeout(20):
            await done.wait()
        syncer.stop()

    asyncio.run(run())
    assert disk.synced == [descriptor]
