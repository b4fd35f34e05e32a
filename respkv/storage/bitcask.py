"""Bitcask: a durable dictionary of bytes. An append-only log on disk; in memory, where each key's newest record lies.

After "Bitcask: A Log-Structured Hash Table for Fast Key/Value Data" (Sheehy, Smith, 2010), with batches that are there
as a whole or not at all, and that carry the caller's log index: after any crash, `applied` says which index the state
is that of, exactly.

What it promises:
- A commit is one append. After a crash the state is that after some commit, at least the last one known to be synced.
- Every read of a file verifies its record. A damaged one raises `Damaged`; it never becomes an answer.
- Reads never write, wait or allocate more than the value. Background work comes in slices (`maintain`).

What it leaves to others: durability per commit is not its own (`sync_point` when it is wanted), and of what was never
synced all is cut off behind the first frame that is not whole; whether a key has expired is the caller's business (a
merge keeps what nobody deletes); one thread uses an object at a time, except where a docstring says otherwise. All keys
are in memory, at about 140 bytes for one of 20 bytes.

What the disk does not give back, or somebody else has cut off, is damage like wrong bytes (see `respkv.contents`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from respkv.checksum import crc32
from respkv.disk import Disk
from respkv.storage import record, snapshot
from respkv.storage.batch import Batch
from respkv.storage.cache import ReadCache
from respkv.storage.columns import OFFSET_SHIFT, SIZE_MASK
from respkv.storage.datafile import DataFile, lock
from respkv.storage.errors import Damaged, Failed
from respkv.storage.frame import FRAME_HEAD_BYTES, FileHead, encode_head
from respkv.storage.keydir import FILE_BYTES_MAX, NUMBER_SHIFT, OFFSET_MASK, Keydir, locate, locate_all, offset_of
from respkv.storage.maintenance import Maintenance
from respkv.storage.reading import LongRead
from respkv.storage.record import Record, pieces_of
from respkv.storage.recovery import Recovery
from respkv.storage.slices import Task, slices
from respkv.storage.snapshot import Snapshot
from respkv.storage.syncing import SyncPoint
from respkv.storage.tail import Tail

_JOIN_BYTES_MAX = 1 << 20
_PLAIN = record.PLAIN
_CRC_RESIDUE = record.CRC_RESIDUE


class Bitcask:
    """An open directory.

    Args:
        path: the directory; made when it is missing.
        buckets: in how many dicts the keys lie. A choice of this process alone; nothing of it is on the disk.
        bucket_of: the bucket of a key, `0 <= bucket < buckets`; the key's crc32 modulo `buckets` when not given.
        hidden: so many of the last buckets hold keys of the caller's own, which are neither counted nor listed.
        segment_bytes: the size at which a data file is finished and a new one begun; a larger batch gets a larger file.
        disk: what makes the changes.
        merge_dead_ratio: a finished file is merged when more than this share of its bytes is dead.
        cache_bytes: memory for values that `get_plain` has read and verified (`respkv.storage.cache`), of which a third
            is for the newest bytes of the log (`respkv.storage.tail`).

    Raises `Locked`, `Damaged`, `OSError`.

        with Bitcask("data") as cask:
            cask.put(b"key", b"value")
            cask.flush()
            cask.get(b"key").value
    """

    def __init__(
        self,
        path: Path | str,
        *,
        buckets: int = 1024,
        bucket_of: Callable[[bytes], int] | None = None,
        hidden: int = 0,
        segment_bytes: int = 128 << 20,
        disk: Disk | None = None,
        merge_dead_ratio: float = 0.5,
        cache_bytes: int = 0,
    ) -> None:
        if not 1024 <= segment_bytes < FILE_BYTES_MAX:
            raise ValueError(f"segment_bytes must be from 1024 to {FILE_BYTES_MAX - 1}, not {segment_bytes}")
        self.path = Path(path)
        self.segment_bytes = segment_bytes
        self._merge_dead_ratio = merge_dead_ratio
        self.cache = ReadCache(cache_bytes - cache_bytes // 3)
        """Values that `get_plain` gives without reading them."""
        self._tail = Tail(cache_bytes // 3)
        self._at_hand = self.cache.at_hand
        self.disk = disk or Disk()
        self._read = self.disk.read
        self.failed = False
        """A write or sync failed: everything but reading is refused until the directory is opened again."""
        self.closed = False
        self.on_damage: Callable[[Damaged], None] = lambda _: None
        """Told of each damaged record that a reader met, before it is raised."""
        self._keydir = Keydir(buckets, bucket_of, hidden)
        self.shown_buckets = self._keydir.shown
        self.buckets: list[dict[bytes, int]] = self._keydir.buckets
        self.expires: dict[bytes, int] = self._keydir.expires
        self.bucket_of = self._keydir.bucket_of
        self._key_count = (-1, 0)
        self.written_bytes = 0
        """By commits, since the directory was opened."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock_fd = lock(self.path)
        try:
            snapshot.finish_install(self.path, self.disk)
            recovery = Recovery(self.path, self._keydir, segment_bytes, self.disk)
            recovery.run()
            self._start(recovery)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._maintenance = Maintenance(self)

    def _start(self, recovery: Recovery) -> None:
        self.files: list[DataFile] = recovery.files
        """The log, oldest first; the last one is active. Others read it and leave changes to the engine."""
        self.numbered: list[DataFile | None] = list(self.files)
        """By the file number of a location; None once no location has it any more."""
        self.expires = self._keydir.expires
        self._salt = int.from_bytes(os.urandom(8), "little") if recovery.salt is None else recovery.salt
        last = self.files[-1] if self.files else None
        self.applied = last.index if last else 0
        self.applied_term = last.term if last else 0
        self.clock_ms = last.clock_ms if last else 0
        self.synced = self.applied
        self._logged_synced = recovery.synced_index  # what the log itself says about being synced
        if last is None or last.sealed:
            try:
                self._active = self._new_file(0, synced=True)
                self.disk.sync_dir(self.path)
            except BaseException:
                for file in self.files:
                    file.close()
                raise
            self._active.named = True
        else:
            self._active = last

    @property
    def merge_dead_ratio(self) -> float:
        """Share of dead bytes at which a finished file is merged; may be changed at any time."""
        return self._merge_dead_ratio

    @merge_dead_ratio.setter
    def merge_dead_ratio(self, ratio: float) -> None:
        if ratio != self._merge_dead_ratio:
            self._merge_dead_ratio = ratio
            self._maintenance.expect_dead()

    # ------------------------------------------------------------------ reading

    def get_plain(self, bucket: int, key: bytes) -> bytes | Literal[False] | None:
        """The value of a string that does not expire: the short way for the common case.

        None when `key` is absent; False when it is something else, or large (then ask `get`). Raises `Damaged`.
        """
        value = self._at_hand(key)
        if value is not None:
            return value
        location = self.buckets[bucket].get(key)
        if location is None:
            return None
        size = location & SIZE_MASK
        if size == SIZE_MASK:
            return False
        offset, tail, data = location >> OFFSET_SHIFT & OFFSET_MASK, self._tail, b""
        if tail.least <= location < tail.end:
            at = offset & tail.mask
            data = tail.ring[at : at + size]
        if len(data) != size:
            try:
                data = self._read(self.numbered[location >> NUMBER_SHIFT].fd, size, offset)  # type: ignore[union-attr]
            except OSError as error:
                raise self._damage(location, error) from error
            if crc32(data) != _CRC_RESIDUE or not data.startswith(key, 17):
                raise self._damage(location)
        if data.startswith(_PLAIN):
            value = data[17 + len(key) : -4]
            self.cache.add(key, value)
            return value
        return False

    def get(self, key: bytes, bucket: int | None = None) -> Record | None:
        """What is stored under `key`, expired or not; None when it is absent. Raises `Damaged`."""
        location = self.buckets[self.bucket_of(key) if bucket is None else bucket].get(key)
        if location is None:
            return None
        size, offset = location & SIZE_MASK, offset_of(location)
        file = self._file_of(location)
        try:
            if size < SIZE_MASK:
                found = record.decode(self._read(file.fd, size, offset))
            else:
                found = record.read(file.contents(ahead_bytes=0), offset, file.size)
        except (OSError, Damaged) as error:
            raise self._damage(location, error) from error
        if found is None or found[0] != key:
            raise self._damage(location)
        return found[1]

    def fingerprint(self, key: bytes) -> bytes:
        """What is stored under `key` in a few bytes, the same in every log that has it; empty when it is absent."""
        location = self.buckets[self.bucket_of(key)].get(key)
        if location is None:
            return b""
        try:
            contents = self._file_of(location).contents(ahead_bytes=0)
            return record.fingerprint_at(contents, offset_of(location))
        except Damaged as error:
            raise self._damage(location, error) from error

    def read_long(self, key: bytes, bucket: int, value_bytes_min: int) -> LongRead | None:
        """What is stored under `key` if its value is at least so long, to be read piece by piece; None if not."""
        location = self.buckets[bucket].get(key, 0)
        if location & SIZE_MASK < SIZE_MASK:
            return None
        file, offset = self._file_of(location), offset_of(location)
        damaged = partial(self._damage_of, file, offset)
        try:
            record_type, expire_ms, _, value_bytes = record.header_at(file.contents(ahead_bytes=0), offset)
        except Damaged as error:
            raise damaged(error) from error
        if value_bytes < value_bytes_min:
            return None
        return LongRead(file.path, offset, key, record_type, expire_ms, value_bytes, damaged, self._read)

    def _file_of(self, location: int) -> DataFile:
        file = self.numbered[location >> NUMBER_SHIFT]
        assert file is not None
        return file

    def _damage(self, location: int, error: OSError | Damaged | None = None) -> Damaged:
        self._check_open()
        return self._damage_of(self._file_of(location), offset_of(location), error)

    def _damage_of(self, file: DataFile, offset: int, error: OSError | Damaged | None = None) -> Damaged:
        """What is met in a file that has been closed by now, or merged, is the reader's alone."""
        reason = "a record that is in use " + ("is not intact" if error is None else f"cannot be read: {error}")
        damaged = Damaged(file.path, offset, reason)
        if not (self.closed or file.retired):
            self.on_damage(damaged)
        return damaged

    def __len__(self) -> int:
        """The number of keys. The first call after a commit counts the buckets."""
        if self._key_count[0] != self.applied:
            self._key_count = (self.applied, len(self._keydir))
        return self._key_count[1]

    def __contains__(self, key: bytes) -> bool:
        return key in self.buckets[self.bucket_of(key)]

    def __iter__(self) -> Iterator[bytes]:
        """Every key, bucket by bucket. Writing meanwhile is allowed: a key is seen if it stays in place throughout."""
        return iter(self._keydir)

    def keys_in(self, bucket: int) -> Iterable[bytes]:
        """The keys in a bucket, as they are now."""
        return list(self.buckets[bucket])

    # ------------------------------------------------------------------ writing

    def append_puts(
        self,
        index: int,
        term: int,
        clock_ms: int,
        slots: list[int],
        keys: list[bytes],
        sizes: list[int],
        records: bytes,
    ) -> None:
        """Commits plain string puts, the short way: `sizes, records = record.encode_puts(keys, values)`.

        `slots` are the buckets of the keys. As `commit` otherwise.
        """
        if not len(slots) == len(keys) == len(sizes) or sum(sizes) != len(records):
            raise ValueError("slots, keys, sizes and records do not belong together")
        offset = self._append(records, index, term, clock_ms)
        active = self._active
        active.rows += len(keys)
        active.put_bytes += len(records)
        self._keydir.put_all(slots, keys, locate_all(active.number, offset, sizes))
        if self.cache:
            self.cache.forget(keys)

    def batch(self) -> Batch:
        """A new, empty batch for `commit`. Only one at a time makes sense: it reads through to the store as it is."""
        return Batch(self)

    def commit(self, batch: Batch, index: int, term: int, clock_ms: int) -> None:
        """Appends the batch as one frame and applies it. An empty batch records the index alone.

        `index` must be above `applied` (`ValueError`). Raises `OSError` as it came when the write fails: then nothing
        is applied and the object refuses further writes with `Failed`, because what reached the file is not known.
        """
        body, rows = batch.encode()
        self._take_over(batch, rows, self._append(body, index, term, clock_ms))

    def commit_in_slices(self, batch: Batch, index: int, term: int, clock_ms: int) -> Iterator[Callable[[], None]]:
        """`commit` for a batch with long records: yields what is to be run, in any thread, before it is resumed.

        Nothing else may be committed meanwhile; reads see the batch when the iterator has ended, not before. If that
        never happens, what was written is a torn end. Should running a slice raise, call `fail`.
        """
        self._check_next(index)
        parts, rows = batch.encode_parts()
        body_bytes = sum(map(len, parts))
        try:
            active = self._file_for(FRAME_HEAD_BYTES + body_bytes)
        except OSError:
            self.failed = True
            raise
        offset = active.length
        self._tail.skip(active.number, offset + FRAME_HEAD_BYTES + body_bytes)
        at = offset + FRAME_HEAD_BYTES
        for pieces in pieces_of(parts):
            yield partial(self._write_slice, active.fd, pieces, at)
            at += sum(map(len, pieces))
        head = encode_head(active.seed, offset, body_bytes, index, term, clock_ms, self.synced)
        yield partial(self.disk.write, active.fd, head, offset)
        self._note_appended(FRAME_HEAD_BYTES + body_bytes, index, term, clock_ms)
        self._take_over(batch, rows, offset + FRAME_HEAD_BYTES)

    def _write_slice(self, fd: int, pieces: list[bytes | memoryview], offset: int) -> None:
        for piece in pieces:
            self.disk.write(fd, piece, offset)
            offset += len(piece)
        self.disk.sync(fd)  # or the system lets it pile up, and then makes every writer wait for it

    def fail(self) -> None:
        """What reached the file is not known: refuses further writes."""
        self.failed = True

    def _take_over(self, batch: Batch, rows: list[tuple[bytes, int, int, int]], offset: int) -> None:
        """Points the keydir at the batch's records, which lie at `offset` of the active file."""
        active, start, gone_bytes = self._active, offset, 0
        if batch.cleared:
            self._keydir.clear()
            self.cache.clear()
            self.expires = self._keydir.expires
            gone_bytes = len(record.CLEAR_RECORD)
            offset += gone_bytes
            self._maintenance.expect_dead()
        number = active.number
        put, delete = self._keydir.put, self._keydir.delete
        if self.cache:
            self.cache.forget([row[0] for row in rows])
        for key, bucket, expire_ms, size in rows:
            if size:
                put(bucket, key, locate(number, offset, size), expire_ms)
                offset += size
            else:
                delete(bucket, key)
                gone_bytes += record.OVERHEAD_BYTES + len(key)
                offset += record.OVERHEAD_BYTES + len(key)
        active.rows += len(rows) + batch.cleared
        active.put_bytes += offset - start - gone_bytes
        active.tombstone_bytes += gone_bytes

    def _append(self, body: bytes, index: int, term: int, clock_ms: int) -> int:
        """Writes one frame to the active file, or to a new one, and returns the offset of its first record."""
        self._check_next(index)
        wanted = FRAME_HEAD_BYTES + len(body)
        try:
            active = self._file_for(wanted)
            offset = active.length
            head = encode_head(active.seed, offset, len(body), index, term, clock_ms, self.synced)
            if len(body) <= _JOIN_BYTES_MAX:
                self.disk.write(active.fd, head + body, offset)
            else:
                self.disk.write(active.fd, body, offset + FRAME_HEAD_BYTES)
                self.disk.write(active.fd, head, offset)
        except ValueError:
            raise
        except BaseException:
            self.failed = True
            raise
        self._note_appended(wanted, index, term, clock_ms)
        offset += FRAME_HEAD_BYTES
        self._tail.append(active.number, offset, body)
        return offset

    def _check_next(self, index: int) -> None:
        self._check_writable()
        if index <= self.applied:
            raise ValueError(f"index {index} is not above {self.applied}")

    def _file_for(self, frame_bytes: int) -> DataFile:
        """The active file, or a new one if a frame of this size does not fit."""
        active = self._active
        if active.length + frame_bytes + FRAME_HEAD_BYTES >= active.size:  # leaves room for the seal, and a byte to cut
            active = self._roll_over(frame_bytes)
        return active

    def _note_appended(self, frame_bytes: int, index: int, term: int, clock_ms: int) -> None:
        active = self._active
        active.length += frame_bytes
        self.written_bytes += frame_bytes
        self._logged_synced = self.synced
        self.applied = active.index = index
        self.applied_term = active.term = term
        self.clock_ms = active.clock_ms = clock_ms

    def _check_writable(self) -> None:
        if self.failed:
            raise Failed(f"an earlier write to {self.path} failed")
        self._check_open()

    def _check_open(self) -> None:
        if self.closed:
            raise Failed(f"{self.path} is closed")

    def _roll_over(self, frame_bytes: int) -> DataFile:
        """Starts a new active file with room for a frame of this size; the old one waits to be sealed."""
        self._active = self._new_file(frame_bytes)
        return self._active

    def _new_file(self, frame_bytes: int, *, synced: bool = False) -> DataFile:
        new_id = self.files[-1].name.last_id + 1 if self.files else 1
        head = FileHead(self._salt, new_id, new_id, self.applied, 0)
        size = max(self.segment_bytes, len(head.encode()) + frame_bytes + FRAME_HEAD_BYTES + 1)
        if size >= FILE_BYTES_MAX:
            raise ValueError(f"a batch of {frame_bytes} bytes is too large for one file")
        file = DataFile.create(self.path, head, len(self.numbered), size, self.disk, synced=synced)
        file.term, file.clock_ms = self.applied_term, self.clock_ms
        self.files.append(file)
        self.numbered.append(file)
        return file

    # ------------------------------------------------------------------ writing, alone

    def put(self, key: bytes, value: bytes, expire_ms: int = 0) -> None:
        """Sets one key, as a commit of its own at the next index. Durable after `flush`."""
        batch = self.batch()
        batch.put(key, value, expire_ms=expire_ms)
        self.commit(batch, self.applied + 1, self.applied_term, self.clock_ms)

    def delete(self, key: bytes) -> bool:
        """Removes one key, as a commit of its own; returns whether it was there (if not, nothing is written)."""
        batch = self.batch()
        there = batch.delete(key)
        if there:
            self.commit(batch, self.applied + 1, self.applied_term, self.clock_ms)
        return there

    def merge(self) -> None:
        """Does all background work that is due (see `maintain`), and returns when there is none left."""
        self._maintenance.expect_dead()
        for task in self.maintain():
            if task is not None:
                task()

    # ------------------------------------------------------------------ durability

    def sync_point(self) -> SyncPoint:
        """What is to be done so that everything applied so far is durable; `run` it, then pass it to `synced_to`."""
        self._check_writable()
        unsynced = [file for file in self.files if file.synced_length < file.length and not file.sealed]
        return SyncPoint(self, unsynced)

    def synced_to(self, point: SyncPoint) -> None:
        """Takes note of a sync point whose `run` has returned. Points may come back in any order."""
        point.finish()
        if point.index > self.synced:
            self.synced = point.index

    def flush(self) -> None:
        """Returns once everything applied is durable. Blocks; raises `OSError`, and then the object has failed."""
        point = self.sync_point()
        point.run()
        self.synced_to(point)

    def close(self) -> None:
        """Flushes and closes; may be called twice. After a failed write it only closes.

        Afterwards the memory is free as soon as nobody refers to the object.
        """
        if self.closed:
            return
        try:
            self._maintenance.close()
            if not self.failed:
                self._close_cleanly()
        finally:
            self.closed = True
            for file in self.files:
                file.close()
            os.close(self._lock_fd)

    def _close_cleanly(self) -> None:
        """Leaves a last frame that says that all is synced, so that the next opening need not write it again."""
        if self._logged_synced == self.applied:
            return
        self.flush()
        active = self._active
        offset = active.length
        if offset + 2 * FRAME_HEAD_BYTES < active.size:
            head = encode_head(active.seed, offset, 0, self.applied, self.applied_term, self.clock_ms, self.synced)
            self.disk.write(active.fd, head, offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ upkeep

    def maintain(self) -> Iterator[Callable[[], None] | None]:
        """Background work, in slices: finished files are sealed and get hints, dead bytes are counted, files merged.

        Yields None after each slice of at most about 2 ms, for the caller to do other things; yields a callable that
        blocks (an fdatasync, a very large record), to be run in any thread before resuming. Ends when there is nothing
        to do, at once when there was nothing; call it again later. It may be dropped at any yield: the next call goes
        on from there. Commits, reads and snapshots may come between slices; only one `maintain` is resumed at a time.

        A merge or a hint that finds the disk full is undone, and tried anew by a later call. Raises `OSError` when the
        disk refuses otherwise, and `Damaged` when a record is damaged: later calls leave its file as it is.
        """
        return self._maintenance.run()

    def verify(self) -> Iterator[Callable[[], None] | None]:
        """Reads and verifies every record of the finished files, in slices as `maintain`, not to be mixed with those.

        Raises `Damaged`, of which `on_damage` is told.
        """
        try:
            for file in [file for file in self.files if file.sealed]:
                for step in slices(file):
                    yield step if isinstance(step, Task) else None
        except Damaged as damaged:
            self.on_damage(damaged)
            raise

    def snapshot(self) -> Snapshot:
        """The state as of now as a set of open files; merges and writes that follow do not change it."""
        return snapshot.take(self)

    @staticmethod
    def install(path: Path | str, incoming: Path | str, disk: Disk | None = None) -> None:
        """Replaces the content of the directory `path`, not open at the time, by the files in the directory `incoming`.

        See `snapshot.install`.
        """
        snapshot.install(Path(path), Path(incoming), disk or Disk())

    @property
    def file_bytes(self) -> int:
        """The bytes in use of all data files."""
        return sum(file.length for file in self.files)

    @property
    def live_bytes(self) -> int:
        """About how many of `file_bytes` belong to records in use, as of the last count; newer files count in full."""
        return sum(file.live_bytes if file.tallied else file.length for file in self.files)

    @property
    def dead_ratio(self) -> float:
        """The share of `file_bytes` that merging could give back, as far as is known."""
        return 1 - self.live_bytes / max(1, self.file_bytes)

    def replace_files(self, merged: list[DataFile], into: DataFile) -> None:
        """For the merge: `into` takes the place of `merged` in the log."""
        start = self.files.index(merged[0])
        self.files[start : start + len(merged)] = [into]

    def relocate(self, key: bytes, old: int, new: int) -> None:
        """For the merge: `key` is at `new` if it is still at `old`."""
        bucket = self.buckets[self.bucket_of(key)]
        if bucket.get(key) == old:
            bucket[key] = new

    def discard(self) -> bool:
        """Frees a slice of the memory of cleared keys; False when there is none left."""
        return self._keydir.discard()
