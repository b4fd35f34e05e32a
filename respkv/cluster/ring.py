"""The ring: consistent hashing of slots to shards.

The ring is the circle of the 16384 slots. A shard places *tokens* on it, a token is the number of a slot, and a slot
belongs to the shard whose token is next clockwise (the token's own slot included; after the last comes the first). The
stretch of slots that ends in a token is that token's *arc*.

What it promises, for 1 to `SHARDS_MAX` shards (tests/property/test_ring.py):

- **Balance**: all shards own the same number of slots, give or take one.
- **Little movement**: adding the n-th shard moves `16384 // n` slots, every one of them to the new shard. No token of
  another shard is touched, so no slot moves between old shards.
- **No state**: `tokens(n)` depends on n alone and is what adding shards one by one gives. Removing the youngest shard
  is exactly the reverse of adding it.

Tokens drawn at random (Karger et al., "Consistent Hashing and Random Trees", 1997) need thousands per shard to bring
shares within 5 %. Here the new shard chooses its tokens by looking at the ring: it wants `16384 // n` slots and takes
them, one at a time, always from the shard that has most left. That levels all shares. What it takes from one shard it
cuts off the front of that shard's longest arc by placing one token there (on a second arc only if the longest is too
short). A shard therefore keeps its tokens and loses slots only at the front of its arcs. The n-th shard places about
n - 1 tokens, so n shards have about n * n / 2 arcs in all: 4 ranges for 3 shards, 29 for 8, 2026 for 64.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import cache
from typing import Final

from respkv.cluster.slots import SLOTS

SHARDS_MAX: Final = 100  # beyond about 117, arcs become single slots, which have nothing left to give

Tokens = tuple[int, ...]


@cache
def tokens(shards: int) -> tuple[Tokens, ...]:
    """The tokens of each of `shards` shards, ascending. Raises ValueError beyond 1..`SHARDS_MAX`."""
    if not 1 <= shards <= SHARDS_MAX:
        raise ValueError(f"a ring has 1 to {SHARDS_MAX} shards, not {shards}")
    ring: list[Tokens] = []
    for _ in range(shards):
        ring.append(place(ring))
    return tuple(ring)


def place(ring: Sequence[Tokens]) -> Tokens:
    """The tokens of one more shard on a ring that may be empty. Raises ValueError if the ring has no room for it."""
    if not ring:
        return (SLOTS - 1,)
    new = []
    arcs = _arcs(ring)
    for shard, count in enumerate(_shares_to_take(arcs)):
        for length, token in sorted(arcs[shard], key=lambda arc: (-arc[0], arc[1])):
            if count == 0:
                break
            taken = min(count, length - 1)  # the donor's token and its slot stay
            if taken:
                new.append((token - length + taken) % SLOTS)
            count -= taken
    return tuple(sorted(new))


def owners(ring: Sequence[Tokens]) -> tuple[int, ...]:
    """The shard (index into `ring`) of each slot. Raises ValueError for equal tokens, or none."""
    table = [-1] * SLOTS
    for shard, arcs in enumerate(_arcs(ring)):
        for length, token in arcs:
            if length == 0:
                raise ValueError(f"token {token} is there twice")
            for slot in range(token - length + 1, token + 1):
                table[slot] = shard  # a negative slot counts from the end: the arc across slot 0
    if -1 in table:
        raise ValueError("a ring needs a token")
    return tuple(table)


def _arcs(ring: Sequence[Tokens]) -> list[list[tuple[int, int]]]:
    """For each shard its arcs as (length in slots, token)."""
    marks = sorted((token, shard) for shard, own in enumerate(ring) for token in own)
    arcs: list[list[tuple[int, int]]] = [[] for _ in ring]
    previous = marks[-1][0] - SLOTS if marks else 0
    for token, shard in marks:
        arcs[shard].append((token - previous, token))
        previous = token
    return arcs


def _shares_to_take(arcs: list[list[tuple[int, int]]]) -> list[int]:
    """How many slots a new shard takes from each: one at a time from the largest share, the lower shard when equal."""
    take = [0] * len(arcs)
    heap = [(-sum(length for length, _ in own), shard) for shard, own in enumerate(arcs)]
    heapq.heapify(heap)
    for _ in range(SLOTS // (len(arcs) + 1)):
        while heap and -heap[0][0] <= len(arcs[heap[0][1]]):  # one slot left in each of its arcs
            heapq.heappop(heap)
        if not heap:
            raise ValueError("the ring has no room for another shard")
        share, shard = heap[0]
        take[shard] += 1
        heapq.heapreplace(heap, (share + 1, shard))
    return take
