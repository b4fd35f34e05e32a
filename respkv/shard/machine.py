"""The state machine of one shard: committed entries in, replies out, the same on every replica.

`apply` is called with each committed entry in order, exactly once per index as far as the Bitcask log remembers (its
frames hold the index); it may not fail: a refusal is a `RespError` reply, any other exception is fatal to the node.
`read` serves a command from the applied state; whether that is allowed now is the caller's to know (lease, ReadIndex).
What it answers stays true: it finds no key expired that an entry could still find alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from respkv import errors
from respkv.commands.context import Context
from respkv.commands.keys import evict_keys, expire_keys
from respkv.commands.table import COMMANDS, Spec, resolve, spec_keys
from respkv.keyspace.db import WRITTEN_BYTES_MAX, Db
from respkv.keyspace.system import SystemRecord
from respkv.keyspace.values import STRING
from respkv.keyspace.watch import MISS, Event, Watch
from respkv.reply import NULL_ARRAY, Reply, RespError
from respkv.shard.batch import BY_OP, Entry, Ops, Puts, Run, joined
from respkv.shard.long import LONG_READ_BYTES, LongEntry, LongPut, Slices, values_of
from respkv.shard.lookups import looked_for, looks
from respkv.shard.transaction import EXEC_OP, WATCH_OP, Watched, is_possible, is_read, transaction_of
from respkv.shard.watches import Watches
from respkv.storage import Bitcask
from respkv.storage.batch import Batch
from respkv.storage.reading import LongRead

EXPIRE_OP = b"\0expire"
SYSTEM_OP = b"\0system"
VERSION_DIGITS_MAX = 18
EVICT_OP = b"\0evict"
_REPLY_TELLS = frozenset((b"GET", b"MGET"))  # which keys are there, at no further cost
_NEVER = float("inf")
_NO_USE = frozenset((b"EXISTS", b"OBJECT", b"PTTL", b"TTL", b"TYPE"))  # what looks at a key without using it


def wall_ms() -> int:
    """Unix time in milliseconds: the leader's stamp."""
    return time.time_ns() // 1_000_000


class InDoubt(Exception):
    """A read would find a key expired by this node's clock, which no entry has reached yet: one that is under way, or
    another leader's clock, may be behind it, and the key would come back. An entry can answer it."""


class Watcher(Watch):
    """A `Watch` that is told when what it has gathered came true."""

    def committed(self, term: int) -> None:
        """An entry of `term` was applied: takes what was gathered, and clears."""
        raise NotImplementedError

    def missed(self, events: list[Event]) -> None:
        """A read outside of any entry has not found keys."""
        raise NotImplementedError


class Machine:
    """Applies entries to a shard's keyspace and reads from it.

    `watcher` gathers what entries do, as long as somebody wants to know.
    """

    def __init__(self, cask: Bitcask, clock_ms: Callable[[], int] = wall_ms) -> None:
        self.cask = cask
        self.db = Db(cask)
        self.get_plain = cask.get_plain
        self.cache = cask.cache
        self.leads = False  # so that only one replica counts what entries look for
        self.hits = self.misses = 0
        """Keys that commands looked for in order to read them, and found or not."""
        self.slow_s = float("inf")
        self.slow: list[tuple[int, list[bytes], float]] = []  # (position in its entry, command, seconds)
        self._watcher: Watcher | None = None
        self.on_system: Callable[[bytes, SystemRecord], None] = lambda _name, _record: None
        """Told of each system record that an entry changes."""
        self.watches = Watches()
        self._wall_ms = clock_ms
        self._read_context = Context(seed=time.monotonic_ns(), counts=True)

    def take_over(self, earlier: Machine) -> None:
        """Goes on for the machine of this shard that ended: what was set there holds, what was counted stays."""
        self.on_system = earlier.on_system
        self.slow_s = earlier.slow_s
        self.leads = earlier.leads
        self.hits, self.misses = earlier.hits, earlier.misses

    @property
    def watcher(self) -> Watcher | None:
        return self._watcher

    @watcher.setter
    def watcher(self, watcher: Watcher | None) -> None:
        self._watcher = self.db.watch = watcher

    @staticmethod
    def can_apply(args: list[bytes]) -> bool:
        """Whether an entry may hold this command: anything else would be fatal to every replica."""
        if args[0] == BY_OP:
            args = args[2:]
            if not args:
                return False
        spec = COMMANDS.get(args[0])
        if spec is None:
            if args[0] == EXEC_OP:
                return is_possible(args, Machine.can_apply)
            if args[0] == SYSTEM_OP:
                return len(args) == 5 and _is_version(args[2]) and _is_version(args[3])
            return args[0] in (EXPIRE_OP, EVICT_OP, WATCH_OP)
        return spec.kind == "data" and spec.fn is not None and spec.arity_ok(len(args))

    @staticmethod
    def can_read(args: list[bytes]) -> bool:
        if args[0] == EXEC_OP:
            return is_read(args, Machine.can_read)
        if args[0] == WATCH_OP:
            return True
        try:
            spec = resolve(args)
        except RespError:
            return False
        return args[0] in COMMANDS and spec.kind == "data" and spec.is_readonly

    @property
    def applied(self) -> int:
        return self.cask.applied

    def apply(self, index: int, term: int, entry: Entry) -> list[Any]:
        """Makes the entry's effects durable as one frame of the Bitcask log; returns the replies of its commands."""
        now_ms = max(self.cask.clock_ms, entry.now_ms)
        runs = entry.runs
        if all(isinstance(run, Puts) for run in runs):
            self._apply_puts(index, term, now_ms, runs)
            return []
        db = self.db
        db.now_ms = now_ms
        batch = db.begin()
        context = Context(seed=entry.seed, counts=self.leads)
        replies: list[Any] = []
        for run in runs:
            if isinstance(run, Puts):
                self._put(batch, run)
            else:
                self._run_all(run.commands, context, replies)
        db.commit(index, term)
        if self._watcher is not None:
            self._watcher.committed(term)
        if self.watches.stamps:
            self.watches.committed(batch)
        return replies

    def _run_all(self, commands: list[list[bytes]], context: Context, replies: list[Any]) -> None:
        if self.db.usage is not None and self.db.usage.lfu:
            for args in commands:
                if (spec := COMMANDS.get(args[0])) is not None:
                    self.db.usage.note_all(spec_keys(spec, args))
        if self.slow_s == _NEVER:
            replies += [self._run(args, context) for args in commands]
            return
        before = time.perf_counter()
        for args in commands:
            replies.append(self._run(args, context))
            after = time.perf_counter()
            if after - before >= self.slow_s:
                self.slow.append((len(replies) - 1, args, after - before))
            before = after

    def take_slow(self) -> list[tuple[int, list[bytes], float]]:
        slow, self.slow = self.slow, []
        return slow

    def apply_in_slices(
        self, index: int, term: int, entry: LongEntry, body: list[memoryview]
    ) -> Slices:
        """`apply` for an entry with long values: yields what is to be run, in any thread, before it is resumed, and
        returns the replies."""
        db, values, watched_by = self.db, values_of(entry.runs, body), self._watcher
        db.now_ms = max(self.cask.clock_ms, entry.now_ms)
        batch = db.begin()
        context = Context(seed=entry.seed, counts=self.leads)
        replies: list[Any] = []
        for run in entry.runs:
            if isinstance(run, LongPut):
                if self._watcher is not None:
                    self._watcher.putting(db, [run.key])
                batch.put_long(run.slot, run.key, next(values))
            elif isinstance(run, Puts):
                self._put(batch, run)
            else:
                replies += [self._run(args, context) for args in run.commands]
        yield from db.commit_in_slices(index, term)
        if self._watcher is not None:
            if self._watcher is not watched_by:  # it came too late to see what was written
                self._watcher.flushing()
            self._watcher.committed(term)
        if self.watches.stamps:
            self.watches.committed(batch)
        return replies

    def apply_nothing(self, index: int, term: int) -> None:
        """An entry without effects (a leader's first): only the index moves."""
        self.cask.append_puts(index, term, self.cask.clock_ms, [], [], [], b"")

    def _apply_puts(self, index: int, term: int, now_ms: int, runs: list[Run]) -> None:
        puts = joined(runs)  # type: ignore[arg-type]  # checked by the caller, without a copy
        watcher = self._watcher
        if watcher is not None:
            self.db.now_ms = now_ms
            watcher.putting(self.db, puts.keys)
        self.cask.append_puts(index, term, now_ms, puts.slots, puts.keys, puts.sizes, puts.records)
        if self.watches.stamps:
            self.watches.wrote(puts.keys)
        if watcher is not None:
            watcher.committed(term)

    def _put(self, batch: Batch, puts: Puts) -> None:
        if self._watcher is not None:
            self._watcher.putting(self.db, puts.keys)
        batch.put_encoded(puts.slots, puts.keys, puts.sizes, puts.records)

    def _run(self, args: list[bytes], context: Context) -> Reply:
        spec = COMMANDS.get(args[0])
        if spec is None:
            return self._run_own(args, context)
        watcher = self._watcher
        tells = watcher is not None and watcher.wanted & MISS
        if (tells or (context.counts and args[0] not in _REPLY_TELLS)) and looks(spec):
            return self._run_looking(spec, args, context)
        reply = self._call(spec, args, context)
        if context.counts and args[0] in _REPLY_TELLS:
            if type(reply) is list:
                missed = reply.count(None)
                self.misses += missed
                self.hits += len(reply) - missed
            elif reply is None:
                self.misses += 1
            elif type(reply) is not RespError:
                self.hits += 1
        return reply

    def _call(self, spec: Spec, args: list[bytes], context: Context) -> Reply:
        assert spec.fn is not None
        if spec.is_write and self.db.is_full:
            return errors.too_much_at_once(WRITTEN_BYTES_MAX)
        try:
            reply: Reply = spec.fn(self.db, args, context)
        except RespError as refusal:
            return refusal.with_traceback(None)
        return reply

    def _run_looking(self, spec: Spec, args: list[bytes], context: Context) -> Reply:
        """Runs a command that looks for keys: counts them, and tells of those that are not there."""
        looked, watcher = looked_for(spec, args), self._watcher
        missed = [key for key in looked if not self.db.exists(key)]
        if watcher is not None and (spec.name == "object" or not watcher.wanted & MISS):
            watcher = None  # it does not hear of this
        if watcher is not None:
            for key in missed:
                watcher.event(MISS, b"keymiss", key)
        reply = self._call(spec, args, context)
        if type(reply) is RespError:  # it was refused, and has not looked
            if watcher is not None and missed:
                del watcher.events[-len(missed) :]
        elif context.counts:
            self.misses += len(missed)
            self.hits += len(looked) - len(missed)
        return reply

    def _run_by(self, mark: bytes, args: list[bytes], context: Context) -> Reply:
        watcher = self._watcher
        if watcher is None:
            return self._run(args, context)
        watcher.writer = mark
        reply = self._run(args, context)
        watcher.writer = b""
        return reply

    def _run_own(self, args: list[bytes], context: Context) -> Reply:
        """An operation that no client can name."""
        if args[0] == EXEC_OP:
            return self._exec(args, context)
        if args[0] == BY_OP:
            return self._run_by(args[1], args[2:], context)
        if args[0] == WATCH_OP:
            return self.watches.issue(self.db, args[1:])
        if args[0] == SYSTEM_OP:
            return self._set_system_record(*args[1:])
        if args[0] == EVICT_OP:
            return evict_keys(self.db, args[1:])
        return expire_keys(self.db, args[1:])

    def _exec(self, args: list[bytes], context: Context) -> Reply:
        transaction, db = transaction_of(args), self.db
        if transaction is None:
            return NULL_ARRAY
        for watched in transaction.watched:
            if db.has_written(watched.key) or db.fingerprint(watched.key) != watched.fingerprint:
                return NULL_ARRAY
        return [self._run(command, context) for command in transaction.commands]

    def _set_system_record(self, name: bytes, known: bytes, version: bytes, content: bytes) -> Reply:
        """Replaces the record of which version `known` is the newest by `version`, a later one, and replies that. If it
        is not the newest any more nothing happens, and the reply is a list of the version and the content that are."""
        record = self.db.system_record(name)
        if not int(known) == record.version < int(version):
            return [record.version, record.content]
        record = SystemRecord(int(version), content)
        self.db.set_system_record(name, record)
        self.on_system(name, record)
        return record.version

    def read(self, args: list[bytes], *, stale: bool = False) -> Reply:
        """The reply of a read-only command now; an expired key is absent even if its removal is still to come.

        Raises:
            InDoubt: for one of its keys that depends on a time which the log has not reached. Not if it may be `stale`.
        """
        db = self.db
        db.now_ms = max(self.cask.clock_ms, self._wall_ms())
        if not stale and self.cask.expires:
            self._require_certainty(args)
        watcher = self._watcher
        known = 0 if watcher is None else len(watcher.events)  # of an entry that is being applied, perhaps
        reply = self._run(args, self._read_context)
        if db.usage is not None and args[0] not in _NO_USE and type(reply) is not RespError:
            db.usage.note_all(_keys_of(args))
        if watcher is not None and (misses := watcher.events[known:]):
            del watcher.events[known:]
            watcher.missed(misses)
        return reply

    def _require_certainty(self, args: list[bytes]) -> None:
        expires, logged_ms, now_ms = self.cask.expires, self.cask.clock_ms, self.db.now_ms
        for key in _keys_of(args):
            if logged_ms < expires.get(key, 0) <= now_ms:
                raise InDoubt

    def is_as_watched(self, watched: Watched, *, vouch: bool) -> bool:
        """Whether a key is what it was, as far as is known here. `vouch`: and was not written in between."""
        self.db.now_ms = max(self.cask.clock_ms, self._wall_ms())
        if vouch and not self.watches.vouches([watched]):
            return False
        return self.db.fingerprint(watched.key) == watched.fingerprint

    def long_value(self, args: list[bytes]) -> LongRead | None:
        """What a GET of a very long value is to answer, to be read piece by piece; None for any other command."""
        if args[0] != b"GET" or len(args) != 2:
            return None
        found = self.cask.read_long(args[1], self.cask.bucket_of(args[1]), LONG_READ_BYTES)
        if found is None:
            return None
        now_ms = max(self.cask.clock_ms, self._wall_ms())
        if found.type != STRING or 0 < found.expire_ms <= now_ms:
            found.close()
            return None
        self.hits += 1
        return found

    def due(self, limit: int) -> list[bytes]:
        """Keys whose expiry has passed, for the leader to propose their removal."""
        return self.db.deadlines.due(self._wall_ms(), limit)


def _keys_of(args: list[bytes]) -> Sequence[bytes]:
    """The keys that a read names."""
    if args[0] == WATCH_OP:
        return args[1:]
    if args[0] == EXEC_OP:
        transaction = transaction_of(args)
        return [key for command in transaction.commands for key in _keys_of(command)] if transaction else ()
    return spec_keys(resolve(args), args)


def _is_version(text: bytes) -> bool:
    return text.isdigit() and len(text) <= VERSION_DIGITS_MAX


def system_op(name: bytes, known: int, record: SystemRecord) -> list[bytes]:
    """The command that makes `record` of a system record of version `known`."""
    return [SYSTEM_OP, name, b"%d" % known, b"%d" % record.version, record.content]


def expire_run(keys: list[bytes]) -> Ops:
    """The run that removes keys whose expiry has passed when it is applied."""
    return Ops([[EXPIRE_OP, *keys]])
