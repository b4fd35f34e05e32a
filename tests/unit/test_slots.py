"""Slots are those of Redis Cluster, so that its clients compute the same ones."""

from __future__ import annotations

from binascii import crc_hqx

import pytest

from respkv.cluster.slots import SLOTS, slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 12739),  # the check value of the Redis Cluster specification
        (b"", 0),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"hello", 866),
        (b"somekey", 11058),
        (b"foo{hash_tag}", 2515),
        (b"bar{hash_tag}", 2515),
    ],
)
def test_slots_are_those_that_redis_computes(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),  # nothing between the first pair: the whole key
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{bar", b"foo{bar"),
        (b"foo}bar{", b"foo}bar{"),
        (b"}{a}", b"a"),
        (b"{a}", b"a"),
    ],
)
def test_a_hash_tag_alone_decides(key: bytes, hashed: bytes) -> None:
    assert slot_of(key) == crc_hqx(hashed, 0) % SLOTS
