"""Which keys to evict from a shard: a sample, and the least used of it, as Redis does it (`evict.c`).

| `maxmemory-policy` | candidates | first to go |
| --- | --- | --- |
| `allkeys-random`, `volatile-random` | all keys, those with an expiry | any |
| `allkeys-lru`, `volatile-lru` | the same | what was not read or written for the longest time |
| `allkeys-lfu`, `volatile-lfu` | the same | what was used least often |
| `volatile-ttl` | those with an expiry | what expires next |

As slots are dicts without an order that replicas share, each leader chooses for itself and proposes the removal by
name.
"""

from __future__ import annotations

import random
from typing import Final

from respkv.cluster.slots import SLOTS
from respkv.keyspace.db import Db
from respkv.keyspace.usage import Frequency, Recency
from respkv.keyspace.values import KEY_BYTES_MAX

KEY_BYTES: Final = 120
"""What a key takes in memory beside its own bytes: its object, its location, and its share of a dict."""
EXPIRY_BYTES: Final = 200
"""What an expiry takes: its share of a dict, its deadline, and its place in a heap."""
_SAMPLE: Final = 200
_TRIES_MIN: Final = 1000


def keys_bytes(db: Db, rng: random.Random) -> int:
    """About what the keys of a shard take in memory; their mean length is that of a sample if there are many."""
    count = len(db.cask)
    if not count:
        return 0
    sample = random_keys(db, _SAMPLE, rng)
    names = count * sum(map(len, sample)) // max(1, len(sample))
    return count * KEY_BYTES + names + len(db.cask.expires) * EXPIRY_BYTES


def random_keys(db: Db, wanted: int, rng: random.Random) -> list[bytes]:
    """About `wanted` of the keys, expired ones included, or all if there are fewer: those of slots taken at random."""
    cask = db.cask
    if len(cask) <= wanted:
        return _clients_own(db)
    found: list[bytes] = []
    buckets, count, pick = cask.buckets, min(SLOTS, len(cask.buckets)), rng.random
    for _ in range(max(_TRIES_MIN, 2 * wanted * count // len(cask))):
        found += buckets[int(pick() * count)]
        if len(found) >= wanted:
            return found[: 2 * wanted]
    return found or _clients_own(db)[:wanted]  # all of few keys in a few slots


def _clients_own(db: Db) -> list[bytes]:
    """All keys but those of the system's own records (`respkv.keyspace.system`)."""
    return [key for key in db.cask if len(key) <= KEY_BYTES_MAX]


def victims(db: Db, policy: str, wanted: int, samples: int, rng: random.Random) -> list[bytes]:
    """At most `wanted` keys that the policy gives up first, of those that were looked at.

    The least used of `samples` keys is, on average, as far from the very least used as are the keys of the lowest part
    of `(samples + 1) / 2` times as many as are wanted; for many at once that is cheaper.
    """
    volatile, _, how = policy.partition("-")
    pool = wanted if how == "random" else max(samples, wanted * (samples + 1) // 2)
    choose = random_volatile if volatile == "volatile" else random_keys
    candidates = list(dict.fromkeys(choose(db, pool, rng)))
    if how == "random" or len(candidates) <= wanted:
        return candidates[:wanted]
    worths = _worths(db, candidates, how)
    return [candidates[at] for at in sorted(range(len(candidates)), key=worths.__getitem__)[:wanted]]


def _worths(db: Db, keys: list[bytes], how: str) -> list[int]:
    """For each key a number that is lower if it is to go earlier."""
    usage = db.usage
    if how == "ttl":
        expires = db.cask.expires
        return [expires.get(key, 0) for key in keys]
    if isinstance(usage, Frequency):
        return list(map(usage.count, keys))
    written = db.idle.used_ms_of(keys)
    if isinstance(usage, Recency) and usage:
        return list(map(max, map(usage.used_ms, keys), written))
    return written


def enough(db: Db, keys: list[bytes], wanted_bytes: int) -> list[bytes]:
    """The first of `keys` that together take so much memory, or all."""
    expires = db.cask.expires
    for count, key in enumerate(keys, 1):
        wanted_bytes -= KEY_BYTES + len(key) + (EXPIRY_BYTES if key in expires else 0)
        if wanted_bytes <= 0:
            return keys[:count]
    return keys


def random_volatile(db: Db, wanted: int, rng: random.Random) -> list[bytes]:
    """The same of the keys that have an expiry."""
    expires = db.cask.expires
    if len(expires) <= wanted:
        return list(expires)
    return db.deadlines.sample(wanted, rng)

