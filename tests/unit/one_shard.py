"""Commands on a shard of one replica without Raft: what the tests of commands and keyspace stand on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import respkv.commands  # noqa: F401  (fills the table)
from respkv.cluster.slots import SLOTS, slot_of
from respkv.commands.context import Context
from respkv.commands.table import resolve
from respkv.keyspace.db import Db
from respkv.reply import RespError
from respkv.storage.bitcask import Bitcask

NOW_MS = 1_700_000_000_000
OTHER_TYPE = 2


class OneShard:
    """A `Db` over a real Bitcask directory, with a clock that stands at `NOW_MS` until a test moves it."""

    def __init__(self, directory: Path) -> None:
        self.cask = Bitcask(directory, buckets=SLOTS, bucket_of=slot_of, segment_bytes=8 << 20)
        self.db = Db(self.cask)
        self.db.now_ms = NOW_MS
        self.context = Context(seed=1)

    def __call__(self, line: str | bytes | list[bytes]) -> Any:
        """Runs a command, given as words or as arguments; an error is returned, not raised."""
        args = line if isinstance(line, list) else (line.encode() if isinstance(line, str) else line).split()
        try:
            spec = resolve(args)
            assert spec.fn is not None
            if not spec.is_write:
                return spec.fn(self.db, args, self.context)
            with self.batch():
                return spec.fn(self.db, args, self.context)
        except RespError as error:
            return error

    @contextmanager
    def batch(self) -> Iterator[None]:
        self.db.begin()
        try:
            yield
        finally:
            self.db.commit(self.cask.applied + 1, 1)

    def put_other_type(self, key: bytes, expire_ms: int = 0) -> None:
        """A key that is no string."""
        batch = self.db.begin()
        batch.put(key, b"x", OTHER_TYPE, expire_ms)
        self.db.commit(self.cask.applied + 1, 1)
