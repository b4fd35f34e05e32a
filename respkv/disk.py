"""The disk as the two logs see it: the few system calls they make, in one replaceable place.

Every call that changes what is on the disk goes through a `Disk`, so that a test can make it fail, cut it short or
forget what was never synced. It adds nothing: errors are the operating system's `OSError`. Of reading only `read`
is here, which the records of the data files come by; elsewhere ordinary file calls are used.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_ZEROS = bytes(1 << 20)


def is_no_room(error: BaseException) -> bool:
    """Whether the disk, or what may be used of it, is full: a write that failed so says nothing else against it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Disk:
    """The real disk. Stateless; one instance may serve any number of files and threads."""

    def create(self, path: Path, size_bytes: int = 0) -> int:
        """Creates `path` (which must not exist) for reading and writing, `size_bytes` long, and returns its
        descriptor."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if size_bytes:
            os.ftruncate(fd, size_bytes)
        return fd

    def free_bytes(self, directory: Path) -> int:
        """How much may still be written below `directory`."""
        return shutil.disk_usage(directory).free

    read = staticmethod(os.pread)
    """`read(fd, size_bytes, offset)`: no more than the file has; may bring less than is there."""

    def open(self, path: Path) -> int:
        """Opens an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def allocate(self, fd: int, size_bytes: int) -> None:
        """Reserves blocks up to `size_bytes`, so that writing there needs no more space."""
        os.posix_fallocate(fd, 0, size_bytes)

    def clear(self, fd: int, size_bytes: int) -> None:
        """Writes zeros up to `size_bytes`. The first write to a block that is only reserved marks it as used, which
        the sync behind it has to wait for."""
        for at in range(0, size_bytes, len(_ZEROS)):
            self.write(fd, _ZEROS[: size_bytes - at], at)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Writes all of `data` at `offset`."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, memoryview(data)[done:], offset + done)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def sync(self, fd: int) -> None:
        """Returns once the file's data is on the disk (fdatasync)."""
        os.fdatasync(fd)

    def sync_dir(self, path: Path) -> None:
        """Makes the names in the directory `path` durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def remove_dir(self, path: Path) -> None:
        """Removes an empty directory."""
        os.rmdir(path)

    def close(self, fd: int) -> None:
        os.close(fd)
