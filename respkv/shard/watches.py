"""Watched keys on the leader: a stamp for each, which lasts until the key is written.

WATCH reads, from the leader, a fingerprint of each key and a stamp. EXEC carries both. The fingerprint is compared when
the entry is applied, on every replica alike, so no change that lasts can be missed. What it cannot see is a change
that was taken back: the key deleted and set again, a lock that was held for a moment. That is what stamps are for: the
leader refuses a transaction if one of its stamps is gone,

- because an entry that was applied here has written the key since; or
- because this leader does not know the stamp: another one gave it, or too long ago (`WATCH_S`), or there were too many
  (`STAMPS_MAX`).

While an entry is under way that may write the key, the transaction is not proposed: so all that the stamps cannot tell
stands before it in its own entry, and what that has written every replica sees when it applies it (`Db.has_written`).

To refuse is always safe: WATCH allows EXEC to fail, and clients try again. Stamps are in memory alone and not part of
the state that replicas share; what a leader refuses goes into the log as refused. That an expired key is removed is no
write: it was absent for everybody before.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from respkv.commands.table import COMMANDS, resolve, spec_keys
from respkv.keyspace.db import Db
from respkv.raft.group import Clock
from respkv.reply import RespError
from respkv.shard.batch import BY_OP, Guarded, Ops, Puts
from respkv.shard.long import LongRun
from respkv.shard.transaction import EXEC_OP, REFUSED, Watched, transaction_of
from respkv.storage.batch import EXPIRED, Batch, Change

STAMPS_MAX: Final = 65_536
WATCH_S: Final = 3600.0


class Watches:
    """The stamps of one shard on this node.

    `stamps` maps a key to its stamp and the time when it was last asked for, the longest ago first; it is empty as long
    as nobody watches anything.
    """

    __slots__ = ("_noted", "_numbers", "stamps")

    def __init__(self) -> None:
        self.stamps: dict[bytes, tuple[int, float]] = {}
        self._noted: dict[bytes, Change] = {}  # of the batch that is being applied
        self._numbers = itertools.count(random.getrandbits(62))  # no other leader's, nor this one's before a restart

    def clear(self) -> None:
        """Another leader may have written since: what was given out is worth nothing any more."""
        self.stamps.clear()

    def issue(self, db: Db, keys: Iterable[bytes]) -> list[Any]:
        """For each key the fingerprint of what is there and a stamp, one after the other."""
        if db.changes:
            self._note(db.changes)
        found: list[Any] = []
        now = Clock.now()
        for key in keys:
            known = self.stamps.pop(key, None)
            stamp = next(self._numbers) if known is None else known[0]
            self.stamps[key] = (stamp, now)
            found += (db.fingerprint(key), stamp)
        self._drop_old(now)
        return found

    def _drop_old(self, now: float) -> None:
        stamps = self.stamps
        while stamps:
            oldest = next(iter(stamps))
            if len(stamps) <= STAMPS_MAX and now - stamps[oldest][1] <= WATCH_S:
                return
            del stamps[oldest]

    # -- an entry was applied

    def wrote(self, keys: Collection[bytes]) -> None:
        """These keys were written."""
        stamps = self.stamps
        if not stamps.keys().isdisjoint(keys):
            for key in stamps.keys() & keys:
                del stamps[key]
        self._drop_old(Clock.now())

    def committed(self, batch: Batch) -> None:
        """The changes of `batch` were applied."""
        if batch.forgot:
            self.stamps.clear()
        else:  # what `clear` removed the fingerprints tell
            self._note(batch.changes)
        self._noted = {}

    def _note(self, changes: Mapping[bytes, Change]) -> None:
        """What has changed in the batch since this was last called."""
        noted, self._noted = self._noted, dict(changes)
        self.wrote({
            key for key, change in changes.items() if change[1] != EXPIRED and noted.get(key) is not change
        })

    # -- entries are proposed

    def judge(self, runs: Iterable[LongRun], under_way: Iterable[LongRun] | None) -> bool:
        """Refuses those transactions among `runs` whose keys were written since; whether `runs` may be proposed now.

        `under_way` was proposed before and is not applied yet (None: that is not known).
        """
        watched: list[Watched] = []
        for run in runs:
            if type(run) is Guarded:
                transaction = transaction_of(run.commands[0])
                keys = transaction.watched if transaction is not None else []
                if self.vouches(keys):
                    watched += keys
                else:
                    run.commands = [list(REFUSED)]
        if under_way is None:
            return not watched
        return not watched or not _Writes(under_way).touch(watched)

    def vouches(self, watched: Iterable[Watched]) -> bool:
        """Whether nothing that was applied here has written the keys since."""
        return all(self.stamps.get(each.key, (-1, 0.0))[0] == each.stamp for each in watched)


class _Writes:
    """The keys that runs may write: all that their commands name, or `everything`."""

    __slots__ = ("everything", "keys")

    def __init__(self, runs: Iterable[LongRun]) -> None:
        self.keys: set[bytes] = set()
        self.everything = False
        for run in runs:
            self._add(run)

    def touch(self, watched: Iterable[Watched]) -> bool:
        return self.everything or any(each.key in self.keys for each in watched)

    def _add(self, run: LongRun) -> None:
        if isinstance(run, Puts):
            self.keys.update(run.keys)
        elif isinstance(run, Ops):
            for args in run.commands:
                self._add_command(args)
        else:
            self.keys.add(run.key)

    def _add_command(self, args: list[bytes]) -> None:
        if args[0] == BY_OP:
            args = args[2:]
        if args[0] == EXEC_OP:
            transaction = transaction_of(args)
            for command in transaction.commands if transaction is not None else ():
                self._add_command(command)
        elif args[0] in COMMANDS:
            try:
                spec = resolve(args)
                keys = spec_keys(spec, args) if spec.is_write else ()
            except RespError:
                return  # so it will be refused when it is applied
            self.keys.update(keys)
            self.everything = self.everything or (spec.is_write and not keys)
