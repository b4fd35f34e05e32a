"""Frames: what makes a batch of records one append that is there as a whole or not at all; and the head of a data file.

All integers are little endian. A data file is a head followed by frames without gaps.

File head, 64 bytes:

| offset | bytes | field      | meaning                                                                                |
| ------ | ----- | ---------- | -------------------------------------------------------------------------------------- |
| 0      | 8     | magic      | `RKVDATA1`                                                                             |
| 8      | 8     | salt       | random, the same in all files of a directory; enters the checksum of every frame       |
| 16     | 8     | first_id   | the ids this file stands for, first to last; more than one after a merge               |
| 24     | 8     | last_id    |                                                                                        |
| 32     | 8     | base_index | index of the last frame before this file, where the file joins the one before it     |
| 40     | 4     | generation | 0 as written by batches, one more with each merge                                      |
| 44     | 16    | -          | zero                                                                                   |
| 60     | 4     | crc        | crc32 of the 60 bytes before it                                                        |

Frame header, 48 bytes, followed by `body_bytes` of records:

| offset | bytes | field        | meaning                                                                              |
| ------ | ----- | ------------ | ------------------------------------------------------------------------------------ |
| 0      | 4     | magic        | `RKVB`: a batch; `RKVS`: the seal, an empty frame that ends a finished file          |
| 4      | 4     | crc          | crc32 of the 40 bytes after it, started from the file's seed plus the frame's offset |
| 8      | 8     | body_bytes   |                                                                                      |
| 16     | 8     | index        | position in the caller's log whose effects the frame holds; never falls              |
| 24     | 8     | term         | of that position; kept for the caller                                                |
| 32     | 8     | clock_ms     | the caller's clock there; kept for the caller                                        |
| 40     | 8     | synced_index | the highest index that was known to be on the disk when this frame was written       |

The seed is the crc32 of salt and file ids. So a frame is valid in one place of one file only, and nobody who can store
values can make bytes that recovery would take for a frame.

A frame is whole when its header holds and its records, each with its own checksum, fill its body exactly.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from respkv.checksum import crc32
from respkv.contents import Contents

FILE_HEAD_BYTES = 64
FRAME_HEAD_BYTES = 48
FILE_MAGIC = b"RKVDATA1"
BATCH_MAGIC = b"RKVB"
SEAL_MAGIC = b"RKVS"

_FILE_HEAD = Struct("<8sQQQQI16x")
_FRAME_HEAD = Struct("<4sI5Q")
_FRAME_FIELDS = Struct("<5Q")
_SEED = Struct("<4Q")
_U32 = Struct("<I")


class FileHead(NamedTuple):
    """The fixed start of a data file."""

    salt: int
    first_id: int
    last_id: int
    base_index: int
    generation: int

    def encode(self) -> bytes:
        salt, first_id, last_id, base_index, generation = self
        data = _FILE_HEAD.pack(FILE_MAGIC, salt, first_id, last_id, base_index, generation)
        return data + _U32.pack(crc32(data))

    @classmethod
    def decode(cls, data: bytes) -> FileHead | None:
        """The head in the first 64 bytes of `data`, or None when it is not intact."""
        if len(data) < FILE_HEAD_BYTES or crc32(data[:60]) != _U32.unpack_from(data, 60)[0]:
            return None
        magic, salt, first_id, last_id, base_index, generation = _FILE_HEAD.unpack_from(data)
        return cls(salt, first_id, last_id, base_index, generation) if magic == FILE_MAGIC else None

    @property
    def seed(self) -> int:
        """Where the checksums of this file's frames start."""
        return crc32(_SEED.pack(self.salt, self.first_id, self.last_id, self.generation))


class Frame(NamedTuple):
    """A frame header as found at `offset`; the body is `buffer[body_start:body_end]`."""

    offset: int
    is_seal: bool
    body_start: int
    body_end: int
    index: int  # type: ignore[assignment]  # the tuple's own method of that name is of no use here
    term: int
    clock_ms: int
    synced_index: int


def encode_head(
    seed: int,
    offset: int,
    body_bytes: int,
    index: int,
    term: int,
    clock_ms: int,
    synced_index: int,
    magic: bytes = BATCH_MAGIC,
) -> bytes:
    """The header of a frame that will lie at `offset` of a file with this seed."""
    fields = _FRAME_FIELDS.pack(body_bytes, index, term, clock_ms, synced_index)
    return magic + _U32.pack(crc32(fields, seed + offset & 0xFFFFFFFF)) + fields


def decode_head(buffer: Contents | bytes, seed: int, offset: int, end: int) -> Frame | None:
    """The frame header at `offset`, or None when it is not intact or the frame does not end by `end`."""
    body_start = offset + FRAME_HEAD_BYTES
    if body_start > end:
        return None
    head = buffer[offset:body_start]
    magic, crc, body_bytes, index, term, clock_ms, synced_index = _FRAME_HEAD.unpack(head)
    if crc32(head[8:], seed + offset & 0xFFFFFFFF) != crc or magic not in (BATCH_MAGIC, SEAL_MAGIC):
        return None
    body_end = body_start + body_bytes
    if body_end > end:
        return None
    return Frame(offset, magic == SEAL_MAGIC, body_start, body_end, index, term, clock_ms, synced_index)


def frames(buffer: Contents | bytes, seed: int, start: int, end: int) -> Iterator[Frame]:
    """The frames of `buffer[start:end]` in order, up to the first place that is not one (only headers are verified)."""
    while (frame := decode_head(buffer, seed, start, end)) is not None:
        yield frame
        start = frame.body_end


def find_headers(buffer: Contents | bytes, seed: int, start: int, end: int) -> Iterator[Frame]:
    """Every intact frame header anywhere from `start` on, for recovery to learn what lay behind a bad place.

    Bodies are neither looked at nor skipped. A header whose body reaches beyond `end` counts: it was written.
    """
    prefix = BATCH_MAGIC[:3]
    at = buffer.find(prefix, start, end)
    while at >= 0:
        if at + FRAME_HEAD_BYTES <= end:
            frame = decode_head(buffer, seed, at, 1 << 64)
            if frame is not None:
                yield frame
        at = buffer.find(prefix, at + 1, end)


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of `start..end` of the file that are not holes, so that a sparse tail costs no reading."""
    while start < end:
        try:
            at = os.lseek(fd, start, os.SEEK_DATA)
            stop = os.lseek(fd, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a file system that cannot tell: everything is data
                yield start, end
            return  # nothing but a hole up to the end of the file
        if at >= end:
            return
        yield at, min(stop, end)
        start = stop
