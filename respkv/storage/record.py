"""Records: the bytes of one key and its value, and of what is done to it.

All integers are little endian.

| offset | bytes       | field       | meaning                                                                   |
| ------ | ----------- | ----------- | ------------------------------------------------------------------------- |
| 0      | 1           | type        | 0 tombstone, 1 string, 2.. the later data types, 255 clear                |
| 1      | 8           | expire_ms   | i64, milliseconds since the epoch; 0: the key does not expire             |
| 9      | 4           | key_bytes   | u32                                                                       |
| 13     | 4           | value_bytes | u32                                                                       |
| 17     | key_bytes   | key         |                                                                           |
|        | value_bytes | value       | empty in a tombstone and in a clear                                       |
|        | 4           | crc         | crc32 (zlib) of everything before it                                      |

The checksum comes last, so that one `crc32` call over the whole record verifies it: the CRC of any data followed by its
own CRC is the constant `CRC_RESIDUE`. A clear drops every key written before it.

This module knows bytes only; where records lie and what they mean together is the business of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from struct import Struct
from typing import NamedTuple

from respkv.checksum import crc32
from respkv.contents import AHEAD_BYTES, Contents

TOMBSTONE = 0
STRING = 1
CLEAR = 255

HEADER_BYTES = 17
TRAILER_BYTES = 4
OVERHEAD_BYTES = HEADER_BYTES + TRAILER_BYTES
CRC_RESIDUE = 0x2144DF1C
"""`crc32(record)` of every intact record."""

PLAIN = b"\x01" + bytes(8)
"""How a string that does not expire begins."""

SLICE_BYTES = 8 << 20

KEY_BYTES_MAX = VALUE_BYTES_MAX = 0xFFFFFFFF

_HEADER = Struct("<BqII")
_PLAIN_HEADER = Struct("<9sII")
_CRC = Struct("<I")


class Record(NamedTuple):
    """What is stored under a key. `expire_ms` is 0 for a key that does not expire; if it has is not judged here."""

    type: int
    expire_ms: int
    value: bytes


class BadRecord(Exception):
    """The bytes at `offset` of the walked buffer are not a record."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def encode(record_type: int, expire_ms: int, key: bytes, value: bytes) -> bytes:
    """One record of any type. Raises `struct.error` when a field does not fit."""
    head = _HEADER.pack(record_type, expire_ms, len(key), len(value))
    return b"".join((head, key, value, _CRC.pack(crc32(value, crc32(key, crc32(head))))))


CLEAR_RECORD = encode(CLEAR, 0, b"", b"")


def encode_puts(keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[list[int], bytes]:
    """The records that set each of `keys` to the string beside it in `values`, without expiry.

    Returns the size of each record in bytes, and the records joined in order. Keys may repeat: the last wins.
    """
    count, key_sizes, value_sizes = len(keys), list(map(len, keys)), list(map(len, values))
    heads: Iterable[bytes]
    if count and key_sizes.count(key_sizes[0]) == value_sizes.count(value_sizes[0]) == count:  # as many clients write
        heads = repeat(_PLAIN_HEADER.pack(PLAIN, key_sizes[0], value_sizes[0]), count)
        sizes = [OVERHEAD_BYTES + key_sizes[0] + value_sizes[0]] * count
    else:
        heads = map(_PLAIN_HEADER.pack, repeat(PLAIN), key_sizes, value_sizes)
        sizes = [OVERHEAD_BYTES + key + value for key, value in zip(key_sizes, value_sizes, strict=True)]
    bodies = list(map(b"".join, zip(heads, keys, values, strict=True)))
    parts: list[bytes] = bodies * 2  # of the right length: bodies and checksums alternate
    parts[::2] = bodies
    parts[1::2] = map(_CRC.pack, map(crc32, bodies))
    return sizes, b"".join(parts)


class LongRecord:
    """The record of a plain string whose value is in parts; it is never put together, but written part by part."""

    __slots__ = ("_head", "_value", "_value_bytes")

    def __init__(self, key: bytes, value: list[memoryview]) -> None:
        self._value = value
        self._value_bytes = sum(map(len, value))
        self._head = _PLAIN_HEADER.pack(PLAIN, len(key), self._value_bytes) + key

    def __len__(self) -> int:
        return len(self._head) + self._value_bytes + TRAILER_BYTES

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """The bytes of the record in order."""
        crc = crc32(self._head)
        yield self._head
        for part in self._value:
            crc = crc32(part, crc)
            yield part
        yield _CRC.pack(crc)

    def __bytes__(self) -> bytes:
        return b"".join(self)


def pieces_of(parts: Iterable[bytes | LongRecord]) -> Iterator[list[bytes | memoryview]]:
    """The bytes of `parts` in order, cut into lists of about `SLICE_BYTES`."""
    pieces: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        for piece in part if isinstance(part, LongRecord) else (part,):
            pieces.append(piece)
            size += len(piece)
            if size >= SLICE_BYTES:
                yield pieces
                pieces, size = [], 0
    yield pieces


def decode(record: bytes) -> tuple[bytes, Record] | None:
    """Key and contents of a whole record, or None when it is not intact."""
    if len(record) < OVERHEAD_BYTES or crc32(record) != CRC_RESIDUE:
        return None
    record_type, expire_ms, key_bytes, value_bytes = _HEADER.unpack_from(record)
    value_start = HEADER_BYTES + key_bytes
    if value_start + value_bytes + TRAILER_BYTES != len(record):
        return None
    return record[HEADER_BYTES:value_start], Record(record_type, expire_ms, record[value_start:-TRAILER_BYTES])


def read(buffer: Contents | bytes, offset: int, end: int) -> tuple[bytes, Record] | None:
    """Key and contents of the record at `offset`, which must end by `end`; None when it is not intact.

    The value is copied once, whatever its size.
    """
    if offset + OVERHEAD_BYTES > end:
        return None
    head = buffer[offset : offset + HEADER_BYTES]
    record_type, expire_ms, key_bytes, value_bytes = _HEADER.unpack(head)
    value_start = offset + HEADER_BYTES + key_bytes
    value_end = value_start + value_bytes
    if value_end + TRAILER_BYTES > end:
        return None
    key = buffer[offset + HEADER_BYTES : value_start]
    value = buffer[value_start:value_end]
    trailer = buffer[value_end : value_end + TRAILER_BYTES]
    if crc32(value, crc32(key, crc32(head))) != _CRC.unpack(trailer)[0]:
        return None
    return key, Record(record_type, expire_ms, value)


def header_at(buffer: Contents | bytes, offset: int) -> tuple[int, int, int, int]:
    """Type, expire_ms, key_bytes and value_bytes that the record at `offset` claims to have."""
    record_type, expire_ms, key_bytes, value_bytes = _HEADER.unpack(buffer[offset : offset + HEADER_BYTES])
    return record_type, expire_ms, key_bytes, value_bytes


def size_at(buffer: Contents | bytes, offset: int) -> int:
    """The size in bytes that the record at `offset` claims to have (its checksum is not looked at)."""
    _type, _expire_ms, key_bytes, value_bytes = header_at(buffer, offset)
    return OVERHEAD_BYTES + key_bytes + value_bytes


def fingerprint_at(buffer: Contents | bytes, offset: int) -> bytes:
    """The record at `offset` in 21 bytes, its header and its checksum (which is not verified)."""
    _type, _expire_ms, key_bytes, value_bytes = header_at(buffer, offset)
    end = offset + HEADER_BYTES + key_bytes + value_bytes
    return buffer[offset : offset + HEADER_BYTES] + buffer[end : end + TRAILER_BYTES]


def intact(buffer: Contents | bytes, offset: int, size: int) -> bool:
    """Whether the `size` bytes at `offset` are a record whose checksum holds."""
    if size <= AHEAD_BYTES:
        return crc32(buffer[offset : offset + size]) == CRC_RESIDUE
    crc, end = 0, offset + size
    for at in range(offset, end, AHEAD_BYTES):
        crc = crc32(buffer[at : min(at + AHEAD_BYTES, end)], crc)
    return crc == CRC_RESIDUE
