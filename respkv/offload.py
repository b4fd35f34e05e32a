"""What must not hold the event loop: waiting for the disk. Jobs run in threads, completions come back to the loop.

A hop to a thread and back costs 50-150 us, so only fdatasync and its like go there; and not even that where the disk
takes no longer than the hop.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]
Wait = Callable[[], object]


SLICE_PAUSE_S = 0.002

QUICK_S = 0.0005
STALL_S = 0.01
REST = 20
SAMPLES = 32


class Worker:
    """One thread that runs jobs in order; `done(error or None)` is then called on the loop.

    What needs what the loop owns is not for it: that is done on the loop in slices, with a `pause` behind each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: deque[tuple[Job, Done, threading.Event] | None] = deque()
        self._ready = threading.Semaphore(0)
        self._pacing = asyncio.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> Wait:
        """What it returns, when called, waits until the job has ended."""
        ended = threading.Event()
        self._jobs.append((job, done, ended))
        self._ready.release()
        return ended.wait

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

    async def pause(self) -> None:
        """Behind a slice of work on the loop: leaves it to the clients, however many have work to do."""
        async with self._pacing:
            await asyncio.sleep(SLICE_PAUSE_S)

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
            job, done, ended = item
            error: BaseException | None = None
            try:
                job()
            except BaseException as caught:  # noqa: BLE001 - handed to the loop, whatever it is
                error = caught
            ended.set()
            try:
                self._loop.call_soon_threadsafe(done, error)
            except RuntimeError:  # the loop is closed
                return


class Syncer:
    """Group commit: fdatasyncs the newest request whenever it is free; requests in between are one.

    A thread does that, or, with `request_at_once`, the loop itself at the end of its turn as long as the disk is quick:
    of the last `SAMPLES` syncs a quarter took less than `QUICK_S` (the others may have waited for the processor, or for
    another's), and none since then `STALL_S`. So one sync that stalls holds the loop, not the next ones: what is beyond
    `STALL_S` is followed by a rest `REST` times as long.

    `done(sequence, error or None)` is called on the loop once everything up to `sequence` is on the disk, behind
    `observe` with the seconds that it took.
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
        self._quick = False
        self._took: list[float] = []
        self._rests_until = 0.0
        self._asked = self._answered = -1  # sequence numbers, of the thread
        self._due: tuple[tuple[int, ...], int] | None = None
        self._requests: SimpleQueue[tuple[tuple[int, ...], int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def request(self, descriptors: tuple[int, ...], sequence: int) -> None:
        """In the thread."""
        self._asked = sequence
        self._requests.put((descriptors, sequence))

    def request_at_once(self, descriptors: tuple[int, ...], sequence: int) -> None:
        """At the `end_turn` that follows, if that is no worse."""
        if self._quick and self._answered == self._asked:
            self._due = (descriptors, sequence)
        else:
            self.request(descriptors, sequence)

    def end_turn(self) -> None:
        if self._due is not None:
            (descriptors, sequence), self._due = self._due, None
            self._ended(sequence, *self._sync_all(descriptors))

    def stop(self) -> None:
        """Waits for what is under way."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        requests = self._requests
        while (request := requests.get()) is not None:
            while not requests.empty():
                newer = requests.get()
                if newer is None:
                    requests.put(None)  # ends the thread after this one
                    break
                request = newer
            descriptors, sequence = request
            error, seconds = self._sync_all(descriptors)
            try:
                self._loop.call_soon_threadsafe(self._thread_ended, sequence, error, seconds)
            except RuntimeError:  # the loop is closed
                return

    def _sync_all(self, descriptors: tuple[int, ...]) -> tuple[BaseException | None, float]:
        error: BaseException | None = None
        started = time.monotonic()
        try:
            for descriptor in descriptors:
                self._sync(descriptor)
        except BaseException as caught:  # noqa: BLE001 - handed to the loop, whatever it is
            error = caught
        return error, time.monotonic() - started

    def _thread_ended(self, sequence: int, error: BaseException | None, seconds: float) -> None:
        self._answered = sequence
        self._ended(sequence, error, seconds)

    def _ended(self, sequence: int, error: BaseException | None, seconds: float) -> None:
        self._judge(seconds)
        self._observe(seconds)
        self._done(sequence, error)

    def _judge(self, seconds: float) -> None:
        """Whether the disk is quick."""
        if seconds >= STALL_S:
            self._quick = False
            self._took.clear()
            self._rests_until = time.monotonic() + REST * (seconds - STALL_S)
        elif time.monotonic() >= self._rests_until:
            self._took.append(seconds)
            if len(self._took) == SAMPLES:
                self._quick = sorted(self._took)[SAMPLES // 4] < QUICK_S
                self._took.clear()
