"""The keydir: where the newest record of every key lies.

A location is one int: `number << 44 | offset << 12 | size`, where `number` names an open data file (see `DataFile`),
`offset` is the record's first byte and `size` its bytes, 4095 standing for "4095 or more: the record's header knows".
Below 65,536 files an int of this kind takes 32 bytes; more files than that only cost a few bytes more.

Keys live in `buckets`, one dict each, so that a caller who buckets by hash slot can count, scan and move a slot's keys.
Keys with an expiry are in `expires` as well; all others cost nothing there. The last `hidden` buckets are for the
caller's own keys: they are left out where keys are counted or listed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice, pairwise, repeat
from operator import contains, itemgetter, or_

from respkv.checksum import crc32
from respkv.storage import record
from respkv.storage.columns import OFFSET_SHIFT, SIZE_MASK, Records

NUMBER_SHIFT = 44
OFFSET_MASK = 0xFFFFFFFF
FILE_BYTES_MAX = 1 << 32
"""No data file may be longer than an offset can say."""

_DISCARD_BUCKETS = 16  # few: the allocator gives whole arenas back near the end, which takes its time


def locate(number: int, offset: int, size: int) -> int:
    if size > SIZE_MASK:
        size = SIZE_MASK
    return number << NUMBER_SHIFT | offset << OFFSET_SHIFT | size


def locate_all(number: int, offset: int, sizes: list[int]) -> Iterable[int]:
    """The locations of records of these sizes that lie one after the other, the first at `offset`."""
    if not sizes:
        return ()
    first, size = number << NUMBER_SHIFT | offset << OFFSET_SHIFT, sizes[0]
    if sizes.count(size) == len(sizes):  # as many clients write
        first, step = first | min(size, SIZE_MASK), size << OFFSET_SHIFT
        return range(first, first + step * len(sizes), step)
    starts = accumulate([size << OFFSET_SHIFT for size in sizes], initial=first)
    # Not added: a sum has a spare digit, which takes 16 bytes more.
    return map(or_, starts, sizes if max(sizes) < SIZE_MASK else [min(size, SIZE_MASK) for size in sizes])


def offset_of(location: int) -> int:
    return location >> OFFSET_SHIFT & OFFSET_MASK


class Keydir:
    """The buckets and expiries of one `Bitcask`, and the ways in which records change them."""

    def __init__(self, buckets: int, bucket_of: Callable[[bytes], int] | None, hidden: int = 0) -> None:
        if not 0 <= hidden < buckets:
            raise ValueError(f"there must be at least one bucket that is not hidden, not {buckets - hidden}")
        self.buckets: list[dict[bytes, int]] = [{} for _ in range(buckets)]
        self.shown = buckets - hidden
        self.expires: dict[bytes, int] = {}
        self.bucket_of = bucket_of or (lambda key: crc32(key) % buckets)
        self._discarded: list[dict[bytes, int]] = []

    def __len__(self) -> int:
        return sum(map(len, self.buckets)) - sum(map(len, self.buckets[self.shown :]))

    def __iter__(self) -> Iterator[bytes]:
        """Every key, bucket by bucket; a bucket's keys are taken when its turn comes."""
        for bucket in islice(self.buckets, self.shown):
            yield from list(bucket)

    def clear(self) -> None:
        """Forgets every key at once; the memory comes back through `discard`."""
        self._discarded += filter(None, self.buckets)
        if self.expires:
            self._discarded.append(self.expires)
        self.buckets[:] = [{} for _ in self.buckets]  # in place: others hold the list
        self.expires = {}

    def discard(self) -> bool:
        """Frees a part of what `clear` left; False when nothing is left."""
        keys = 0
        for _ in range(_DISCARD_BUCKETS):
            if not self._discarded or keys > 20_000:
                break
            last = self._discarded[-1]
            for _ in range(min(len(last), 20_000)):
                last.popitem()
                keys += 1
            if not last:
                self._discarded.pop()
        return bool(self._discarded)

    def put(self, bucket: int, key: bytes, location: int, expire_ms: int) -> None:
        self.buckets[bucket][key] = location
        if expire_ms:
            self.expires[key] = expire_ms
        elif self.expires:
            self.expires.pop(key, None)

    def put_all(self, buckets: list[int], keys: list[bytes], locations: Iterable[int]) -> None:
        """Puts without expiry: each of `keys` into the bucket beside it, at the location beside it.

        Nearly all of that is waiting for memory. So it is done in passes that do little with each bucket: the processor
        then waits for several at once. They find the dicts, touch the heads of their tables, and change them.
        """
        chosen = itemgetter(*buckets)(self.buckets) if len(buckets) > 1 else [self.buckets[one] for one in buckets]
        deque(map(contains, chosen, repeat(None)), maxlen=0)
        for bucket, key, location in zip(chosen, keys, locations, strict=True):
            bucket[key] = location
        if self.expires:
            forget = self.expires.pop
            for key in keys:
                forget(key, None)

    def delete(self, bucket: int, key: bytes) -> None:
        self.buckets[bucket].pop(key, None)
        self.expires.pop(key, None)

    def replay(self, number: int, records: Records) -> None:
        """Does what records of file `number` say, in order."""
        if not records.specials:
            self.load(number, records.keys, records.places())
            return
        bucket_of = self.bucket_of
        for record_type, expire_ms, key, offset, size in records.rows():
            if record_type == record.TOMBSTONE:
                self.delete(bucket_of(key), key)
            elif record_type == record.CLEAR:
                self.clear()
            else:
                self.put(bucket_of(key), key, locate(number, offset, size), expire_ms)

    def load(self, number: int, keys: list[bytes], places: Iterable[int]) -> None:
        """`replay` for puts without expiry: `places` are locations without their number, one for each key."""
        locations = map(or_, places, [number << NUMBER_SHIFT] * len(keys))
        buckets = map(self.buckets.__getitem__, map(self.bucket_of, keys))
        deque(map(dict.__setitem__, buckets, keys, locations), maxlen=0)
        if self.expires:
            for key in keys:
                self.expires.pop(key, None)


def split_keys(blob: bytes | bytearray, lengths: Iterable[int]) -> list[bytes]:
    """The keys that lie in `blob` one after the other."""
    data = bytes(blob)
    return [data[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
