"""An order-independent digest of all live keys of a shard, computed in slices that leave the event loop free.

Two replicas that applied the same index have the same digest, whatever the layout of their files. The digest is the
XOR of SHA-1 over `key length, key, type, expiry, value` of every live key: any order of visiting gives the same result.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from hashlib import sha1
from itertools import islice
from typing import Final, NamedTuple

from respkv.keyspace.db import Db

_HEAD: Final = struct.Struct("<IBq")  # key length, type, expiry in ms
_SLICE_COST: Final = 200  # keys in one slice, when they are small; about 1.5 ms
_COST_BYTES: Final = 4096  # this many value bytes cost about as much as one more key


class Digest(NamedTuple):
    """`value` is 20 bytes. It is that of one state if `first_applied == last_applied`; else writes came in between."""

    value: bytes
    keys: int
    first_applied: int
    last_applied: int


def digest(db: Db) -> Generator[None, None, Digest]:
    """Yields between slices of about 1.5 ms and returns the `Digest` of the keys live at the time of the start.

    Not to be run inside a batch. Raises what reading raises (damage).
    """
    now_ms, first_applied = db.now_ms, db.cask.applied
    total, count, cost = 0, 0, 0
    for bucket in islice(db.cask.buckets, db.slots):
        for key in list(bucket):
            record = db.cask.get(key)
            if record is None or 0 < record.expire_ms <= now_ms:
                continue
            hashed = sha1(_HEAD.pack(len(key), record.type, record.expire_ms) + key, usedforsecurity=False)
            hashed.update(record.value)
            total ^= int.from_bytes(hashed.digest(), "big")
            count += 1
            cost += 1 + len(record.value) // _COST_BYTES
            if cost >= _SLICE_COST:
                cost = 0
                yield
    return Digest(total.to_bytes(20, "big"), count, first_applied, db.cask.applied)
