"""The bytes of the journal: frames in segment files, and what a scan of them finds.

A frame is what one loop turn wrote, for all shards of the node, in one write(2). All numbers little endian.

| field      | bytes | meaning                                                          |
| ---------- | ----- | ---------------------------------------------------------------- |
| magic      | 4     | `RJF1`                                                           |
| crc        | 4     | CRC-32 of everything after this field                            |
| body_bytes | 8     | length of the body                                               |
| sequence   | 8     | number of the frame, consecutive through all segments            |
| synced     | 8     | newest frame known to be fdatasynced when this one was written   |
| body       |       | records                                                          |

A record is `kind u8 | shard u16 | index u64 | term u64 | payload_bytes u32 | payload`.

Segments are preallocated, the first one with zeros written to it, and recycled. So what follows the last frame may be
zeros or frames of an earlier life; those carry lower sequence numbers and end the scan. At the first frame that does
not check, later frames decide: if one of them says `synced` at or beyond the missing one, synced data is damaged
(`JournalDamaged`); otherwise the frame was torn before anybody was told of it, and the journal ends there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from respkv.checksum import crc32
from respkv.contents import Contents

MAGIC = b"RJF1"
FRAME = struct.Struct("<4sIQQQ")
FRAME_REST = struct.Struct("<QQQ")
RECORD = struct.Struct("<BHQQI")

START = 1  # first in every segment: index is the segment's number, term 1 if lower-numbered segments are superseded
ENTRY = 2  # a Raft entry; an index at or below the last one replaces the tail from there
STATE = 3  # current term; the payload names the node voted for (empty: none)
BASE = 4  # entries up to index (of term) are in the state machine's own log
TRUNCATE = 5  # entries from index on are gone
LOST = 6  # all entries are gone: the log is empty again
STANDING = 7  # index is the replica's `Standing`; none was written for a voter that has never been anything else

SUFFIX = ".journal"
_FRESH = 1


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


def encode_frame(sequence: int, synced: int, parts: list[bytes]) -> bytes:
    """The bytes of one frame whose body is the concatenation of `parts`."""
    body = b"".join(parts)
    crc = crc32(body, crc32(FRAME_REST.pack(len(body), sequence, synced)))
    return FRAME.pack(MAGIC, crc, len(body), sequence, synced) + body


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:016d}{SUFFIX}"


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """(number, path) of every segment file, in order."""
    found = [(int(path.stem), path) for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit()]
    return sorted(found)


def scan(directory: Path) -> tuple[list[Frame], tuple[Path, int] | None]:
    """All frames since the newest START, and file and offset of a torn tail (None: nothing was torn).

    Raises:
        JournalDamaged: a frame that was synced does not check, or frames are missing.
    """
    segments = list_segments(directory)
    frames: list[Frame] = []
    for number, path in reversed(segments):
        if _opening(path, number) == _FRESH:
            segments = [(n, p) for n, p in segments if n >= number]
            break
    if segments and _opening(segments[0][1], segments[0][0]) is None:
        raise JournalDamaged(segments[0][1], 0, "the oldest segment's first frame does not check")
    torn: tuple[Path, int] | None = None
    for position, (_, path) in enumerate(segments):
        expected = frames[-1].sequence + 1 if frames else None
        got, end = _frames_of(path, expected)
        if position and not got:
            break  # prepared for later, or a remnant of an earlier life
        frames += got
        expected = frames[-1].sequence + 1
        if position + 1 < len(segments) and _starts_with(*segments[position + 1], expected):
            continue
        torn = _judge_tail(segments[position:], path, end, expected)
        break
    return frames, torn


def _opening(path: Path, number: int) -> int | None:
    """How a segment begins: `_FRESH`, 0 for one that continues, None if it is unused or does not check."""
    with _opened(path) as data:
        frame = _read_frame(path, data, 0)
    if frame is None:
        return None
    kind, _, index, fresh, _ = next(frame.records(), (0, 0, 0, 0, b""))
    return fresh if kind == START and index == number else None


def _starts_with(number: int, path: Path, sequence: int) -> bool:
    if _opening(path, number) is None:
        return False
    with _opened(path) as data:
        return _sequence_at(data, 0) == sequence


def _frames_of(path: Path, expected: int | None) -> tuple[list[Frame], int]:
    """The run of consecutive frames at the start of a segment and the offset behind it."""
    frames: list[Frame] = []
    at = 0
    with _opened(path) as data:
        while (frame := _read_frame(path, data, at)) is not None and expected in (None, frame.sequence):
            frames.append(frame)
            expected = frame.sequence + 1
            at += FRAME.size + len(frame.body)
    return frames, at


def _judge_tail(segments: list[tuple[int, Path]], path: Path, end: int, missing: int) -> tuple[Path, int] | None:
    """Raises if a later frame proves that frame `missing` was synced; else says what is cut off, if anything is."""
    remnant = False
    for position, (_, later) in enumerate(segments):
        with _opened(later) as data:
            at = end if position == 0 else 0
            if position == 0:
                remnant = data[at : at + len(MAGIC)] == MAGIC and _sequence_at(data, at) >= missing
            while (at := data.find(MAGIC, at)) >= 0:
                frame = _read_frame(later, data, at)
                if frame is not None and frame.sequence > missing:
                    remnant = True
                    if frame.synced >= missing:
                        detail = f"frame {missing} is damaged, frame {frame.sequence} says that it was synced"
                        raise JournalDamaged(path, end, detail)
                at += 1
    return (path, end) if remnant else None


def _sequence_at(data: Contents, at: int) -> int:
    header = data[at : at + FRAME.size]
    return int(FRAME.unpack(header)[3]) if len(header) == FRAME.size else 0


def _read_frame(path: Path, data: Contents, at: int) -> Frame | None:
    header = data[at : at + FRAME.size]
    if len(header) < FRAME.size or header[:4] != MAGIC:
        return None
    _, crc, body_bytes, sequence, synced = FRAME.unpack(header)
    start = at + FRAME.size
    if body_bytes > len(data) - start:
        return None
    body = data[start : start + body_bytes]
    if crc32(body, crc32(header[8:])) != crc:
        return None
    return Frame(path, at, sequence, synced, body)


@contextmanager
def _opened(path: Path) -> Iterator[Contents]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Contents(path, fd, os.fstat(fd).st_size, JournalDamaged)
    finally:
        os.close(fd)
