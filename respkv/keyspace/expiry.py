"""Which keys are due: the deadlines of one shard's keys, in order, for active expiry and for exact counts.

The truth is the storage's `expires` (key to deadline). `Deadlines` is an index over it: heaps of (deadline, key) that
are told every deadline that is set, and never that one was changed or removed. What they hold is checked against the
truth when its time comes (lazy deletion), and a heap that has grown to twice what was live in it is cleaned. There are
many small heaps (by a hash of the key) instead of a big one, so that no cleaning takes more than a few milliseconds.

Due keys stay due until the truth says otherwise: whoever removes them does so by a proposal that may fail.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final

_HEAPS: Final = 256  # a power of two
_HEAP_SLACK: Final = 64  # a heap this small is not worth cleaning
_POPS_MAX: Final = 1024  # more due than this in one heap: splitting it is cheaper than popping

_Entry = tuple[int, bytes]


class Deadlines:
    """The deadlines of the keys in `expires`, which the owner keeps and changes: key to Unix time in milliseconds."""

    __slots__ = ("_clean_at", "_due", "_expires", "_heaps")

    def __init__(self, expires: Mapping[bytes, int]) -> None:
        self._expires = expires
        self._heaps: list[list[_Entry]] = []
        self._clean_at: list[int] = []
        self._due: dict[bytes, int] = {}
        self.rebuild()

    def rebuild(self) -> None:
        """Starts anew from the truth: at start, and after the whole keyspace was cleared."""
        self._heaps = [[] for _ in range(_HEAPS)]
        self._due = {}
        for key, at_ms in self._expires.items():
            self._heaps[hash(key) & (_HEAPS - 1)].append((at_ms, key))
        for heap in self._heaps:
            heapify(heap)
        self._clean_at = [2 * len(heap) + _HEAP_SLACK for heap in self._heaps]

    def add(self, key: bytes, at_ms: int) -> None:
        """Tells that the truth now holds `at_ms` for `key`."""
        number = hash(key) & (_HEAPS - 1)
        heap = self._heaps[number]
        heappush(heap, (at_ms, key))
        if len(heap) > self._clean_at[number]:
            self._clean(number)

    def add_all(self, entries: Iterable[tuple[bytes, int]]) -> None:
        for key, at_ms in entries:
            self.add(key, at_ms)

    def due(self, now_ms: int, limit: int) -> list[bytes]:
        """At most `limit` keys whose deadline is at or before `now_ms`, those known longest first.

        The same keys come again until `expires` no longer has them: ask again after their removal was applied.
        """
        self._advance(now_ms)
        expires = self._expires
        found: list[bytes] = []
        stale: list[bytes] = []
        for key, at_ms in self._due.items():
            if at_ms > now_ms or expires.get(key) != at_ms:
                stale.append(key)
            elif len(found) < limit:
                found.append(key)
            else:
                break
        self._drop(stale)
        return found

    def due_keys(self, now_ms: int) -> Iterable[bytes]:
        """All keys whose deadline is at or before `now_ms`. Not to be kept beyond the next call."""
        self._advance(now_ms)
        expires = self._expires
        self._drop([key for key, at_ms in self._due.items() if at_ms > now_ms or expires.get(key) != at_ms])
        return self._due.keys()

    def sample(self, wanted: int, rng: random.Random) -> list[bytes]:
        """Some of the keys that have a deadline, taken at random; fewer than `wanted` if many places are stale."""
        expires, found = self._expires, []
        for _ in range(wanted):
            heap = self._heaps[rng.randrange(_HEAPS)]
            if heap:
                at_ms, key = heap[rng.randrange(len(heap))]
                if expires.get(key) == at_ms:
                    found.append(key)
        return found

    def next_ms(self) -> int | None:
        """A time before which no further key becomes due; None if no key has a deadline."""
        return min((heap[0][0] for heap in self._heaps if heap), default=None)

    def __len__(self) -> int:
        return len(self._expires)

    def _advance(self, now_ms: int) -> None:
        """Moves the entries that are due from the heaps to `_due`."""
        due, expires = self._due, self._expires
        for number, heap in enumerate(self._heaps):
            pops = 0
            while heap and heap[0][0] <= now_ms:
                if pops == _POPS_MAX:
                    self._split(number, now_ms)
                    break
                at_ms, key = heappop(heap)
                if expires.get(key) == at_ms:
                    due[key] = at_ms
                pops += 1

    def _split(self, number: int, now_ms: int) -> None:
        """Moves all due entries of one heap at once."""
        heap, expires = self._heaps[number], self._expires
        for at_ms, key in heap:
            if at_ms <= now_ms and expires.get(key) == at_ms:
                self._due[key] = at_ms
        heap[:] = [entry for entry in heap if entry[0] > now_ms]
        heapify(heap)

    def _drop(self, stale: list[bytes]) -> None:
        """Takes keys from `_due` that were removed, got another deadline, or are not due as the clock went back."""
        for key in stale:
            at_ms = self._due.pop(key)
            if self._expires.get(key) == at_ms:
                heappush(self._heaps[hash(key) & (_HEAPS - 1)], (at_ms, key))

    def _clean(self, number: int) -> None:
        """Drops the stale entries of one heap."""
        heap, expires = self._heaps[number], self._expires
        heap[:] = {entry for entry in heap if expires.get(entry[1]) == entry[0]}
        heapify(heap)
        self._clean_at[number] = 2 * len(heap) + _HEAP_SLACK
