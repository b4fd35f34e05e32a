"""A batch: changes that become one frame, readable before they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from respkv.storage import record
from respkv.storage.record import LongRecord, Record

if TYPE_CHECKING:
    from respkv.storage.bitcask import Bitcask

Change = tuple[int, int, bytes | LongRecord]

EXPIRED: Final = -1


class Batch:
    """Changes to a `Bitcask` that `Bitcask.commit` applies all at once.

    Reads see the batch's own changes first and the store behind them. Only the last change to each key is kept and
    written. Nothing of the store changes before the commit; a batch that is dropped has no effect.
    """

    __slots__ = ("_cask", "changes", "cleared", "forgot", "put_bytes")

    def __init__(self, cask: Bitcask) -> None:
        self._cask = cask
        self.cleared = False
        self.forgot = False
        """Changes were made before the last `clear` and are not among `changes` any more."""
        self.put_bytes = 0
        """Of the records that `put` has made, less those that were replaced since, whoever made them: what
        `put_encoded` and `put_long` were given and this make at least as many bytes as the batch has."""
        self.changes: dict[bytes, Change] = {}
        """Key to (bucket, expire_ms, encoded record); an empty record deletes the key.

        `expire_ms` is `EXPIRED` where what was deleted had expired: nobody can tell the difference."""

    def put(
        self, key: bytes, value: bytes, type: int = record.STRING, expire_ms: int = 0, bucket: int | None = None
    ) -> None:
        """Sets `key`; `type` is 1 for strings or the caller's own (2..254), `expire_ms` 0 for no expiry.

        Raises `ValueError` when the key or the value is too long for the format, the expiry lies before the epoch, or
        the type is not one for values.
        """
        if not record.TOMBSTONE < type < record.CLEAR:
            raise ValueError(f"records of type {type} do not hold values")
        if len(key) > record.KEY_BYTES_MAX or len(value) > record.VALUE_BYTES_MAX:
            raise ValueError("key or value too long")
        if expire_ms < 0:
            raise ValueError("an expiry counts from the epoch")
        bucket = self._cask.bucket_of(key) if bucket is None else bucket
        encoded = record.encode(type, expire_ms, key, value)
        replaced = self.changes.get(key)
        self.put_bytes += len(encoded) if replaced is None else len(encoded) - len(replaced[2])
        self.changes[key] = (bucket, expire_ms, encoded)

    def put_encoded(self, slots: list[int], keys: list[bytes], sizes: list[int], records: bytes) -> None:
        """Sets keys to plain strings: what `record.encode_puts(keys, values)` made of them, and their buckets."""
        if self.put_bytes > 0:
            self._replace(keys)
        start = 0
        for bucket, key, size in zip(slots, keys, sizes, strict=True):
            self.changes[key] = (bucket, 0, records[start : start + size])
            start += size

    def put_long(self, bucket: int, key: bytes, value: list[memoryview]) -> None:
        """Sets `key` to the plain string that the parts of `value` make up. They are not joined: `commit_in_slices`."""
        self._replace([key])
        self.changes[key] = (bucket, 0, LongRecord(key, value))

    def _replace(self, keys: list[bytes]) -> None:
        """What there is of `keys` goes."""
        self.put_bytes -= sum(len(self.changes[key][2]) for key in self.changes.keys() & keys)

    def delete(self, key: bytes, bucket: int | None = None, *, expired: bool = False) -> bool:
        """Removes `key`. Returns whether it was there. `expired`: for no reader."""
        bucket = self._cask.bucket_of(key) if bucket is None else bucket
        there = self.has(key, bucket)
        if key in self.changes:
            self._replace([key])
        self.changes[key] = (bucket, EXPIRED if expired else 0, b"")
        return there

    def clear(self) -> None:
        """Removes every key, those put earlier in this batch included."""
        self.cleared = True
        self.forgot = self.forgot or bool(self.changes)
        self.put_bytes = 0
        self.changes = {}

    def get(self, key: bytes, bucket: int | None = None) -> Record | None:
        """What is stored under `key`. Raises `Damaged`."""
        change = self.changes.get(key)
        if change is None:
            return None if self.cleared else self._cask.get(key, bucket)
        decoded = record.decode(bytes(change[2]))
        return decoded and decoded[1]

    def fingerprint(self, key: bytes) -> bytes:
        """As `Bitcask.fingerprint`; of a value in parts it is no more than that it is one."""
        change = self.changes.get(key)
        if change is None:
            return b"" if self.cleared else self._cask.fingerprint(key)
        encoded = change[2]
        if isinstance(encoded, LongRecord):
            return b"long"
        return record.fingerprint_at(encoded, 0) if encoded else b""

    def has(self, key: bytes, bucket: int | None = None) -> bool:
        change = self.changes.get(key)
        if change is not None:
            return bool(change[2])
        if self.cleared:
            return False
        bucket = self._cask.bucket_of(key) if bucket is None else bucket
        return key in self._cask.buckets[bucket]

    def expire_of(self, key: bytes) -> int:
        """When `key` expires, in milliseconds since the epoch; 0 when it does not, or is absent."""
        change = self.changes.get(key)
        if change is not None:
            return max(change[1], 0)
        return 0 if self.cleared else self._cask.expires.get(key, 0)

    def keys_in(self, bucket: int) -> Iterable[bytes]:
        """The keys of one bucket as this batch leaves it."""
        keys = {} if self.cleared else dict.fromkeys(self._cask.buckets[bucket])
        for key, (where, _expire_ms, encoded) in self.changes.items():
            if where == bucket:
                if encoded:
                    keys[key] = None
                else:
                    keys.pop(key, None)
        return list(keys)

    def __iter__(self) -> Iterator[bytes]:
        """Every key as this batch leaves them, in no particular order."""
        if not self.cleared:
            for key in self._cask:
                if key not in self.changes:
                    yield key
        yield from [k for k, change in self.changes.items() if change[2] and change[0] < self._cask.shown_buckets]

    def key_count(self) -> int:
        """How many keys there are as this batch leaves them."""
        count = 0 if self.cleared else len(self._cask)
        for key, (bucket, _expire_ms, encoded) in self.changes.items():
            if bucket < self._cask.shown_buckets:
                was_there = not self.cleared and key in self._cask.buckets[bucket]
                count += bool(encoded) - was_there
        return count

    def __len__(self) -> int:
        """How many changes the batch holds; 0 when committing it changes nothing but the index."""
        return len(self.changes) + self.cleared

    def encode(self) -> tuple[bytes, list[tuple[bytes, int, int, int]]]:
        """The frame's body, and for each key changed: (key, bucket, expire_ms, size), size 0 for a key that goes."""
        parts, rows = self.encode_parts()
        return b"".join(map(bytes, parts)), rows

    def encode_parts(self) -> tuple[list[bytes | LongRecord], list[tuple[bytes, int, int, int]]]:
        """As `encode`, with the body in parts that are not joined."""
        parts: list[bytes | LongRecord] = [record.CLEAR_RECORD] if self.cleared else []
        rows = []
        for key, (bucket, expire_ms, encoded) in self.changes.items():
            if encoded:
                parts.append(encoded)
                rows.append((key, bucket, expire_ms, len(encoded)))
            elif not self.cleared and key in self._cask.buckets[bucket]:
                parts.append(record.encode(record.TOMBSTONE, 0, key, b""))
                rows.append((key, bucket, 0, 0))
        return parts, rows
