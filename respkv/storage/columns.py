"""Many records at a time, as columns: what reads whole files must not cost more than writing them did.

Whoever goes through a data file, to hint, merge, verify or replay it, takes its records from here, verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from operator import sub
from struct import Struct
from typing import NamedTuple

from respkv.checksum import crc32
from respkv.contents import Contents
from respkv.storage import record
from respkv.storage.record import CRC_RESIDUE, HEADER_BYTES, OVERHEAD_BYTES, PLAIN, BadRecord

PIECE_BYTES = 32 << 10
"""So much is taken apart at once: about two milliseconds' worth of the smallest records."""
LARGE_BYTES = 1 << 20
"""Records from this size on are verified and copied off the loop."""

OFFSET_SHIFT = 12
SIZE_MASK = 4095

Row = tuple[int, int, bytes, int, int]
"""One record: type, expire_ms, key, offset, size."""

_LENGTHS = Struct("<II")
_LENGTHS_AT = 9


class Records(NamedTuple):
    """Records that lie one behind the other.

    keys      the key of each
    starts    the offset of each in its file, and the end of the last
    specials  by position, (type, expire_ms) of those that are not strings without expiry
    """

    keys: list[bytes]
    starts: list[int]
    specials: dict[int, tuple[int, int]]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.starts[-1] - self.starts[0]

    @property
    def is_large(self) -> bool:
        """Whether it is one large record, which nobody has verified yet."""
        return len(self.keys) == 1 and self.size >= LARGE_BYTES

    def places(self) -> list[int]:
        """`offset << 12 | size` of each, as in a location of the keydir."""
        sizes = list(map(sub, self.starts[1:], self.starts))
        if sizes and max(sizes) > SIZE_MASK:
            sizes = [min(size, SIZE_MASK) for size in sizes]
        return [start << OFFSET_SHIFT | size for start, size in zip(self.starts, sizes, strict=False)]

    def row(self, position: int) -> Row:
        record_type, expire_ms = self.specials.get(position, (record.STRING, 0))
        start = self.starts[position]
        return record_type, expire_ms, self.keys[position], start, self.starts[position + 1] - start

    def rows(self) -> list[Row]:
        return [self.row(position) for position in range(len(self.keys))]


def read_records(buffer: Contents | bytes, start: int, end: int) -> Iterator[Records]:
    """The records that fill `buffer[start:end]`, a piece at a time, verified; but a large one, alone, is for the caller
    to verify before it believes anything about it, and before it asks for the next.

    Raises `BadRecord` for the first that is not intact or does not fit.
    """
    while start < end:
        data = buffer[start : min(start + PIECE_BYTES, end)]
        records = _cut(data, start)
        if not records.keys:  # the first is longer than that, or not whole
            size = record.size_at(data, 0) if len(data) >= OVERHEAD_BYTES else OVERHEAD_BYTES
            if start + size > end:
                raise BadRecord(start)
            large = size >= LARGE_BYTES
            records = _large(buffer, start, size) if large else _cut(buffer[start : start + size], start)
        yield records
        start = records.starts[-1]


def read_all(buffer: Contents | bytes, start: int, end: int) -> list[Records]:
    """`read_records` with every record verified."""
    found = []
    for records in read_records(buffer, start, end):
        if records.is_large and not record.intact(buffer, records.starts[0], records.size):
            raise BadRecord(records.starts[0])
        found.append(records)
    return found


def _cut(data: bytes, at: int) -> Records:
    """The whole records at the beginning of `data`, which lies at offset `at` of its file. Raises `BadRecord`."""
    starts: list[int] = []
    key_ends: list[int] = []
    unpack, end, last = _LENGTHS.unpack_from, len(data), len(data) - OVERHEAD_BYTES
    start = 0
    while start <= last:
        key_bytes, value_bytes = unpack(data, start + _LENGTHS_AT)
        after = start + OVERHEAD_BYTES + key_bytes + value_bytes
        if after > end:
            break
        starts.append(start)
        key_ends.append(HEADER_BYTES + key_bytes)
        start = after
    starts.append(start)
    records = [data[first:after] for first, after in pairwise(starts)]
    checksums = list(map(crc32, records))
    if checksums.count(CRC_RESIDUE) < len(records):
        bad = next(position for position, checksum in enumerate(checksums) if checksum != CRC_RESIDUE)
        raise BadRecord(at + starts[bad])
    return Records(
        [one[HEADER_BYTES:key_end] for one, key_end in zip(records, key_ends, strict=True)],
        [at + start for start in starts],
        {position: record.header_at(one, 0)[:2] for position, one in enumerate(records) if not one.startswith(PLAIN)},
    )


def row_at(buffer: Contents | bytes, at: int, offset: int, size: int) -> Row:
    """The row of the record at `buffer[at:]`, which has `size` bytes and lies at `offset` of its file."""
    record_type, expire_ms, key_bytes, _ = record.header_at(buffer, at)
    return record_type, expire_ms, buffer[at + HEADER_BYTES : at + HEADER_BYTES + key_bytes], offset, size


def _large(buffer: Contents | bytes, start: int, size: int) -> Records:
    record_type, expire_ms, key, _, _ = row_at(buffer, start, start, size)
    is_plain = (record_type, expire_ms) == (record.STRING, 0)
    return Records([key], [start, start + size], {} if is_plain else {0: (record_type, expire_ms)})
