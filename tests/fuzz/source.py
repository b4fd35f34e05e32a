"""Where fuzzed values come from: a `random.Random`, whoever drives it, and what is made from it.

A target takes a `Random` and nothing else. Hypothesis hands in one that it can shrink; the long run one for each seed,
so that a failing seed replays exactly; atheris one that spends the bytes it has found by coverage.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 16383, 16384, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**61)
HUGE = (2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63))  # what MessagePack can carry
FLOATS = (0.0, -0.0, 1.5, -1.0, 1e11, 1e13, 1e308, float("inf"), float("-inf"), float("nan"))


class ByteRandom(Random):
    """Draws from given bytes, then zeros."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._bits = int.from_bytes(data, "little")

    def getrandbits(self, k: int) -> int:
        value = self._bits & ((1 << k) - 1)
        self._bits >>= k
        return value

    def random(self) -> float:
        return self.getrandbits(53) / (1 << 53)


def some_bytes(rng: Random, count_max: int = 40) -> bytes:
    return rng.randbytes(rng.randrange(count_max + 1))


def anything(rng: Random, depth: int = 3) -> Any:
    """Any value that MessagePack knows (replies among them are made by who needs them)."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice(NUMBERS + HUGE)
    if kind == 1:
        return some_bytes(rng)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind == 3:
        return rng.choice(FLOATS)
    if kind == 4:
        return rng.choice(("", "n1", "n2", "x" * 50, "\u00e9", "../../x"))
    if kind == 5:
        return rng.randrange(-5, 300)
    if kind == 6:
        return {rng.randrange(5): anything(rng, depth - 1) for _ in range(rng.randrange(3))}
    return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]


def bend(rng: Random, value: Any) -> Any:
    """`value` (of lists, numbers and bytes) with one thing in it changed, somewhere."""
    if isinstance(value, list | tuple) and value and rng.randrange(8):
        items = list(value)
        place = rng.randrange(len(items))
        what = rng.randrange(12)
        if what == 0:
            del items[place]
        elif what == 1:
            items.insert(place, anything(rng))
        elif what == 2:
            items.append(items[place])
        else:
            items[place] = bend(rng, items[place])
        return items
    if isinstance(value, bytes) and value and rng.randrange(3):
        return mutate(rng, value)
    if isinstance(value, int) and rng.randrange(3):
        near = (value + 1, value - 1, value * 2, -value)
        return rng.choice(tuple(n for n in near if -(2**63) <= n < 2**64) + NUMBERS + HUGE)
    return anything(rng)


def mutate(rng: Random, data: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """`data` after one to four small accidents."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        size = len(changed)
        start = rng.randrange(size + 1)
        end = min(size, start + rng.choice((1, 2, 4, 8, 30, 300)))
        what = rng.randrange(8)
        if what == 0 and size:
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del changed[start:end]
        elif what == 2:
            changed[start:start] = changed[start:end]
        elif what == 3:
            changed[start:start] = some_bytes(rng, 12)
        elif what == 4:
            changed[start:end] = bytes(end - start)
        elif what == 5 and words:
            changed[start:end] = rng.choice(words)
        elif what == 6:
            number = rng.choice(NUMBERS + HUGE) & (2**64 - 1)
            changed[start : start + 8] = number.to_bytes(8, "little")[: rng.choice((1, 2, 4, 8))]
        else:
            del changed[start:]
    return bytes(changed)


def cut(rng: Random, data: bytes) -> list[bytes]:
    """`data` in pieces."""
    if rng.randrange(6) == 0:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))})
    return [data[start:end] for start, end in pairwise(places)] or [data]
