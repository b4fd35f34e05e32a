"""The read cache of a log: values that were read and verified, as long as they are what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

ENTRY_BYTES: Final = 320
"""About what an entry takes beside twice the bytes of key and value: the caller may keep a reply made of it."""


class ReadCache:
    """Emptied whenever it holds `limit_bytes`, or more by one entry; 0 keeps nothing.

    Attributes:
        at_hand: called with a key: its value, None if it is not here.
        told: called with each key that goes, and with None where all go.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.told: Callable[[bytes | None], None] | None = None
        self._values: dict[bytes, bytes] = {}
        self._room = limit_bytes
        self.at_hand: Callable[[bytes], bytes | None] = self._values.get

    def __len__(self) -> int:
        return len(self._values)

    def add(self, key: bytes, value: bytes) -> None:
        """`value` is what is stored under `key`. It is here afterwards, unless nothing is kept."""
        if self.limit_bytes:
            if self._room <= 0:
                self.clear()
            self._values[key] = value
            self._room -= 2 * (len(key) + len(value)) + ENTRY_BYTES

    def forget(self, keys: Iterable[bytes]) -> None:
        """Something else is stored under `keys` now, or nothing."""
        pop, told = self._values.pop, self.told
        for key in keys:
            value = pop(key, None)
            if value is not None:
                self._room += 2 * (len(key) + len(value)) + ENTRY_BYTES
                if told is not None:
                    told(key)

    def clear(self) -> None:
        self._values.clear()
        self._room = self.limit_bytes
        if self.told is not None:
            self.told(None)
