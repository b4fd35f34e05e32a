"""`Db`: one shard's data as typed keys with expiry, over a `Bitcask` and, while a batch is applied, its `Batch`.

Promises: a key whose expiry is at or before `now_ms` is absent for every reader, whether or not it was removed yet;
`now_ms` is the only clock; between `begin` and `commit` reads see the writes made so far, and `commit` makes all of
them one append. Writing outside a batch is a mistake of the caller. Leaves to others: what commands mean (`commands`),
what a slot is (the cask's buckets are the slots), when expired keys are removed (the shard, by a proposal).

A key that is written with an expiry that has passed is deleted instead: no reader could tell the difference.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, compress, islice
from sys import getsizeof
from typing import Final

from respkv import errors
from respkv.keyspace.expiry import Deadlines
from respkv.keyspace.idle import IdleTimes
from respkv.keyspace.raws import RawStrings
from respkv.keyspace.system import NONE, TYPE, SystemRecord, pack, system_key, unpack
from respkv.keyspace.usage import Frequency, Recency, Usage
from respkv.keyspace.values import STRING
from respkv.keyspace.watch import Watch
from respkv.storage.batch import EXPIRED, Batch, Change
from respkv.storage.bitcask import Bitcask
from respkv.storage.record import OVERHEAD_BYTES, Record

NO_EXPIRY: Final = 0
WRITTEN_BYTES_MAX: Final = 1 << 30
"""From here on the commands of an entry write no more: it becomes one append, which has to fit into one file. The same
on every replica, for it decides what they reply and store."""
_RANDOM_TRIES_MAX: Final = 100
_TTL_SAMPLE: Final = 100


class Db:
    """The typed view of one shard. Single-threaded; owned by the shard's machine."""

    __slots__ = ("_batch", "_bucket_of", "_ends", "_expires", "_get_plain", "_new_deadlines", "_source", "cask",
                 "deadlines", "idle", "now_ms", "raws", "usage", "watch")

    def __init__(self, cask: Bitcask) -> None:
        self.cask = cask
        self.now_ms = cask.clock_ms
        self.deadlines = Deadlines(cask.expires)
        self.idle = IdleTimes(cask)
        self.raws = RawStrings(cask)
        self.usage: Usage | None = None  # while an eviction policy needs it
        self.watch: Watch | None = None
        self._expires = cask.expires
        self._bucket_of = cask.bucket_of
        self._get_plain = cask.get_plain
        self._batch: Batch | None = None
        self._source: Bitcask | Batch = cask
        self._new_deadlines: dict[bytes, int] = {}
        self._ends: tuple[int, list[int]] = (-1, [])  # an index, and then how many keys the buckets up to each held

    # --- the machine's side ---

    def begin(self) -> Batch:
        """Starts a batch: from now on writes go to it and reads see them. Returns it for pre-encoded puts."""
        if self._batch is not None:
            raise RuntimeError("a batch is open already")
        self._batch = self._source = self.cask.batch()
        self._new_deadlines = {}
        return self._batch

    def commit(self, index: int, term: int) -> None:
        """Appends the batch as the effects of entry `index`, stamped with `now_ms`."""
        batch = self._writing()
        self.cask.commit(batch, index, term, self.now_ms)
        self._batch, self._source = None, self.cask
        self._take_over(batch, self._new_deadlines)

    def commit_in_slices(self, index: int, term: int) -> Iterator[Callable[[], None]]:
        """`commit` in slices, each to be run before it is resumed; reads may come between them, but no writes."""
        batch, deadlines = self._writing(), self._new_deadlines
        self._batch, self._source = None, self.cask  # readers see the batch when it is committed
        yield from self.cask.commit_in_slices(batch, index, term, self.now_ms)
        self._take_over(batch, deadlines)

    def _take_over(self, batch: Batch, deadlines: dict[bytes, int]) -> None:
        if batch.cleared:  # the storage has a new `expires` then
            self._expires = self.cask.expires
            self.deadlines = Deadlines(self._expires)
        else:
            self.deadlines.add_all(deadlines.items())
        self.raws.committed(batch)

    def _writing(self) -> Batch:
        if self._batch is None:
            raise RuntimeError("a write outside of a batch")
        return self._batch

    # --- reading one key ---

    def lookup(self, key: bytes) -> Record | None:
        """The live record of `key`, of whatever type."""
        record = self._source.get(key)
        if record is None or 0 < record.expire_ms <= self.now_ms:
            return None
        return record

    def string(self, key: bytes) -> bytes | None:
        """The value of a string key; None if absent. Raises RespError (WRONGTYPE) for another type."""
        batch = self._batch
        if batch is None or not (key in batch.changes or batch.cleared):
            value = self._get_plain(self._bucket_of(key), key)
            if value is not False:
                return value
        record = self._source.get(key)
        if record is None or 0 < record.expire_ms <= self.now_ms:
            return None
        if record.type != STRING:
            raise errors.wrong_type()
        return record.value

    def exists(self, key: bytes) -> bool:
        return self._present(key) and not 0 < self._expire_of(key) <= self.now_ms

    def fingerprint(self, key: bytes) -> bytes:
        """What a reader finds under `key` in a few bytes, the same on every replica; empty if it is absent.

        Different contents have different fingerprints but for one chance in 2**32 (a checksum tells them apart).
        """
        return self._source.fingerprint(key) if self.exists(key) else b""

    @property
    def changes(self) -> Mapping[bytes, Change]:
        """What the batch that is open has written so far."""
        return {} if self._batch is None else self._batch.changes

    def has_written(self, key: bytes) -> bool:
        """Whether this batch has written `key` so far, if only what was there; that it removed what had expired does
        not count, nor that it cleared everything (`fingerprint` tells that)."""
        batch = self._batch
        if batch is None:
            return False
        change = batch.changes.get(key)
        return batch.forgot or (change is not None and change[1] != EXPIRED)

    def expire_at_ms(self, key: bytes) -> int:
        """When the live key `key` expires, Unix time in milliseconds; `NO_EXPIRY` (0) if never or if absent."""
        at_ms = self._expire_of(key)
        return at_ms if at_ms > self.now_ms else NO_EXPIRY

    def _present(self, key: bytes) -> bool:
        """Whether there is a record, expired or not."""
        return key in self.cask if self._batch is None else self._batch.has(key)

    def _expire_of(self, key: bytes) -> int:
        return self._expires.get(key, 0) if self._batch is None else self._batch.expire_of(key)

    def idle_ms(self, key: bytes) -> int:
        """For how long the live key `key` was not used, as far as is known (see `idle`)."""
        if self._batch is not None and (key in self._batch.changes or key not in self.cask):
            return 0
        used_ms = self.idle.used_ms(key)
        if isinstance(self.usage, Recency):
            used_ms = max(used_ms, self.usage.used_ms(key))
        return max(0, self.now_ms - used_ms)

    def is_raw(self, key: bytes) -> bool:
        """Whether the string `key` is known to have been changed in place (see `raws`)."""
        return self.raws.has(key, self._batch)

    def memory_usage(self, key: bytes) -> int:
        """Bytes that the live key `key` takes: its record in the log, and in memory the key, its place and its expiry.

        Each as the interpreter counts it; of a dict the key's share.
        """
        record = self.lookup(key)
        bucket = self.cask.buckets[self._bucket_of(key)]
        if record is None:
            return 0
        usage = OVERHEAD_BYTES + len(key) + len(record.value) + getsizeof(key)
        for table, held in ((bucket, bucket.get(key)), (self._expires, self._expires.get(key))):
            if held is not None:
                usage += getsizeof(held) + getsizeof(table) // len(table)
        return usage

    def has_record(self, key: bytes) -> bool:
        """Whether there is a record of `key`, be it expired."""
        return self._present(key)

    # --- writing ---

    @property
    def is_full(self) -> bool:
        """Whether commands have written as much to the open batch as one entry may."""
        return self._batch is not None and self._batch.put_bytes >= WRITTEN_BYTES_MAX

    def notify(self, kind: int, event: bytes, key: bytes) -> None:
        """Tells who watches what a command has done (`respkv.keyspace.watch`)."""
        if self.watch is not None:
            self.watch.event(kind, event, key)

    def set_record(self, key: bytes, record: Record) -> None:
        """Gives `key` the contents of a live record, its expiry included."""
        if self.watch is not None:
            self.watch.writing(self, key, puts=True)
        self._writing().put(key, record.value, record.type, record.expire_ms)
        self.idle.forget(key)
        if record.expire_ms:
            self._new_deadlines[key] = record.expire_ms

    def set_idle(self, key: bytes, idle_ms: int) -> None:
        """Makes a live key one that was not used for so long. Not part of the state that replicas share."""
        self.idle.note(key, self.now_ms - idle_ms, self.now_ms)

    def set_frequency(self, key: bytes, count: int) -> None:
        """Makes a live key one that was used so often, while that is counted. Not part of that state either."""
        if isinstance(self.usage, Frequency):
            self.usage.set_count(key, count)

    def set_string(
        self, key: bytes, value: bytes, expire_at_ms: int = NO_EXPIRY, *, keep_ttl: bool = False, raw: bool = False
    ) -> None:
        """Makes `key` a string. `keep_ttl` keeps the expiry that a live key of that name has; `raw`: see `raws`."""
        if self.watch is not None:
            self.watch.writing(self, key, puts=True)
        batch = self._writing()
        self.idle.forget(key)
        if keep_ttl:
            expire_at_ms = self.expire_at_ms(key)
        if expire_at_ms == NO_EXPIRY:
            batch.put(key, value)
        elif expire_at_ms > self.now_ms:
            batch.put(key, value, STRING, expire_at_ms)
            self._new_deadlines[key] = expire_at_ms
        elif batch.has(key):
            batch.delete(key)
        if raw:
            self.raws.note(key, batch)

    def set_expiry(self, key: bytes, at_ms: int) -> None:
        """Gives the live key `key` the expiry `at_ms`, or none if `NO_EXPIRY`; deletes it if that has passed."""
        batch = self._writing()
        record = self.lookup(key)
        if record is None:
            return
        if self.watch is not None:
            self.watch.writing(self, key, puts=False)
        if at_ms == NO_EXPIRY or at_ms > self.now_ms:
            was_raw = self.is_raw(key)
            batch.put(key, record.value, record.type, at_ms)
            if was_raw:
                self.raws.note(key, batch)
            if at_ms:
                self._new_deadlines[key] = at_ms
        else:
            batch.delete(key)

    def delete(self, key: bytes) -> bool:
        """Removes `key`; whether it was there for a reader."""
        batch = self._writing()
        if not batch.has(key):
            return False
        if self.watch is not None:
            self.watch.writing(self, key, puts=False)
        self.idle.forget(key)
        was_live = not 0 < batch.expire_of(key) <= self.now_ms
        batch.delete(key, expired=not was_live)
        return was_live

    def remove_expired(self, key: bytes) -> bool:
        """Removes `key` if its expiry has passed; whether it did. A key that was written anew meanwhile stays."""
        batch = self._writing()
        if not 0 < batch.expire_of(key) <= self.now_ms:
            return False
        if self.watch is not None:
            self.watch.writing(self, key, puts=False)
        batch.delete(key, expired=True)
        return True

    def flush_all(self) -> None:
        if self.watch is not None:
            self.watch.flushing()
        batch = self._writing()
        kept = [(key, batch.get(key)) for bucket in self._system_buckets for key in batch.keys_in(bucket)]
        batch.clear()
        for key, record in kept:
            assert record is not None
            batch.put(key, record.value, record.type)
        self.idle.clear()
        self._new_deadlines = {}

    # --- records of the system's own ---

    @property
    def _system_buckets(self) -> range:
        return range(self.cask.shown_buckets, len(self.cask.buckets))

    def system_record(self, name: bytes) -> SystemRecord:
        """The record of this name; `NONE` if it was never written."""
        record = self._source.get(system_key(name))
        return NONE if record is None else unpack(record.value)

    def set_system_record(self, name: bytes, record: SystemRecord) -> None:
        self._writing().put(system_key(name), pack(record), TYPE)

    # --- the whole keyspace ---

    @property
    def slots(self) -> int:
        """How many slots there are: bounds of `scan` cursors."""
        return self.cask.shown_buckets

    def __len__(self) -> int:
        """How many live keys there are."""
        records = len(self.cask) if self._batch is None else self._batch.key_count()
        return records - len(self._expired())

    def keys_in_slot(self, slot: int) -> list[bytes]:
        """The live keys of a slot."""
        keys = self.cask.buckets[slot] if self._batch is None else self._batch.keys_in(slot)
        expired = self._expired()
        return [key for key in keys if key not in expired] if expired else list(keys)

    def _expired(self) -> set[bytes]:
        """The keys that there are records of, but none for a reader."""
        due = self.deadlines.due_keys(self.now_ms)
        if self._batch is None:
            return set(due)
        expire_of, now_ms = self._batch.expire_of, self.now_ms
        return {key for key in due if 0 < expire_of(key) <= now_ms}

    def _by_slot(self, first: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        """(slot, its live keys) for the slots from `first` on that hold records."""
        expired = self._expired()
        for slot, keys in self._records_by_slot(first):
            yield slot, ([key for key in keys if key not in expired] if expired else keys)

    def _records_by_slot(self, first: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        if self._batch is None:
            buckets, first = self.cask.buckets, min(first, self.slots)
            for slot in compress(range(first, self.slots), islice(buckets, first, self.slots)):
                yield slot, buckets[slot]
            return
        changed = {bucket for bucket, *_ in self._batch.changes.values() if bucket < self.slots}
        kept = () if self._batch.cleared else (slot for slot in range(self.slots) if self.cask.buckets[slot])
        for slot in sorted(changed.union(kept)):
            if slot < first:
                continue
            yield slot, (self._batch.keys_in(slot) if slot in changed else self.cask.buckets[slot])

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """The live keys of whole slots from slot `cursor` on, until they are `count` or more, and the next cursor.

        The next cursor is 0 at the end. As a cursor is a slot, it means the same on every replica and after any change
        of the data: a key that is there from the first to the last call is returned exactly once.
        """
        found: list[bytes] = []
        for slot, keys in self._by_slot(cursor):
            found += keys
            if len(found) >= count:
                return (slot + 1) % self.slots, found
        return 0, found

    def keys(self) -> Iterator[bytes]:
        """All live keys, slot by slot."""
        for _, keys in self._by_slot(0):
            yield from keys

    def random_key(self, rng: random.Random) -> bytes | None:
        """A live key, each equally likely; None if there is none.

        Keys within a slot have no order that replicas share, so the answer may differ between them: it is for a
        reply, not to be written.
        """
        if len(self) == 0:
            return None
        if self._batch is not None:  # inside MULTI: rare, and the batch keeps no counts
            return rng.choice(list(self.keys()))
        if self._ends[0] != self.cask.applied:
            self._ends = (self.cask.applied, list(accumulate(map(len, islice(self.cask.buckets, self.slots)))))
        ends = self._ends[1]
        for _ in range(_RANDOM_TRIES_MAX):
            position = rng.randrange(ends[-1])
            slot = bisect_right(ends, position)
            bucket = self.cask.buckets[slot]
            key = next(islice(bucket, position - (ends[slot] - len(bucket)), None))
            if not 0 < self._expires.get(key, 0) <= self.now_ms:
                return key
        return rng.choice(list(self.keys()))  # nearly everything has expired and waits for its removal

    def expiry_figures(self) -> tuple[int, int]:
        """For INFO keyspace: how many keys have an expiry, and their average time to live in ms (from a sample)."""
        sample = [at_ms - self.now_ms for at_ms in islice(self._expires.values(), _TTL_SAMPLE)]
        left_ms = [ttl_ms for ttl_ms in sample if ttl_ms > 0]
        return len(self._expires), sum(left_ms) // len(left_ms) if left_ms else 0
