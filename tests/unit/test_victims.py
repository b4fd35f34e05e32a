"""Which keys go when memory is short: each policy on a shard's data, and what is known of their use."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import pytest

from respkv.keyspace import usage as usage_module
from respkv.keyspace.db import Db
from respkv.keyspace.usage import LFU_INIT, LFU_MAX, NEVER, Frequency, Recency
from respkv.keyspace.victims import EXPIRY_BYTES, KEY_BYTES, enough, keys_bytes, random_keys, victims
from respkv.storage import Bitcask

RNG = random.Random(1)


@pytest.fixture
def db(tmp_path: Path) -> Db:
    """100 keys k0 to k99, those with odd numbers expire: the higher the later. Each second number was written later."""
    db = Db(Bitcask(tmp_path, buckets=64))
    for number in range(100):
        db.now_ms = 1_000_000 + number * 10_000
        db.begin()
        db.set_string(b"k%d" % number, b"v", db.now_ms + 10**9 + number * 1000 if number % 2 else 0)
        db.commit(number + 1, 1)
        db.idle.observe()
    return db


def numbers(keys: list[bytes]) -> set[int]:
    return {int(key[1:]) for key in keys}


def choose(db: Db, policy: str, wanted: int) -> set[int]:
    """With so many samples that every key is looked at."""
    found = victims(db, policy, wanted, 200, RNG)
    assert len(found) == len(set(found)) == wanted
    return numbers(found)


def test_lru_takes_what_was_written_first(db: Db) -> None:
    assert choose(db, "allkeys-lru", 10) == set(range(10))
    assert choose(db, "volatile-lru", 5) == {1, 3, 5, 7, 9}


def test_lru_spares_what_was_read(db: Db) -> None:
    db.usage = Recency()
    db.usage.now_ms = db.now_ms + 1
    db.usage.note_all([b"k0", b"k1", b"k2"])
    assert choose(db, "allkeys-lru", 10) == set(range(3, 13))
    assert db.idle_ms(b"k0") == 0


def test_lfu_takes_what_is_used_least(db: Db) -> None:
    db.usage = Frequency()
    db.usage.now_ms = db.now_ms
    for number in range(90):
        for _ in range(50):
            db.usage.note(b"k%d" % number)
    assert choose(db, "allkeys-lfu", 10) == set(range(90, 100))


def test_ttl_takes_what_expires_next(db: Db) -> None:
    assert choose(db, "volatile-ttl", 3) == {1, 3, 5}


def test_volatile_policies_find_nothing_else(db: Db) -> None:
    for policy in ("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"):
        assert numbers(victims(db, policy, 1000, 5, RNG)) == set(range(1, 100, 2))


def test_random_takes_any(db: Db) -> None:
    seen: set[int] = set()
    for _ in range(300):
        found = numbers(victims(db, "allkeys-random", 3, 5, RNG))
        assert 1 <= len(found) <= 3
        seen |= found
    assert len(seen) > 90


def test_few_keys_in_many_slots_are_found(tmp_path: Path) -> None:
    db = Db(Bitcask(tmp_path, buckets=16384))
    db.begin()
    for number in range(300):
        db.set_string(b"%d" % number, b"")
    db.commit(1, 1)
    for wanted in (1, 10, 299, 300, 5000):
        found = random_keys(db, wanted, RNG)
        assert set(found) <= set(db.cask)
        assert len(found) >= min(wanted, 300)


def test_memory_grows_and_shrinks_with_keys_their_names_and_their_expiries(db: Db) -> None:
    names = 10 * 2 + 90 * 3
    assert keys_bytes(db, RNG) == 100 * KEY_BYTES + names + 50 * EXPIRY_BYTES
    db.begin()
    for key in list(db.cask):
        if key != b"k1":
            db.delete(key)
    db.commit(101, 1)
    assert keys_bytes(db, RNG) == KEY_BYTES + 2 + EXPIRY_BYTES


def test_no_more_goes_than_is_needed(db: Db) -> None:
    keys = [b"k0", b"k1", b"k2"]
    assert enough(db, keys, 1) == keys[:1]
    assert enough(db, keys, KEY_BYTES + 2) == keys[:1]
    assert enough(db, keys, KEY_BYTES + 3) == keys[:2]
    assert enough(db, keys, 10**9) == keys


# --- use ---


def test_a_counter_grows_logarithmically_and_decays_by_the_minute() -> None:
    frequency = Frequency()
    assert frequency.count(b"k") == LFU_INIT
    for _ in range(10_000):
        frequency.note(b"k")
    grown = frequency.count(b"k")
    assert 20 < grown < 100
    frequency.now_ms += 10 * 60_000
    assert frequency.count(b"k") == grown - 10
    frequency.now_ms += 10**9
    assert frequency.count(b"k") == 0


def test_how_fast_a_counter_grows_and_decays_can_be_set() -> None:
    frequency = Frequency()
    frequency.log_factor = 0
    for _ in range(300):
        frequency.note(b"k")
    assert frequency.count(b"k") == LFU_MAX
    frequency.decay_minutes = 7
    frequency.now_ms += 20 * 60_000
    assert frequency.count(b"k") == LFU_MAX - 2
    frequency.decay_minutes = NEVER
    frequency.now_ms += 10**12
    assert frequency.count(b"k") == LFU_MAX


def test_use_is_forgotten_after_two_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "GENERATION_MAX", 10)
    recency = Recency()
    recency.now_ms = 7
    recency.note(b"old")
    for number in range(15):
        recency.note(b"%d" % number)
    assert recency.used_ms(b"old") == 7
    for number in range(15, 30):
        recency.note(b"%d" % number)
    assert recency.used_ms(b"old") == 0
    assert recency.used_ms(b"29") == 7


def test_a_key_that_a_plain_look_leaves_to_another_is_not_noted_twice() -> None:
    found = {b"plain": b"value", b"absent": None, b"expires": False}

    class Noting(Recency):
        noted: ClassVar[list[bytes]] = []

        def note(self, key: bytes) -> None:
            self.noted.append(key)

    get = Noting().watching(lambda slot, key: found[key])
    assert [get(0, key) for key in found] == [b"value", None, False]
    assert Noting.noted == [b"plain", b"absent"]
