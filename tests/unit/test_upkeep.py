"""When a round of upkeep syncs the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.cluster.topology import Shard
from respkv.config import load
from respkv.disk import Disk
from respkv.raft.journal import Journal
from respkv.shard import upkeep
from respkv.shard.replica import Replica
from respkv.storage import slices
from respkv.storage.record import encode_puts

FRAME_RECORDS = 10
FRAME_BYTES = FRAME_RECORDS * 125
SYNC_BYTES = 5 * FRAME_BYTES


class Paced:
    """In the place of the worker: jobs are run at once, and `meanwhile` is called in every pause."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None

    async def run(self, job: Callable[[], None]) -> None:
        job()

    async def pause(self) -> None:
        self.meanwhile()


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    """Of one node; time stands still, so nothing is due by the clock."""
    monkeypatch.setattr(upkeep, "SYNC_EVERY_BYTES", SYNC_BYTES)
    monkeypatch.setattr(slices, "SLICE_RECORDS", FRAME_RECORDS)
    config = load(environ={}, flags={"dir": str(tmp_path), "segment-bytes": "64kb"})
    journal = Journal.open(tmp_path / "journal", [0])
    arguments: Any = {"send": lambda *_: True, "wake": lambda _: None, "worker": Paced(), "disk": Disk()}
    made = Replica(
        Shard(0, (0,), ("n1",)), "n1", config, journal, fatal=lambda error: pytest.fail(str(error)), now=lambda: 0.0,
        **arguments,
    )
    yield made
    made.close()
    journal.close()


def write(replica: Replica, frames: int) -> None:
    """Each time other keys."""
    for _ in range(frames):
        keys = [b"%d:%04d" % (n, replica.cask.applied) for n in range(FRAME_RECORDS)]
        sizes, records = encode_puts(keys, [bytes(100)] * FRAME_RECORDS)
        replica.cask.append_puts(replica.cask.applied + 1, 1, 0, [0] * FRAME_RECORDS, keys, sizes, records)


def keep_up(replica: Replica) -> None:
    asyncio.run(replica.upkeep._keep_up())


def test_a_round_syncs_when_much_was_written(replica: Replica) -> None:
    cask = replica.cask
    for _ in range(3):
        before = cask.synced
        write(replica, 3)
        keep_up(replica)
        assert cask.synced == before
        write(replica, 3)
        keep_up(replica)
        assert cask.synced == cask.applied


def test_what_is_written_during_long_background_work_is_synced_meanwhile(replica: Replica) -> None:
    cask = replica.cask
    unsynced: list[int] = []

    def meanwhile() -> None:
        if len(unsynced) < 40:
            unsynced.append(cask.applied - cask.synced)
            write(replica, 1)

    write(replica, (64 << 10) // FRAME_BYTES + 2)  # a file is full, and wants to be sealed, counted and hinted
    replica.upkeep._worker.meanwhile = meanwhile  # type: ignore[attr-defined]
    keep_up(replica)
    assert len(unsynced) == 40
    assert max(unsynced) <= SYNC_BYTES // FRAME_BYTES
