"""The longest common subsequence of two strings, in whole rows of the table at a time.

The table of LCS lengths of all prefixes differs by at most one between neighbours, so a row is a string of bits: bit k
is 0 where prefix k+1 of the long string gains one over prefix k. A row follows from the one before by a few operations
on big integers (Hyyrö, "Bit-Parallel LCS-length Computation Revisited", 2004): a table of 10^8 cells takes well under a
second. `matches` then walks back through the stored rows by the same choices as Redis, as there may be several longest
subsequences and clients compare results.
"""

from __future__ import annotations

from typing import NamedTuple


class Match(NamedTuple):
    """`length` bytes that are the same from `first` on in the first string and from `second` on in the second."""

    first: int
    second: int
    length: int


def length(first: bytes, second: bytes) -> int:
    """The length of the longest common subsequence."""
    short, long = sorted((first, second), key=len)
    masks = _masks(short, long)
    every = row = (1 << len(long)) - 1
    for byte in short:
        row = _next_row(row, masks[byte]) & every
    return len(long) - row.bit_count()


def matches(first: bytes, second: bytes) -> list[Match]:
    """The runs of the longest common subsequence that Redis would find, the last one first."""
    swapped = len(first) < len(second)
    short, long = (first, second) if swapped else (second, first)
    found = _walk(short, long, _masks(short, long), short_is_first=swapped)
    return found if swapped else [Match(match.second, match.first, match.length) for match in found]


def _masks(short: bytes, long: bytes) -> dict[int, int]:
    """For each byte of `short` the positions in `long` where it stands, as set bits."""
    backwards = long[::-1]
    masks = {}
    for byte in set(short):
        digits = bytearray(b"0" * 256)
        digits[byte] = ord("1")
        masks[byte] = int(backwards.translate(digits), 2) if long else 0
    return masks


def _next_row(row: int, mask: int) -> int:
    hit = row & mask
    return (row + hit) | (row - hit)


def _rows(short: bytes, long: bytes, masks: dict[int, int]) -> list[int]:
    """Row n is that of the first n bytes of `short`."""
    every = (1 << len(long)) - 1
    rows = [every]
    for byte in short:
        rows.append(_next_row(rows[-1], masks[byte]) & every)
    return rows


def _walk(short: bytes, long: bytes, masks: dict[int, int], *, short_is_first: bool) -> list[Match]:
    """Back from the end, with `first` in the matches for `short`.

    Where the bytes differ Redis goes back in the first string if that loses nothing and going back in the second does,
    and in the second otherwise. Steps back in `long` are taken together, up to where something changes.
    """
    rows = _rows(short, long, masks)
    found: list[Match] = []
    i, j = len(short), len(long)
    while i and j:
        if short[i - 1] == long[j - 1]:
            size = 1
            while size < i and size < j and short[i - size - 1] == long[j - size - 1]:
                size += 1
            i, j = i - size, j - size
            found.append(Match(i, j, size))
            continue
        stops = ~rows[i] | masks[short[i - 1]]  # where the bytes are equal, or going back in `long` loses
        below = (1 << j) - 1
        if short_is_first:
            may_step = bool(rows[i] >> (j - 1) & 1)
        else:
            may_step = (rows[i - 1] & below).bit_count() > (rows[i] & below).bit_count()
        if may_step:
            j = (stops & below).bit_length()
        else:
            i -= 1
    return found
