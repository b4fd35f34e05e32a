"""The read cache of a log: values that were read and verified, as long as they are what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

ENTRY_BYTES: Final = 160
"""About what an entry takes beside the bytes of key and value."""


class ReadCache:
    """Emptied whenever it holds more than `limit_bytes`; 0 keeps nothing.

    Attributes:
        at_hand: called with a key: its value, None if it is not here.
        told: called with a key that goes, and with None where all go; returns how many bytes it had kept for the key on
            the account of this cache (`charge`). None: nobody wants to know.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.told: Callable[[bytes | None], int] | None = None
        self._values: dict[bytes, bytes] = {}
        self._room = limit_bytes
        self.at_hand: Callable[[bytes], bytes | None] = self._values.get

    def __len__(self) -> int:
        return len(self._values)

    def add(self, key: bytes, value: bytes) -> None:
        """`value` is what is stored under `key`."""
        if self.limit_bytes:
            self._values[key] = value
            self.charge(len(key) + len(value) + ENTRY_BYTES)

    def charge(self, size: int) -> None:
        """So many bytes more are kept, here or by who is told. May empty the cache."""
        self._room -= size
        if self._room < 0:
            self.clear()

    def forget(self, keys: Iterable[bytes]) -> None:
        """Something else is stored under `keys` now, or nothing."""
        values, told, freed = self._values, self.told, 0
        for key in keys:
            value = values.pop(key, None)
            if value is not None:
                freed += len(key) + len(value) + ENTRY_BYTES
                if told is not None:
                    freed += told(key)
        self._room += freed

    def clear(self) -> None:
        self._values.clear()
        self._room = self.limit_bytes
        if self.told is not None:
            self.told(None)
