"""Bitcask as a dictionary: what is put can be read, at every state of its files."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import tracemalloc
import weakref
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from respkv.disk import Disk
from respkv.storage import Bitcask, Damaged, Failed, Locked, Record, check, encode_puts, merge
from respkv.storage.frame import SEAL_MAGIC
from respkv.storage.keydir import locate, locate_all


class QuickDisk(Disk):
    """Does not wait for the disk."""

    def sync(self, fd: int) -> None: ...

    def sync_dir(self, path: Path) -> None: ...


@pytest.fixture(params=["by reading", "by the keydir"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How merges find what is in use, where they may choose."""
    monkeypatch.setattr(merge, "_KEYS_PER_RECORD", 1 << 60 if request.param == "by the keydir" else -1)


def contents(cask: Bitcask) -> dict[bytes, Record | None]:
    return {key: cask.get(key) for key in cask}


def test_what_is_put_is_read_back_and_what_is_deleted_is_gone(tmp_path: Path) -> None:
    with Bitcask(tmp_path) as cask:
        assert (len(cask), cask.get(b"k"), cask.applied) == (0, None, 0)
        cask.put(b"k", b"v")
        cask.put(b"", b"", expire_ms=5)
        assert cask.get(b"k") == Record(1, 0, b"v")
        assert cask.get(b"") == Record(1, 5, b"")
        assert cask.expires == {b"": 5}
        assert b"k" in cask
        assert len(cask) == 2
        assert cask.delete(b"k")
        assert not cask.delete(b"k")
        assert (cask.get(b"k"), len(cask), cask.applied) == (None, 1, 3)
        cask.put(b"", b"x")
        assert cask.expires == {}


def test_get_plain_answers_plain_strings_alone(tmp_path: Path) -> None:
    with Bitcask(tmp_path, buckets=4) as cask:
        batch = cask.batch()
        batch.put(b"plain", b"value")
        batch.put(b"empty", b"")
        batch.put(b"soon", b"value", expire_ms=9)
        batch.put(b"list", b"value", type=2)
        batch.put(b"large", b"x" * 5000)
        cask.commit(batch, 1, 1, 1)
        answers = {key: cask.get_plain(cask.bucket_of(key), key) for key in [*cask, b"absent"]}
        assert answers == {
            b"plain": b"value", b"empty": b"", b"soon": False, b"list": False, b"large": False, b"absent": None
        }  # fmt: skip
        assert cask.get(b"large") == Record(1, 0, b"x" * 5000)
        assert cask.get(b"list") == Record(2, 0, b"value")


@pytest.mark.parametrize("value_bytes", [1, 4095 - 23, 4095 - 22, 4095 - 21, 4096, 100_000])
def test_append_puts_is_a_commit_of_plain_puts(tmp_path: Path, value_bytes: int) -> None:
    with Bitcask(tmp_path, buckets=8, bucket_of=lambda key: len(key) % 8, segment_bytes=32768) as cask:
        cask.put(b"bb", b"old", expire_ms=77)
        keys = [b"a", b"bb", b"ccc", b"a"]
        sizes, records = encode_puts(keys, [b"1", b"2" * value_bytes, b"3", b"4"])
        cask.append_puts(5, 2, 3, [1, 2, 3, 1], keys, sizes, records)
        expected = {b"a": b"4", b"bb": b"2" * value_bytes, b"ccc": b"3"}
        assert contents(cask) == {key: Record(1, 0, value) for key, value in expected.items()}
        assert (cask.applied, cask.applied_term, cask.clock_ms, cask.expires) == (5, 2, 3, {})
        with pytest.raises(ValueError, match="belong together"):
            cask.append_puts(6, 2, 3, [1], keys, sizes, records)
        before = contents(cask)
    with Bitcask(tmp_path) as cask:
        assert contents(cask) == before
        assert (cask.applied, cask.applied_term, cask.clock_ms) == (5, 2, 3)


def test_an_expiry_before_the_epoch_is_refused(tmp_path: Path) -> None:
    with Bitcask(tmp_path) as cask:
        with pytest.raises(ValueError, match="epoch"):
            cask.put(b"k", b"v", expire_ms=-1)
        assert cask.applied == 0


def test_a_closed_store_says_so_and_does_not_take_it_for_damage(tmp_path: Path) -> None:
    told: list[Damaged] = []
    cask = Bitcask(tmp_path, cache_bytes=0)
    cask.on_damage = told.append
    cask.put(b"k", b"v")
    cask.close()
    bucket = cask.bucket_of(b"k")
    for use in (lambda: cask.get(b"k"), lambda: cask.get_plain(bucket, b"k"), lambda: cask.put(b"k", b"")):
        with pytest.raises(Failed, match="is closed"):
            use()
    assert told == []


@pytest.mark.parametrize(
    "sizes", [[], [30], [30] * 5, [30, 31, 30], [4094] * 3, [4095] * 3, [5000] * 3, [30, 4095, 5000, 31]], ids=str
)
def test_locations_of_records_in_a_row(sizes: list[int]) -> None:
    expected, offset = [], 60
    for size in sizes:
        expected.append(locate(7, offset, size))
        offset += size
    assert list(locate_all(7, 60, sizes)) == expected


def test_a_batch_reads_its_own_changes_and_the_store_changes_at_commit(tmp_path: Path) -> None:
    with Bitcask(tmp_path) as cask:
        cask.put(b"old", b"1", expire_ms=4)
        cask.put(b"kept", b"2")
        batch = cask.batch()
        assert (len(batch), batch.key_count(), batch.expire_of(b"old")) == (0, 2, 4)
        batch.put(b"new", b"3", expire_ms=8)
        keys = [b"p", b"old"]
        batch.put_encoded([cask.bucket_of(key) for key in keys], keys, *encode_puts(keys, [b"4", b"5"]))
        assert batch.delete(b"kept")
        assert not batch.delete(b"kept")
        assert not batch.delete(b"absent")
        assert [batch.get(key) for key in (b"new", b"p", b"old", b"kept", b"x")] == [
            Record(1, 8, b"3"), Record(1, 0, b"4"), Record(1, 0, b"5"), None, None
        ]  # fmt: skip
        assert (batch.expire_of(b"new"), batch.expire_of(b"old")) == (8, 0)
        assert (batch.has(b"kept"), batch.has(b"p")) == (False, True)
        assert sorted(batch) == [b"new", b"old", b"p"]
        assert batch.key_count() == 3
        assert list(batch.keys_in(cask.bucket_of(b"p"))) == [b"p"]
        assert cask.get(b"old") == Record(1, 4, b"1")
        cask.commit(batch, 9, 1, 1)
        assert sorted(cask) == [b"new", b"old", b"p"]
        assert cask.expires == {b"new": 8}


def test_a_clear_drops_all_before_it_and_nothing_after(tmp_path: Path) -> None:
    with Bitcask(tmp_path) as cask:
        cask.put(b"a", b"1", expire_ms=4)
        batch = cask.batch()
        batch.put(b"b", b"2")
        batch.clear()
        assert (batch.get(b"a"), batch.has(b"b"), batch.key_count(), len(batch)) == (None, False, 0, 1)
        batch.put(b"c", b"3", expire_ms=6)
        assert not batch.delete(b"a")
        cask.commit(batch, 2, 1, 1)
        assert contents(cask) == {b"c": Record(1, 6, b"3")}
        assert cask.expires == {b"c": 6}
    with Bitcask(tmp_path) as cask:
        assert contents(cask) == {b"c": Record(1, 6, b"3")}
        assert cask.expires == {b"c": 6}


def test_a_clear_frees_what_was_cleared_and_its_files(tmp_path: Path) -> None:
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        for number in range(300):
            cask.put(b"%d" % number, b"x" * 50)
        cask.merge()
        assert cask.file_bytes > 10_000
        batch = cask.batch()
        batch.clear()
        cask.commit(batch, cask.applied + 1, 0, 0)
        cask.merge()
        assert cask.file_bytes < 4096 + 2 * 4096
        assert len(cask) == 0
        for number in range(100):
            cask.put(b"%d" % number, b"y" * 50)
        cask.merge()
        before = contents(cask)
        assert len(before) == 100
    with Bitcask(tmp_path) as cask:
        assert contents(cask) == before


@pytest.mark.parametrize("index", [0, 3, 2])
def test_an_index_that_is_not_above_the_last_is_refused(tmp_path: Path, index: int) -> None:
    with Bitcask(tmp_path) as cask:
        cask.commit(cask.batch(), 3, 1, 1)
        with pytest.raises(ValueError, match="not above"):
            cask.commit(cask.batch(), index, 1, 1)
        cask.commit(cask.batch(), 4, 1, 1)


@pytest.mark.usefixtures("way")
def test_records_larger_than_a_segment_are_stored_merged_and_kept(tmp_path: Path) -> None:
    value = os.urandom(3 << 20)
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        cask.put(b"big", value)
        cask.put(b"gone", value[::-1])
        cask.put(b"small", b"1")
        cask.delete(b"gone")
        cask.put(b"big2", value[1:], expire_ms=9)
        cask.put(b"last", b"")
        cask.merge()
        assert cask.file_bytes < len(value) * 2 + 4096
        assert cask.get(b"big") == Record(1, 0, value)
        before = contents(cask)
    assert check(tmp_path) == []
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        assert contents(cask) == before


@pytest.mark.usefixtures("way")
def test_merging_keeps_the_content_and_gives_back_the_space(tmp_path: Path) -> None:
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        for number in range(2000):
            cask.put(b"key:%d" % (number % 40), b"%d" % number, expire_ms=number if number % 3 == 0 else 0)
            if number % 7 == 0:
                cask.delete(b"key:%d" % (number % 11))
        before, expires, index = contents(cask), dict(cask.expires), cask.applied
        cask.merge()
        assert (contents(cask), cask.expires, cask.applied) == (before, expires, index)
        assert cask.file_bytes < 3 * 4096
        assert list(cask.maintain()) == []
    assert check(tmp_path) == []
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        assert (contents(cask), cask.expires, cask.applied) == (before, expires, index)


def test_tombstones_go_once_nothing_older_can_need_them(tmp_path: Path) -> None:
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        for number in range(60):
            cask.put(b"cold:%d" % number, b"x" * 80)  # files that stay alive, in front
        for number in range(2000):
            cask.put(b"job", b"%d" % number)
            cask.delete(b"job")
        cask.merge()
        assert cask.file_bytes < 6 * 4096
        assert len(cask) == 60


def test_iteration_goes_on_through_writes_and_merges(tmp_path: Path) -> None:
    with Bitcask(tmp_path, buckets=16, segment_bytes=4096) as cask:
        keys = {b"key:%d" % number for number in range(300)}
        for turn in range(3):
            for key in keys:
                cask.put(key, b"%d" % turn)
        work = cask.maintain()
        seen = []
        for key in cask:
            seen.append(key)
            task = next(work, None)
            if task is not None:
                task()
            if key in keys:
                cask.put(b"other:" + key, b"1")
                assert cask.get(key) == Record(1, 0, b"2")
        assert keys <= set(seen)
        assert sorted(key for bucket in range(16) for key in cask.keys_in(bucket)) == sorted(cask)


def test_maintenance_that_was_dropped_goes_on_where_it_was(tmp_path: Path) -> None:
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        for number in range(1000):
            cask.put(b"%d" % (number % 100), b"%d" % number)
        before = contents(cask)
        steps = 0
        while (task := next(iter(cask.maintain()), "done")) != "done":
            steps += 1
            if callable(task) and steps % 2:  # every other time the task is dropped with the iterator
                task()
        assert steps > 20
        assert contents(cask) == before
        assert all(file.hinted for file in cask.files[:-1])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("clears", [False, True])
def test_writes_between_any_two_slices_of_maintenance_are_kept(tmp_path: Path, clears: bool) -> None:
    steps = 0
    finished = False
    while not finished:
        steps += 1
        with Bitcask(tmp_path / str(steps), segment_bytes=1024, disk=QuickDisk()) as cask:
            for number in range(60):
                cask.put(b"%d" % (number % 4 or number), b"%d" % number * 20)
            work = cask.maintain()
            for _ in range(steps):
                task = next(work, "finished")
                if callable(task):
                    task()
            finished = task == "finished"
            cask.put(b"new", b"1" * 900)
            cask.put(b"3", b"x" * 900)  # begins a new file
            cask.delete(b"4")
            batch = cask.batch()
            if clears:
                batch.clear()
            batch.put(b"5", b"", expire_ms=7)
            cask.commit(batch, cask.applied + 1, 0, 0)
            before = contents(cask)
            cask.merge()
            assert contents(cask) == before
        with Bitcask(tmp_path / str(steps), disk=QuickDisk()) as cask:
            assert contents(cask) == before
    assert steps > 25


def test_a_directory_is_open_once_at_a_time(tmp_path: Path) -> None:
    cask = Bitcask(tmp_path)
    with pytest.raises(Locked):
        Bitcask(tmp_path)
    with pytest.raises(Locked):
        check(tmp_path)
    with pytest.raises(Locked):
        Bitcask.install(tmp_path, _incoming(tmp_path.with_name("incoming"), cask))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_is_locked, (tmp_path,))
    cask.close()
    cask.close()
    Bitcask(tmp_path).close()


def _is_locked(path: Path) -> bool:
    try:
        Bitcask(path).close()
    except Locked:
        return True
    return False


def _incoming(path: Path, cask: Bitcask) -> Path:
    path.mkdir()
    with cask.snapshot() as snapshot:
        for file in snapshot.files:
            (path / file.name).write_bytes(os.pread(file.fd, file.length, 0))
    return path


def test_a_snapshot_stays_what_it_was_and_replaces_another_directory(tmp_path: Path) -> None:
    with Bitcask(tmp_path / "from", segment_bytes=4096) as cask:
        for number in range(500):
            cask.put(b"%d" % (number % 50), b"%d" % number, expire_ms=number % 2)
        cask.merge()
        cask.put(b"late", b"1")
        before, expires, index = contents(cask), dict(cask.expires), cask.applied
        with cask.snapshot() as snapshot:
            for number in range(500):
                cask.put(b"%d" % (number % 50), b"new")
            cask.merge()
            (tmp_path / "incoming").mkdir()
            for file in snapshot.files:
                (tmp_path / "incoming" / file.name).write_bytes(os.pread(file.fd, file.length, 0))
            assert (snapshot.index, snapshot.term) == (index, 0)
    with Bitcask(tmp_path / "to", segment_bytes=4096) as cask:
        for number in range(300):
            cask.put(b"old%d" % number, b"x")
        cask.merge()
    Bitcask.install(tmp_path / "to", tmp_path / "incoming")
    assert not (tmp_path / "incoming").exists()
    assert check(tmp_path / "to") == []
    with Bitcask(tmp_path / "to", segment_bytes=4096) as cask:
        assert (contents(cask), cask.expires, cask.applied) == (before, expires, index)
        cask.put(b"more", b"2")


def test_install_refuses_what_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    with pytest.raises(ValueError, match="does not hold"):
        Bitcask.install(tmp_path / "to", tmp_path / "incoming")
    (tmp_path / "incoming" / "000002.0.data").write_bytes(b"")
    with pytest.raises(Damaged, match="missing"):
        Bitcask.install(tmp_path / "to", tmp_path / "incoming")
    (tmp_path / "incoming" / "notes").write_bytes(b"")
    with pytest.raises(ValueError, match="notes"):
        Bitcask.install(tmp_path / "to", tmp_path / "incoming")


class FullDisk(Disk):
    """Has no space once `full` is set; may take the first bytes of what it is given."""

    def __init__(self) -> None:
        self.full = False
        self.sync_fails = False

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if self.full:
            super().write(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "no space")
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, "sync")
        super().sync(fd)


@pytest.mark.parametrize("value_bytes", [10, 4000, 3 << 20])
def test_a_failed_write_changes_nothing_and_stops_writing_until_reopened(tmp_path: Path, value_bytes: int) -> None:
    disk = FullDisk()
    cask = Bitcask(tmp_path, disk=disk, segment_bytes=8192)
    cask.put(b"a", b"1")
    disk.full = True
    with pytest.raises(OSError, match="no space"):
        cask.put(b"a", b"2" * value_bytes)
    assert (cask.get(b"a"), cask.applied, cask.failed) == (Record(1, 0, b"1"), 1, True)
    disk.full = False
    with pytest.raises(Failed):
        cask.put(b"a", b"3")
    with pytest.raises(Failed):
        cask.flush()
    assert list(cask.maintain()) == []
    cask.close()
    with Bitcask(tmp_path) as cask:
        assert (cask.get(b"a"), cask.applied) == (Record(1, 0, b"1"), 1)
        cask.put(b"a", b"4")


def test_a_full_disk_ends_a_merge_but_neither_reads_nor_writes(tmp_path: Path) -> None:
    disk = FullDisk()
    with Bitcask(tmp_path, disk=disk, segment_bytes=4096) as cask:
        for number in range(500):
            cask.put(b"%d" % (number % 50), b"%d" % number)
        before = contents(cask)
        disk.full = True
        with pytest.raises(OSError, match="no space"):
            cask.merge()
        assert contents(cask) == before
        disk.full = False
        cask.put(b"more", b"1")
        cask.merge()
        assert contents(cask) == before | {b"more": Record(1, 0, b"1")}
        assert not list(tmp_path.glob("*.tmp"))


def test_a_failed_sync_fails_the_store(tmp_path: Path) -> None:
    disk = FullDisk()
    cask = Bitcask(tmp_path, disk=disk)
    cask.put(b"a", b"1")
    disk.sync_fails = True
    point = cask.sync_point()
    with pytest.raises(OSError, match="sync"):
        point.run()
    assert (cask.failed, cask.synced) == (True, 0)
    cask.close()


def test_synced_follows_the_sync_points_whatever_their_order(tmp_path: Path) -> None:
    with Bitcask(tmp_path, segment_bytes=1024) as cask:
        cask.put(b"a", b"1" * 900)
        first = cask.sync_point()
        cask.put(b"b", b"2" * 900)
        second = cask.sync_point()
        cask.put(b"c", b"3")
        second.run()
        cask.synced_to(second)
        assert cask.synced == 2
        first.run()
        cask.synced_to(first)
        assert cask.synced == 2
        cask.flush()
        assert cask.synced == 3


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with Bitcask(tmp_path, segment_bytes=4096) as cask:
            for number in range(500):
                cask.put(b"%d" % (number % 50), b"%d" % number)
            cask.merge()
            cask.snapshot().close()
    with pytest.raises(ValueError, match="segment_bytes"):
        Bitcask(tmp_path, segment_bytes=1 << 32)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_is_sealed_only_behind_what_is_on_the_disk(tmp_path: Path) -> None:
    """A seal proves at recovery that everything before it was once on the disk, and pages reach it in any order."""
    dirty: set[int] = set()
    seals = 0

    class Strict(QuickDisk):
        def create(self, path: Path, size_bytes: int = 0) -> int:
            fd = super().create(path, size_bytes)
            dirty.add(fd)
            return fd

        def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            nonlocal seals
            if SEAL_MAGIC in bytes(data) and fd in {file.fd for file in cask.files}:
                seals += 1
                assert fd not in dirty
            dirty.add(fd)
            super().write(fd, data, offset)

        def sync(self, fd: int) -> None:
            dirty.discard(fd)

    with Bitcask(tmp_path, segment_bytes=4096, disk=Strict()) as cask:
        for number in range(20):
            cask.put(b"key", b"%d" % number * 500)
        cask.merge()
    assert seals > 1


@pytest.mark.parametrize("pattern", [b"%d", b"%08d"], ids=["of several sizes", "of one size"])
def test_a_location_takes_the_32_bytes_of_two_digits_and_no_spare_one(tmp_path: Path, pattern: bytes) -> None:
    """A sum of two ints would have room for a third: 36 bytes, and the allocator makes 48 of them."""
    count = 5000
    keys = [pattern % number for number in range(count)]
    tracemalloc.start()
    try:
        with Bitcask(tmp_path) as cask:
            cask.put(b"before", bytes(1 << 18))  # behind it an offset needs both digits
            sizes, records = encode_puts(keys, [b"v"] * count)
            cask.append_puts(2, 1, 1, [cask.bucket_of(key) for key in keys], keys, sizes, records)
            written = _sizes_of_what_is_kept("keydir.py")
        with Bitcask(tmp_path) as cask:
            assert cask.get(keys[-1]) is not None
            loaded = _sizes_of_what_is_kept("keydir.py")
    finally:
        tracemalloc.stop()
    for kept in (written, loaded):
        assert kept[32] >= count - 10
        assert kept[36] < 10


def _sizes_of_what_is_kept(file: str) -> Counter[int]:
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, f"*{file}")])
    return Counter(trace.size for trace in snapshot.traces)


@pytest.mark.parametrize("steps", [0, 1, 20, 1000])
def test_a_closed_log_gives_its_memory_back_without_the_collector(tmp_path: Path, steps: int) -> None:
    cask = Bitcask(tmp_path, segment_bytes=4096, cache_bytes=1 << 20, disk=QuickDisk())
    for number in range(1000):
        cask.put(b"%d" % (number % 100), b"%d" % number)
    work = cask.maintain()
    for task in islice(work, steps):
        if task is not None:
            task()
        del task
    gone = weakref.ref(cask)
    gc.disable()
    try:
        cask.close()
        assert next(work, "ended") == "ended"
        del cask, work
        assert gone() is None
    finally:
        gc.enable()
