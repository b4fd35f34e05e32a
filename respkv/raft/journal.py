"""The node's journal: the Raft logs of all its shards in one append-only file set with group commit.

Promises: what `flush` wrote is found again by `Journal.open` once the frame's sequence number is at or below `synced`;
a loop turn costs one write and at most one fdatasync however many shards it touched; an error of the disk is reported
once to `on_failure` and nothing counts as durable afterwards. Trimming never rewrites: a segment whose entries all lie
at or below their shards' bases is reused for a later one. The bytes are described in `respkv.raft.segment`.

Opening compacts: what is still needed is written to a fresh segment, synced, and the old ones are dropped. So a torn
tail is never appended to, and after a failed fdatasync nothing is trusted to be on the disk that was only in the page
cache. A disk that is too full for a segment of the usual size gets a scant one; where the fresh segment has no room at
all beside the old ones, these are written again in place and continued (behind a torn tail by a scant one).

When to sync, and on which thread, is the caller's: `sync_request` is called with the descriptors and the sequence
number, and `sync_done` is to be called on the loop afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from respkv.disk import Disk, is_no_room
from respkv.finding import Finding
from respkv.raft.log import ShardLog, Standing
from respkv.raft.segment import (
    ENTRY,
    FRAME,
    HEAD_BYTES,
    SALT_BYTES,
    Frame,
    Head,
    JournalDamaged,
    Stamp,
    encode_frame,
    head_of,
    list_segments,
    scan,
    segment_path,
)

log = structlog.get_logger()

SCANT_BYTES = 256 << 10
"""Room for frames in a segment for whose full size the disk has none. Clients' writes are refused then, so there will
be few."""

SyncRequest = Callable[[tuple[int, ...], int], None]


@dataclass(slots=True)
class _Segment:
    """An open segment file: what its frames check by, its size, its newest frame, the newest sync that named it, the
    highest index of each shard."""

    number: int
    stamp: Stamp
    path: Path
    fd: int
    size: int
    last: int = 0
    asked: int = 0
    top: dict[int, int] = field(default_factory=dict)


class JournalInUse(Exception):
    """Another process holds the journal's directory."""


class ForeignJournal(JournalDamaged):
    """The journal is whole, but that of another node or another cluster map."""


class Journal:
    """All Raft logs of one node.

    Attributes:
        logs: shard number to its `ShardLog`.
        sequence: number of the newest frame written.
        synced: number of the newest frame known to be on the disk.
        frame_bytes: length of the newest frame.
    """

    def __init__(self, directory: Path, shards: Iterable[int], *, segment_bytes: int, disk: Disk) -> None:
        self.directory = directory
        self.sequence = 0
        self.synced = 0
        self.frame_bytes = 0
        self.sync_request: SyncRequest | None = None
        self.on_failure: Callable[[BaseException], None] = _raise
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._records: list[bytes] = []
        self._dirty: list[ShardLog] = []
        self.logs = {shard: ShardLog(shard, self._records, self._dirty.append) for shard in shards}
        self._segments: list[_Segment] = []
        self._unsynced: list[_Segment] = []
        self._spare: Path | None = None
        self._salt = b""
        self._at = 0
        self._failed = False
        self._lock = -1

    @classmethod
    def open(
        cls,
        directory: Path,
        shards: Iterable[int],
        *,
        segment_bytes: int = 64 << 20,
        disk: Disk | None = None,
        standing_if_new: Standing = Standing.VOTER,
        locked: Callable[[], None] = lambda: None,
    ) -> Journal:
        """Reads the journal in `directory` (made if it is missing), compacts it and returns it ready to append.

        Where there is none its logs begin empty, and with `standing_if_new`. `locked` is called when no other process
        can have it open, before anything is allocated.

        Raises:
            JournalDamaged: bytes that were synced do not check.
            JournalInUse: another process has it open.
            OSError: from the disk.
        """
        disk = disk or Disk()
        directory.mkdir(parents=True, exist_ok=True)
        journal = cls(directory, shards, segment_bytes=segment_bytes, disk=disk)
        journal._take_lock()
        try:
            locked()
            if not list_segments(directory):
                for shard_log in journal.logs.values():
                    shard_log.standing = standing_if_new
            journal._recover()
        except BaseException:
            journal.close()
            raise
        return journal

    # -- the hot path

    def flush(self) -> None:
        """Writes the records noted since the last call as one frame and asks for its sync."""
        if not self._records or self._failed:
            return
        try:
            self._write_frame(self._records)
        except OSError as error:
            self._fail(error)
            return
        self._records.clear()
        top, sequence = self._segments[-1].top, self.sequence
        for shard_log in self._dirty:
            shard_log.written(sequence)
            top[shard_log.shard] = max(top.get(shard_log.shard, 0), shard_log[-1][1])
        self._dirty.clear()
        if self.sync_request is not None:
            self.sync_request(self.ask_sync(), sequence)

    def ask_sync(self) -> tuple[int, ...]:
        """The descriptors to fdatasync for `sync_done(sequence)`; they stay open until that is called."""
        for segment in self._unsynced:
            segment.asked = self.sequence
        return tuple(segment.fd for segment in self._unsynced)

    def count_written(self) -> list[ShardLog]:
        """For `appendfsync` other than `always`: what is written counts as durable. Returns the logs that gained."""
        return [shard_log for shard_log in self.logs.values() if shard_log.counted(self.sequence)]

    def sync_done(self, sequence: int, error: BaseException | None = None) -> list[ShardLog]:
        """Notes that frames up to `sequence` are on the disk; returns the logs that gained durable entries."""
        if error is not None or self._failed:
            if error is not None:
                self._fail(error)
            return []
        self.synced = max(self.synced, sequence)
        while len(self._unsynced) > 1 and self._unsynced[0].last <= sequence:
            del self._unsynced[0]
        return [shard_log for shard_log in self.logs.values() if shard_log.synced(sequence)]

    @property
    def rolled(self) -> bool:
        """Whether a segment that is no longer written to is not known to be on the disk."""
        return len(self._unsynced) > 1

    def flush_and_wait(self) -> None:
        """Writes what is noted and returns when it is on the disk: for the start, before there is a `sync_request`."""
        self.flush()
        if self._failed:
            return
        try:
            for descriptor in self.ask_sync():
                self._disk.sync(descriptor)
        except OSError as error:
            self._fail(error)
            raise
        self.sync_done(self.sequence)

    # -- upkeep

    @property
    def file_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def pinned(self) -> dict[int, int]:
        """What keeps the oldest segment alive: shard to the index that its base must reach (empty: nothing to free)."""
        if len(self._segments) < 2:
            return {}
        top = self._segments[0].top
        return {shard: index for shard, index in top.items() if index > self.logs[shard].base_index}

    def release(self) -> None:
        """Frees the oldest segments that no log needs any more; one is kept for reuse."""
        while len(self._segments) > 1 and self._is_free(self._segments[0]):
            segment = self._segments.pop(0)
            try:
                self._disk.close(segment.fd)
                if self._spare is None and segment.size == self._segment_bytes:
                    self._spare = segment.path.with_suffix(".spare")
                    self._disk.rename(segment.path, self._spare)
                else:
                    self._disk.unlink(segment.path)
            except OSError as error:
                self._fail(error)
                return

    def _is_free(self, segment: _Segment) -> bool:
        logs = self.logs
        unsynced = segment.asked > self.synced or any(segment is other for other in self._unsynced)
        return not unsynced and all(index <= logs[shard].durable_base for shard, index in segment.top.items())

    def close(self) -> None:
        """Writes what is pending, syncs, and gives up the directory."""
        if not self._failed and self._segments:
            with contextlib.suppress(OSError):
                if self._records:
                    self._write_frame(self._records)
                for segment in self._unsynced:
                    self._disk.sync(segment.fd)
        self._failed = True
        for segment in self._segments:
            with contextlib.suppress(OSError):
                self._disk.close(segment.fd)
        self._segments.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- inside

    def _take_lock(self) -> None:
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            raise JournalInUse(f"{self.directory}: in use by another process") from None

    def _recover(self) -> None:
        for leftover in (*self.directory.glob("*.tmp"), *self.directory.glob("*.spare")):
            self._disk.unlink(leftover)
        frames, torn = scan(self.directory)
        if torn is not None:
            log.warning("torn_tail_cut", file=str(torn[0]), offset=torn[1])
        for frame in frames:
            self.sequence = frame.sequence
            for kind, shard, index, term, payload in frame.records():
                if shard not in self.logs:
                    raise ForeignJournal(frame.file, frame.offset, f"records of shard {shard}, which is not held here")
                try:
                    self.logs[shard].replay(kind, index, term, payload)
                except ValueError as error:
                    raise JournalDamaged(frame.file, frame.offset, f"shard {shard}: {error}") from None
        for shard, shard_log in self.logs.items():
            if shard_log.has_gap:
                raise JournalDamaged(
                    self.directory, 0, f"shard {shard}: entries up to {shard_log.base_index} are missing"
                )
        self._compact(frames, torn=torn is not None)

    def _compact(self, frames: list[Frame], *, torn: bool) -> None:
        """Starts over in a fresh segment that holds all that is still needed, then drops the old ones, of `frames`."""
        old = list_segments(self.directory)
        number = old[-1][0] + 1 if old else 1
        self._salt = os.urandom(SALT_BYTES)
        head = Head(self._salt, number, fresh=True)
        parts: list[bytes] = []
        for shard_log in self.logs.values():
            parts += shard_log.checkpoint()
            parts += shard_log.entries_as_records()
        opening = head.encode() + encode_frame(head.stamp, HEAD_BYTES, self.sequence + 1, self.sequence, parts)
        path = segment_path(self.directory, number)
        temporary = path.with_suffix(".tmp")
        fd = self._disk.create(temporary)
        try:
            size = self._allocate(fd, len(opening))
            self._disk.clear(fd, size)  # a tenth of a second, for as long as no segment comes back to be used again
        except OSError as error:
            self._disk.close(fd)
            self._disk.unlink(temporary)
            if not frames or not is_no_room(error):
                raise
            log.warning("journal_not_compacted", needed_bytes=len(opening), reason=error.strerror)
            self._carry_on(frames, torn=torn)
            return
        self._disk.write(fd, opening, 0)
        self._disk.sync(fd)
        self._disk.rename(temporary, path)
        self._disk.sync_dir(self.directory)
        self.sequence += 1
        self.synced = self.sequence
        self._at = len(opening)
        top = {shard: shard_log.last_index for shard, shard_log in self.logs.items()}
        segment = _Segment(number, head.stamp, path, fd, size, last=self.sequence, top=top)
        self._segments = [segment]
        self._unsynced = [segment]
        for _, stale in old:
            self._disk.unlink(stale)

    def _carry_on(self, frames: list[Frame], *, torn: bool) -> None:
        """Writes all `frames` where they are already, so that no sync can miss them, and continues behind them."""
        paths = {frame.file for frame in frames}
        for number, path in list_segments(self.directory):
            head = head_of(number, path)
            if path not in paths or head is None:  # superseded, or of a torn tail
                self._disk.unlink(path)
                continue
            fd = self._disk.open(path)
            segment = _Segment(number, head.stamp, path, fd, os.fstat(fd).st_size)
            self._segments.append(segment)
            self._unsynced.append(segment)
            self._salt = head.salt
            self._disk.write(fd, head.encode(), 0)
        segments = {segment.path: segment for segment in self._segments}
        for frame in frames:
            segment = segments[frame.file]
            again = encode_frame(segment.stamp, frame.offset, frame.sequence, frame.synced, [frame.body])
            self._disk.write(segment.fd, again, frame.offset)
            segment.last = frame.sequence
            for kind, shard, index, _, _ in frame.records():
                if kind == ENTRY:
                    segment.top[shard] = max(segment.top.get(shard, 0), index)
        self._at = frames[-1].offset + FRAME.size + len(frames[-1].body)
        if torn:
            self._roll(0)
        self.flush_and_wait()

    def _allocate(self, fd: int, needed: int) -> int:
        """Reserves a segment of the usual size, or a scant one where the disk is too full for that; returns its
        size."""
        size = max(self._segment_bytes, needed)
        try:
            self._disk.allocate(fd, size)
        except OSError as error:
            scant = needed + SCANT_BYTES
            if not is_no_room(error) or scant >= size:
                raise
            log.warning("journal_segment_scant", bytes=scant, wanted_bytes=size, reason=error.strerror)
            self._disk.truncate(fd, 0)  # part of what could not be had may have been reserved
            self._disk.allocate(fd, scant)
            return scant
        return size

    def _write_frame(self, parts: list[bytes]) -> None:
        frame_bytes = FRAME.size + sum(map(len, parts))
        if self._at + frame_bytes > self._segments[-1].size:
            self._roll(frame_bytes)
        self._append(encode_frame(self._segments[-1].stamp, self._at, self.sequence + 1, self.synced, parts))

    def _append(self, frame: bytes) -> None:
        self._disk.write(self._segments[-1].fd, frame, self._at)
        self.sequence += 1
        self.frame_bytes = len(frame)
        self._segments[-1].last = self.sequence
        self._at += len(frame)

    def _roll(self, frame_bytes: int) -> None:
        number = self._segments[-1].number + 1
        head = Head(self._salt, number, fresh=False)
        parts: list[bytes] = []
        for shard_log in self.logs.values():
            parts += shard_log.checkpoint()
        opening = head.encode() + encode_frame(head.stamp, HEAD_BYTES, self.sequence + 1, self.synced, parts)
        needed = len(opening) + frame_bytes
        path = segment_path(self.directory, number)
        if self._spare is not None and needed <= self._segment_bytes:
            self._disk.rename(self._spare, path)
            self._spare = None
            fd, size = self._disk.open(path), self._segment_bytes
        else:
            fd = self._disk.create(path)
            size = self._allocate(fd, needed)
        self._disk.sync_dir(self.directory)
        segment = _Segment(number, head.stamp, path, fd, size)
        self._segments.append(segment)
        self._unsynced.append(segment)
        self._at = 0
        self._append(opening)

    def _fail(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            log.error("journal_failed", error=str(error), directory=str(self.directory))
            self.on_failure(error)


def _raise(error: BaseException) -> None:
    raise error


def check(directory: Path) -> tuple[list[Finding], dict[int, int]]:
    """Reads the journal of a stopped node without changing it: what is damaged or torn, and (shard to index) how far
    the data files must reach for the two to meet."""
    if not list_segments(directory):
        return [Finding(directory, 0, "damage", "the journal's segments are missing")], {}
    logs: dict[int, ShardLog] = {}
    try:
        frames, torn = scan(directory)
        for frame in frames:
            for kind, shard, index, term, payload in frame.records():
                try:
                    logs.setdefault(shard, ShardLog(shard, [], lambda _: None)).replay(kind, index, term, payload)
                except ValueError as error:
                    raise JournalDamaged(frame.file, frame.offset, f"shard {shard}: {error}") from None
    except JournalDamaged as damage:
        return [Finding(damage.file, damage.offset, "damage", damage.detail)], {}
    findings = [
        Finding(directory, 0, "damage", f"shard {shard_log.shard}: entries up to {shard_log.base_index} are missing")
        for shard_log in logs.values()
        if shard_log.has_gap
    ]
    if torn is not None:
        findings.append(Finding(*torn, "torn", "an unfinished write at the end"))
    return findings, {shard: shard_log.base_index for shard, shard_log in logs.items()}
