"""What background work reads, writes and removes, and how much of it in one slice."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest

from respkv.storage import Bitcask, Damaged, check, encode_puts, maintenance, merge, slices
from respkv.storage.columns import LARGE_BYTES
from tests.unit.test_storage_bitcask import QuickDisk, contents


@pytest.fixture(params=["by reading", "by the keydir"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How merges find what is in use, where they may choose."""
    monkeypatch.setattr(merge, "_KEYS_PER_RECORD", 1 << 60 if request.param == "by the keydir" else -1)


class Observed(QuickDisk):
    """Notes what is made and removed, and how much is read."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.removed: list[str] = []
        self.reads = self.read_bytes = 0

    def create(self, path: Path, size: int = 0) -> int:
        self.made.append(path.name)
        return super().create(path, size)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.removed.append(path.name)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.reads += 1
        self.read_bytes += size
        return super().read(fd, size, offset)


def fill(cask: Bitcask, keys: int, count: int) -> None:
    """Puts of 1,000 bytes to `keys` keys by turns."""
    for number in range(count):
        cask.put(b"key:%d" % (number % keys), b"%d" % number * 200)


def test_a_file_that_is_mostly_dead_is_merged_without_being_read_and_without_a_hint(tmp_path: Path) -> None:
    disk = Observed()
    with Bitcask(tmp_path, segment_bytes=4 << 20, disk=disk) as cask:
        fill(cask, keys=20, count=8000)
        before = contents(cask)
        assert len(cask.files) > 1
        file_bytes, disk.read_bytes = cask.file_bytes, 0
        for task in cask.maintain():
            if task is not None:
                task()
        assert cask.file_bytes < file_bytes - 3 * (1 << 20)
        assert disk.read_bytes < file_bytes / 4
        assert contents(cask) == before
    assert "000001.0.hint.tmp" not in disk.made
    with Bitcask(tmp_path, segment_bytes=4 << 20) as cask:
        assert contents(cask) == before


def test_a_file_that_is_in_use_gets_its_hint(tmp_path: Path) -> None:
    disk = Observed()
    with Bitcask(tmp_path, segment_bytes=4 << 20, disk=disk) as cask:
        fill(cask, keys=8000, count=8000)
        for task in cask.maintain():
            if task is not None:
                task()
        assert [file.hinted for file in cask.files[:-1]] == [True] * (len(cask.files) - 1)
    assert disk.made.count("000001.0.hint.tmp") == 1


def test_merged_files_are_removed_off_the_loop(tmp_path: Path) -> None:
    disk = Observed()
    with Bitcask(tmp_path, segment_bytes=1 << 20, disk=disk) as cask:
        fill(cask, keys=20, count=5000)
        for task in cask.maintain():
            gone = len(disk.removed)
            if task is not None:
                task()
                assert len([name for name in disk.removed[gone:] if name.endswith(".data")]) <= 1
                del disk.removed[gone:]
        assert disk.removed == []
        assert not (tmp_path / "000001.0.data").exists()
        assert not (tmp_path / "000002.0.data").exists()


@pytest.mark.parametrize("every", [4, 100])
def test_a_slice_of_a_merge_reads_little_however_far_apart_lies_what_is_in_use(tmp_path: Path, every: int) -> None:
    disk = Observed()
    with Bitcask(tmp_path, segment_bytes=8 << 20, disk=disk) as cask:
        for number in range(9000):
            cask.put(b"cold:%d" % number if number % every == 0 else b"hot", bytes(1000))
        before, most, read_bytes = cask.file_bytes, 0, disk.read_bytes
        for task in cask.maintain():
            if task is not None:
                task()
            most, read_bytes = max(most, disk.read_bytes - read_bytes), disk.read_bytes
        assert cask.file_bytes < before * 2 / 3
        assert most <= 3 * slices.SLICE_BYTES
        assert len(cask) == 1 + 9000 // every


def test_a_slice_of_a_tally_looks_at_few_headers(tmp_path: Path) -> None:
    disk = Observed()
    with Bitcask(tmp_path, segment_bytes=4 << 20, disk=disk) as cask:
        for number in range(3000):
            cask.put(b"%d" % number, bytes(5000))
        tally = cask._maintenance._tally()
        for file in cask.files[:-1]:
            file.sealed = True
        reads = [disk.reads]
        for _ in tally:
            reads.append(disk.reads)
        assert reads[-1] - reads[0] == 3000
        assert max(after - before for before, after in pairwise(reads)) <= maintenance.SLICE_HEADERS
        assert [file.live_bytes for file in cask.files[:-1]] == [file.put_bytes for file in cask.files[:-1]]


def test_a_slice_of_small_records_holds_few_of_them(tmp_path: Path) -> None:
    with Bitcask(tmp_path, segment_bytes=1 << 20) as cask:
        keys = [b"%d" % number for number in range(20_000)]
        for start in range(0, 60_000, 10_000):
            some = keys[start % 20_000 :][:10_000]
            sizes, records = encode_puts(some, [b"1"] * len(some))
            cask.append_puts(start + 1, 1, 0, list(map(cask.bucket_of, some)), some, sizes, records)
        for task in cask._maintenance._seal(cask.files[0]):
            task()
        counts = [sum(len(records.keys) for records in part) for part in slices.slices(cask.files[0])]
        assert sum(counts) >= 30_000
        assert max(counts) < 2000


class Full(QuickDisk):
    """While `full`, calls on files of which the names end with `suffix` fail with `code`: to make one, or once more
    than `room` bytes of one are written."""

    def __init__(self, suffix: str, room: int = 0, code: int = errno.ENOSPC) -> None:
        self._suffix = suffix
        self._room = room
        self._code = code
        self.full = True
        self.refusals = 0

    def _refuse(self, path: Path) -> None:
        if self.full and path.name.endswith(self._suffix):
            self.refusals += 1
            raise OSError(self._code, os.strerror(self._code))

    def create(self, path: Path, size_bytes: int = 0) -> int:
        if not self._room:
            self._refuse(path)
        return super().create(path, size_bytes)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if offset + len(data) > self._room:
            self._refuse(Path(f"/proc/self/fd/{fd}").readlink())
        super().write(fd, data, offset)


def keep_up(cask: Bitcask) -> None:
    for task in cask.maintain():
        if task is not None:
            task()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("suffix", "room"),
    [(".1.data.tmp", 0), (".1.data.tmp", 50), (".1.data.tmp", 3000), (".1.hint.tmp", 0), (".1.hint.tmp", 50)],
)
@pytest.mark.usefixtures("way")
def test_a_merge_that_finds_no_room_is_undone_and_tried_anew_much_later(
    tmp_path: Path, suffix: str, room: int, code: int, large: bool
) -> None:
    disk = Full(suffix, room, code)
    with Bitcask(tmp_path, segment_bytes=4 << 20, disk=disk) as cask:
        for number in range(4):
            cask.put(b"kept:%d" % number, b"1" * (LARGE_BYTES if large and not number else 1000))
        fill(cask, keys=20, count=12_000)
        before = contents(cask)
        keep_up(cask)
        assert disk.refusals == 1
        assert contents(cask) == before
        assert not list(tmp_path.glob("*.tmp"))
        assert all(file.hinted for file in cask.files[:-1])  # other work goes on
        for _ in range(maintenance.NO_ROOM_RUNS - 1):
            keep_up(cask)
        assert disk.refusals == 1
        keep_up(cask)
        assert disk.refusals == 2
        disk.full = False
        file_bytes = cask.file_bytes
        for _ in range(maintenance.NO_ROOM_RUNS):
            keep_up(cask)
        assert cask.file_bytes < file_bytes / 2
        assert contents(cask) == before


def test_a_hint_that_finds_no_room_is_tried_anew_much_later(tmp_path: Path) -> None:
    disk = Full(".hint.tmp")
    with Bitcask(tmp_path, segment_bytes=1 << 20, disk=disk) as cask:
        fill(cask, keys=5000, count=5000)
        for _ in range(maintenance.NO_ROOM_RUNS):
            keep_up(cask)
        assert disk.refusals == 1
        disk.full = False
        keep_up(cask)
        assert all(file.hinted for file in cask.files[:-1])


def test_who_asks_for_a_merge_does_not_wait_for_room(tmp_path: Path) -> None:
    disk = Full(".1.data.tmp")
    with Bitcask(tmp_path, segment_bytes=1 << 20, disk=disk) as cask:
        fill(cask, keys=20, count=5000)
        cask.merge()
        assert len(cask.files) > 3
        disk.full = False
        cask.merge()
        assert len(cask.files) == 2


@pytest.mark.parametrize("suffix", [".1.data.tmp", ".1.hint.tmp"])
def test_another_error_of_the_disk_is_told(tmp_path: Path, suffix: str) -> None:
    with Bitcask(tmp_path, segment_bytes=1 << 20, disk=Full(suffix, code=errno.EIO)) as cask:
        fill(cask, keys=20, count=5000)
        with pytest.raises(OSError, match="Input/output error"):
            cask.merge()


@pytest.mark.parametrize("suffix", [".data", ".data.tmp", ".hint.tmp"])
def test_a_sync_that_fails_is_told_even_if_there_is_no_room(tmp_path: Path, suffix: str) -> None:
    class Unsynced(QuickDisk):
        def sync(self, fd: int) -> None:
            if Path(f"/proc/self/fd/{fd}").readlink().name.endswith(suffix):
                raise OSError(errno.ENOSPC, "no space")

    cask = Bitcask(tmp_path, segment_bytes=1 << 20, disk=QuickDisk())
    fill(cask, keys=20, count=5000)
    cask.disk = Unsynced()
    with pytest.raises(OSError, match="no space"):
        cask.merge()
    cask.failed = True
    cask.close()


def test_a_seal_behind_which_the_file_was_not_cut_is_no_damage(tmp_path: Path) -> None:
    cask = Bitcask(tmp_path, segment_bytes=4096)
    for number in range(100):
        cask.put(b"%d" % number, bytes(50))
    before = contents(cask)
    cask.flush()
    seal = cask._maintenance._seal(cask.files[0])
    sync = next(seal)
    assert sync is not None
    sync()
    next(seal)  # it is written
    cask.close()
    assert [(one.kind, one.file.name) for one in check(tmp_path)] == [("torn", "000001.0.data")]
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        assert contents(cask) == before
    (tmp_path / "000001.0.data").write_bytes((tmp_path / "000001.0.data").read_bytes()[:2000])
    assert "damage" in [one.kind for one in check(tmp_path)]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.usefixtures("way")
def test_a_damaged_record_in_use_ends_a_merge_and_changes_nothing(tmp_path: Path, large: bool) -> None:
    with Bitcask(tmp_path, segment_bytes=4 << 20) as cask:
        cask.put(b"kept", b"1" * (2 << 20 if large else 100))
        fill(cask, keys=20, count=6000)
        path = tmp_path / "000001.0.data"
        with path.open("r+b") as file:
            file.seek(200)
            file.write(b"x")
        before = {key: cask.get(key) for key in cask if key != b"kept"}
        with pytest.raises(Damaged, match=r"000001\.0\.data.* not intact"):
            cask.merge()
        assert {key: cask.get(key) for key in cask if key != b"kept"} == before
        assert path.exists()
        assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("what", ["a record", "a header", "a large record"])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.usefixtures("way")
def test_a_damaged_file_is_left_alone_and_all_others_are_kept_up(tmp_path: Path, what: str, merged: bool) -> None:
    """`merged`: it is chosen for a merge, else it is to get a hint."""
    with Bitcask(tmp_path, segment_bytes=1 << 20, disk=QuickDisk()) as cask:
        size = 300_000 if what == "a large record" else 5000
        cask.put(b"kept", b"1" * size)
        if not merged:
            fill(cask, keys=100, count=600)
            cask.put(b"more", b"1" * 500_000)
        fill(cask, keys=20, count=3000)
        path = cask.files[0].path
        with path.open("r+b") as file:
            if what == "a header":
                file.truncate(112)
            else:
                file.seek(1000)
                file.write(b"x")
        with pytest.raises(Damaged, match=r"000001\.0\.data"):
            keep_up(cask)
        for start in range(3):
            keep_up(cask)
            assert [file.path for file in cask.files if file.sealed and not file.hinted] == [path]
            assert len(cask.files) <= 4
            for number in range(3000):
                cask.put(b"%d:%d" % (start % 2, number % 20), bytes(1000))
        assert path.exists()


def test_what_is_counted_while_writing_is_what_the_files_hold(tmp_path: Path) -> None:
    def counts(cask: Bitcask) -> list[tuple[int, int, int]]:
        return [(file.rows, file.put_bytes, file.tombstone_bytes) for file in cask.files]

    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        keys = [b"a", b"b", b"a"]
        sizes, records = encode_puts(keys, [b"1", b"22", b"333"])
        cask.append_puts(1, 1, 0, list(map(cask.bucket_of, keys)), keys, sizes, records)
        for number in range(100):
            cask.put(b"%d" % number, b"x" * 50, expire_ms=number % 2)
            if number % 10 == 0:
                cask.delete(b"%d" % number)
        written = counts(cask)
    assert len(written) > 2
    assert sum(tombstone_bytes for _, _, tombstone_bytes in written) > 0
    with Bitcask(tmp_path, segment_bytes=4096, merge_dead_ratio=1) as cask:
        assert counts(cask) == written
        cask.merge()  # nothing is worth it
        assert all(file.hinted for file in cask.files[:-1])
        assert counts(cask) == written
        batch = cask.batch()
        batch.put(b"a", b"1")
        batch.clear()
        batch.put(b"b", b"2")
        cask.commit(batch, cask.applied + 1, 1, 0)
        cleared = counts(cask)
        assert sum(tombstone_bytes for _, _, tombstone_bytes in cleared[len(written) - 1 :]) > 0
    with Bitcask(tmp_path, segment_bytes=4096) as cask:
        assert counts(cask) == cleared
