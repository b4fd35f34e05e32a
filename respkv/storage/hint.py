"""Hint files: where the keys of one sealed data file lie, so that opening need not read the values.

A hint is made from its data file and can be made again from it at any time. It is believed only when both of its
checksums hold and it names the very data file beside it; otherwise the data file is read.

Columns, not rows, so that loading is a few passes in C. All integers are little endian.

| bytes          | field           | meaning                                                                          |
| -------------- | --------------- | -------------------------------------------------------------------------------- |
| 8              | magic           | `RKVHINT1`                                                                       |
| 4              | head crc        | crc32 of the rest of the head, from here to the first column                     |
| 4              | column crc      | crc32 of all columns                                                             |
| 4              | seed            | that of the data file (its salt, ids and generation)                             |
| 4              | cleared         | 1: the file holds a clear; only records behind the last one are listed           |
| 8              | data_bytes      | length of the data file                                                          |
| 8 each         | index, term, clock_ms | of its last frame                                                          |
| 8              | put_bytes       | size of all its records that have a value                                        |
| 8              | tombstone_bytes | size of its tombstones and clears                                                |
| 8 each         | rows, specials, key_blob_bytes | lengths of the columns                                            |
| 8 x rows       | places          | `offset << 12 | size` as in a location, in the order of the file                 |
| 4 x rows       | key lengths     |                                                                                  |
| 8 x specials   | special rows    | numbers of the rows that are not plain puts, ascending                           |
| 8 x specials   | special expiry  | i64 expire_ms of each; -2^63 for a tombstone                                     |
| key_blob_bytes | keys            | one after the other                                                              |

A key may be listed several times; the last counts. Rows that have been overwritten since are listed all the same: what
overwrote them may not be on the disk yet.
"""

from __future__ import annotations

import sys
from array import array
from itertools import accumulate
from pathlib import Path
from struct import Struct

from respkv.checksum import crc32
from respkv.disk import Disk
from respkv.storage import record
from respkv.storage.columns import OFFSET_SHIFT, SIZE_MASK, Records
from respkv.storage.datafile import DataFile
from respkv.storage.keydir import NUMBER_SHIFT, Keydir, split_keys
from respkv.storage.slices import Steps, Task

_MAGIC = b"RKVHINT1"
_HEAD = Struct("<8sIIII6Q3Q")
_COLUMN_CRC = Struct("<I")
_SUMMED = Struct("<II6Q3Q")
_TOMBSTONE = -(1 << 63)


def _little(column: array[int]) -> array[int]:
    """The column as it is on the disk; its own inverse."""
    if sys.byteorder == "little":
        return column
    column = column[:]
    column.byteswap()
    return column


class Hint:
    """The content of one hint file. Being built, it takes the records of a data file with `add`, in order."""

    __slots__ = (
        "_blob",
        "_expiries",
        "_lengths",
        "_places",
        "_special_rows",
        "cleared",
        "clock_ms",
        "data_bytes",
        "index",
        "put_bytes",
        "term",
        "tombstone_bytes",
    )

    def __init__(self) -> None:
        self.cleared = False
        self.data_bytes = self.index = self.term = self.clock_ms = 0
        self.put_bytes = self.tombstone_bytes = 0
        self._reset()

    def _reset(self) -> None:
        self._places = array("Q")
        self._lengths = array("I")
        self._special_rows = array("Q")
        self._expiries = array("q")
        self._blob = bytearray()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._places)

    def add(self, record_type: int, expire_ms: int, key: bytes, offset: int, size: int) -> None:
        """Takes note of one record, verified by the caller."""
        if record_type == record.CLEAR:
            self._reset()
            self.cleared = True
            self.tombstone_bytes += size
            return
        if record_type == record.TOMBSTONE:
            self.tombstone_bytes += size
            expire_ms = _TOMBSTONE
        else:
            self.put_bytes += size
        if expire_ms:
            self._special_rows.append(len(self._places))
            self._expiries.append(expire_ms)
        self._places.append(offset << OFFSET_SHIFT | min(size, SIZE_MASK))
        self._lengths.append(len(key))
        self._blob += key

    def extend(self, records: Records) -> None:
        """Takes note of many, verified by the caller."""
        if records.specials:
            for row in records.rows():
                self.add(*row)
            return
        self.put_bytes += records.size
        self._places.extend(records.places())
        self._lengths.extend(map(len, records.keys))
        self._blob += b"".join(records.keys)

    def finish(self, data_bytes: int, index: int, term: int, clock_ms: int) -> None:
        """Takes note of the sealed data file's length and last frame."""
        self.data_bytes, self.index, self.term, self.clock_ms = data_bytes, index, term, clock_ms

    def keys_and_places(self, start_row: int, start_byte: int, count: int) -> tuple[list[bytes], array[int], int]:
        """Keys and places of up to `count` rows; the keys start at `start_byte`, and end at the byte returned."""
        lengths = self._lengths[start_row : start_row + count]
        end_byte = start_byte + sum(lengths)
        keys = split_keys(self._blob[start_byte:end_byte], lengths)
        return keys, self._places[start_row : start_row + count], end_byte

    def load_columns(self, columns: memoryview, rows: int, specials: int) -> None:
        """Takes the columns of a file, whose lengths have been checked."""
        ends = list(accumulate((8 * rows, 4 * rows, 8 * specials, 8 * specials)))
        starts = [0, *ends]
        for column, start, end in zip(
            (self._places, self._lengths, self._special_rows, self._expiries), starts, ends, strict=False
        ):
            column.frombytes(columns[start:end])
            if sys.byteorder != "little":
                column.byteswap()
        self._blob = bytearray(columns[ends[-1] :])

    def apply(self, keydir: Keydir, number: int) -> None:
        """Does to the keydir what the records of the data file, under this number, would do."""
        if self.cleared:
            keydir.clear()
        keys = split_keys(self._blob, self._lengths)
        if not self._special_rows:
            keydir.load(number, keys, self._places)
            return
        expiries = [0] * len(keys)
        for row, expire_ms in zip(self._special_rows, self._expiries, strict=True):
            expiries[row] = expire_ms
        base = number << NUMBER_SHIFT
        bucket_of, put, delete = keydir.bucket_of, keydir.put, keydir.delete
        for key, place, expire_ms in zip(keys, self._places, expiries, strict=True):
            if expire_ms == _TOMBSTONE:
                delete(bucket_of(key), key)
            else:
                put(bucket_of(key), key, base | place, expire_ms)

    def equals(self, other: Hint) -> bool:
        """Whether both would do the same to a keydir."""
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def write(self, path: Path, seed: int, disk: Disk) -> Steps:
        """Writes and syncs a hint file; the hint is to be left alone meanwhile."""
        fd = disk.create(path)
        try:
            yield Task(lambda: self._write(fd, seed, disk), optional=True)
            yield Task(lambda: disk.sync(fd))
        finally:
            disk.close(fd)

    def _write(self, fd: int, seed: int, disk: Disk) -> None:
        columns: list[array[int] | bytearray] = [
            _little(self._places),
            _little(self._lengths),
            _little(self._special_rows),
            _little(self._expiries),
            self._blob,
        ]
        column_crc = 0
        for column in columns:
            column_crc = crc32(column, column_crc)
        summed = self._summed(column_crc, seed)
        disk.write(fd, _MAGIC + crc32(summed).to_bytes(4, "little") + summed, 0)
        offset = _HEAD.size
        for column in columns:
            data = memoryview(column).cast("B")
            if data:
                disk.write(fd, data, offset)
                offset += len(data)

    def _summed(self, column_crc: int, seed: int) -> bytes:
        last_frame = (self.data_bytes, self.index, self.term, self.clock_ms)
        sizes = (self.put_bytes, self.tombstone_bytes, len(self._places), len(self._special_rows), len(self._blob))
        return _COLUMN_CRC.pack(column_crc) + _SUMMED.pack(seed, self.cleared, *last_frame, *sizes)


def read(path: Path, file: DataFile) -> Hint | None:
    """The hint of `file`, or None when there is none or it is not to be believed."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, head_crc, column_crc, seed, cleared, *numbers = _HEAD.unpack_from(data)
    rows, specials, blob_bytes = numbers[6:]
    view = memoryview(data)
    whole = (
        magic == _MAGIC
        and crc32(view[12 : _HEAD.size]) == head_crc
        and seed == file.seed
        and len(data) == _HEAD.size + 12 * rows + 16 * specials + blob_bytes
        and crc32(view[_HEAD.size :]) == column_crc
    )
    if not whole:
        return None
    hint = Hint()
    hint.cleared = bool(cleared)
    hint.finish(*numbers[:4])
    hint.put_bytes, hint.tombstone_bytes = numbers[4:6]
    hint.load_columns(view[_HEAD.size :], rows, specials)
    return hint
