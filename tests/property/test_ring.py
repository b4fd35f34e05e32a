"""The ring is balanced, moves little, and depends on nothing but the number of shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.cluster import ring
from respkv.cluster.slots import SLOTS
from respkv.config import tree


@cache
def owners(shards: int) -> tuple[int, ...]:
    return ring.owners(ring.tokens(shards))


@pytest.mark.parametrize("shards", range(1, ring.SHARDS_MAX + 1))
def test_shares_differ_by_at_most_one_slot(shards: int) -> None:
    shares = Counter(owners(shards))
    assert set(shares) == set(range(shards))
    assert max(shares.values()) - min(shares.values()) <= 1
    assert (max(shares.values()) - min(shares.values())) / (SLOTS / shards) <= 0.05


@pytest.mark.parametrize("shards", range(2, ring.SHARDS_MAX + 1))
def test_a_new_shard_takes_its_share_and_nothing_else_moves(shards: int) -> None:
    moved = [new for old, new in zip(owners(shards - 1), owners(shards), strict=True) if old != new]
    assert set(moved) == {shards - 1}
    assert len(moved) / SLOTS <= 1 / shards + 0.02


def test_adding_shards_one_by_one_keeps_every_token() -> None:
    whole = ring.tokens(64)
    for shards in range(1, 65):
        assert ring.tokens(shards) == whole[:shards]


def test_tokens_stay_few() -> None:
    assert [sum(map(len, ring.tokens(shards))) for shards in (1, 2, 3, 8, 64)] == [1, 2, 4, 29, 2026]


def test_the_map_is_written_in_stone() -> None:
    """Data on disk was placed by these tokens: an algorithm that gives others would lose it."""
    assert ring.tokens(5) == RING_OF_5
    assert hashlib.sha256(repr(ring.tokens(64)).encode()).hexdigest()[:16] == "73746dceb8ccfc9b"


RING_OF_5 = ((16383,), (8191,), (2729, 10922), (4095, 9556, 12287), (818, 3548, 4914, 13106))


@given(st.lists(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=5), min_size=1, max_size=20))
def test_a_slot_belongs_to_the_next_token_clockwise(tokens: list[list[int]]) -> None:
    flat = sorted((token, shard) for shard, own in enumerate(tokens) for token in own)
    distinct = [token for token, _ in flat]
    if len(set(distinct)) != len(distinct):
        with pytest.raises(ValueError, match="twice"):
            ring.owners([tuple(own) for own in tokens])
        return
    table = ring.owners([tuple(own) for own in tokens])
    for slot in (0, 1, SLOTS // 2, SLOTS - 1, *distinct, *((token + 1) % SLOTS for token in distinct)):
        assert table[slot] == next((shard for token, shard in flat if token >= slot), flat[0][1])


@given(st.lists(st.sets(st.integers(0, SLOTS - 1), min_size=1, max_size=4), min_size=1, max_size=12))
def test_a_shard_can_join_any_ring(sets: list[set[int]]) -> None:
    """Also one that lost shards and is uneven: only slots to the new shard move, and it gets its part."""
    seen: set[int] = set()
    old: list[tuple[int, ...]] = []
    for own in sets:
        old.append(tuple(sorted(own - seen)))
        seen |= own
    before = ring.owners(old)
    after = ring.owners([*old, ring.place(old)])
    moved = [new for was, new in zip(before, after, strict=True) if was != new]
    assert set(moved) <= {len(old)}
    assert len(moved) == SLOTS // (len(old) + 1)


@pytest.mark.parametrize("shards", [-1, 0, ring.SHARDS_MAX + 1])
def test_a_number_of_shards_out_of_range_is_refused(shards: int) -> None:
    with pytest.raises(ValueError, match="shards"):
        ring.tokens(shards)


def test_the_configuration_allows_what_the_ring_can_place() -> None:
    assert tree.SHARDS_MAX == ring.SHARDS_MAX
