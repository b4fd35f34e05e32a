"""Which life of a node's journal this is, and which lives of other nodes' journals it has met: the file `identity`.

A journal that was lost cannot say that it was there; the other nodes can. Each journal gets a random name when it is
made, its *life*. A node tells its life to the others, who write it down before they answer. Whoever comes with
another life than the one written down has lost its journal. What this is good for is in `respkv.raft.membership`.

The file lies beside the segments, so that it is lost with them: eight hexadecimal digits of CRC-32, a space, and JSON
`{"life": ..., "met": {"<shard>/<node>": life}}`. One that does not check is as good as none: the journal then begins
another life, and what has two lives is trusted with less, never with more.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog

from respkv.checksum import crc32
from respkv.disk import Disk

log = structlog.get_logger()

NAME = "identity"


class _Content(msgspec.Struct):
    life: str
    met: dict[str, str]


class Identity:
    """The identity kept in `directory`; None keeps it in memory alone, for tests.

    Raises OSError.
    """

    def __init__(self, directory: Path | None = None, disk: Disk | None = None) -> None:
        self._directory = directory
        self._disk = disk or Disk()
        content = self._read()
        if content is None:
            content = _Content(os.urandom(12).hex(), {})
            self._content = content
            self._write()
        self._content = content

    @property
    def life(self) -> str:
        return self._content.life

    def met(self, shard: int, node: str) -> str | None:
        """The life in which `node` was met as a replica of `shard`; None if it never was."""
        return self._content.met.get(f"{shard}/{node}")

    def meet(self, shard: int, node: str, life: str) -> None:
        """Writes down that `node` lives this life. On the disk when it returns; blocks if that is news."""
        if self.met(shard, node) != life:
            self._content.met[f"{shard}/{node}"] = life
            self._write()

    def _read(self) -> _Content | None:
        if self._directory is None:
            return None
        path = self._directory / NAME
        try:
            crc, _, content = path.read_bytes().partition(b" ")
        except FileNotFoundError:
            return None
        try:
            if int(crc, 16) != crc32(content):
                raise ValueError("it does not check")
            return msgspec.json.decode(content, type=_Content)
        except ValueError as error:
            log.warning("identity_not_usable", file=str(path), reason=str(error))
            return None

    def _write(self) -> None:
        if self._directory is None:
            return
        content = msgspec.json.encode(self._content)
        temporary = self._directory / f"{NAME}.tmp"
        temporary.unlink(missing_ok=True)
        fd = self._disk.create(temporary)
        try:
            self._disk.write(fd, b"%08x %s" % (crc32(content), content), 0)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(temporary, self._directory / NAME)
        self._disk.sync_dir(self._directory)


def was_here(directory: Path) -> bool:
    """Whether a journal has once been in use in `directory`, whatever is left of it."""
    return (directory / NAME).exists()
