"""Snapshots for replicas that are too far behind: the files of the state machine's log, sent in checked chunks.

The sender asks its source for files (open descriptors, so that merging them away does no harm) and keeps at most
`WINDOW` chunks unacknowledged. The receiver gathers them in a directory of its own and hands that over when every byte
has come; until then nothing of the old state is touched. A transfer that stalls, whose link breaks or that the
follower refuses is dropped and started anew. A follower refuses what its disk has no room for beside the old state: it
goes on with that, and lags.

| message        | fields after (kind, shard)                                        | from     |
| -------------- | ----------------------------------------------------------------- | -------- |
| `SNAPSHOT_BEGIN` | transfer, term, index, index_term, [(file name, bytes)]         | leader   |
| `SNAPSHOT_CHUNK` | transfer, number, file position in the list, offset, data       | leader   |
| `SNAPSHOT_END`   | transfer, number of chunks                                      | leader   |
| `SNAPSHOT_ACK`   | transfer, chunks received in order, or -1: stop                 | follower |

Frames carry a CRC; the files' own CRCs are checked when they are opened.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from respkv.border import BadMessage
from respkv.disk import Disk, is_no_room
from respkv.raft.messages import SNAPSHOT_ACK, SNAPSHOT_BEGIN, SNAPSHOT_CHUNK, SNAPSHOT_END, Message

log = structlog.get_logger()

CHUNK_BYTES = 128 << 10
SYNC_BYTES = 1 << 20  # received and not synced: syncing all of it at the end would stop the node for seconds
WINDOW = 8
STALLED_S = 10.0
INCOMING = ".incoming"  # the end of the name of a receiver's directory
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class Source(Protocol):
    """A snapshot as the state machine's log offers it; each file has a `name`, a descriptor `fd` and a `length`."""

    index: int
    term: int
    files: list[Any]

    def close(self) -> None: ...


class SnapshotSender:
    """One snapshot on its way to one follower. `finished` once everything was sent and acknowledged (then it is
    `delivered`), or it failed."""

    def __init__(
        self, shard: int, transfer: int, term: int, source: Source, send: Callable[[Message], bool], now: float
    ) -> None:
        self.source = source
        self.finished = False
        self.delivered = False
        self._shard = shard
        self._transfer = transfer
        self._send = send
        self._moved_at = now
        self._sent = 0
        self._acknowledged = -1
        self._chunks = self._read_chunks()
        self._ended = False
        files = [(file.name, file.length) for file in source.files]
        self._send((SNAPSHOT_BEGIN, shard, transfer, term, source.index, source.term, files))

    def _read_chunks(self) -> Any:
        for position, file in enumerate(self.source.files):
            for offset in range(0, file.length, CHUNK_BYTES):
                yield position, offset, os.pread(file.fd, min(CHUNK_BYTES, file.length - offset), offset)

    def acknowledged(self, transfer: int, chunks: int, now: float) -> None:
        """The follower holds the first `chunks` chunks."""
        if transfer != self._transfer or self.finished:
            return
        if chunks < 0 or chunks > self._sent + self._ended:  # it gives up, or is out of its mind
            self.stop()
            return
        self._moved_at = now
        self._acknowledged = chunks
        self._advance()

    def _advance(self) -> None:
        while self._sent - self._acknowledged < WINDOW and not self._ended:
            try:
                chunk = next(self._chunks, None)
            except OSError as error:  # the next one begins with files that have been verified anew
                log.warning("snapshot_unreadable", shard=self._shard, error=str(error))
                self.stop()
                return
            if chunk is None:
                self._ended = True
                self._send((SNAPSHOT_END, self._shard, self._transfer, self._sent))
                break
            position, offset, data = chunk
            self._send((SNAPSHOT_CHUNK, self._shard, self._transfer, self._sent, position, offset, data))
            self._sent += 1
        if self._ended and self._acknowledged > self._sent:
            self.delivered = True
            self.stop()

    def tick(self, now: float) -> None:
        if not self.finished and now - self._moved_at > STALLED_S:
            log.warning("snapshot_stalled", shard=self._shard)
            self.stop()

    def stop(self) -> None:
        if not self.finished:
            self.finished = True
            self.source.close()


@dataclass
class _Incoming:
    peer: str
    transfer: int
    index: int
    term: int
    fds: list[int]
    lengths: list[int]
    received: int = 0
    position: int = 0  # of the file, and the offset in it, from which the next chunk has to be
    offset: int = 0
    unsynced_bytes: int = 0

    def __post_init__(self) -> None:
        self.moved(0)

    def moved(self, count: int) -> None:
        self.offset += count
        while not self.complete and self.offset == self.lengths[self.position]:
            self.position, self.offset = self.position + 1, 0

    @property
    def complete(self) -> bool:
        return self.position == len(self.lengths)


class SnapshotReceiver:
    """Gathers one snapshot at a time in `directory`; `install(index, term)` is called when it is complete and
    synced. `room_bytes` tells how much it may write; that is asked again as it comes, as others write, too."""

    def __init__(
        self,
        shard: int,
        directory: Path,
        disk: Disk,
        send: Callable[[str, Message], bool],
        install: Callable[[int, int], None],
        room_bytes: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._shard = shard
        self._directory = directory
        self._disk = disk
        self._send = send
        self._install = install
        self._room_bytes = room_bytes
        self._incoming: _Incoming | None = None

    @property
    def busy(self) -> bool:
        """Whether a snapshot is on its way here."""
        return self._incoming is not None

    def receive(self, peer: str, message: Message, applied: int) -> None:
        """Takes a message of the leader. Raises OSError from the disk, unless that is only full."""
        kind, _, transfer, *rest = message
        if kind == SNAPSHOT_BEGIN:
            self._begin(peer, transfer, rest, applied)
            return
        incoming = self._incoming
        if incoming is None or (incoming.peer, incoming.transfer) != (peer, transfer):
            self._answer(peer, transfer, -1)
        elif incoming.index <= applied:  # another leader was faster: never go back
            self._answer(peer, transfer, -1)
            self.drop()
        elif kind == SNAPSHOT_CHUNK:
            self._chunk(incoming, *rest)
        elif kind == SNAPSHOT_END:
            self._end(incoming, rest[0])

    def outrun(self, applied: int) -> None:
        """Forgets a transfer that has become pointless: its leader is none any more, and another one was faster."""
        if self._incoming is not None and self._incoming.index <= applied:
            self.drop()

    def _begin(self, peer: str, transfer: int, fields: list[Any], applied: int) -> None:
        _, index, index_term, files = fields
        for name, _ in files:
            if "/" in name or name.startswith("."):
                raise BadMessage(f"a snapshot may not contain {name!r}")
        self.drop()
        if index <= applied:
            self._answer(peer, transfer, -1)
            return
        lengths = [size for _, size in files]
        log.info("snapshot_receiving", shard=self._shard, peer=peer, index=index, bytes=sum(lengths))
        incoming = self._incoming = _Incoming(peer, transfer, index, index_term, [], lengths)
        if not self._has_room(incoming, sum(lengths)):
            return
        try:
            self._directory.mkdir(parents=True)
            for name, _ in files:
                incoming.fds.append(self._disk.create(self._directory / name))
        except OSError as error:
            self._refuse_for(error, incoming)
            return
        self._answer(peer, transfer, 0)

    def _chunk(self, incoming: _Incoming, number: int, position: int, offset: int, data: bytes) -> None:
        if (
            (number, position, offset) != (incoming.received, incoming.position, incoming.offset)
            or incoming.complete
            or offset + len(data) > incoming.lengths[position]
        ):
            self._answer(incoming.peer, incoming.transfer, -1)
            self.drop()
            return
        fd = incoming.fds[position]
        try:
            self._disk.write(fd, data, offset)
        except OSError as error:
            self._refuse_for(error, incoming)
            return
        incoming.received += 1
        incoming.unsynced_bytes += len(data)
        incoming.moved(len(data))
        if incoming.unsynced_bytes >= SYNC_BYTES or incoming.position > position:
            self._disk.sync(fd)
            incoming.unsynced_bytes = 0
            if not self._has_room(incoming):
                return
        self._answer(incoming.peer, incoming.transfer, incoming.received)

    def _end(self, incoming: _Incoming, chunks: int) -> None:
        if chunks != incoming.received or not incoming.complete:
            self._answer(incoming.peer, incoming.transfer, -1)
            self.drop()
            return
        for fd in incoming.fds:
            self._disk.sync(fd)
            self._disk.close(fd)
        self._disk.sync_dir(self._directory)
        self._incoming = None
        self._install(incoming.index, incoming.term)
        self._answer(incoming.peer, incoming.transfer, chunks + 1)

    def _has_room(self, incoming: _Incoming, needed_bytes: int = 0) -> bool:
        """Whether the disk has room for so much more; if not, `incoming` was refused."""
        room = self._room_bytes()
        if needed_bytes > room:
            self._refuse(incoming, f"{needed_bytes} bytes to come, room for {max(0, room)}")
        return needed_bytes <= room

    def _refuse_for(self, error: OSError, incoming: _Incoming) -> None:
        """Raises an `error` that says something against the disk. Of a sync each does: what it lost nobody knows."""
        if not is_no_room(error) and error.errno not in _NO_DESCRIPTORS:
            raise error
        self._refuse(incoming, str(error))

    def _refuse(self, incoming: _Incoming, reason: str) -> None:
        log.warning("snapshot_refused", shard=self._shard, peer=incoming.peer, reason=reason)
        self._answer(incoming.peer, incoming.transfer, -1)
        self.drop()

    def _answer(self, peer: str, transfer: int, chunks: int) -> None:
        self._send(peer, (SNAPSHOT_ACK, self._shard, transfer, chunks))

    def drop(self, peer: str | None = None) -> None:
        """Forgets the transfer under way (if it is from `peer`) and what it has left on the disk."""
        incoming = self._incoming
        if incoming is not None and peer in (None, incoming.peer):
            for fd in incoming.fds:
                self._disk.close(fd)
            self._incoming = None
        if self._incoming is None and self._directory.exists():
            shutil.rmtree(self._directory)


def remove_leftovers(directory: Path) -> None:
    """Removes what transfers of an earlier process have left in the node's `directory`.

    To be called once that is locked and before anything is allocated in it: they may have filled the disk.
    """
    for left in directory.glob(f"*{INCOMING}"):
        shutil.rmtree(left)
