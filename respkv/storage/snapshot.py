"""Snapshots: the state at one index as a set of files, and putting such a set in the place of a directory's content.

A snapshot is the data files of the log as they are (the active one up to a fixed length), with the hints of those that
have one. It holds descriptors of its own, so merges and writes that follow do not change what it reads.

Installing goes by names, each step by one rename, so that a crash leaves the old content or the new, never a mixture:

1. `incoming` is synced, then becomes `path/installed`. From here on the new content counts.
2. the files of the old content are removed;
3. `path/installed` becomes `path/moving`: the old content is known to be gone;
4. the files in it move up, and the empty directory is removed.

The next opening takes the remaining steps if a crash came between.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from respkv.disk import Disk
from respkv.storage.datafile import DATA_SUFFIX, HINT_SUFFIX, Name, list_directory, lock

if TYPE_CHECKING:
    from respkv.storage.bitcask import Bitcask

_INSTALLED = "installed"
_MOVING = "moving"


class SnapshotFile(NamedTuple):
    """One file: read `length` bytes from the start of `fd` (with `os.pread`), and store them under `name`."""

    name: str
    fd: int
    length: int


class Snapshot:
    """The state at `index` in files. The descriptors are its own; `close` it when they have been read."""

    def __init__(self, index: int, term: int, clock_ms: int, files: list[SnapshotFile]) -> None:
        self.index = index
        self.term = term
        self.clock_ms = clock_ms
        self.files = files

    def close(self) -> None:
        for file in self.files:
            os.close(file.fd)
        self.files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def take(cask: Bitcask) -> Snapshot:
    """See `Bitcask.snapshot`. Raises `OSError` when descriptors run out."""
    snapshot = Snapshot(cask.applied, cask.applied_term, cask.clock_ms, [])
    try:
        for file in cask.files:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            snapshot.files.append(SnapshotFile(file.path.name, fd, file.length))
            if file.hinted:
                fd = os.open(file.hint_path, os.O_RDONLY | os.O_CLOEXEC)
                snapshot.files.append(SnapshotFile(file.hint_path.name, fd, os.fstat(fd).st_size))
    except BaseException:
        snapshot.close()
        raise
    return snapshot


def install(path: Path, incoming: Path, disk: Disk) -> None:
    """Replaces the content of the directory `path` by the files in the directory `incoming`, which goes away.

    Both are on one file system; `path` is made when missing and must not be open (`Locked`). `incoming` holds the files
    of a snapshot under their names; anything else in it is refused with `ValueError`, a file missing from the log with
    `Damaged`. Their content is verified when the directory is opened. Blocks for syncing. Durable when it returns;
    after a crash or an `OSError` the next opening finds the old content or the new one.
    """
    names = sorted(entry.name for entry in incoming.iterdir())
    strange = [name for name in names if Name.parse(name) is None]
    if strange or not list_directory(incoming).names:
        raise ValueError(f"{incoming} does not hold a snapshot but {strange or 'nothing'}")
    path.mkdir(parents=True, exist_ok=True)
    lock_fd = lock(path)
    try:
        finish_install(path, disk)
        for name in names:
            fd = disk.open(incoming / name)
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)
        disk.sync_dir(incoming)
        disk.rename(incoming, path / _INSTALLED)
        disk.sync_dir(path)
        finish_install(path, disk)
    finally:
        os.close(lock_fd)


def finish_install(path: Path, disk: Disk) -> None:
    """Takes the steps of an installation that remain, if one was begun. The caller holds the lock."""
    installed, moving = path / _INSTALLED, path / _MOVING
    if installed.exists():
        for entry in sorted(path.iterdir()):
            if entry.suffix in (DATA_SUFFIX, HINT_SUFFIX):
                disk.unlink(entry)
        disk.sync_dir(path)
        disk.rename(installed, moving)
        disk.sync_dir(path)
    if moving.exists():
        for entry in sorted(moving.iterdir()):
            disk.rename(entry, path / entry.name)
        disk.sync_dir(path)
        disk.sync_dir(moving)
        disk.remove_dir(moving)
        disk.sync_dir(path)
