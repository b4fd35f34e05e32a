"""Data files: their names, their order, and one of them as the engine holds it in memory.

There is no manifest; the names say everything:

| name                   | what it is                                                                                |
| ---------------------- | ----------------------------------------------------------------------------------------- |
| `000012.0.data`        | file 12 as written by batches (the newest one is the active file)                         |
| `000003-000007.2.data` | stands for files 3 to 7 since their second merge; older generations within are leftovers  |
| `000012.0.hint`        | the keys of the data file of the same name, for a quick start; can be made again any time |
| `000012.0.data.tmp`    | unfinished, hints likewise; removed when the directory is opened                          |
| `lock`                 | locked while a `Bitcask` has the directory open                                           |
| `installed`, `moving`  | a received snapshot on its way in (see the module `snapshot`)                             |

Ids start at 1 and have no gaps, so a missing file is noticed.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from respkv.contents import AHEAD_BYTES, Contents
from respkv.disk import Disk
from respkv.storage import record
from respkv.storage.errors import Damaged, Locked
from respkv.storage.frame import FILE_HEAD_BYTES, FileHead

if TYPE_CHECKING:
    from respkv.storage.columns import Records
    from respkv.storage.hint import Hint

DATA_SUFFIX = ".data"
HINT_SUFFIX = ".hint"
TEMPORARY_SUFFIX = ".tmp"

_VALUELESS = (record.TOMBSTONE, record.CLEAR)
_NAME = re.compile(r"(\d{6,})(?:-(\d{6,}))?\.(\d+)\.(data|hint)")


class Name(NamedTuple):
    """What the name of a data or hint file says. Sorts in the order of the log."""

    first_id: int
    last_id: int
    generation: int

    def __str__(self) -> str:
        ids = f"{self.first_id:06d}" + (f"-{self.last_id:06d}" if self.last_id != self.first_id else "")
        return f"{ids}.{self.generation}"

    @classmethod
    def parse(cls, name: str) -> tuple[Name, str] | None:
        """The name and its suffix, or None when it is not one of ours."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        first_id, last_id, generation, kind = match.groups()
        parsed = cls(int(first_id), int(last_id or first_id), int(generation))
        return (parsed, "." + kind) if f"{parsed}.{kind}" == name else None

    def replaces(self, other: Name) -> bool:
        """Whether this file is a merge of `other`, maybe of others besides."""
        return self.generation > other.generation and self.first_id <= other.first_id and self.last_id >= other.last_id


class Listing(NamedTuple):
    """What lies in a directory: the files of the log in order, those that have a hint, and what can go."""

    names: list[Name]
    hints: set[Name]
    leftovers: list[Path]


def list_directory(path: Path) -> Listing:
    """Reads the names in `path`. Raises `Damaged` when a file of the log is missing or two of them overlap."""
    data: list[Name] = []
    hints: set[Name] = set()
    leftovers: list[Path] = []
    for entry in sorted(path.iterdir()):
        parsed = Name.parse(entry.name)
        if parsed is None:
            if entry.name.endswith(TEMPORARY_SUFFIX) and Name.parse(entry.name.removesuffix(TEMPORARY_SUFFIX)):
                leftovers.append(entry)
        elif parsed[1] == DATA_SUFFIX:
            data.append(parsed[0])
        else:
            hints.add(parsed[0])
    names = sorted(name for name in data if not any(other.replaces(name) for other in data))
    leftovers += [path / f"{name}{DATA_SUFFIX}" for name in data if name not in names]
    leftovers += [path / f"{name}{HINT_SUFFIX}" for name in sorted(hints) if name not in names]
    expected = 1
    for name in names:
        if name.first_id != expected:
            raise Damaged(path / f"{name}{DATA_SUFFIX}", 0, f"the log goes on with file {expected}, which is missing")
        expected = name.last_id + 1
    return Listing(names, hints.intersection(names), leftovers)


class DataFile:
    """One data file, open for reading and, until it is sealed, for writing.

    `number` is what locations in the keydir call it: handed out in the order of opening, never used again, so that a
    file and its merge can be told apart. `length` counts the bytes in use, `size` those of the file itself, which is
    longer (and zero behind `length`) until it is sealed. `index`, `term` and `clock_ms` are those of the last frame.
    """

    __slots__ = (
        "clock_ms",
        "disk",
        "fd",
        "head",
        "hinted",
        "index",
        "length",
        "live_bytes",
        "name",
        "named",
        "number",
        "path",
        "pins",
        "put_bytes",
        "retired",
        "rows",
        "sealed",
        "seed",
        "size",
        "synced_length",
        "tallied",
        "term",
        "tombstone_bytes",
    )

    def __init__(self, path: Path, name: Name, head: FileHead, number: int, fd: int, size: int, disk: Disk) -> None:
        self.path = path
        self.name = name
        self.head = head
        self.seed = head.seed
        self.number = number
        self.fd = fd
        self.size = size
        self.length = FILE_HEAD_BYTES
        self.synced_length = 0
        self.disk = disk
        self.index = head.base_index
        self.term = 0
        self.clock_ms = 0
        self.named = False  # the directory entry is known to be on the disk
        self.sealed = False
        self.hinted = False
        self.rows = 0  # of all records, alive or not; behind the last clear alone if they were counted by the hint
        self.put_bytes = 0  # of all records with a value, alive or not
        self.tombstone_bytes = 0  # of tombstones and clears
        self.tallied = False
        self.live_bytes = 0  # known once tallied: bytes of the records in use, as of then
        self.pins = 0  # sync points that may still use `fd`
        self.retired = False

    @classmethod
    def create(
        cls, directory: Path, head: FileHead, number: int, size: int, disk: Disk, *, synced: bool = False
    ) -> DataFile:
        """Makes a new, empty file, `size` bytes long; leaves none behind when that fails.

        With `synced` it appears at once with its head on the disk (its name is left to the caller); otherwise nothing
        waits for the disk.
        """
        name = Name(head.first_id, head.last_id, head.generation)
        path = directory / f"{name}{DATA_SUFFIX}"
        at = path.with_name(path.name + TEMPORARY_SUFFIX) if synced else path
        fd = disk.create(at, size)
        try:
            disk.write(fd, head.encode(), 0)
            if synced:
                disk.sync(fd)
                disk.rename(at, path)
            return cls(path, name, head, number, fd, size, disk)
        except BaseException:
            with suppress(OSError):
                disk.close(fd)
                disk.unlink(at)
            raise

    @property
    def hint_path(self) -> Path:
        return self.path.with_suffix(HINT_SUFFIX)

    @property
    def clean(self) -> bool:
        """Whether all records with a value were in use at the last tally."""
        return self.tallied and self.live_bytes == self.put_bytes

    def count(self, records: Records) -> None:
        """Takes note of records that the file has."""
        gone = sum(records.row(position)[4] for position, (kind, _) in records.specials.items() if kind in _VALUELESS)
        self.rows += len(records.keys)
        self.put_bytes += records.size - gone
        self.tombstone_bytes += gone

    def take_sizes(self, hint: Hint) -> None:
        """Takes over what the file's hint knows about its records."""
        self.rows = len(hint)
        self.put_bytes = hint.put_bytes
        self.tombstone_bytes = hint.tombstone_bytes

    def contents(self, *, ahead_bytes: int = AHEAD_BYTES) -> Contents:
        """The file as it is now, to be read as a buffer; what cannot be read raises `Damaged`."""
        return Contents(self.path, self.fd, self.size, Damaged, ahead_bytes=ahead_bytes, read=self.disk.read)

    def truncate(self, size: int) -> None:
        self.disk.truncate(self.fd, size)
        self.size = size

    def unpin(self) -> None:
        """A sync point no longer needs `fd`."""
        self.pins -= 1
        if self.retired:
            self.retire()

    def retire(self) -> None:
        """Closes the descriptor as soon as no sync point needs it."""
        self.retired = True
        if not self.pins:
            self.close()

    def close(self) -> None:
        if self.fd >= 0:
            self.disk.close(self.fd)
            self.fd = -1


def lock(path: Path) -> int:
    """Takes the lock of a directory and returns the descriptor that holds it. Raises `Locked`."""
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Locked(path) from None
    return fd
