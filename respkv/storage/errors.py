"""What can go wrong in the storage engine, other than the operating system's own `OSError`."""

from __future__ import annotations

from pathlib import Path


class StorageError(Exception):
    """Base of the storage engine's own errors."""


class Damaged(StorageError):
    """Bytes that were once safely on the disk are not what they were. Nothing has been changed or cut.

    `file` is the damaged file, `offset` the byte where the first bad record or frame starts.
    """

    def __init__(self, file: Path, offset: int, reason: str) -> None:
        super().__init__(f"{file} is damaged at byte {offset}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


class Locked(StorageError):
    """Another `Bitcask`, of this process or of another one, has the directory open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by another process")
        self.path = path


class Failed(StorageError):
    """It is closed, or a write or an fdatasync failed, so the end of the log is unknown: open the directory again."""
