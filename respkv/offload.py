"""What must not hold the event loop: waiting for the disk. Completions come back to the loop.

A hop to a thread and back costs 50-150 us, so only fdatasync and its like go there; and the journal's, after every turn
that wrote, goes to the kernel's workers where it has them (`respkv.aio`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from respkv.aio import AioContext
from respkv.disk import Disk

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Worker:
    """One thread that runs jobs in order; `done(error or None)` is then called on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: deque[tuple[Job, Done] | None] = deque()
        self._ready = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        self._jobs.append((job, done))
        self._ready.release()

    async def run(self, job: Job) -> None:
        """Awaits `job`; raises what it raised."""
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        self.submit(job, done)
        await future

    def stop(self) -> None:
        """Finishes the jobs submitted so far and ends the thread."""
        self._jobs.append(None)
        self._ready.release()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._ready.acquire()
            item = self._jobs.popleft()
            if item is None:
                return
            job, done = item
            error: BaseException | None = None
            try:
                job()
            except BaseException as caught:  # noqa: BLE001 - handed to the loop, whatever it is
                error = caught
            try:
                self._loop.call_soon_threadsafe(done, error)
            except RuntimeError:  # the loop is closed
                return


class Syncer:
    """Group commit: one thread that fdatasyncs the newest request whenever it is free; requests in between are one.

    `done(sequence, error or None)` is called on the loop once everything up to `sequence` is on the disk; `observe`
    gets the seconds that each took, on the thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[int, BaseException | None], None],
        sync: Callable[[int], None] = os.fdatasync,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._loop = loop
        self._done = done
        self._sync = sync
        self._observe = observe
        self._condition = threading.Condition()
        self._request: tuple[tuple[int, ...], int] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def request(self, descriptors: tuple[int, ...], sequence: int) -> None:
        with self._condition:
            self._request = (descriptors, sequence)
            self._condition.notify()

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._request is None and not self._stopping:
                    self._condition.wait()
                if self._request is None:
                    return
                descriptors, sequence = self._request
                self._request = None
            error: BaseException | None = None
            started = time.monotonic()
            try:
                for descriptor in descriptors:
                    self._sync(descriptor)
            except BaseException as caught:  # noqa: BLE001 - handed to the loop, whatever it is
                error = caught
            self._observe(time.monotonic() - started)
            try:
                self._loop.call_soon_threadsafe(self._done, sequence, error)
            except RuntimeError:  # the loop is closed
                return


class AioSyncer:
    """`Syncer` without its thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[int, BaseException | None], None],
        context: AioContext,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._loop = loop
        self._done = done
        self._context = context
        self._observe = observe
        self._waiting: tuple[tuple[int, ...], int] | None = None
        self._sequence = 0
        self._open = 0
        self._error: BaseException | None = None
        self._started = 0.0
        loop.add_reader(context.fd, self._finished)

    def request(self, descriptors: tuple[int, ...], sequence: int) -> None:
        if self._open:
            self._waiting = (descriptors, sequence)
        else:
            self._start(descriptors, sequence)

    def _start(self, descriptors: tuple[int, ...], sequence: int) -> None:
        self._sequence, self._error = sequence, None
        self._started = time.monotonic()
        self._open = len(descriptors)
        for descriptor in descriptors:
            try:
                self._context.submit(descriptor)
            except OSError:  # short of memory, or of a file system that cannot do it: then here and now
                self._loop.call_soon(self._ended, self._sync_here(descriptor))

    def _sync_here(self, descriptor: int) -> BaseException | None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            return error
        return None

    def _finished(self) -> None:
        for error in self._context.finished():
            self._ended(error)

    def _ended(self, error: BaseException | None) -> None:
        self._open -= 1
        self._error = self._error or error
        if self._open:
            return
        self._observe(time.monotonic() - self._started)
        sequence, failure = self._sequence, self._error
        if self._waiting is not None and failure is None:
            descriptors, following = self._waiting
            self._waiting = None
            self._start(descriptors, following)
        self._done(sequence, failure)

    def stop(self) -> None:
        """Waits for what is under way."""
        self._loop.remove_reader(self._context.fd)
        self._context.close()


def make_syncer(
    loop: asyncio.AbstractEventLoop,
    done: Callable[[int, BaseException | None], None],
    disk: Disk,
    observe: Callable[[float], None],
    *,
    thread: bool = False,
) -> Syncer | AioSyncer:
    """The syncer for the journal: with a thread only if it is asked for, `disk` is not the plain one, or the kernel
    offers nothing else."""
    if not thread and type(disk).sync is Disk.sync:
        try:
            return AioSyncer(loop, done, AioContext(), observe)
        except OSError:
            pass
    return Syncer(loop, done, disk.sync, observe)
