"""The tail of a log: the newest bytes of its active file, in memory as they were written.

What is read soon after it was written need not be asked of the system, nor verified.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

from respkv.storage.columns import OFFSET_SHIFT
from respkv.storage.keydir import NUMBER_SHIFT

_BYTES_MIN: Final = mmap.PAGESIZE
_HUGE_PAGE_BYTES: Final = 2 << 20


class Tail:
    """As many bytes as the largest power of two within `limit_bytes`; none if that is less than a page.

    The byte at `offset` of the file is at `offset & mask` of `ring`. A record may go over the ring's end: a slice of
    it is shorter then than the record, which has to be read from the file.

    Attributes:
        least, end: of the locations (see `respkv.storage.keydir`) those from `least` up to `end` are here.
    """

    __slots__ = ("end", "least", "mask", "ring")

    def __init__(self, limit_bytes: int) -> None:
        size = 1 << limit_bytes.bit_length() - 1 if limit_bytes >= _BYTES_MIN else 0
        self.mask = size - 1
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.ring = mmap.mmap(-1, size, flags=private) if size else b""  # takes memory as it is used
        if isinstance(self.ring, mmap.mmap) and size >= _HUGE_PAGE_BYTES:
            with suppress(OSError, AttributeError):  # where there are none
                self.ring.madvise(mmap.MADV_HUGEPAGE)  # at once: moving it later would be more work
        self.least = self.end = 0

    def append(self, number: int, offset: int, data: bytes) -> None:
        """The records `data` lie at `offset` of file `number`, behind all others."""
        ring, size = self.ring, self.mask + 1
        if len(data) > size or isinstance(ring, bytes):
            self.skip(number, offset + len(data))
            return
        at = offset & self.mask
        room = size - at
        if len(data) <= room:
            ring[at : at + len(data)] = data
        else:
            ring[at:] = data[:room]
            ring[: len(data) - room] = data[room:]
        start = number << NUMBER_SHIFT
        if self.end <= start:
            self.least, self.end = start | offset << OFFSET_SHIFT, start + (1 << NUMBER_SHIFT)
        oldest = offset + len(data) - size
        if oldest > 0 and (least := start | oldest << OFFSET_SHIFT) > self.least:
            self.least = least

    def skip(self, number: int, offset: int) -> None:
        """What lies before `offset` of file `number` is not here."""
        start = number << NUMBER_SHIFT
        self.least, self.end = start | offset << OFFSET_SHIFT, start + (1 << NUMBER_SHIFT)
