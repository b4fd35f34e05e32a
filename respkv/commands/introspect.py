"""What a key is made of: OBJECT and MEMORY USAGE.

Encodings are those that Redis would choose: see `string_encoding`, and `respkv.keyspace.raws`. Nothing is shared
between keys, but clients know Redis's count of its shared small integers, so they get it. Idle times: see
`respkv.keyspace.idle`.
"""

from __future__ import annotations

from respkv import errors
from respkv.commands.args import integer
from respkv.commands.context import Context
from respkv.commands.table import command, run_subcommand
from respkv.keyspace.db import Db
from respkv.keyspace.usage import Frequency
from respkv.keyspace.values import STRING
from respkv.reply import Reply, RespError

_EMBEDDED_BYTES_MAX = 44
_SHARED_INTEGERS = 10_000  # Redis keeps 0 to 9999 once for all keys, with this count:
_SHARED_COUNT = 2_147_483_647
_NOT_LFU = (
    "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between "
    "policies at runtime LRU and LFU data will take some time to adjust."
)

_LFU = (
    "An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies at "
    "runtime LRU and LFU data will take some time to adjust."
)


def string_encoding(db: Db, key: bytes, value: bytes) -> str:
    """How Redis would keep the string `value` of the live key `key`."""
    if db.is_raw(key):
        return "raw"
    try:
        integer(value)
    except RespError:
        return "embstr" if len(value) <= _EMBEDDED_BYTES_MAX else "raw"
    return "int"


@command("OBJECT", arity=-2, group="generic", group_category=False, since="2.2.3", complexity="Depends on subcommand.",
         summary="A container for object introspection commands")
def object_(db: Db, args: list[bytes], ctx: Context) -> Reply:
    reply: Reply = run_subcommand(db, args, ctx)
    return reply


@command("OBJECT|ENCODING", arity=3, flags="readonly", keys=(2, 2, 1), access="RO", group="generic", since="2.2.3",
         summary="Inspect the internal encoding of a Redis object", tips="nondeterministic_output", syntax="key")
def object_encoding(db: Db, args: list[bytes], ctx: Context) -> Reply:
    record = db.lookup(args[2])
    if record is None:
        return None
    return (string_encoding(db, args[2], record.value) if record.type == STRING else "unknown").encode()


@command("OBJECT|FREQ", arity=3, flags="readonly", keys=(2, 2, 1), access="RO", group="generic", since="4.0.0",
         summary="Get the logarithmic access frequency counter of a Redis object", tips="nondeterministic_output",
         syntax="key")
def object_freq(db: Db, args: list[bytes], ctx: Context) -> Reply:
    if not db.exists(args[2]):
        return None
    if isinstance(db.usage, Frequency):
        return db.usage.count(args[2])
    raise errors.generic(_NOT_LFU)


@command("OBJECT|IDLETIME", arity=3, flags="readonly", keys=(2, 2, 1), access="RO", group="generic", since="2.2.3",
         summary="Get the time since a Redis object was last accessed", tips="nondeterministic_output", syntax="key")
def object_idletime(db: Db, args: list[bytes], ctx: Context) -> Reply:
    if not db.exists(args[2]):
        return None
    if isinstance(db.usage, Frequency):
        raise errors.generic(_LFU)
    return db.idle_ms(args[2]) // 1000


@command("OBJECT|REFCOUNT", arity=3, flags="readonly", keys=(2, 2, 1), access="RO", group="generic", since="2.2.3",
         summary="Get the number of references to the value of the key", tips="nondeterministic_output", syntax="key")
def object_refcount(db: Db, args: list[bytes], ctx: Context) -> Reply:
    record = db.lookup(args[2])
    if record is None:
        return None
    if record.type != STRING or string_encoding(db, args[2], record.value) != "int":
        return 1
    return _SHARED_COUNT if 0 <= int(record.value) < _SHARED_INTEGERS else 1


@command("MEMORY", arity=-2, group="server", since="4.0.0", complexity="Depends on subcommand.",
         summary="A container for memory diagnostics commands")
def memory(db: Db, args: list[bytes], ctx: Context) -> Reply:
    reply: Reply = run_subcommand(db, args, ctx)
    return reply


@command("MEMORY|USAGE", arity=-3, flags="readonly", keys=(2, 2, 1), access="RO", group="server", since="4.0.0",
         summary="Estimate the memory usage of a key", complexity="O(N) where N is the number of samples.",
         syntax="key [SAMPLES count:integer]")
def memory_usage(db: Db, args: list[bytes], ctx: Context) -> Reply:
    """SAMPLES is checked and changes nothing: a string is one value."""
    words = iter(args[3:])
    for word in words:
        count = next(words, None)
        if word.upper() != b"SAMPLES" or count is None or integer(count) < 0:
            raise errors.syntax()
    return db.memory_usage(args[2]) or None
