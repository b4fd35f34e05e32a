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
from collections.abc import Callable
from heapq import nsmallest
from typing import Final

from respkv.keyspace.db import Db
from respkv.keyspace.usage import Frequency, Recency

KEY_BYTES: Final = 120
"""What a key takes in memory beside its own bytes: its object, its location, and its share of a dict."""
EXPIRY_BYTES: Final = 200
"""What an expiry takes: its share of a dict, its deadline, and its place in a heap."""
_SAMPLE: Final = 500
_EMPTY_TRIES_MAX: Final = 4


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
    if len(cask) <= wanted * _EMPTY_TRIES_MAX:
        return list(cask) if len(cask) <= wanted else rng.sample(list(cask), wanted)
    found: list[bytes] = []
    buckets, tries = cask.buckets, wanted * _EMPTY_TRIES_MAX
    while len(found) < wanted and tries:
        tries -= 1
        found += buckets[rng.randrange(len(buckets))]
    if len(found) < wanted:  # few keys in few slots
        return rng.sample(list(cask), wanted)
    return found if len(found) < 2 * wanted else rng.sample(found, wanted)


def victims(db: Db, policy: str, wanted: int, samples: int, rng: random.Random) -> list[bytes]:
    """At most `wanted` keys that the policy gives up first, of `samples` times as many that were looked at."""
    volatile, _, how = policy.partition("-")
    pool = wanted if how == "random" else wanted * samples
    choose = random_volatile if volatile == "volatile" else random_keys
    candidates = list(dict.fromkeys(choose(db, pool, rng)))
    if how == "random":
        return candidates[:wanted]
    return nsmallest(wanted, candidates, key=_worth(db, how))


def random_volatile(db: Db, wanted: int, rng: random.Random) -> list[bytes]:
    """The same of the keys that have an expiry."""
    expires = db.cask.expires
    if len(expires) <= wanted * _EMPTY_TRIES_MAX:
        return list(expires) if len(expires) <= wanted else rng.sample(list(expires), wanted)
    return db.deadlines.sample(wanted, rng)


def _worth(db: Db, how: str) -> Callable[[bytes], int]:
    """A function that is lower for keys that are to go earlier."""
    usage = db.usage
    if how == "ttl":
        return lambda key: db.cask.expires.get(key, 0)
    if isinstance(usage, Frequency):
        return usage.count
    if isinstance(usage, Recency):
        return lambda key: max(usage.used_ms(key), db.idle.used_ms(key))
    return db.idle.used_ms

