"""Sync points: making what has been applied durable, in another thread if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from respkv.storage.datafile import DataFile

if TYPE_CHECKING:
    from respkv.storage.bitcask import Bitcask


class SyncPoint:
    """The work that makes everything up to `index` durable. Made by `Bitcask.sync_point`."""

    __slots__ = ("_cask", "_files", "_finished", "_name_new", "index")

    def __init__(self, cask: Bitcask, files: list[DataFile]) -> None:
        self.index = cask.applied
        self._cask = cask
        self._files = [(file, file.length) for file in files]
        self._name_new = any(not file.named for file in cask.files)
        self._finished = False
        for file in files:
            file.pins += 1

    def run(self) -> None:
        """Blocks until the files are on the disk. May run in any thread, while the `Bitcask` is used in its own.

        Raises `OSError`: the kernel may have dropped what it could not write, so the `Bitcask` counts as failed.
        """
        try:
            for file, _length in self._files:
                self._cask.disk.sync(file.fd)
            if self._name_new:
                self._cask.disk.sync_dir(self._cask.path)
        except BaseException:
            self._cask.failed = True
            raise

    def finish(self) -> None:
        """Takes note, in the `Bitcask`'s own thread, that `run` has returned."""
        if self._finished:
            return
        self._finished = True
        for file, length in self._files:
            file.synced_length = max(file.synced_length, length)
            file.named = True
            file.unpin()
