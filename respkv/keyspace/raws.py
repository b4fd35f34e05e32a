"""Which short strings Redis would keep as `raw`, for OBJECT ENCODING: those that were changed in place.

The encoding of all others follows from the value (`respkv.commands.introspect`). A string that APPEND, SETRANGE,
SETBIT, BITFIELD or BITOP has made stays `raw` in Redis until it is set anew or loaded from a file. Here that is noted
together with the place of its record: whatever writes the key moves it, and so ends the note without being asked to. A
merge of the file ends it too, as does a restart; and beyond `_NOTES_MAX` the oldest are forgotten.
"""

from __future__ import annotations

from typing import Final

from respkv.storage.batch import Batch, Change
from respkv.storage.bitcask import Bitcask

_NOTES_MAX: Final = 10_000


class RawStrings:
    """Of the keys of one `Bitcask`, and of the batch that is open on it."""

    __slots__ = ("_cask", "_new", "_places")

    def __init__(self, cask: Bitcask) -> None:
        self._cask = cask
        self._new: dict[bytes, Change] = {}  # of the open batch: key to what it does to it
        self._places: dict[bytes, int] = {}  # key to where its record lies

    def note(self, key: bytes, batch: Batch) -> None:
        """What the open batch has just put under `key` is such a string."""
        self._new[key] = batch.changes[key]

    def has(self, key: bytes, batch: Batch | None) -> bool:
        """Whether `key` holds one, as the open batch sees it if there is one."""
        change = None if batch is None else batch.changes.get(key)
        if change is not None:
            return self._new.get(key) is change
        place = self._places.get(key)
        return place is not None and place == self._place(key)

    def committed(self, batch: Batch) -> None:
        """What the batch has put has its place; all that was noted since the last commit was of this batch."""
        if not self._new:
            return
        new, self._new = self._new, {}
        for key, change in new.items():
            place = self._place(key)
            if place is not None and batch.changes.get(key) is change:
                self._places.pop(key, None)
                self._places[key] = place
        while len(self._places) > _NOTES_MAX:
            del self._places[next(iter(self._places))]

    def _place(self, key: bytes) -> int | None:
        return self._cask.buckets[self._cask.bucket_of(key)].get(key)
