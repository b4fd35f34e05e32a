"""Glob patterns exactly as Redis matches them (`stringmatchlen` in its util.c), without its worst cases.

`*` any bytes, `?` one byte, `[abc]` `[^a-z]` a class, `\\x` the byte x. Redis's corners are kept: an unclosed class
ends with the pattern, `[]` matches nothing, the bounds of a range may be in any order and count as *signed* bytes, in
`[a-]` the `]` is a bound, and the empty string is matched by the empty pattern alone (but see `key_matcher`).

How: between two stars stands a piece of fixed length. The first piece is anchored at the start, the last at the end,
and the leftmost place is right for each one in between, so nothing is ever tried twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Matcher = Callable[[bytes], bool]
_Class = frozenset[int]

_ANY: Final[_Class] = frozenset(range(256))
_STAR, _QUESTION, _OPEN, _CLOSE, _NOT, _DASH, _ESCAPE = b"*?[]^-\\"


def matches(pattern: bytes, text: bytes, ignore_case: bool = False) -> bool:
    """Whether `pattern` matches all of `text`. `ignore_case` is about ASCII letters, as CONFIG GET wants it."""
    return matcher(pattern, ignore_case)(text)


@lru_cache(maxsize=256)
def matcher(pattern: bytes, ignore_case: bool = False) -> Matcher:
    """The compiled pattern: a function from text to whether all of it matches."""
    if pattern == b"*":
        return bool
    pieces = [_Piece(classes) for classes in _pieces(pattern, ignore_case)]
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return lambda text: len(text) == first.size and first.at(text, 0)
    between = [piece for piece in pieces[1:-1] if piece.size]
    size_min = sum(piece.size for piece in pieces)

    def match(text: bytes) -> bool:
        if len(text) < size_min or not text:
            return False
        end = len(text) - last.size
        if not (first.at(text, 0) and last.at(text, end)):
            return False
        position = first.size
        for piece in between:
            position = piece.find(text, position, end)
            if position < 0:
                return False
            position += piece.size
        return True

    return match


def key_matcher(pattern: bytes) -> Matcher:
    """As KEYS and SCAN match: they look for `*` alone before they match, so there it means the empty key, too."""
    return _everything if pattern == b"*" else matcher(pattern)


def _everything(text: bytes) -> bool:
    return True


class _Piece:
    """What stands between two stars: a fixed number of bytes, each of a class."""

    __slots__ = ("_literal", "_regex", "size")

    def __init__(self, classes: list[_Class]) -> None:
        self.size = len(classes)
        self._literal = bytes(next(iter(c)) for c in classes) if all(len(c) == 1 for c in classes) else None
        source = b"".join(map(_class_regex, classes)) if self._literal is None else b""
        self._regex = re.compile(source, re.DOTALL)

    def at(self, text: bytes, position: int) -> bool:
        if self._literal is not None:
            return text.startswith(self._literal, position)
        return self._regex.match(text, position) is not None

    def find(self, text: bytes, position: int, end: int) -> int:
        """The first place in `text[position:end]`, or -1."""
        if self._literal is not None:
            return text.find(self._literal, position, end)
        found = self._regex.search(text, position, end)
        return found.start() if found else -1


def _class_regex(members: _Class) -> bytes:
    if members == _ANY:
        return b"."
    if not members:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(members)) + b"]"


def _pieces(pattern: bytes, ignore_case: bool) -> list[list[_Class]]:
    """The pattern cut at its stars, every byte of the text to come described by the set of bytes that match it."""
    pieces: list[list[_Class]] = [[]]
    position = 0
    while position < len(pattern):
        byte = pattern[position]
        if byte == _STAR:
            pieces.append([])
        elif byte == _QUESTION:
            pieces[-1].append(_ANY)
        elif byte == _OPEN:
            members, position = _class(pattern, position + 1, ignore_case)
            pieces[-1].append(members)
        else:
            if byte == _ESCAPE and position + 1 < len(pattern):
                position += 1
            pieces[-1].append(_one(pattern[position], ignore_case))
        position += 1
    return pieces


def _class(pattern: bytes, position: int, ignore_case: bool) -> tuple[_Class, int]:
    """The class that begins after its `[`, and the position of its last byte."""
    end = len(pattern)
    negated = position < end and pattern[position] == _NOT
    position += negated
    members: set[int] = set()
    while position < end:
        left = end - position
        byte = pattern[position]
        if byte == _ESCAPE and left >= 2:
            position += 1
            members.add(pattern[position])
        elif byte == _CLOSE:
            break
        elif left >= 3 and pattern[position + 1] == _DASH:
            position += 2
            members |= _range(byte, pattern[position], ignore_case)
        else:
            members |= _one(byte, ignore_case)
        position += 1
    found = frozenset(members)
    return (_ANY - found if negated else found), position


def _range(start: int, end: int, ignore_case: bool) -> set[int]:
    low, high = sorted((_signed(start), _signed(end)))
    if ignore_case:
        low, high = _lower(low), _lower(high)
    return {byte for byte in range(256) if low <= (_lower(_signed(byte)) if ignore_case else _signed(byte)) <= high}


def _one(byte: int, ignore_case: bool) -> _Class:
    if not ignore_case:
        return frozenset((byte,))
    return frozenset((byte, _lower(byte), bytes((byte,)).upper()[0]))


def _signed(byte: int) -> int:
    return byte - 256 if byte >= 128 else byte


def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte
