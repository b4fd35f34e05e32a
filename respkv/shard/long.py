"""Batches with values too large to be copied: what they hold beside their runs, and how they travel.

A plain SET of a value of `LONG_BYTES` or more becomes a `LongPut` run, which names the key; the value itself, in parts,
is the batch's *body* (the values of all such runs one after the other). The body goes to the leader's node, into the
log, to the followers and into the Bitcask log in pieces, and is nowhere put together.

The head of such an entry is the MessagePack array `[now_ms, seed, origins, runs]` as in `respkv.shard.batch`, with runs
`[2, slot, key, value_bytes]` among the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from respkv.border import BadMessage
from respkv.offload import Done, Job, Wait
from respkv.reply import LongBulk
from respkv.shard.batch import Guarded, Ops, Origin, Puts
from respkv.shard.waiting import Read
from respkv.storage.errors import Damaged
from respkv.storage.reading import LongRead
from respkv.storage.record import encode_puts

Slices = Generator[Callable[[], None], None, list[Any]]
Offload = Callable[[Job, Done], Wait]

LONG_BYTES = 1 << 20
LONG_READ_BYTES = 4 << 20  # from here on a GET is answered piece by piece
READ_PIECES = 4  # of a MiB each, read per turn


class LongPut(msgspec.Struct, array_like=True, tag=2, gc=False):
    """`SET key value` without options; the value is in the body."""

    slot: int
    key: bytes
    value_bytes: int


LongRun = Puts | Ops | Guarded | LongPut


class LongEntry(msgspec.Struct, array_like=True, gc=False):
    """The head of an entry with a body."""

    now_ms: int
    seed: int
    origins: list[Origin]
    runs: list[LongRun]


encode_head = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(LongEntry).decode
decode_long_runs = msgspec.msgpack.Decoder(list[LongRun]).decode


def split_columns(slots: list[int], keys: list[bytes], values: list[bytes]) -> tuple[list[LongRun], list[bytes]]:
    """Plain puts as runs, the long ones by themselves, and their body."""
    runs: list[LongRun] = []
    body: list[bytes] = []
    start = 0
    for position, value in enumerate(values):
        if len(value) >= LONG_BYTES:
            runs += _short(slots[start:position], keys[start:position], values[start:position])
            runs.append(LongPut(slots[position], keys[position], len(value)))
            body.append(value)
            start = position + 1
    return runs + _short(slots[start:], keys[start:], values[start:]), body


def _short(slots: list[int], keys: list[bytes], values: list[bytes]) -> list[LongRun]:
    return [Puts(slots, keys, *encode_puts(keys, values))] if keys else []


def count_commands(runs: Iterable[LongRun]) -> int:
    """How many commands of clients these are."""
    count = 0
    for run in runs:
        count += len(run.keys) if isinstance(run, Puts) else len(run.commands) if isinstance(run, Ops) else 1
    return count


def values_of(runs: Iterable[LongRun], body: list[memoryview]) -> Iterator[list[memoryview]]:
    """The parts of each long value, in order. A part never spans two values.

    Raises:
        ValueError: the body is not that of the runs.
    """
    at = 0
    for run in runs:
        if not isinstance(run, LongPut):
            continue
        start, size = at, 0
        while size < run.value_bytes and at < len(body):
            size += len(body[at])
            at += 1
        if size != run.value_bytes:
            raise ValueError(f"a long value has {size} bytes, not {run.value_bytes}")
        yield body[start:at]
    if at != len(body):
        raise ValueError(f"{len(body) - at} parts of a body belong to no value")


class LongApply:
    """The application of long entries, one after the other: slices that are run elsewhere, with the loop's other work
    in between.

    Args:
        offload: called as `offload(job, done)`: runs the job in some thread, then calls `done(error or None)` here.
            What it returns, when called, waits until the job has ended.
        resume: called when `advance` is to be called again.
        fatal: called with what a job raised: the state's end is unknown then.
    """

    def __init__(self, offload: Offload, resume: Callable[[], None], fatal: Callable[[BaseException], None]) -> None:
        self._offload = offload
        self._resume = resume
        self._fatal = fatal
        self._slices: Slices | None = None
        self._running = False
        self._wait: Wait

    def advance(self, begin: Callable[[], Slices]) -> list[Any] | None:
        """Begins the next entry (`begin`) or goes on with the one under way; the replies when it is applied."""
        slices = self._slices
        if slices is None:
            slices = self._slices = begin()
        while not self._running:
            try:
                job = next(slices)
            except StopIteration as over:
                self._slices = None
                replies: list[Any] = over.value
                return replies
            self._running = True
            self._wait = self._offload(job, partial(self._done, slices))
        return None

    def _done(self, slices: Slices, error: BaseException | None) -> None:
        if slices is not self._slices:
            return  # dropped meanwhile
        self._running = False
        if error is not None:
            self._fatal(error)
        else:
            self._resume()

    def drop(self) -> None:
        """The state is about to be closed or replaced: what is being written must end before its file is closed."""
        if self._running:
            self._wait()
        self._slices = None
        self._running = False


def run_here(job: Job, done: Done) -> Wait:
    """An `Offload` that does not: for tests and tools."""
    job()
    done(None)
    return lambda: None


def hand_out(values: list[Any], parts: list[bytes]) -> None:
    """Gives the long values among `values`, which came without them, their parts.

    Raises:
        BadMessage: a part belongs to two of them.
    """
    at = 0
    for value in values:
        if isinstance(value, LongBulk):
            size = 0
            while size < value.value_bytes and at < len(parts):
                value.parts.append(parts[at])
                size += len(parts[at])
                at += 1
            if size != value.value_bytes:
                raise BadMessage("Outcome: a long value and its parts differ")


class LongReads:
    """GETs of long values, one after the other, a few pieces at a time. Each was allowed when it was added.

    Args:
        damaged: called with a read whose value turned out to be damaged.
    """

    def __init__(self, damaged: Callable[[Read, Damaged], None]) -> None:
        self._damaged = damaged
        self._reads: deque[tuple[Read, LongRead]] = deque()
        self._pieces: Iterator[bytes] = iter(())
        self._parts: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._reads)

    def add(self, read: Read, value: LongRead) -> None:
        if not self._reads:
            self._pieces = iter(value)
        self._reads.append((read, value))

    def advance(self) -> None:
        """Reads on, and answers the first of them if that was the end of it."""
        read, value = self._reads[0]
        damage: Damaged | None = None
        try:
            self._parts += islice(self._pieces, READ_PIECES)
        except Damaged as damaged:
            damage = damaged
        if damage is None and sum(map(len, self._parts)) < value.value_bytes:
            return
        parts, self._parts = self._parts, []
        self._reads.popleft()
        if self._reads:
            self._pieces = iter(self._reads[0][1])
        if damage is not None:
            self._damaged(read, damage)
        else:
            read.answer(LongBulk(value.value_bytes, parts))
