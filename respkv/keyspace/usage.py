"""How recently, or how often, keys were used, for eviction; kept only while `maxmemory-policy` asks for it.

`Recency` knows when keys were last read: writes need no note, as `respkv.keyspace.idle` finds when a record was written
from where it lies. `Frequency` counts reads and writes as Redis does (`lfu.c`: a logarithmic counter of eight bits that
loses one for each minute, or `lfu-decay-time`, without use). Both forget: they keep two generations of at most
`GENERATION_MAX` keys, so a key that was not used for that many others counts as unused.

They are kept where commands are run, on a shard's leader, and are no part of the state that replicas share: after a
failover the new leader begins without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

GENERATION_MAX: Final = 200_000
LFU_INIT: Final = 5
LFU_MAX: Final = 255
NEVER: Final = 1 << 62
_MINUTE_MS: Final = 60_000


class Usage:
    """What both have in common: an int for each key that was used, in two generations."""

    lfu = False

    def __init__(self) -> None:
        self.now_ms = 0
        """Unix time in milliseconds, as whoever owns this sets it now and then: what is noted is no finer."""
        self._new: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._new or self._old)

    def note(self, key: bytes) -> None:
        """`key` is used now."""
        raise NotImplementedError

    def note_all(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.note(key)

    def watching(self, get: Callable[[int, bytes], Any]) -> Callable[[int, bytes], Any]:
        """A function that does what `get(slot, key)` does, and notes the key unless that is left to another (False)."""

        def noted(slot: int, key: bytes) -> Any:
            value = get(slot, key)
            if value is not False:
                self.note(key)
            return value

        return noted

    def _turn(self) -> None:
        self._old, self._new = self._new, {}

    def _of(self, key: bytes) -> int | None:
        value = self._new.get(key)
        return self._old.get(key) if value is None else value


class Recency(Usage):
    """For the policies `*-lru`."""

    def note(self, key: bytes) -> None:
        if len(self._new) >= GENERATION_MAX:
            self._turn()
        self._new[key] = self.now_ms

    def used_ms(self, key: bytes) -> int:
        """When `key` was last read, Unix time in milliseconds; 0 if that is not known."""
        return self._of(key) or 0


class Frequency(Usage):
    """For the policies `*-lfu`. A value is the minute of the last use, shifted by eight bits, and the counter."""

    lfu = True

    def __init__(self) -> None:
        super().__init__()
        self.log_factor = 10
        """How many uses the counter's next step takes: about this many times the steps above those of a new key."""
        self.decay_minutes = 1
        """Minutes without use for each step down; `NEVER` is none."""

    def note(self, key: bytes) -> None:
        count = self.count(key)
        above = max(0, count - LFU_INIT)
        if count < LFU_MAX and random.random() * (above * self.log_factor + 1) < 1:
            count += 1
        self.set_count(key, count)

    def set_count(self, key: bytes, count: int) -> None:
        """`key` counts as one that was used so often, and now."""
        if len(self._new) >= GENERATION_MAX:
            self._turn()
        self._new[key] = self.now_ms // _MINUTE_MS << 8 | count

    def count(self, key: bytes) -> int:
        """The counter as it is now; that of a new key if nothing is known of it."""
        value = self._of(key)
        if value is None:
            return LFU_INIT
        return max(0, (value & LFU_MAX) - (self.now_ms // _MINUTE_MS - (value >> 8)) // self.decay_minutes)
