"""The commands about keys of any type: existence, deletion, expiry, and walks over the keyspace.

Times are made absolute against `db.now_ms`, the stamp of the entry, so that every replica stores the same expiry.
SCAN's cursor is the next slot to visit (see `Db.scan`). Also here is what the shard applies on its own: the removal of
expired keys.
"""

from __future__ import annotations

from respkv import errors
from respkv.commands import spread
from respkv.commands.args import INT_MAX, integer, scan_cursor, to_milliseconds
from respkv.commands.context import Context
from respkv.commands.glob import key_matcher
from respkv.commands.table import command
from respkv.keyspace.db import NO_EXPIRY, Db
from respkv.keyspace.values import type_name
from respkv.keyspace.watch import EVICTED, GENERIC
from respkv.reply import OK, Reply, Simple

_SCAN_COUNT = 10
_DELETE_COMPLEXITY = (
    "O(N) where N is the number of keys that will be removed. When a key to remove holds a value other than a string, "
    "the individual complexity for this key is O(M) where M is the number of elements in the list, set, sorted set or "
    "hash. Removing a single key that holds a string value is O(1)."
)


def expire_keys(db: Db, keys: list[bytes]) -> int:
    """Removes those of `keys` whose expiry has passed at `db.now_ms`; returns how many. Applied by every replica alike.

    A key that got another value or expiry since the leader proposed its removal stays.
    """
    return sum(map(db.remove_expired, keys))


def evict_keys(db: Db, keys: list[bytes]) -> int:
    """Removes `keys`, which the leader has chosen, whatever they hold by now; returns how many were there."""
    gone = list(filter(db.delete, keys))
    for key in gone:
        db.notify(EVICTED, b"evicted", key)
    return len(gone)


# --- existence ---


def _delete(db: Db, keys: list[bytes]) -> int:
    gone = list(filter(db.delete, keys))
    for key in gone:
        db.notify(GENERIC, b"del", key)
    return len(gone)


@command("DEL", arity=-2, flags="write", keys=(1, -1, 1), access="RM delete", group="generic", since="1.0.0",
         summary="Delete a key", complexity=_DELETE_COMPLEXITY, spread=spread.COUNT_WRITE,
         tips="request_policy:multi_shard response_policy:agg_sum", syntax="key...")
def del_(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _delete(db, args[1:])


@command("UNLINK", arity=-2, flags="write fast", keys=(1, -1, 1), access="RM delete", group="generic", since="4.0.0",
         summary="Delete a key asynchronously in another thread. Otherwise it is just as DEL, but non blocking.",
         complexity="O(1) for each key removed regardless of its size. Then the command does O(N) work in a different "
                    "thread in order to reclaim memory, where N is the number of allocations the deleted objects "
                    "where composed of.",
         spread=spread.COUNT_WRITE, tips="request_policy:multi_shard response_policy:agg_sum", syntax="key...")
def unlink(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _delete(db, args[1:])


@command("EXISTS", arity=-2, flags="readonly fast", keys=(1, -1, 1), access="RO", group="generic", since="1.0.0",
         summary="Determine if a key exists", complexity="O(N) where N is the number of keys to check.",
         spread=spread.COUNT_READ, tips="request_policy:multi_shard response_policy:agg_sum", syntax="key...",
         history=("3.0.3 Accepts multiple `key` arguments.",))
def exists(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return sum(map(db.exists, args[1:]))


@command("TOUCH", arity=-2, flags="readonly fast", keys=(1, -1, 1), access="RO", group="generic", since="3.2.1",
         summary="Alters the last access time of a key(s). Returns the number of existing keys specified.",
         complexity="O(N) where N is the number of keys that will be touched.",
         spread=spread.COUNT_READ, tips="request_policy:multi_shard response_policy:agg_sum", syntax="key...")
def touch(db: Db, args: list[bytes], ctx: Context) -> Reply:
    found = list(filter(db.exists, args[1:]))
    for key in found:
        db.set_idle(key, 0)
    return len(found)


@command("TYPE", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO", group="generic", since="1.0.0",
         summary="Determine the type stored at key", syntax="key")
def type_(db: Db, args: list[bytes], ctx: Context) -> Reply:
    record = db.lookup(args[1])
    return Simple(b"none" if record is None else type_name(record.type).encode())


# --- expiry ---

_CONDITION = "[condition: NX | XX | GT | LT]@7.0.0"
_CONDITION_HISTORY = ("7.0.0 Added options: `NX`, `XX`, `GT` and `LT`.",)


def _expire(db: Db, args: list[bytes], name: str, unit_ms: int, base_ms: int) -> int:
    conditions = _expire_conditions(args[3:])
    at_ms = to_milliseconds(name, args[2], unit_ms)
    if at_ms > INT_MAX - base_ms:
        raise errors.invalid_expire(name)
    at_ms += base_ms
    key = args[1]
    if not db.exists(key):
        return 0
    if conditions:
        current_ms = db.expire_at_ms(key)
        has_expiry = current_ms != NO_EXPIRY
        if (
            (b"NX" in conditions and has_expiry)
            or (b"XX" in conditions and not has_expiry)
            or (b"GT" in conditions and (not has_expiry or at_ms <= current_ms))
            or (b"LT" in conditions and has_expiry and at_ms >= current_ms)
        ):
            return 0
    if at_ms <= db.now_ms:
        db.delete(key)
        db.notify(GENERIC, b"del", key)
    else:
        db.set_expiry(key, at_ms)
        db.notify(GENERIC, b"expire", key)
    return 1


def _expire_conditions(options: list[bytes]) -> set[bytes]:
    found = {option.upper() for option in options}
    if not found <= {b"NX", b"XX", b"GT", b"LT"}:
        raise errors.unsupported_option(next(o for o in options if o.upper() not in (b"NX", b"XX", b"GT", b"LT")))
    if b"NX" in found and len(found) > 1:
        raise errors.expire_nx_with_others()
    if b"GT" in found and b"LT" in found:
        raise errors.expire_gt_with_lt()
    return found


@command("EXPIRE", arity=-3, flags="write fast", keys=(1, 1, 1), access="RW update", group="generic", since="1.0.0",
         summary="Set a key's time to live in seconds",
         syntax="key seconds:integer " + _CONDITION, history=_CONDITION_HISTORY)
def expire(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _expire(db, args, "expire", 1000, db.now_ms)


@command("PEXPIRE", arity=-3, flags="write fast", keys=(1, 1, 1), access="RW update", group="generic", since="2.6.0",
         summary="Set a key's time to live in milliseconds",
         syntax="key milliseconds:integer " + _CONDITION, history=_CONDITION_HISTORY)
def pexpire(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _expire(db, args, "pexpire", 1, db.now_ms)


@command("EXPIREAT", arity=-3, flags="write fast", keys=(1, 1, 1), access="RW update", group="generic", since="1.2.0",
         summary="Set the expiration for a key as a UNIX timestamp",
         syntax="key unix-time-seconds:unix-time " + _CONDITION, history=_CONDITION_HISTORY)
def expireat(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _expire(db, args, "expireat", 1000, 0)


@command("PEXPIREAT", arity=-3, flags="write fast", keys=(1, 1, 1), access="RW update", group="generic",
         since="2.6.0", summary="Set the expiration for a key as a UNIX timestamp specified in milliseconds",
         syntax="key unix-time-milliseconds:unix-time " + _CONDITION, history=_CONDITION_HISTORY)
def pexpireat(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _expire(db, args, "pexpireat", 1, 0)


@command("PERSIST", arity=2, flags="write fast", keys=(1, 1, 1), access="RW update", group="generic", since="2.2.0",
         summary="Remove the expiration from a key", syntax="key")
def persist(db: Db, args: list[bytes], ctx: Context) -> Reply:
    if db.expire_at_ms(args[1]) == NO_EXPIRY:
        return 0
    db.set_expiry(args[1], NO_EXPIRY)
    db.notify(GENERIC, b"persist", args[1])
    return 1


def _time(db: Db, key: bytes, base_ms: int, unit_ms: int) -> int:
    """The expiry counted from `base_ms`, rounded to the unit; -1 without expiry, -2 without key."""
    at_ms = db.expire_at_ms(key)
    if at_ms == NO_EXPIRY:
        return -1 if db.exists(key) else -2
    return (at_ms - base_ms + unit_ms // 2) // unit_ms


@command("TTL", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO access", group="generic", since="1.0.0",
         summary="Get the time to live for a key in seconds", tips="nondeterministic_output", syntax="key",
         history=("2.8.0 Added the -2 reply.",))
def ttl(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _time(db, args[1], db.now_ms, 1000)


@command("PTTL", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO access", group="generic", since="2.6.0",
         summary="Get the time to live for a key in milliseconds", tips="nondeterministic_output", syntax="key",
         history=("2.8.0 Added the -2 reply.",))
def pttl(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _time(db, args[1], db.now_ms, 1)


@command("EXPIRETIME", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO access", group="generic",
         since="7.0.0", summary="Get the expiration Unix timestamp for a key", syntax="key")
def expiretime(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _time(db, args[1], 0, 1000)


@command("PEXPIRETIME", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO access", group="generic",
         since="7.0.0", summary="Get the expiration Unix timestamp for a key in milliseconds", syntax="key")
def pexpiretime(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _time(db, args[1], 0, 1)


# --- the whole keyspace ---


@command("RANDOMKEY", arity=1, flags="readonly", group="generic", since="1.0.0",
         summary="Return a random key from the keyspace", spread=spread.RANDOMKEY,
         tips="request_policy:all_shards nondeterministic_output")
def randomkey(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return db.random_key(ctx.rng)


@command("KEYS", arity=2, flags="readonly", group="generic", since="1.0.0", categories="dangerous",
         summary="Find all keys matching the given pattern", spread=spread.KEYS,
         complexity="O(N) with N being the number of keys in the database, under the assumption that the key names in "
                    "the database and the given pattern have limited length.",
         tips="request_policy:all_shards nondeterministic_output_order", syntax="pattern")
def keys(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return list(filter(key_matcher(args[1]), db.keys()))


@command("SCAN", arity=-2, flags="readonly", group="generic", since="2.8.0",
         summary="Incrementally iterate the keys space", spread=spread.SCAN,
         complexity="O(1) for every call. O(N) for a complete iteration, including enough command calls for the "
                    "cursor to return back to 0. N is the number of elements inside the collection.",
         tips="nondeterministic_output request_policy:special",
         syntax="cursor:integer [MATCH pattern] [COUNT count:integer] [TYPE type@6.0.0]",
         history=("6.0.0 Added the `TYPE` subcommand.",))
def scan(db: Db, args: list[bytes], ctx: Context) -> Reply:
    cursor = scan_cursor(args[1])
    count, pattern, wanted = _scan_options(args)
    next_cursor, found = db.scan(cursor, count)
    if pattern is not None:
        found = list(filter(key_matcher(pattern), found))
    if wanted is not None:
        found = [key for key in found if (record := db.lookup(key)) and type_name(record.type) == wanted]
    return [b"%d" % next_cursor, found]


def _scan_options(args: list[bytes]) -> tuple[int, bytes | None, str | None]:
    """COUNT, MATCH and TYPE. Raises RespError."""
    count, pattern, wanted = _SCAN_COUNT, None, None
    for position in range(2, len(args), 2):
        option = args[position].upper()
        if position + 1 == len(args):
            raise errors.syntax()
        value = args[position + 1]
        if option == b"COUNT":
            count = integer(value)
            if count < 1:
                raise errors.syntax()
        elif option == b"MATCH":
            pattern = value
        elif option == b"TYPE":
            wanted = value.decode("latin-1").lower()
        else:
            raise errors.syntax()
    return count, pattern, wanted


@command("DBSIZE", arity=1, flags="readonly fast", group="server", since="1.0.0", categories="keyspace",
         summary="Return the number of keys in the selected database", spread=spread.DBSIZE,
         tips="request_policy:all_shards response_policy:agg_sum")
def dbsize(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return len(db)


_FLUSH_SYNTAX = "[async: ASYNC@4.0.0 | SYNC@6.2.0]"
_FLUSH_HISTORY = ("4.0.0 Added the `ASYNC` flushing mode modifier.", "6.2.0 Added the `SYNC` flushing mode modifier.")


def _flush(db: Db, args: list[bytes]) -> Reply:
    if len(args) > 2 or (len(args) == 2 and args[1].upper() not in (b"ASYNC", b"SYNC")):
        raise errors.syntax()
    db.flush_all()
    return OK


@command("FLUSHALL", arity=-1, flags="write", group="server", since="1.0.0", categories="keyspace dangerous",
         summary="Remove all keys from all databases", spread=spread.FLUSH,
         complexity="O(N) where N is the total number of keys in all databases",
         tips="request_policy:all_shards response_policy:all_succeeded", syntax=_FLUSH_SYNTAX,
         history=_FLUSH_HISTORY)
def flushall(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _flush(db, args)


@command("FLUSHDB", arity=-1, flags="write", group="server", since="1.0.0", categories="keyspace dangerous",
         summary="Remove all keys from the current database", spread=spread.FLUSH,
         complexity="O(N) where N is the number of keys in the selected database",
         tips="request_policy:all_shards response_policy:all_succeeded", syntax=_FLUSH_SYNTAX,
         history=_FLUSH_HISTORY)
def flushdb(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _flush(db, args)
