"""`notify-keyspace-events`: classes of events as letters, as Redis writes them."""

from __future__ import annotations

from typing import Final

_LETTERS: Final = {
    "g": 1 << 2, "$": 1 << 3, "l": 1 << 4, "s": 1 << 5, "h": 1 << 6, "z": 1 << 7, "x": 1 << 8, "e": 1 << 9,
    "t": 1 << 10, "d": 1 << 13, "n": 1 << 14,
}  # fmt: skip
KEYSPACE: Final = 1 << 0
KEYEVENT: Final = 1 << 1
_MISS: Final = 1 << 11
_ALL: Final = sum(bit for letter, bit in _LETTERS.items() if letter != "n")
_BITS: Final = _LETTERS | {"K": KEYSPACE, "E": KEYEVENT, "m": _MISS, "A": _ALL}


def events_mask(text: str) -> int:
    """The classes that `text` names, as bits. Raises ValueError."""
    unknown = set(text) - _BITS.keys()
    if unknown:
        raise ValueError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    mask = 0
    for letter in text:
        mask |= _BITS[letter]
    return mask


def events(value: object) -> str:
    """A parser: the same classes in the words that CONFIG GET shows."""
    if not isinstance(value, str):
        raise ValueError("must be a text of letters")
    mask = events_mask(value)
    everything = mask & _ALL == _ALL
    found = "A" if everything else ""
    for letter, bit in _LETTERS.items():
        if mask & bit and not (everything and letter != "n"):
            found += letter
    return found + "".join(letter for letter in "KEm" if mask & _BITS[letter])
