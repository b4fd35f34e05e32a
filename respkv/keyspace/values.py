"""Data types as stored: the `type` byte of a record, and the name that TYPE and SCAN TYPE know it by.

0 (tombstone) and 255 (clear) belong to the storage and never reach the keyspace.
"""

from __future__ import annotations

from typing import Final

STRING: Final = 1
KEY_BYTES_MAX: Final = 65_536
"""The longest key that a client may use."""

TYPE_NAMES: Final[dict[int, str]] = {STRING: "string"}


def type_name(type_byte: int) -> str:
    """`"string"`, or `"unknown"` for a type that this version does not know."""
    return TYPE_NAMES.get(type_byte, "unknown")
