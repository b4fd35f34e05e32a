"""One merge: a run of adjacent sealed files becomes one file that stands for all of their ids, of the next generation.

1. What is still needed is copied, in order, to a `.tmp` file: records that the keydir points at; tombstones and clears,
   unless nothing older can be hiding behind them or (a tombstone) the key is there again. The files are read from end
   to end for it; but where the keydir is soon gone over, and no tombstone is needed, what is dead is not looked at.
2. The whole log is synced: what made the other records dead must be on the disk before they go.
3. The copy is synced, gets its hint and its name, and the directory is synced. From here on it counts.
4. The keydir is pointed to the copies, where it still points to the originals.
5. The originals are removed. Where a crash leaves them, their names give them away as leftovers.

Until 3 nothing but the `.tmp` files has changed, so a merge can be given up at any time. Open descriptors
(of snapshots) keep removed files readable.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from respkv.checksum import crc32
from respkv.contents import AHEAD_BYTES, Contents
from respkv.storage import record
from respkv.storage.columns import LARGE_BYTES, SIZE_MASK, Records, Row, row_at
from respkv.storage.datafile import DATA_SUFFIX, HINT_SUFFIX, TEMPORARY_SUFFIX, DataFile, Name
from respkv.storage.errors import Damaged
from respkv.storage.frame import FRAME_HEAD_BYTES, SEAL_MAGIC, FileHead, encode_head
from respkv.storage.hint import Hint
from respkv.storage.keydir import NUMBER_SHIFT, locate, offset_of
from respkv.storage.live import Pieces, find
from respkv.storage.slices import SLICE_BYTES, SLICE_RECORDS, Steps, Task, slices, verify_large

if TYPE_CHECKING:
    from respkv.storage.bitcask import Bitcask

log = structlog.get_logger(__name__)

_KEYS_PER_RECORD = 8
"""So many keys of the keydir are gone over in the time that one record takes to be read, looked up and left out."""

_DENSE = 8
"""Where a smaller part of a stretch is in use each record is read by itself."""


class Merge:
    """The merge of `run`. `hides` says whether older files may hold records that its tombstones are to hide."""

    def __init__(self, cask: Bitcask, run: list[DataFile], hides: bool) -> None:
        self._cask = cask
        self._disk = cask.disk
        self._run = run
        self._hides = hides
        first, last = run[0], run[-1]
        self._name = Name(first.name.first_id, last.name.last_id, max(file.name.generation for file in run) + 1)
        self._head = FileHead(
            first.head.salt, self._name.first_id, self._name.last_id, first.head.base_index, self._name.generation
        )
        self._path = cask.path / f"{self._name}{DATA_SUFFIX}"
        self._data_tmp = cask.path / f"{self._name}{DATA_SUFFIX}{TEMPORARY_SUFFIX}"
        self._hint_tmp = cask.path / f"{self._name}{HINT_SUFFIX}{TEMPORARY_SUFFIX}"
        self._fd = -1
        self._length = 0
        self._hint = Hint()
        self._originals = array("Q")  # for each row of the hint, the location its record was copied from; 0: tombstone

    def steps(self) -> Steps:
        try:
            yield from self._copy()
            yield from self._sync()
            merged = self._publish()
        except GeneratorExit:  # the store is closed or gone, its files no longer ours: the next opening removes them
            self._close()
            raise
        except BaseException:
            self._give_up()
            raise
        yield Task(self._sync_directory)
        yield from self._relocate(merged.number)
        self._retire_originals()
        for file in self._run:  # one at a time: to free what the system holds of a file takes a while
            yield Task(partial(self._remove, file))
        before = sum(file.length for file in self._run)
        log.info("merged", file=str(merged.path), files=len(self._run), bytes_before=before, bytes_after=merged.length)

    def _copy(self) -> Steps:
        for path in (self._data_tmp, self._hint_tmp):
            with suppress(FileNotFoundError):
                self._disk.unlink(path)
        self._fd = self._disk.create(self._data_tmp)
        self._write(self._head.encode())
        yield from self._copy_in_use() if self._spares_reading() else self._copy_by_reading()
        self._write(self._frame_head(0, SEAL_MAGIC))
        last = self._run[-1]
        self._hint.finish(self._length, last.index, last.term, last.clock_ms)

    def _spares_reading(self) -> bool:
        """Whether what is in use is found faster by way of the keydir, and is all that is needed."""
        if self._hides and any(file.tombstone_bytes for file in self._run):
            return False
        dead = sum(file.rows * (1 - file.live_bytes / max(1, file.put_bytes)) for file in self._run)
        return sum(map(len, self._cask.buckets)) <= _KEYS_PER_RECORD * dead

    def _copy_in_use(self) -> Steps:
        used = [file for file in self._run if file.live_bytes]  # a tally is never too low: there is nothing in others
        if used:
            found = yield from find(self._cask.buckets, used)
            for file in used:
                yield from self._copy_found(file, found[file.number])

    def _copy_found(self, file: DataFile, found: Pieces) -> Steps:
        contents = file.contents(ahead_bytes=0)
        near: list[tuple[int, int]] = []
        for location in found.in_order():
            offset, size = offset_of(location), location & SIZE_MASK
            if size == SIZE_MASK:
                size = record.size_at(contents, offset)
            if size >= LARGE_BYTES:
                yield from verify_large(file, contents, offset, offset + size)
                yield self._copying(file, contents, row_at(contents, offset, offset, size))
                continue
            if near and (len(near) >= SLICE_RECORDS or offset + size - near[0][0] > SLICE_BYTES):
                self._copy_near(file, contents, near)
                near = []
                yield None
            near.append((offset, size))
        if near:
            self._copy_near(file, contents, near)
            yield None

    def _copy_near(self, file: DataFile, contents: Contents, places: list[tuple[int, int]]) -> None:
        """Copies the records at these (offset, size), in order and not far apart. Raises `Damaged`."""
        start, end = places[0][0], sum(places[-1])
        if sum(size for _, size in places) * _DENSE >= end - start:
            span = contents[start:end]
            records = [span[offset - start : offset - start + size] for offset, size in places]
        else:
            records = [contents[offset : offset + size] for offset, size in places]
        for (offset, _), data in zip(places, records, strict=True):
            if crc32(data) != record.CRC_RESIDUE:
                raise Damaged(file.path, offset, "a record is not intact")
        rows = [row_at(data, 0, offset, size) for (offset, size), data in zip(places, records, strict=True)]
        self._copy_rows(file, rows, records)

    def _copy_by_reading(self) -> Steps:
        for file in self._run:
            if not file.live_bytes and not (self._hides and file.tombstone_bytes):
                continue  # a tally is never too low: there is nothing in it
            contents = file.contents()
            for step in slices(file):
                if isinstance(step, Task):
                    yield step
                else:
                    rows = [row for records in step for row in self._needed(file, records)]
                    if rows and rows[0][4] >= LARGE_BYTES:
                        yield self._copying(file, contents, rows[0])
                    elif rows:
                        self._copy_rows(file, rows, [contents[row[3] : row[3] + row[4]] for row in rows])
                    yield None

    def _needed(self, file: DataFile, records: Records) -> list[Row]:
        """Those that must not go."""
        keys, base = records.keys, file.number << NUMBER_SHIFT
        buckets = map(self._cask.buckets.__getitem__, map(self._cask.bucket_of, keys))
        locations = list(map(dict.get, buckets, keys))
        needed = [
            position
            for position, (location, place) in enumerate(zip(locations, records.places(), strict=True))
            if location == base | place
        ]
        hiding = []
        if self._hides:
            for position, (record_type, _) in records.specials.items():
                if record_type == record.CLEAR or (record_type == record.TOMBSTONE and locations[position] is None):
                    hiding.append(position)
        return [records.row(position) for position in sorted(needed + hiding)]

    def _copy_rows(self, file: DataFile, rows: list[Row], records: list[bytes]) -> None:
        body = b"".join(records)
        at = self._length + FRAME_HEAD_BYTES
        self._write(self._frame_head(len(body)) + body)
        for row in rows:
            self._note(file, row, at)
            at += row[4]

    def _copying(self, file: DataFile, contents: Contents, row: Row) -> Task:
        return Task(partial(self._copy_large, file, contents, row), optional=True)

    def _copy_large(self, file: DataFile, contents: Contents, row: Row) -> None:
        offset, size = row[3:]
        self._write(self._frame_head(size))
        self._note(file, row, self._length)
        for at in range(offset, offset + size, AHEAD_BYTES):
            self._write(contents[at : min(at + AHEAD_BYTES, offset + size)])

    def _note(self, file: DataFile, row: Row, at: int) -> None:
        record_type, expire_ms, key, offset, size = row
        self._hint.add(record_type, expire_ms, key, at, size)
        if record_type == record.CLEAR:
            del self._originals[:]
        else:
            self._originals.append(0 if record_type == record.TOMBSTONE else locate(file.number, offset, size))

    def _frame_head(self, body_bytes: int, *magic: bytes) -> bytes:
        """All frames bear the last index: the file is there as a whole or not at all."""
        last = self._run[-1]
        numbers = (body_bytes, last.index, last.term, last.clock_ms, last.index)
        return encode_head(self._head.seed, self._length, *numbers, *magic)

    def _write(self, data: bytes | memoryview) -> None:
        self._disk.write(self._fd, data, self._length)
        self._length += len(data)

    def _sync(self) -> Steps:
        point = self._cask.sync_point()
        yield Task(point.run)
        self._cask.synced_to(point)
        yield Task(lambda: self._disk.sync(self._fd))
        yield from self._hint.write(self._hint_tmp, self._head.seed, self._disk)

    def _publish(self) -> DataFile:
        """Gives the copy its name and its place in the log."""
        cask = self._cask
        merged = DataFile(self._path, self._name, self._head, len(cask.numbered), self._fd, self._length, self._disk)
        self._disk.rename(self._data_tmp, self._path)
        self._fd = -1
        merged.length = merged.synced_length = self._length
        merged.index, merged.term, merged.clock_ms = self._hint.index, self._hint.term, self._hint.clock_ms
        merged.sealed = merged.named = merged.tallied = True
        merged.take_sizes(self._hint)
        merged.live_bytes = merged.put_bytes
        cask.numbered.append(merged)  # takes the number, before anybody else can
        cask.replace_files(self._run, merged)
        with suppress(OSError):  # then the hint is made anew
            self._disk.rename(self._hint_tmp, merged.hint_path)
            merged.hinted = True
        return merged

    def _sync_directory(self) -> None:
        try:
            self._disk.sync_dir(self._cask.path)
        except BaseException:
            self._cask.failed = True
            raise

    def _relocate(self, number: int) -> Steps:
        base = number << NUMBER_SHIFT
        next_byte = 0
        for row in range(0, len(self._hint), SLICE_RECORDS):
            keys, places, next_byte = self._hint.keys_and_places(row, next_byte, SLICE_RECORDS)
            originals = self._originals[row : row + SLICE_RECORDS]
            for key, place, original in zip(keys, places, originals, strict=True):
                if original:
                    self._cask.relocate(key, original, base | place)
            yield None

    def _retire_originals(self) -> None:
        for file in self._run:
            self._cask.numbered[file.number] = None
            file.retire()

    def _remove(self, file: DataFile) -> None:
        for path in (file.hint_path, file.path):
            try:
                self._disk.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:  # a leftover: gone at the next opening
                log.warning("merged_file_not_removed", file=str(path), error=str(error))

    def _give_up(self) -> None:
        """Undoes what has been done, as far as the disk allows."""
        with suppress(OSError):
            self._close()
            for path in (self._data_tmp, self._hint_tmp):
                with suppress(FileNotFoundError):
                    self._disk.unlink(path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)
