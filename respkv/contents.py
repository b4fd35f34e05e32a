"""An open file read as a buffer, by ordinary reads.

Not by `mmap`: where the disk cannot be read, or the file has become shorter, a map ends the process with SIGBUS. Here
both are damage, to be refused or repaired like wrong bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

AHEAD_BYTES = 256 << 10

Read = Callable[[int, int, int], bytes]
"""`os.pread`: descriptor, number of bytes, offset."""


class Contents:
    """The first `size` bytes of the file `path`, open as `fd`: `contents[start:end]`, `len`, `find`.

    Reads `ahead_bytes` at a time, for whoever goes through the file in order; with 0 no more than is asked for. What
    was read ahead is not read again: make a new one once the file may have changed. For one thread at a time.

    Raises `damaged(path, offset, reason)` for bytes that cannot be had.
    """

    __slots__ = ("_ahead", "_ahead_at", "_ahead_bytes", "_damaged", "_fd", "_path", "_read", "_size")

    def __init__(
        self,
        path: Path,
        fd: int,
        size: int,
        damaged: Callable[[Path, int, str], Exception],
        *,
        ahead_bytes: int = AHEAD_BYTES,
        read: Read = os.pread,
    ) -> None:
        self._path = path
        self._fd = fd
        self._size = size
        self._damaged = damaged
        self._ahead_bytes = ahead_bytes
        self._read = read
        self._ahead = b""
        self._ahead_at = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """The bytes from `part.start` to `part.stop`, both given, as far as the file goes."""
        start, stop = part.start, min(part.stop, self._size)
        at = start - self._ahead_at
        if at < 0 or stop - self._ahead_at > len(self._ahead):
            if stop - start >= self._ahead_bytes:
                return self._fetch(start, stop)
            self._ahead = self._fetch(start, min(start + self._ahead_bytes, self._size))
            self._ahead_at, at = start, 0
        return self._ahead[at : at + stop - start]

    def _fetch(self, start: int, stop: int) -> bytes:
        """Bytes from the file itself; a read may bring fewer than it was asked for, of 2 GiB for instance."""
        data = b""
        while start + len(data) < stop:
            try:
                piece = self._read(self._fd, stop - start - len(data), start + len(data))
            except OSError as error:
                raise self._damaged(self._path, start, f"it cannot be read: {error.strerror}") from error
            if not piece:
                raise self._damaged(self._path, start + len(data), f"it ends here, not at {self._size}")
            data = data + piece if data else piece
        return data

    def find(self, pattern: bytes, start: int, stop: int | None = None) -> int:
        """The first place of `pattern` that lies within `start..stop`; -1 if there is none."""
        stop = self._size if stop is None else min(stop, self._size)
        while start + len(pattern) <= stop:
            end = min(start + AHEAD_BYTES, stop)
            found = self[start:end].find(pattern)
            if found >= 0:
                return start + found
            start = end - len(pattern) + 1
        return -1
