"""What the commands of a batch have done, for those who want to be told: keyspace notifications and invalidations.

A `Watch` stands in `Db.watch` while somebody wants to know, and gathers while a batch is applied; whoever owns it takes
what there is when the batch is committed. Without one, a write asks one attribute and that is all. Nothing here changes
what is applied: a watch may be there on one replica and not on another.

Classes and names of events are those of Redis's `notify-keyspace-events`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from respkv.keyspace.db import Db

GENERIC: Final = 1 << 2
STRING: Final = 1 << 3
LIST: Final = 1 << 4
SET: Final = 1 << 5
HASH: Final = 1 << 6
ZSET: Final = 1 << 7
EXPIRED: Final = 1 << 8
EVICTED: Final = 1 << 9
STREAM: Final = 1 << 10
MISS: Final = 1 << 11
MODULE: Final = 1 << 13
NEW: Final = 1 << 14

Event = tuple[int, bytes, bytes]
"""Class, name of the event, key."""


class Watch:
    """One shard's watcher.

    events   what has happened since `clear`, in order; only classes in `wanted`
    writers  each key that was written, and the mark of who wrote it: empty if it is not known, or was not one alone
    flushed  whether the whole keyspace was emptied
    wanted   mask of the classes of events that somebody wants
    writer   the mark of whose command is being run, empty if it bears none
    """

    __slots__ = ("events", "flushed", "wanted", "writer", "writers")

    def __init__(self) -> None:
        self.wanted = 0
        self.clear()

    def clear(self) -> None:
        self.events: list[Event] = []
        self.writers: dict[bytes, bytes] = {}
        self.flushed = False
        self.writer = b""

    def event(self, kind: int, name: bytes, key: bytes) -> None:
        if self.wanted & kind:
            self.events.append((kind, name, key))

    def writing(self, db: Db, key: bytes, *, puts: bool) -> None:
        """`key` is about to get a value (`puts`) or to go."""
        writer = self.writer
        if self.writers.setdefault(key, writer) != writer:
            self.writers[key] = b""
        if self.wanted & (EXPIRED | NEW):
            live = db.exists(key)
            if not live and db.has_record(key):
                self.event(EXPIRED, b"expired", key)
            if puts and not live:
                self.event(NEW, b"new", key)

    def putting(self, db: Db, keys: Iterable[bytes]) -> None:
        """Plain SETs, which no command function sees, are about to be applied."""
        if not self.wanted:
            self.writers.update(dict.fromkeys(keys, b""))
            return
        seen: set[bytes] = set()
        for key in keys:
            if key in seen:  # its first put is not applied yet, and would be new again
                self.event(STRING, b"set", key)
                continue
            seen.add(key)
            self.writing(db, key, puts=True)
            self.event(STRING, b"set", key)

    def flushing(self) -> None:
        """All keys are about to go."""
        self.flushed = True
        self.writers.clear()
