"""Opening a directory: reads the log back into the keydir, cuts a torn end, refuses damage.

The files are gone through in order, from their hints where there are good ones and frame by frame elsewhere. At the
first place that is not a whole frame (or where a file does not join the one before), after index `i`:

- *Damage*, when something shows that this place was once on the disk: a frame further on says that an index above `i`
  was synced; or the file is sealed (its seal ends it exactly, or it has a hint, or it is a merge); or a later one is,
  for files are sealed in order. Nothing is changed and `Damaged` is raised with file and offset.
- *A torn end* otherwise: these frames were never acknowledged as synced, and the machine went down while they were on
  their way. They are cut together with everything behind them, and the cut is logged.

An unsealed file is longer than its content and zero behind it; a tail of zeros is therefore the normal end.

What no frame proves to be synced is written again and synced before the directory counts as open: had an earlier
fdatasync failed, these bytes might be in the page cache alone, and marked there as written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import structlog

from respkv.contents import Contents
from respkv.disk import Disk
from respkv.storage import hint, record
from respkv.storage.columns import read_all
from respkv.storage.datafile import DATA_SUFFIX, HINT_SUFFIX, DataFile, Name, list_directory
from respkv.storage.errors import Damaged
from respkv.storage.frame import (
    FILE_HEAD_BYTES,
    FRAME_HEAD_BYTES,
    FileHead,
    Frame,
    data_ranges,
    decode_head,
    find_headers,
    frames,
)
from respkv.storage.keydir import Keydir

log = structlog.get_logger(__name__)

_COPY_BYTES = 8 << 20


class Recovery:
    """One opening of one directory. `run` fills the keydir and leaves the files in `files`, in order."""

    def __init__(self, path: Path, keydir: Keydir, segment_bytes: int, disk: Disk) -> None:
        self.files: list[DataFile] = []
        self.salt: int | None = None
        self._path = path
        self._keydir = keydir
        self._segment_bytes = segment_bytes
        self._disk = disk
        self._index = 0
        self._term = 0
        self._clock_ms = 0
        self.synced_index = 0  # the highest that any frame seen so far knew to be synced
        self._looking = False
        self._headless: list[Name] = []  # files behind the end of the log, whose heads never arrived

    def run(self) -> None:
        """Raises `Damaged`; on any error every descriptor is closed again."""
        try:
            listing = list_directory(self._path)
            for leftover in listing.leftovers:
                self._disk.unlink(leftover)
            self._open_files(listing.names)
            self._replay(listing.hints)
            self._settle()
        except BaseException:
            for file in self.files:
                file.close()
            raise

    def look(self) -> int:
        """The last index that `run` would find; `disk` must be one that changes nothing. Raises `Damaged` as `run`."""
        self._looking = True
        try:
            listing = list_directory(self._path)
            self._open_files(listing.names)
            self._replay(listing.hints)
            return self._index
        finally:
            for file in self.files:
                file.close()

    def _open_files(self, names: list[Name]) -> None:
        for position, name in enumerate(names):
            path = self._path / f"{name}{DATA_SUFFIX}"
            fd = self._disk.open(path)
            try:
                size = os.fstat(fd).st_size
                contents = Contents(path, fd, size, Damaged, ahead_bytes=0, read=self._disk.read)
                head = FileHead.decode(contents[0:FILE_HEAD_BYTES])
                if head is None:
                    self._headless = names[position:]
                    self._check_missing_head(path, fd, contents, self._headless)
                    self._disk.close(fd)
                    return
                if (head.first_id, head.last_id, head.generation) != name:
                    raise Damaged(path, 0, "its head belongs to another file")
                if self.salt is not None and head.salt != self.salt:
                    raise Damaged(path, 0, "its head belongs to another directory")
                self.salt = head.salt
                self.files.append(DataFile(path, name, head, position, fd, size, self._disk))
            except BaseException:
                if not self.files or self.files[-1].fd != fd:
                    self._disk.close(fd)
                raise

    def _check_missing_head(self, path: Path, fd: int, contents: Contents, names: list[Name]) -> None:
        """A new file whose head did not reach the disk is a torn end; any other file without a head is damage."""
        # The very first head was synced when it was made: only a file without anything else may lack it.
        first = self.salt is None and (
            len(names) > 1
            or not _is_zero(fd, contents, FILE_HEAD_BYTES)
            or (len(contents) >= FILE_HEAD_BYTES and any(contents[0:FILE_HEAD_BYTES]))
        )
        if first or any(name.generation for name in names):
            raise Damaged(path, 0, "its head is not intact")

    def _replay(self, hints: set[Name]) -> None:
        for position, file in enumerate(self.files):
            if file.head.base_index != self._index:  # a torn end was dealt with at the file before
                raise Damaged(file.path, 32, f"it starts after index {file.head.base_index}, not after {self._index}")
            if file.name not in hints or not self._load_hint(file):
                self._scan(file)
            self._index, self._term, self._clock_ms = file.index, file.term, file.clock_ms
            if file.sealed:
                self.synced_index = max(self.synced_index, file.index)
                if self._headless and file is self.files[-1]:
                    self._judge(position)
                continue
            joined = position + 1 < len(self.files) and self.files[position + 1].head.base_index == file.index
            behind = self.files[position + 1 :]
            if not joined and (behind or self._headless or not _is_zero(file.fd, file.contents(), file.length)):
                self._judge(position)
                return
            if not _is_zero(file.fd, file.contents(), file.length):  # only the seal can be torn: the next file joins
                self._cut(file)

    def _load_hint(self, file: DataFile) -> bool:
        """Fills the keydir from the file's hint; False when it has to be scanned instead."""
        loaded = hint.read(file.hint_path, file)
        if loaded is None:
            log.warning("hint_not_usable", file=str(file.hint_path))
            return False
        if loaded.data_bytes > file.size:
            raise Damaged(file.path, file.size, f"it was sealed with {loaded.data_bytes} bytes")
        if loaded.data_bytes < file.size:  # sealed, but the file's new size did not reach the disk
            file.truncate(loaded.data_bytes)
        file.index, file.term, file.clock_ms = loaded.index, loaded.term, loaded.clock_ms
        file.take_sizes(loaded)
        file.length = file.size
        file.sealed = file.hinted = True
        loaded.apply(self._keydir, file.number)
        return True

    def _scan(self, file: DataFile) -> None:
        """Fills the keydir from the file's frames; stops at the seal or where there is no whole frame."""
        offset = FILE_HEAD_BYTES
        file.term, file.clock_ms = self._term, self._clock_ms
        contents = file.contents()
        for frame in frames(contents, file.seed, offset, file.size):
            if frame.index < file.index or frame.is_seal:
                if frame.is_seal and frame.body_end == file.size:
                    file.sealed = True
                    file.index, file.term, file.clock_ms = frame.index, frame.term, frame.clock_ms
                    offset = file.size
                break
            try:
                parts = read_all(contents, frame.body_start, frame.body_end)
            except record.BadRecord:
                break
            for records in parts:
                self._keydir.replay(file.number, records)
                file.count(records)
            file.index, file.term, file.clock_ms = frame.index, frame.term, frame.clock_ms
            self.synced_index = max(self.synced_index, frame.synced_index)
            offset = frame.body_end
        file.length = offset
        if file.name.generation and not file.sealed:
            raise Damaged(file.path, self._bad_offset(file), "a merged file must be whole")

    def _judge(self, position: int) -> None:
        """The log stops being whole at the end of the file at `position`: raises `Damaged`, or cuts there."""
        file = self.files[position]
        reason = self._proof(position)
        if reason:
            raise Damaged(file.path, self._bad_offset(file), reason)
        behind = [other.name for other in self.files[position + 1 :]] + self._headless
        for other in self.files[position + 1 :]:
            other.close()
        del self.files[position + 1 :]
        for name in reversed(behind):  # newest first: what remains is always a beginning of the log
            self._disk.unlink(self._path / f"{name}{DATA_SUFFIX}")
        if behind:
            self._disk.sync_dir(self._path)
        if not file.sealed:
            self._cut(file)

    def _proof(self, position: int) -> str:
        """Why what follows the file's good frames must once have been on the disk; empty when nothing says so."""
        file = self.files[position]
        for other in self.files[position + 1 :]:
            if other.name.generation or _ends_in_seal(other) or hint.read(other.hint_path, other) is not None:
                return f"a later file, {other.path.name}, is sealed"
        for name in self._headless:
            if (self._path / f"{name}{HINT_SUFFIX}").exists() or self._ends_in_seal_without_head(name):
                return f"a later file, {name}{DATA_SUFFIX}, is sealed"
        if not file.sealed and _ends_in_seal(file):
            return "the file is sealed"
        for frame in self._headers_behind(position):
            if frame.synced_index > self._index:
                return f"good up to index {self._index}, but index {frame.synced_index} had been synced"
        return ""

    def _headers_behind(self, position: int) -> Iterator[Frame]:
        file = self.files[position]
        for start, end in data_ranges(file.fd, file.length, file.size):
            yield from find_headers(file.contents(), file.seed, max(start - FRAME_HEAD_BYTES, file.length), end)
        for other in self.files[position + 1 :]:
            for start, end in data_ranges(other.fd, FILE_HEAD_BYTES, other.size):
                yield from find_headers(other.contents(), other.seed, start, end)
        for name in self._headless:
            yield from self._headers_without_head(name)

    def _headers_without_head(self, name: Name) -> Iterator[Frame]:
        data = self._read_whole(name)
        yield from find_headers(data, self._seed_without_head(name), 0, len(data))

    def _ends_in_seal_without_head(self, name: Name) -> bool:
        data = self._read_whole(name)
        start = max(0, len(data) - FRAME_HEAD_BYTES)
        frame = decode_head(data, self._seed_without_head(name), start, len(data))
        return frame is not None and frame.is_seal

    def _read_whole(self, name: Name) -> bytes:
        path = self._path / f"{name}{DATA_SUFFIX}"
        try:
            return path.read_bytes()
        except OSError as error:
            raise Damaged(path, 0, f"it cannot be read: {error.strerror}") from error

    def _seed_without_head(self, name: Name) -> int:
        return FileHead(self.salt or 0, name.first_id, name.last_id, 0, name.generation).seed

    def _bad_offset(self, file: DataFile) -> int:
        """The first bad record of the first bad frame, or that frame itself when its header is what is bad."""
        contents = file.contents()
        frame = decode_head(contents, file.seed, file.length, file.size)
        if frame is None:
            return file.length
        try:
            read_all(contents, frame.body_start, frame.body_end)
        except record.BadRecord as bad:
            return bad.offset
        return file.length

    def _cut(self, file: DataFile) -> None:
        if self._looking:
            return
        log.warning("torn_tail_cut", file=str(file.path), offset=file.length, index=file.index)
        file.truncate(file.length)

    def _settle(self) -> None:
        """Makes unsealed files ready to be written, and all of the log durable."""
        if not self.files:
            for name in self._headless:
                self._disk.unlink(self._path / f"{name}{DATA_SUFFIX}")
        for file in self.files:
            file.named = True
            if file.sealed:
                if not file.hinted:
                    self._seal_again(file)
                file.synced_length = file.length
                continue
            room = file.length + FRAME_HEAD_BYTES + 1
            wanted = max(room, self._segment_bytes if file is self.files[-1] else file.size)
            if file.size < wanted:
                file.truncate(wanted)
            self._write_again(file)
            self._disk.sync(file.fd)
            file.synced_length = file.length
        self._disk.sync_dir(self._path)

    def _seal_again(self, file: DataFile) -> None:
        """After an fdatasync that failed the seal may be in the page cache alone, and the hint would hide its loss."""
        at = file.length - FRAME_HEAD_BYTES
        self._disk.write(file.fd, file.contents(ahead_bytes=0)[at : file.length], at)
        self._disk.sync(file.fd)

    def _write_again(self, file: DataFile) -> None:
        """Writes again what no frame proves to be synced; if there is no such frame, from the head of the file on."""
        start, contents = 0, file.contents()
        for frame in frames(contents, file.seed, FILE_HEAD_BYTES, file.length):
            if frame.index > self.synced_index:
                break
            start = frame.body_end
        for at in range(start, file.length, _COPY_BYTES):
            self._disk.write(file.fd, contents[at : min(at + _COPY_BYTES, file.length)], at)


def _is_zero(fd: int, contents: Contents, start: int) -> bool:
    """Whether the file holds nothing but zeros from `start` on."""
    for at, end in data_ranges(fd, start, len(contents)):
        for chunk in range(at, end, _COPY_BYTES):
            if contents[chunk : min(chunk + _COPY_BYTES, end)].strip(b"\0"):
                return False
    return True


def _ends_in_seal(file: DataFile) -> bool:
    frame = decode_head(file.contents(), file.seed, max(0, file.size - FRAME_HEAD_BYTES), file.size)
    return frame is not None and frame.is_seal
