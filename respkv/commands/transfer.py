"""Keys under other names and in other servers: RENAME, RENAMENX, COPY, DUMP, RESTORE.

The payload is that of `respkv.keyspace.rdb`; Redis reads ours and we read Redis's strings. RESTORE's IDLETIME is kept
until the node stops, FREQ while the policy of `maxmemory` is one that counts uses.
"""

from __future__ import annotations

from typing import NamedTuple

from respkv import errors
from respkv.commands.args import database, integer, wrap64
from respkv.commands.context import Context
from respkv.commands.table import KeySpec, command
from respkv.keyspace import rdb
from respkv.keyspace.db import NO_EXPIRY, Db
from respkv.keyspace.values import STRING
from respkv.keyspace.watch import GENERIC
from respkv.reply import OK, Reply

_FREQUENCY_MAX = 255


def _rename(db: Db, args: list[bytes], *, only_new: bool) -> bool:
    """Whether the key has its new name now. Raises RespError (no such key)."""
    source, target = args[1], args[2]
    record = db.lookup(source)
    if record is None:
        raise errors.no_such_key()
    if only_new and (source == target or db.exists(target)):
        return False
    if source != target:
        db.set_record(target, record)
        db.delete(source)
        db.notify(GENERIC, b"rename_from", source)
        db.notify(GENERIC, b"rename_to", target)
    return True


@command("RENAME", arity=3, flags="write", keys=(1, 2, 1), group="generic", since="1.0.0", summary="Rename a key",
         key_specs=(KeySpec(1, 0, 1, ("RW", "access", "delete")), KeySpec(2, 0, 1, ("OW", "update"))),
         syntax="key newkey:key#1")
def rename(db: Db, args: list[bytes], ctx: Context) -> Reply:
    _rename(db, args, only_new=False)
    return OK


@command("RENAMENX", arity=3, flags="write fast", keys=(1, 2, 1), group="generic", since="1.0.0",
         key_specs=(KeySpec(1, 0, 1, ("RW", "access", "delete")), KeySpec(2, 0, 1, ("OW", "insert"))),
         summary="Rename a key, only if the new key does not exist", syntax="key newkey:key#1",
         history=("3.2.0 The command no longer returns an error when source and destination names are the same.",))
def renamenx(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return int(_rename(db, args, only_new=True))


@command("COPY", arity=-3, flags="write denyoom", keys=(1, 2, 1), group="generic", since="6.2.0", summary="Copy a key",
         key_specs=(KeySpec(1, 0, 1, ("RO", "access")), KeySpec(2, 0, 1, ("OW", "update"))),
         complexity="O(N) worst case for collections, where N is the number of nested items. O(1) for string values.",
         syntax="source:key destination:key#1 [DB destination-db:integer] [REPLACE]")
def copy(db: Db, args: list[bytes], ctx: Context) -> Reply:
    source, target = args[1], args[2]
    replace = False
    words = iter(args[3:])
    for word in words:
        number = None
        if word.upper() == b"REPLACE":
            replace = True
        elif word.upper() == b"DB" and (number := next(words, None)) is not None:
            database(number)
        else:
            raise errors.syntax()
    if source == target:
        raise errors.same_object()
    record = db.lookup(source)
    if record is None or (not replace and db.exists(target)):
        return 0
    db.set_record(target, record)
    db.notify(GENERIC, b"copy_to", target)
    return 1


@command("DUMP", arity=2, flags="readonly", keys=(1, 1, 1), access="RO access", group="generic", since="2.6.0",
         summary="Return a serialized version of the value stored at the specified key.",
         tips="nondeterministic_output",
         complexity="O(1) to access the key and additional O(N*M) to serialize it, where N is the number of Redis "
                    "objects composing the value and M their average size. For small string values the time complexity "
                    "is thus O(1)+O(1*M) where M is small, so simply O(1).", syntax="key")
def dump(db: Db, args: list[bytes], ctx: Context) -> Reply:
    record = db.lookup(args[1])
    if record is None:
        return None
    if record.type != STRING:
        raise errors.wrong_type()
    return rdb.dump_string(record.value)


class _Options(NamedTuple):
    """What stands behind the payload of RESTORE. `idle_s` and `frequency` -1: not given."""

    replace: bool = False
    absolute: bool = False
    idle_s: int = -1
    frequency: int = -1


def _restore_options(args: list[bytes]) -> _Options:
    """Raises RespError."""
    options = _Options()
    words = iter(args[4:])
    for word in words:
        name = word.upper()
        number: bytes | None = None
        if name == b"REPLACE":
            options = options._replace(replace=True)
        elif name == b"ABSTTL":
            options = options._replace(absolute=True)
        elif name == b"IDLETIME" and options.frequency < 0 and (number := next(words, None)) is not None:
            options = options._replace(idle_s=integer(number))
            if options.idle_s < 0:
                raise errors.generic("Invalid IDLETIME value, must be >= 0")
        elif name == b"FREQ" and options.idle_s < 0 and (number := next(words, None)) is not None:
            options = options._replace(frequency=integer(number))
            if not 0 <= options.frequency <= _FREQUENCY_MAX:
                raise errors.generic("Invalid FREQ value, must be >= 0 and <= 255")
        else:
            raise errors.syntax()
    return options


_RESTORE_SYNTAX = (
    "key ttl:integer serialized-value [REPLACE@3.0.0] [ABSTTL@5.0.0] [IDLETIME seconds:integer@5.0.0] "
    "[FREQ frequency:integer@5.0.0]"
)
_RESTORE_HISTORY = (
    "3.0.0 Added the `REPLACE` modifier.",
    "5.0.0 Added the `ABSTTL` modifier.",
    "5.0.0 Added the `IDLETIME` and `FREQ` options.",
)


@command("RESTORE", arity=-4, flags="write denyoom", keys=(1, 1, 1), access="OW update", group="generic",
         since="2.6.0", categories="dangerous",
         summary="Create a key using the provided serialized value, previously obtained using DUMP.",
         complexity="O(1) to create the new key and additional O(N*M) to reconstruct the serialized value, where N is "
                    "the number of Redis objects composing the value and M their average size. For small string values "
                    "the time complexity is thus O(1)+O(1*M) where M is small, so simply O(1). However for sorted set "
                    "values the complexity is O(N*M*log(N)) because inserting values into sorted sets is O(log(N)).",
         syntax=_RESTORE_SYNTAX, history=_RESTORE_HISTORY)
def restore(db: Db, args: list[bytes], ctx: Context) -> Reply:
    key, payload = args[1], args[3]
    options = _restore_options(args)
    if not options.replace and db.exists(key):
        raise errors.busy_key()
    ttl_ms = integer(args[2])
    if ttl_ms < 0:
        raise errors.generic("Invalid TTL value, must be >= 0")
    try:
        value = rdb.load_string(payload, ctx.value_bytes_max)
    except rdb.BadChecksum:
        raise errors.generic("DUMP payload version or checksum are wrong") from None
    except rdb.BadFormat:
        raise errors.generic("Bad data format") from None
    if ttl_ms and not options.absolute:
        ttl_ms = wrap64(ttl_ms + db.now_ms)
    if ttl_ms and ttl_ms <= db.now_ms:
        if db.delete(key):
            db.notify(GENERIC, b"del", key)
        return OK
    db.set_string(key, value, ttl_ms or NO_EXPIRY)
    db.notify(GENERIC, b"restore", key)
    if options.idle_s >= 0:
        db.set_idle(key, options.idle_s * 1000)
    if options.frequency >= 0:
        db.set_frequency(key, options.frequency)
    return OK


@command("RESTORE-ASKING", arity=-4, flags="write denyoom asking", keys=(1, 1, 1), access="OW update", group="server",
         since="3.0.0", categories="keyspace dangerous",
         summary="An internal command for migrating keys in a cluster",
         complexity="O(1) to create the new key and additional O(N*M) to reconstruct the serialized value, where N is "
                    "the number of Redis objects composing the value and M their average size. For small string values "
                    "the time complexity is thus O(1)+O(1*M) where M is small, so simply O(1). However for sorted set "
                    "values the complexity is O(N*M*log(N)) because inserting values into sorted sets is O(log(N)).",
         syntax=_RESTORE_SYNTAX, history=_RESTORE_HISTORY, doc_flags="syscmd")
def restore_asking(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return restore(db, args, ctx)
