"""Offline verification: every byte of every file of a directory, changing nothing.

Finds more than opening does, which believes good hints and leaves the records behind them to be verified when read.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from respkv.contents import Contents
from respkv.disk import Disk
from respkv.finding import Finding
from respkv.storage import hint, record
from respkv.storage.columns import read_all
from respkv.storage.datafile import DATA_SUFFIX, HINT_SUFFIX, DataFile, Name, list_directory
from respkv.storage.errors import Damaged, Locked
from respkv.storage.frame import FILE_HEAD_BYTES, FileHead, frames
from respkv.storage.keydir import Keydir
from respkv.storage.recovery import Recovery


def check(path: Path | str) -> list[Finding]:
    """Reads and verifies all files of the directory, which must not be open (`Locked`). Empty when all is well."""
    path = Path(path)
    lock_fd = _lock(path)
    try:
        return _judge_ends(path, _check(path))
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)


class _Spectator(Disk):
    """Changes nothing."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def truncate(self, fd: int, size_bytes: int) -> None: ...

    def unlink(self, path: Path) -> None: ...


def _judge_ends(path: Path, findings: list[Finding]) -> list[Finding]:
    """An unfinished frame is torn if opening would cut it, and damage if opening would refuse."""
    if not any(finding.kind == "torn" for finding in findings):
        return findings
    try:
        last_index(path)
    except Damaged as damaged:
        certain = [finding for finding in findings if finding.kind != "torn"]
        if any(finding.is_damage for finding in certain):
            return findings
        return [*certain, Finding(damaged.file, damaged.offset, "damage", damaged.reason)]
    return findings


def last_index(path: Path) -> int:
    """The index that opening the directory would arrive at; 0 if there is none. Raises `Damaged`."""
    return Recovery(path, Keydir(1, None), 1024, _Spectator()).look() if path.is_dir() else 0


def _lock(path: Path) -> int:
    try:
        fd = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Locked(path) from None
    return fd


def _check(path: Path) -> list[Finding]:
    findings: list[Finding] = []
    try:
        listing = list_directory(path)
    except Damaged as damaged:
        return [Finding(damaged.file, damaged.offset, "damage", damaged.reason)]
    findings += [Finding(leftover, 0, "leftover", "will be removed") for leftover in listing.leftovers]
    index = 0
    salt: int | None = None
    for position, name in enumerate(listing.names):
        newest = name == listing.names[-1]
        file, head_findings = _open(path, name, newest)
        findings += head_findings
        if file is None:
            continue
        try:
            if salt is not None and file.head.salt != salt:
                findings.append(Finding(file.path, 8, "damage", "the file belongs to another directory"))
            salt = file.head.salt
            if file.head.base_index != index:
                detail = f"starts after index {file.head.base_index}, not after {index}"
                findings.append(Finding(file.path, 32, "damage" if file.sealed else "torn", detail))
            behind = None if newest else _base_index(path, listing.names[position + 1])
            findings += _check_content(file, behind, name in listing.hints)
            index = file.index
        except Damaged as damaged:
            findings.append(Finding(damaged.file, damaged.offset, "damage", damaged.reason))
        finally:
            file.close()
    return findings


def _open(path: Path, name: Name, newest: bool) -> tuple[DataFile | None, list[Finding]]:
    file_path = path / f"{name}{DATA_SUFFIX}"
    fd = os.open(file_path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(fd).st_size
    try:
        head = FileHead.decode(Contents(file_path, fd, size, Damaged, ahead_bytes=0)[0:FILE_HEAD_BYTES])
    except Damaged as damaged:
        os.close(fd)
        return None, [Finding(file_path, 0, "damage", damaged.reason)]
    if head is None or (head.first_id, head.last_id, head.generation) != name:
        os.close(fd)
        detail = "no head" if head is None else "the head of another file"
        return None, [Finding(file_path, 0, "torn" if head is None and newest else "damage", detail)]
    return DataFile(file_path, name, head, 0, fd, size, Disk()), []


def _base_index(path: Path, name: Name) -> int:
    """The index that the file before must reach; -1 if the head cannot tell."""
    file, _ = _open(path, name, newest=True)
    if file is None:
        return -1
    file.close()
    return file.head.base_index


def _check_content(file: DataFile, behind: int | None, has_hint: bool) -> list[Finding]:
    """Frames, records, seal and hint of one file; leaves its last index in the file.

    `behind` is the index at which the next file goes on, None if this is the newest. Where it goes on at the end of
    this one's frames only the seal can be torn.
    """
    offset = FILE_HEAD_BYTES
    bad_record: int | None = None
    expected = hint.Hint()
    contents = file.contents()
    for frame in frames(contents, file.seed, offset, file.size):
        if frame.is_seal and frame.body_end == file.size:
            file.sealed = True
            file.index, file.term, file.clock_ms = frame.index, frame.term, frame.clock_ms
        if frame.is_seal or frame.index < file.index:
            break
        try:
            for records in read_all(contents, frame.body_start, frame.body_end):
                expected.extend(records)
        except record.BadRecord as bad:
            bad_record = bad.offset
            break
        file.index, file.term, file.clock_ms = frame.index, frame.term, frame.clock_ms
        offset = frame.body_end
    loaded = hint.read(file.hint_path, file) if has_hint else None
    findings = []
    if has_hint and loaded is None:
        findings.append(Finding(file.path.with_suffix(HINT_SUFFIX), 0, "hint", "not usable"))
    if file.sealed:
        expected.finish(file.size, file.index, file.term, file.clock_ms)
        if loaded is not None and not loaded.equals(expected):
            findings.append(Finding(file.hint_path, 0, "damage", "does not agree with its data file"))
        return findings
    if loaded is not None or file.name.generation:
        findings.append(Finding(file.path, bad_record or offset, "damage", "a sealed file is not whole"))
    elif not _is_zero(contents, offset):
        start = offset if bad_record is None else bad_record
        torn = behind is None or behind == file.index
        findings.append(Finding(file.path, start, "torn" if torn else "damage", "not a whole frame"))
    return findings


def _is_zero(data: Contents, start: int) -> bool:
    return not any(data[at : at + (1 << 20)].strip(b"\0") for at in range(start, len(data), 1 << 20))
