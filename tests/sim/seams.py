"""Where the simulation takes the place of the operating system: clocks, randomness, and what runs beside the loop.

`installed(world)` points the modules of respkv at a world for the time of a `with` block. A name that is no longer
where it is looked for fails at once, so that nothing real is left in the simulation unnoticed.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from pysyncobj.node import Node as LibraryNode

import respkv.server.commands  # noqa: F401 - fills the command table
from respkv.cluster.slots import slot_of
from respkv.commands.context import Context
from respkv.keyspace.values import KEY_BYTES_MAX
from respkv.offload import SLICE_PAUSE_S, Done, Job, Wait
from respkv.raft import clock as clock_module
from respkv.raft import group as group_module
from respkv.raft import identity as identity_module
from respkv.raft import journal as journal_module
from respkv.raft import long as raft_long_module
from respkv.raft import sending as sending_module
from respkv.raft.log import ShardLog
from respkv.shard import gathering as gathering_module
from respkv.shard import long as shard_long_module
from respkv.shard import machine as machine_module
from respkv.shard import placement as placement_module
from respkv.shard import proposer as proposer_module
from respkv.shard import reads as reads_module
from respkv.shard import repair as repair_module
from respkv.shard import replica as replica_module
from respkv.shard import upkeep as upkeep_module
from respkv.shard.reads import Reads
from respkv.shard.waiting import Read
from respkv.storage import bitcask as bitcask_module
from respkv.storage import reading as reading_module
from respkv.storage import record as record_module
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from tests.sim.world import World


SLOTS = 64  # a simulated keyspace: walks over all slots cost less


def few_slots(key: bytes) -> int:
    """In the place of `respkv.cluster.slots.slot_of`."""
    return slot_of(key) % SLOTS


def few_buckets(key: bytes) -> int:
    """In the place of `respkv.keyspace.system.bucket_of`."""
    return SLOTS if len(key) > KEY_BYTES_MAX else few_slots(key)


class SortedNodes(set[LibraryNode]):
    """The library keeps the other replicas in a set; its order must come from the seed, not from PYTHONHASHSEED."""

    def __iter__(self) -> Iterator[LibraryNode]:
        return iter(sorted(super().__iter__(), key=lambda node: str(node.id)))


class Pause:
    """What a coroutine of the simulation waits for: some time, or a job done by the worker."""

    def __init__(self, seconds: float = 0.0, job: Job | None = None) -> None:
        self.seconds = seconds
        self.job = job

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


class Task:
    """A coroutine that the world drives; in the places where `asyncio.Task` stands."""

    def __init__(self, world: World, coroutine: Coroutine[Pause, None, None]) -> None:
        self._world = world
        self._coroutine: Coroutine[Pause, None, None] | None = coroutine
        self._node = world.current
        world.later(0.0, self._step)

    def done(self) -> bool:
        return self._coroutine is None

    def cancel(self) -> None:
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None and not coroutine.cr_running:
            self._world.later(0.0, coroutine.close)

    def close(self) -> None:
        """Its process has ended."""
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None and not coroutine.cr_running:
            coroutine.close()

    def _step(self, error: BaseException | None = None) -> None:
        coroutine = self._coroutine
        if coroutine is None:
            return
        try:
            pause = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration:
            self._coroutine = None
            return
        if pause.job is None:
            self._world.later(pause.seconds, self._step)
        else:
            self._world.later(self._world.work_s(), lambda: self._work(pause.job))

    def _work(self, job: Job | None) -> None:
        """The job runs on another thread: even if nobody waits for it any more."""
        assert job is not None
        error: BaseException | None = None
        try:
            job()
        except Exception as caught:  # noqa: BLE001 - handed to the coroutine, as the worker does
            error = caught
        self._world.later(self._world.work_s(), lambda: self._step(error))


class Worker:
    """In the place of `respkv.offload.Worker`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, job: Job) -> Awaitable[None]:
        return Pause(job=job)

    def pause(self) -> Awaitable[None]:
        return Pause(SLICE_PAUSE_S)

    def submit(self, job: Job, done: Done) -> Wait:
        ended = False

        def work() -> None:
            nonlocal ended
            if ended:
                return  # somebody could not wait
            ended = True
            error: BaseException | None = None
            try:
                job()
            except Exception as caught:  # noqa: BLE001 - handed on, as the worker does
                error = caught
            self._world.later(self._world.work_s(), lambda: done(error))

        self._world.later(self._world.work_s(), work)
        return work


class _Asyncio:
    """In the place of the module `asyncio` in `respkv.shard.upkeep`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get_running_loop(self) -> _Asyncio:
        return self

    def create_task(self, coroutine: Coroutine[Pause, None, None]) -> Task:
        return Task(self._world, coroutine)


def _seams(world: World) -> list[tuple[Any, str, Any]]:
    class SimMachine(machine_module.Machine):
        def __init__(self, cask: bitcask_module.Bitcask) -> None:
            super().__init__(cask, world.wall_ms)
            self._read_context = Context(seed=world.rng.getrandbits(32))

    class SimLog(ShardLog):
        def add(self, command: bytes, idx: int, term: int) -> None:
            world.watch.added(self, command, idx, term)
            super().add(command, idx, term)

        __hash__ = ShardLog.__hash__

    class SimRead(Read):
        """Remembers how much of each shard had been applied anywhere when it was asked."""

        __slots__ = ("seen",)

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.seen = dict(world.watch.applied_max)

    def answer(self: Reads, read: SimRead, machine: Any) -> bool:
        world.watch.read_served(self._proposer.shard, self._proposer.group.applied, read.seen)
        return answer_read(self, read, machine)

    answer_read = Reads._answer

    class SimOs:
        """`os` with a random salt that comes from the seed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(_os, name)

        def urandom(self, count: int) -> bytes:
            return world.rng.randbytes(count)

    class SimTime:
        """`time` for names of directories."""

        def time(self) -> float:
            return world.wall_ms() / 1000

    _os = bitcask_module.os
    seams: list[tuple[Any, str, Any]] = [
        (module, "slot_of", few_slots)
        for name, module in sorted(sys.modules.items())
        if name.startswith("respkv.") and module.__dict__.get("slot_of") is slot_of
    ]
    seams += [
        (clock_module.Clock, "now", staticmethod(world.clock)),
        (journal_module, "ShardLog", SimLog),
        (machine_module, "wall_ms", world.wall_ms),
        (proposer_module, "wall_ms", world.wall_ms),
        (placement_module, "BUSY_PER_S", world.scenario.busy_per_s),
        (placement_module, "LOOK_S", 0.3),
        (placement_module, "QUIET_S", world.return_after_s),
        (placement_module, "REST_S", world.return_after_s),
        (replica_module, "Machine", SimMachine),
        (replica_module, "BUCKETS", SLOTS + 1),
        (replica_module, "bucket_of", few_buckets),
        (reads_module, "Read", SimRead),
        *_long_values(world.scenario.mib),
        (sending_module, "MESSAGE_BYTES", world.scenario.message_bytes),
        (sending_module, "WINDOW_BYTES", world.scenario.window_bytes),
        (Reads, "_answer", answer),
        (upkeep_module, "asyncio", _Asyncio(world)),
        (bitcask_module, "os", SimOs()),
        (identity_module, "os", SimOs()),
        (repair_module, "time", SimTime()),
    ]
    return seams


def _long_values(mib: int) -> list[tuple[Any, str, Any]]:
    """All that respkv measures in MiB on the way of a long value."""
    if mib == Scenario.mib:
        return []
    return [
        (raft_long_module, "PIECE_BYTES", mib),
        (group_module, "PIECE_BYTES", mib),
        (raft_long_module, "APPEND_BYTES", 4 * mib),
        (raft_long_module, "UNCOMMITTED_MAX", 16 * mib),
        (shard_long_module, "LONG_BYTES", mib),
        (gathering_module, "LONG_BYTES", mib),
        (machine_module, "LONG_READ_BYTES", 4 * mib),
        (record_module, "SLICE_BYTES", 8 * mib),
        (reading_module, "PIECE_BYTES", mib),
    ]


@contextmanager
def installed(world: World) -> Iterator[None]:
    """Everything below respkv's own code is the world's."""
    random.seed(world.seed)  # the library's election timeouts, request numbers, seeds of entries
    chosen = _seams(world)
    saved = [(place, name, place.__dict__[name]) for place, name, _ in chosen]
    for place, name, value in chosen:
        setattr(place, name, value)
    configuration = structlog.get_config()

    def tell(_logger: Any, _method: str, event: dict[str, Any]) -> Any:
        world.logged(str(event.pop("event")), event)
        raise structlog.DropEvent

    structlog.configure(
        processors=[tell],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        for place, name, value in saved:
            setattr(place, name, value)
        structlog.configure(**configuration)


__all__ = ["SortedNodes", "Worker", "installed"]
