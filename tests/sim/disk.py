"""A disk that forgets: what was written is readable at once, and durable once it was synced.

The real files (in memory, see `directory`) are the page cache: whoever reads or maps them sees every write. Beside
them this keeps what a loss of power would leave: each file's synced content, the writes since, and the names as of the
last sync of their directory with the changes since. Losing power keeps, of each page, some beginning of the writes to
it, maybe a torn one at the end; of the changes of names, some beginning (a journalling file system's order), and
`sync_dir` keeps all changes up to the last one in that directory. A killed process loses nothing.

Faults on demand: the process dies at the n-th call from now; a call fails with ENOSPC or EIO. After a failed sync the
written pages count as clean, as they do in Linux: they stay readable, and no later sync writes them.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from respkv.disk import Disk

FOREVER = float("inf")


class Died(BaseException):
    """The process ends here. Not an `Exception`, as nothing in a process can catch its own end."""


class Injected(OSError):
    """An error that the simulation made."""


def directory(fallback: Path | None = None) -> Path:
    """Where simulated disks live: memory, if there is any that looks like a file system."""
    shm = Path("/dev/shm")
    return (shm if shm.is_dir() and os.access(shm, os.W_OK) else fallback or Path("/tmp")) / f"respkv-sim-{os.getpid()}"


class _File:
    """One file's durable content, and what was done to it since: (number, offset, data) or (number, new size, None)."""

    __slots__ = ("durable", "pending")

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[tuple[int, int, bytes | None]] = []

    def settle(self, up_to: int) -> None:
        """Everything up to number `up_to` is durable."""
        count = 0
        for number, at, data in self.pending:
            if number > up_to:
                break
            _do(self.durable, at, data)
            count += 1
        del self.pending[:count]

    def after_power_loss(self, rng: random.Random, page_bytes: int) -> bytes:
        """What is left. Pages are written back on their own, each as it was at some moment; sizes change in order."""
        content, keep = bytearray(self.durable), rng.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        sizes = [number for number, _, data in self.pending if data is None]
        size_until = sizes[: rng.randint(0, len(sizes))][-1:] or [-1]
        until: dict[int, float] = {}
        for number, at, data in self.pending:
            if data is None:
                if number <= size_until[0]:
                    _do(content, at, None)
                continue
            for start in range(at - at % page_bytes, at + len(data), page_bytes):
                page = start // page_bytes
                if page not in until:
                    until[page] = FOREVER if rng.random() < keep else rng.choice(self._numbers(page, page_bytes))
                part = data[max(0, start - at) : start + page_bytes - at]
                if number < until[page]:
                    _do(content, max(at, start), part)
                elif number == until[page] and rng.random() < 0.5:
                    _do(content, max(at, start), part[: rng.randrange(len(part) + 1)])
        return bytes(content)

    def _numbers(self, page: int, page_bytes: int) -> list[int]:
        start, end = page * page_bytes, (page + 1) * page_bytes
        return [n for n, at, data in self.pending if data is not None and at < end and at + len(data) > start]


def _do(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        if at < len(content):
            del content[at:]
        else:
            content.extend(bytes(at - len(content)))
        return
    if at > len(content):
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


Change = tuple[str, str, object]  # ("set", path, file), ("rename", old, new), ("unlink", path, None)


class SimDisk(Disk):
    """The disk of one node, below `root`."""

    def __init__(self, root: Path, rng: random.Random, page_bytes: int = 4096) -> None:
        self.root = root
        self.dies_in = 0
        self.fails: dict[str, int] = {}
        self.hurt = False  # a call has failed in the life of this process
        self._rng = rng
        self._page_bytes = page_bytes
        self._number = 0
        self._fds: dict[int, _File] = {}
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._changes: list[Change] = []
        root.mkdir(parents=True, exist_ok=True)

    def free_bytes(self, directory: Path) -> int:
        """It never is full by itself."""
        return 1 << 50

    # -- faults

    def _step(self, kind: str) -> None:
        if self.dies_in:
            self.dies_in -= 1
            if not self.dies_in:
                raise Died
        left = self.fails.get(kind)
        if left is not None:
            if left <= 1:
                del self.fails[kind]
                self.hurt = True
                code = errno.ENOSPC if kind == "write" else errno.EIO
                raise Injected(code, os.strerror(code))
            self.fails[kind] = left - 1

    def process_ends(self) -> None:
        """Closes what the process has left open."""
        self.dies_in = 0
        self.hurt = False
        self.fails.clear()
        for fd in list(self._fds):
            self.close(fd)

    def lose_power(self) -> None:
        """The real files become what a power cut leaves. The process has ended before."""
        rng = self._rng
        kept = rng.choice((0, len(self._changes), rng.randint(0, len(self._changes))))
        self._settle_names(self._changes[:kept])
        self._changes = []
        shutil.rmtree(self.root)
        self.root.mkdir(parents=True)
        self._names = dict(self._durable_names)
        contents = {id(file): file.after_power_loss(rng, self._page_bytes) for file in self._names.values()}
        for name, file in self._names.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[id(file)])
            file.durable = bytearray(contents[id(file)])
            file.pending = []

    # -- names

    def _change(self, change: Change) -> None:
        self._changes.append(change)
        _rename(self._names, [change])

    def _settle_names(self, changes: Iterable[Change]) -> None:
        _rename(self._durable_names, changes)

    # -- Disk

    def create(self, path: Path, size_bytes: int = 0) -> int:
        self._step("create")
        fd = super().create(path, size_bytes)
        file = self._fds[fd] = _File()
        self._change(("set", str(path), file))
        if size_bytes:
            self._note(fd, size_bytes, None)
        return fd

    def open(self, path: Path) -> int:
        self._step("open")
        fd = super().open(path)
        self._fds[fd] = self._names[str(path)]
        return fd

    def allocate(self, fd: int, size_bytes: int) -> None:
        self._step("create")
        super().truncate(fd, size_bytes)
        self._note(fd, size_bytes, None)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._step("write")
        super().write(fd, data, offset)
        self._note(fd, offset, bytes(data))

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._step("create")
        super().truncate(fd, size_bytes)
        self._note(fd, size_bytes, None)

    def _note(self, fd: int, at: int, data: bytes | None) -> None:
        self._number += 1
        self._fds[fd].pending.append((self._number, at, data))

    def begin_sync(self) -> int:
        """An fdatasync begins: what is written from now on need not be covered by it."""
        return self._number

    def sync(self, fd: int, begun: int | None = None) -> None:
        """An fdatasync, of what was there when `begun` was taken (default: now), has ended."""
        file = self._fds.get(fd)
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            self._step("sync")
        except Injected:
            file.pending = [change for change in file.pending if change[2] is None]
            raise
        file.settle(self._number if begun is None else begun)

    def sync_dir(self, path: Path) -> None:
        self._step("sync_dir")
        inside = str(path) + "/"
        last = 0
        for position, (_, one, other) in enumerate(self._changes):
            if one.startswith(inside) or (isinstance(other, str) and other.startswith(inside)):
                last = position + 1
        self._settle_names(self._changes[:last])
        del self._changes[:last]

    def rename(self, old: Path, new: Path) -> None:
        self._step("rename")
        super().rename(old, new)
        self._change(("rename", str(old), str(new)))

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        super().unlink(path)
        self._change(("unlink", str(path), None))

    def close(self, fd: int) -> None:
        if self._fds.pop(fd, None) is not None:
            super().close(fd)


def _rename(names: dict[str, _File], changes: Iterable[Change]) -> None:
    """Does to a table of names what the changes say; a directory takes along what is in it."""
    for kind, one, other in changes:
        if kind == "set":
            assert isinstance(other, _File)
            names[one] = other
        elif kind == "unlink":
            names.pop(one, None)
        else:
            assert isinstance(other, str)
            if one in names:
                names[other] = names.pop(one)
            for name in [name for name in names if name.startswith(one + "/")]:
                names[other + name[len(one) :]] = names.pop(name)
