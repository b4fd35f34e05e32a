"""When a round of upkeep syncs the log, and how far it trims the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.cluster.topology import Shard
from respkv.config import load
from respkv.disk import Disk
from respkv.raft.journal import Journal
from respkv.shard import upkeep
from respkv.shard.replica import Replica
from respkv.storage import Damaged, slices
from respkv.storage.record import encode_puts

FRAME_RECORDS = 10
FRAME_BYTES = FRAME_RECORDS * 125
SYNC_BYTES = 5 * FRAME_BYTES
ENTRY_BYTES = 1000
KEEP_ENTRIES = 20
KEEP_BYTES = KEEP_ENTRIES * ENTRY_BYTES


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
    sizes = {"segment-bytes": "64kb", "journal-keep-bytes": str(KEEP_BYTES), "journal-segment-bytes": "64kb"}
    config = load(environ={}, flags={"dir": str(tmp_path), **sizes})
    journal = Journal.open(tmp_path / "journal", [0], segment_bytes=64 << 10)
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


# -- the journal's tail


def write_entry(replica: Replica) -> None:
    """A frame that is an entry of the log, too; its first one is the base of the empty log."""
    write(replica, 1 if replica.cask.applied else 2)
    applied = replica.cask.applied
    replica.group.log.add(bytes(ENTRY_BYTES), applied, 1)
    replica.group.jump_to(applied)


def trimmed_to(replica: Replica, entries: int) -> int:
    """The base after `entries` more were written, one by one, and synced."""
    for _ in range(entries):
        write_entry(replica)
        replica._journal.flush_and_wait()
        replica.cask.flush()
        replica.upkeep._trim()
        replica._journal.flush_and_wait()
        replica._journal.release()
    return replica.group.log.base_index


@pytest.fixture
def held_from(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> int:
    """Entries behind this one are needed by a follower that gets a snapshot."""
    base = trimmed_to(replica, 2 * KEEP_ENTRIES)
    assert base == replica.cask.applied - KEEP_ENTRIES
    held = base + 5
    monkeypatch.setattr(replica.upkeep, "_trimmable", lambda index: min(index, held))
    return held


def test_the_log_is_not_trimmed_beyond_a_snapshot_under_way(
    replica: Replica, held_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trimmed_to(replica, 3 * KEEP_ENTRIES) == held_from
    monkeypatch.setattr(replica.upkeep, "_trimmable", lambda index: index)
    assert trimmed_to(replica, 1) == replica.cask.applied - KEEP_ENTRIES


def test_a_snapshot_that_does_not_come_through_cannot_make_the_log_grow_without_end(
    replica: Replica, held_from: int
) -> None:
    base = trimmed_to(replica, 2 * upkeep.KEEP_TIMES_MAX * KEEP_ENTRIES)
    assert base == replica.cask.applied - upkeep.KEEP_TIMES_MAX * KEEP_ENTRIES
    config = replica._config
    most = upkeep.KEEP_TIMES_MAX * config.journal_keep_bytes + 4 * config.journal_segment_bytes
    assert replica._journal.file_bytes <= most


def test_a_shard_that_holds_old_segments_for_a_snapshot_lets_them_go_when_others_have_filled_the_journal(
    replica: Replica, held_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own part is small."""
    config, applied = replica._config, replica.cask.applied
    size = 0
    monkeypatch.setattr(Journal, "file_bytes", property(lambda _: size))
    monkeypatch.setattr(replica._journal, "pinned", lambda: {0: applied})
    size = 2 * config.journal_segment_bytes + upkeep.KEEP_TIMES_MAX * config.journal_keep_bytes
    replica.upkeep._trim()
    assert replica.group.log.base_index <= held_from
    size += 1
    replica.upkeep._trim()
    assert replica.group.log.base_index == applied


def test_the_log_is_kept_for_the_transfers_of_this_replica(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = SimpleNamespace(source=SimpleNamespace(index=7), stop=lambda: None)
    monkeypatch.setattr(replica.snapshots, "senders", {"n2": sender})
    assert trimmed_to(replica, 2 * KEEP_ENTRIES) == 7


# -- verification


def test_what_is_written_during_a_verification_is_synced_and_trimmed_meanwhile(replica: Replica) -> None:
    cask, shard_log = replica.cask, replica.group.log
    unsynced, entries = [0], [0]

    def meanwhile() -> None:
        if len(unsynced) < 60:
            unsynced.append(cask.applied - cask.synced)
            entries.append(len(shard_log))
            write_entry(replica)

    for _ in range(2 * (64 << 10) // FRAME_BYTES):
        write_entry(replica)
    keep_up(replica)  # files that are full are finished
    replica.upkeep._worker.meanwhile = meanwhile  # type: ignore[attr-defined]
    replica.upkeep.verify_wanted = True
    asyncio.run(replica.upkeep._verify(cask))
    assert len(unsynced) > 20
    assert max(unsynced[2:]) <= SYNC_BYTES // FRAME_BYTES
    assert max(entries[2:]) <= KEEP_ENTRIES + SYNC_BYTES // FRAME_BYTES + 1


def test_a_wish_for_a_verification_that_is_repeated_while_it_runs_is_met_by_it(replica: Replica) -> None:
    begun = 0
    verify = replica.cask.verify

    def counted() -> Any:
        nonlocal begun
        begun += 1
        return verify()

    def wish() -> None:
        if not replica.upkeep.verified_lately:
            replica.upkeep.verify_wanted = True

    write(replica, 2 * (64 << 10) // FRAME_BYTES)
    keep_up(replica)
    replica.cask.verify = counted  # type: ignore[method-assign]
    replica.upkeep._worker.meanwhile = wish  # type: ignore[attr-defined]
    wish()
    for _ in range(3):
        keep_up(replica)
    assert begun == 1
    assert replica.upkeep.verified_lately


def test_a_verification_that_finds_damage_has_met_the_wish_but_verified_nothing(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify() -> Any:
        yield None
        raise Damaged(replica.path, 0, "bad")

    found: list[Damaged] = []
    monkeypatch.setattr(replica.cask, "verify", verify)
    monkeypatch.setattr(replica.upkeep, "_damaged", found.append)
    replica.upkeep.verify_wanted = True
    keep_up(replica)
    assert found
    assert not replica.upkeep.verify_wanted
    assert not replica.upkeep.verified_lately
