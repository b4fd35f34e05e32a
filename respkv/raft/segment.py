"""The bytes of the journal: frames in segment files, and what a scan of them finds.

A segment is a head followed by frames without gaps. All numbers little endian.

Head, 40 bytes:

| field      | bytes | meaning                                                          |
| ---------- | ----- | ---------------------------------------------------------------- |
| magic      | 8     | `RKVJRNL2`                                                       |
| salt       | 16    | random, made with every fresh segment, kept by those behind it   |
| number     | 8     | the segment's, as in its name                                    |
| fresh      | 1     | 1 if lower-numbered segments are superseded                      |
| -          | 3     | zero                                                             |
| crc        | 4     | CRC-32 of everything before this field                           |

A frame is what one loop turn wrote, for all shards of the node, in one write(2):

| field      | bytes | meaning                                                          |
| ---------- | ----- | ---------------------------------------------------------------- |
| mark       | 4     | the segment's                                                    |
| crc        | 4     | CRC-32 of all behind it, started from the segment's seed + offset |
| body_bytes | 8     | length of the body                                               |
| sequence   | 8     | number of the frame, consecutive through all segments            |
| synced     | 8     | newest frame known to be fdatasynced when this one was written   |
| body       |       | records                                                          |

A record is `kind u8 | shard u16 | index u64 | term u64 | payload_bytes u32 | payload`.

Mark and seed are a keyed hash of the segment's number, the salt being the key. So a frame is valid in one place of one
segment only, and nobody who can store values can make bytes that a scan would take for a frame.

Segments are preallocated, the first one with zeros written to it, and recycled. So what follows the last frame may be
zeros or frames of an earlier use, which do not check and end the scan. At the first frame that does not check, later
frames decide: if one of them says `synced` at or beyond the missing one, synced data is damaged (`JournalDamaged`);
otherwise the frame was torn before anybody was told of it, and the journal ends there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from respkv.checksum import crc32
from respkv.contents import Contents

MAGIC = b"RKVJRNL2"
SALT_BYTES = 16
FRAME = struct.Struct("<4sIQQQ")
FRAME_REST = struct.Struct("<QQQ")
RECORD = struct.Struct("<BHQQI")

ENTRY = 1  # a Raft entry; an index at or below the last one replaces the tail from there
STATE = 2  # current term; the payload names the node voted for (empty: none)
BASE = 3  # entries up to index (of term) are in the state machine's own log
TRUNCATE = 4  # entries from index on are gone
LOST = 5  # all entries are gone: the log is empty again
STANDING = 6  # index is the replica's `Standing`; none was written for a voter that has never been anything else

SUFFIX = ".journal"

_HEAD = struct.Struct("<8s16sQB3x")
_U32 = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _U32.size

Stamp = tuple[bytes, int]
"""Mark and seed of the frames of one segment."""


class JournalDamaged(Exception):
    """Synced bytes of the journal do not check. Names file and offset; the node must not start on them."""

    def __init__(self, file: Path, offset: int, detail: str) -> None:
        super().__init__(f"{file}: offset {offset}: {detail}")
        self.file = file
        self.offset = offset
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as read: where it was, its numbers and its body."""

    file: Path
    offset: int
    sequence: int
    synced: int
    body: bytes

    def records(self) -> Iterator[tuple[int, int, int, int, bytes]]:
        """(kind, shard, index, term, payload) in the order written. Raises JournalDamaged if they do not fill it."""
        body, at = self.body, 0
        while at < len(body):
            start = at + RECORD.size
            kind, shard, index, term, payload_bytes = RECORD.unpack_from(body, at) if start <= len(body) else (0,) * 5
            at = start + payload_bytes
            if at > len(body):
                raise JournalDamaged(self.file, self.offset, "the records of a frame do not fill it")
            yield kind, shard, index, term, body[start:at]


class Head(NamedTuple):
    """The fixed start of a segment."""

    salt: bytes
    number: int
    fresh: bool

    def encode(self) -> bytes:
        data = _HEAD.pack(MAGIC, self.salt, self.number, self.fresh)
        return data + _U32.pack(crc32(data))

    @classmethod
    def decode(cls, data: bytes) -> Head | None:
        """The head in the first bytes of `data`, None if it is not intact or of another version."""
        if len(data) < HEAD_BYTES or crc32(data[: _HEAD.size]) != _U32.unpack_from(data, _HEAD.size)[0]:
            return None
        magic, salt, number, fresh = _HEAD.unpack_from(data)
        return cls(salt, number, bool(fresh)) if magic == MAGIC else None

    @property
    def stamp(self) -> Stamp:
        return stamp_of(self.salt, self.number)


def stamp_of(salt: bytes, number: int) -> Stamp:
    """What the frames of segment `number` are known by; whoever does not know the salt cannot tell it."""
    digest = blake2b(number.to_bytes(8, "little"), key=salt, digest_size=8).digest()
    return digest[:4], int.from_bytes(digest[4:], "little")


def encode_frame(stamp: Stamp, offset: int, sequence: int, synced: int, parts: list[bytes]) -> bytes:
    """The bytes of one frame whose body is the concatenation of `parts`, to lie at `offset` of a segment of `stamp`."""
    mark, seed = stamp
    body = b"".join(parts)
    crc = crc32(body, crc32(FRAME_REST.pack(len(body), sequence, synced), seed + offset & 0xFFFFFFFF))
    return FRAME.pack(mark, crc, len(body), sequence, synced) + body


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:016d}{SUFFIX}"


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """(number, path) of every segment file, in order."""
    found = [(int(path.stem), path) for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit()]
    return sorted(found)


def scan(directory: Path) -> tuple[list[Frame], tuple[Path, int] | None]:
    """All frames since the newest fresh segment, and file and offset of a torn tail (None: nothing was torn).

    Raises:
        JournalDamaged: a frame that was synced does not check, or frames are missing.
    """
    segments, salt = _current(list_segments(directory))
    frames: list[Frame] = []
    for position, (number, path) in enumerate(segments):
        missing = frames[-1].sequence + 1 if frames else None
        got, end = _frames_of(path, stamp_of(salt, number), missing)
        frames += got
        if not frames:
            raise JournalDamaged(path, end, "the oldest segment's first frame does not check")
        missing = frames[-1].sequence + 1
        if position + 1 == len(segments) or not _continues(*segments[position + 1], salt, missing):
            return frames, _judge_tail(segments[position:], salt, end, missing)
    return frames, None


def _current(segments: list[tuple[int, Path]]) -> tuple[list[tuple[int, Path]], bytes]:
    """The segments from the newest fresh one on (all, if the fresh one is gone already), and their salt."""
    head: Head | None = None
    for position in reversed(range(len(segments))):
        head = head_of(*segments[position])
        if head is not None and head.fresh:
            return segments[position:], head.salt
    if segments and head is None:
        raise JournalDamaged(segments[0][1], 0, f"the oldest segment does not begin with a head {MAGIC.decode()}")
    return segments, head.salt if head else b""


def head_of(number: int, path: Path) -> Head | None:
    """A segment's head, None if it does not check or is that of an earlier use."""
    with _opened(path) as data:
        head = Head.decode(data[0:HEAD_BYTES])
    return head if head is not None and head.number == number else None


def _continues(number: int, path: Path, salt: bytes, sequence: int) -> bool:
    """Whether a segment was begun behind the ones before it, with frame `sequence`."""
    head = Head(salt, number, fresh=False)
    if head_of(number, path) != head:
        return False
    with _opened(path) as data:
        frame = _read_frame(path, data, head.stamp, HEAD_BYTES)
    return frame is not None and frame.sequence == sequence


def _frames_of(path: Path, stamp: Stamp, expected: int | None) -> tuple[list[Frame], int]:
    """The run of consecutive frames at the start of a segment and the offset behind it."""
    frames: list[Frame] = []
    at = HEAD_BYTES
    with _opened(path) as data:
        while (frame := _read_frame(path, data, stamp, at)) is not None and expected in (None, frame.sequence):
            frames.append(frame)
            expected = frame.sequence + 1
            at += FRAME.size + len(frame.body)
    return frames, at


def _judge_tail(segments: list[tuple[int, Path]], salt: bytes, end: int, missing: int) -> tuple[Path, int] | None:
    """Raises if a later frame proves that frame `missing`, at `end` of the first of `segments`, was synced; else says
    what is cut off, if anything is."""
    path, at, remnant = segments[0][1], end, False
    for number, later in segments:
        stamp = stamp_of(salt, number)
        with _opened(later) as data:
            while (at := data.find(stamp[0], at)) >= 0:
                frame = _read_frame(later, data, stamp, at)
                if frame is not None and frame.synced >= missing:
                    detail = f"frame {missing} is damaged, frame {frame.sequence} says that it was synced"
                    raise JournalDamaged(path, end, detail)
                remnant = remnant or frame is not None or (later, at) == (path, end)
                at += 1
        at = 0
    return (path, end) if remnant else None


def _read_frame(path: Path, data: Contents, stamp: Stamp, at: int) -> Frame | None:
    mark, seed = stamp
    header = data[at : at + FRAME.size]
    if len(header) < FRAME.size or header[:4] != mark:
        return None
    _, crc, body_bytes, sequence, synced = FRAME.unpack(header)
    start = at + FRAME.size
    if body_bytes > len(data) - start:
        return None
    body = data[start : start + body_bytes]
    if crc32(body, crc32(header[8:], seed + at & 0xFFFFFFFF)) != crc:
        return None
    return Frame(path, at, sequence, synced, body)


@contextmanager
def _opened(path: Path) -> Iterator[Contents]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Contents(path, fd, os.fstat(fd).st_size, JournalDamaged)
    finally:
        os.close(fd)
