"""How long keys have been idle, for OBJECT IDLETIME, without a word on the way of a write or a read.

When a record was written is worked out from where it lies: now and then `observe` notes how long the newest data file
is and what the clock says, so a record before that mark is at least that old. A file without marks (from before the
start, or the result of a merge) knows the time of its last write only. So an idle time is never too long; it may be too
short by the time between two marks, and by much for a key whose file was merged since, or written before the start.

TOUCH and RESTORE IDLETIME are kept in a small map that forgets the oldest. Reads are not tracked: this is where the
idle time differs from Redis's, as is that it starts at each replica on its own.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from respkv.storage.bitcask import Bitcask
from respkv.storage.columns import OFFSET_SHIFT
from respkv.storage.keydir import NUMBER_SHIFT, OFFSET_MASK

_MARKS_MAX: Final = 4096  # for one file; beyond that every second one is dropped
_NOTES_MAX: Final = 10_000
_MARK_EVERY_MS: Final = 1000  # a note is about a write if the two are not further apart

_Marks = tuple[list[int], list[int]]


class IdleTimes:
    """For the keys of one `Bitcask`. Times are Unix times in milliseconds."""

    __slots__ = ("_cask", "_marks", "_notes")

    def __init__(self, cask: Bitcask) -> None:
        self._cask = cask
        self._marks: dict[int, _Marks] = {}  # file number to lengths of the file, and the clock at each
        self._notes: dict[bytes, tuple[int, int]] = {}  # key to when it was used, and when that was noted

    def observe(self) -> None:
        """Makes a mark if something was written since the last one; to be called about once a second."""
        cask = self._cask
        active = cask.files[-1]
        lengths, clocks = self._marks.setdefault(active.number, ([], []))
        if not lengths or lengths[-1] != active.length:
            lengths.append(active.length)
            clocks.append(cask.clock_ms)
        if len(lengths) > _MARKS_MAX:
            del lengths[::2], clocks[::2]
        if len(self._marks) > len(cask.files):
            kept = {file.number for file in cask.files}
            self._marks = {number: marks for number, marks in self._marks.items() if number in kept}

    def note(self, key: bytes, used_ms: int, now_ms: int) -> None:
        """`key` was last used at `used_ms`, as of now."""
        notes = self._notes
        if len(notes) >= _NOTES_MAX:
            for old in list(notes)[: _NOTES_MAX // 2]:
                del notes[old]
        notes.pop(key, None)
        notes[key] = (used_ms, now_ms)

    def forget(self, key: bytes) -> None:
        """`key` is written or goes: what was noted of it is past."""
        if self._notes:
            self._notes.pop(key, None)

    def clear(self) -> None:
        self._notes.clear()

    def used_ms(self, key: bytes) -> int:
        """When the stored key `key` was last written or noted to be used."""
        written_ms = self._written_ms(key)
        used_ms, noted_ms = self._notes.get(key, (0, 0))
        return used_ms if written_ms <= noted_ms + _MARK_EVERY_MS else written_ms

    def used_ms_of(self, keys: list[bytes]) -> list[int]:
        """`used_ms` of each of `keys`, which are stored: in one pass, as eviction asks for thousands."""
        if self._notes:
            return list(map(self.used_ms, keys))
        cask, found = self._cask, []
        buckets, bucket_of, marks = cask.buckets, cask.bucket_of, self._marks
        oldest = {file.number: file.clock_ms for file in cask.files}
        for key in keys:
            location = buckets[bucket_of(key)][key]
            number = location >> NUMBER_SHIFT
            lengths, clocks = marks.get(number, ((), ()))
            position = bisect_right(lengths, location >> OFFSET_SHIFT & OFFSET_MASK)
            found.append(clocks[position] if position < len(lengths) else oldest.get(number, cask.clock_ms))
        return found

    def _written_ms(self, key: bytes) -> int:
        cask = self._cask
        location = cask.buckets[cask.bucket_of(key)][key]
        number, offset = location >> NUMBER_SHIFT, location >> OFFSET_SHIFT & OFFSET_MASK
        lengths, clocks = self._marks.get(number, ((), ()))
        position = bisect_right(lengths, offset)
        if position < len(lengths):
            return clocks[position]
        return next((file.clock_ms for file in cask.files if file.number == number), cask.clock_ms)
