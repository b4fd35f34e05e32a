"""Reading a long value piece by piece, with the caller's other work in between."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from respkv.checksum import crc32
from respkv.contents import Read
from respkv.storage.errors import Damaged
from respkv.storage.record import HEADER_BYTES, TRAILER_BYTES

PIECE_BYTES = 1 << 20


class LongRead:
    """The value of one record as it was when this was made; overwriting, deleting and merging do not change it.

    Iterate over it once, to the end or until the iterator is closed: it has the file open.

    Attributes:
        type, expire_ms, value_bytes: as in the record's header.
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        key: bytes,
        type: int,
        expire_ms: int,
        value_bytes: int,
        damaged: Callable[[OSError | None], Damaged],
        read: Read,
    ) -> None:
        self.type = type
        self.expire_ms = expire_ms
        self.value_bytes = value_bytes
        self._damaged = damaged
        self._read = read
        self._offset = offset
        self._key = key
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __iter__(self) -> Iterator[bytes]:
        """Yields the value in pieces; raises `Damaged` in place of the last one if the record is not intact."""
        try:
            at = self._offset + HEADER_BYTES + len(self._key)
            head = self._read(self._fd, at - self._offset, self._offset)
            crc, end = crc32(head), at + self.value_bytes
            while at < end:
                piece = self._read(self._fd, min(PIECE_BYTES, end - at), at)
                crc, at = crc32(piece, crc), at + len(piece)
                if not piece or (at == end and not self._is_intact(crc, head, end)):
                    raise self._damaged(None)
                yield piece
        except OSError as error:
            raise self._damaged(error) from error
        finally:
            self.close()

    def _is_intact(self, crc: int, head: bytes, end: int) -> bool:
        trailer = self._read(self._fd, TRAILER_BYTES, end)
        return head[HEADER_BYTES:] == self._key and trailer == crc.to_bytes(TRAILER_BYTES, "little")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
