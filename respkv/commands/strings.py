"""The string commands: SET and GET with their variants, counters, APPEND, and the multi-key forms.

Checks come in Redis's order (syntax, numbers, type, condition), as a client sees which error wins. Every number that is
stored is in canonical form, so that it reads back as a number.
"""

from __future__ import annotations

from respkv import errors
from respkv.commands import longdouble
from respkv.commands.args import INT_MAX, INT_MIN, expire_at, integer
from respkv.commands.context import Context
from respkv.commands.spread import MGET, MSET
from respkv.commands.table import command
from respkv.keyspace.db import NO_EXPIRY, Db
from respkv.keyspace.watch import GENERIC, STRING
from respkv.reply import OK, Reply, RespError

# Option name to (unit in ms, whether it counts from now).
_EXPIRE_OPTIONS = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}


class _Options:
    """What stands behind the value of SET or the key of GETEX. At most one kind of expiry, possibly repeated."""

    __slots__ = ("expire_kind", "expire_text", "get", "nx", "xx")

    def __init__(self) -> None:
        self.nx = self.xx = self.get = False
        self.expire_kind = b""  # EX, PX, EXAT, PXAT, KEEPTTL, PERSIST, or none
        self.expire_text = b""

    def at_ms(self, name: str, now_ms: int) -> int:
        """The expiry asked for; NO_EXPIRY if none."""
        if self.expire_kind not in _EXPIRE_OPTIONS:
            return NO_EXPIRY
        unit_ms, relative = _EXPIRE_OPTIONS[self.expire_kind]
        return expire_at(name, self.expire_text, unit_ms, now_ms if relative else 0)


def _parse_options(args: list[bytes], position: int, is_set: bool) -> _Options:
    """Raises RespError (syntax error)."""
    options = _Options()
    words = iter(args[position:])
    for word in words:
        option = word.upper()
        kind = options.expire_kind
        if is_set and option == b"NX" and not options.xx:
            options.nx = True
        elif is_set and option == b"XX" and not options.nx:
            options.xx = True
        elif is_set and option == b"GET":
            options.get = True
        elif option in _EXPIRE_OPTIONS and kind in (b"", option):
            text = next(words, None)
            if text is None:
                raise errors.syntax()
            options.expire_kind, options.expire_text = option, text
        elif option == (b"KEEPTTL" if is_set else b"PERSIST") and kind in (b"", option):
            options.expire_kind = option
        else:
            raise errors.syntax()
    return options


@command("SET", arity=-3, flags="write denyoom", keys=(1, 1, 1), access="RW access update variable_flags",
         key_notes="RW and ACCESS due to the optional `GET` argument", group="string", since="1.0.0",
         summary="Set the string value of a key",
         syntax="key value [condition: NX | XX]@2.6.12 [GET@6.2.0] "
                "[expiration: EX seconds:integer@2.6.12 | PX milliseconds:integer@2.6.12 | "
                "EXAT unix-time-seconds:unix-time@6.2.0 | PXAT unix-time-milliseconds:unix-time@6.2.0 | KEEPTTL@6.0.0]",
         history=("2.6.12 Added the `EX`, `PX`, `NX` and `XX` options.",
                  "6.0.0 Added the `KEEPTTL` option.",
                  "6.2.0 Added the `GET`, `EXAT` and `PXAT` option.",
                  "7.0.0 Allowed the `NX` and `GET` options to be used together."))
def set_(db: Db, args: list[bytes], ctx: Context) -> Reply:
    key, value = args[1], args[2]
    if len(args) == 3:
        db.set_string(key, value)
        db.notify(STRING, b"set", key)
        return OK
    options = _parse_options(args, 3, is_set=True)
    at_ms = options.at_ms("set", db.now_ms)
    old = db.string(key) if options.get else None
    if options.nx or options.xx:
        exists = old is not None or (not options.get and db.exists(key))
        if exists == options.nx:
            return old
    db.set_string(key, value, at_ms, keep_ttl=options.expire_kind == b"KEEPTTL")
    _notify_set(db, key, expires=at_ms != NO_EXPIRY)
    return old if options.get else OK


def _notify_set(db: Db, key: bytes, *, expires: bool) -> None:
    db.notify(STRING, b"set", key)
    if expires:
        db.notify(GENERIC, b"expire", key)


@command("SETNX", arity=3, flags="write denyoom fast", keys=(1, 1, 1), access="OW insert", group="string",
         since="1.0.0", summary="Set the value of a key, only if the key does not exist", syntax="key value")
def setnx(db: Db, args: list[bytes], ctx: Context) -> Reply:
    if db.exists(args[1]):
        return 0
    db.set_string(args[1], args[2])
    db.notify(STRING, b"set", args[1])
    return 1


@command("SETEX", arity=4, flags="write denyoom", keys=(1, 1, 1), access="OW update", group="string", since="2.0.0",
         summary="Set the value and expiration of a key", syntax="key seconds:integer value")
def setex(db: Db, args: list[bytes], ctx: Context) -> Reply:
    db.set_string(args[1], args[3], expire_at("setex", args[2], 1000, db.now_ms))
    _notify_set(db, args[1], expires=True)
    return OK


@command("PSETEX", arity=4, flags="write denyoom", keys=(1, 1, 1), access="OW update", group="string", since="2.6.0",
         summary="Set the value and expiration in milliseconds of a key", syntax="key milliseconds:integer value")
def psetex(db: Db, args: list[bytes], ctx: Context) -> Reply:
    db.set_string(args[1], args[3], expire_at("psetex", args[2], 1, db.now_ms))
    _notify_set(db, args[1], expires=True)
    return OK


@command("GET", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO access", group="string", since="1.0.0",
         summary="Get the value of a key", syntax="key")
def get(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return db.string(args[1])


@command("GETSET", arity=3, flags="write denyoom fast", keys=(1, 1, 1), access="RW access update", group="string",
         since="1.0.0", summary="Set the string value of a key and return its old value", syntax="key value",
         deprecated="6.2.0 `SET` with the `!GET` argument")
def getset(db: Db, args: list[bytes], ctx: Context) -> Reply:
    old = db.string(args[1])
    db.set_string(args[1], args[2])
    db.notify(STRING, b"set", args[1])
    return old


@command("GETDEL", arity=2, flags="write fast", keys=(1, 1, 1), access="RW access delete", group="string",
         since="6.2.0", summary="Get the value of a key and delete the key", syntax="key")
def getdel(db: Db, args: list[bytes], ctx: Context) -> Reply:
    old = db.string(args[1])
    if old is not None:
        db.delete(args[1])
        db.notify(GENERIC, b"del", args[1])
    return old


@command("GETEX", arity=-2, flags="write fast", keys=(1, 1, 1), access="RW access update",
         key_notes="RW and UPDATE because it changes the TTL", group="string", since="6.2.0",
         summary="Get the value of a key and optionally set its expiration",
         syntax="key [expiration: EX seconds:integer | PX milliseconds:integer | "
                "EXAT unix-time-seconds:unix-time | PXAT unix-time-milliseconds:unix-time | PERSIST]")
def getex(db: Db, args: list[bytes], ctx: Context) -> Reply:
    key = args[1]
    options = _parse_options(args, 2, is_set=False)
    value = db.string(key)
    if value is None:
        return None
    at_ms = options.at_ms("getex", db.now_ms)
    if at_ms != NO_EXPIRY:
        db.set_expiry(key, at_ms)
        db.notify(GENERIC, b"expire" if at_ms > db.now_ms else b"del", key)
    elif options.expire_kind == b"PERSIST" and db.expire_at_ms(key) != NO_EXPIRY:
        db.set_expiry(key, NO_EXPIRY)
        db.notify(GENERIC, b"persist", key)
    return value


@command("APPEND", arity=3, flags="write denyoom fast", keys=(1, 1, 1), access="RW insert", group="string",
         since="2.0.0", summary="Append a value to a key",
         complexity="O(1). The amortized time complexity is O(1) assuming the appended value is small and the already "
                    "present value is of any size, since the dynamic string library used by Redis will double the "
                    "free space available on every reallocation.", syntax="key value")
def append(db: Db, args: list[bytes], ctx: Context) -> Reply:
    key, tail = args[1], args[2]
    old = db.string(key)
    if old is None:
        db.set_string(key, tail)
        db.notify(STRING, b"append", key)
        return len(tail)
    size = len(old) + len(tail)
    if size > ctx.value_bytes_max:
        raise errors.string_too_long()
    db.set_string(key, old + tail, keep_ttl=True, raw=True)
    db.notify(STRING, b"append", key)
    return size


@command("STRLEN", arity=2, flags="readonly fast", keys=(1, 1, 1), access="RO", group="string", since="2.2.0",
         summary="Get the length of the value stored in a key", syntax="key")
def strlen(db: Db, args: list[bytes], ctx: Context) -> Reply:
    value = db.string(args[1])
    return 0 if value is None else len(value)


def _add(db: Db, key: bytes, increment: int) -> int:
    old = db.string(key)
    value = (0 if old is None else integer(old)) + increment
    if not INT_MIN <= value <= INT_MAX:
        raise errors.increment_overflow()
    db.set_string(key, b"%d" % value, keep_ttl=True)
    db.notify(STRING, b"incrby", key)
    return value


@command("INCR", arity=2, flags="write denyoom fast", keys=(1, 1, 1), access="RW access update", group="string",
         since="1.0.0", summary="Increment the integer value of a key by one", syntax="key")
def incr(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _add(db, args[1], 1)


@command("DECR", arity=2, flags="write denyoom fast", keys=(1, 1, 1), access="RW access update", group="string",
         since="1.0.0", summary="Decrement the integer value of a key by one", syntax="key")
def decr(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _add(db, args[1], -1)


@command("INCRBY", arity=3, flags="write denyoom fast", keys=(1, 1, 1), access="RW access update", group="string",
         since="1.0.0", summary="Increment the integer value of a key by the given amount",
         syntax="key increment:integer")
def incrby(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return _add(db, args[1], integer(args[2]))


@command("DECRBY", arity=3, flags="write denyoom fast", keys=(1, 1, 1), access="RW access update", group="string",
         since="1.0.0", summary="Decrement the integer value of a key by the given number",
         syntax="key decrement:integer")
def decrby(db: Db, args: list[bytes], ctx: Context) -> Reply:
    decrement = integer(args[2])
    if decrement == INT_MIN:
        raise errors.decrement_overflow()
    return _add(db, args[1], -decrement)


@command("INCRBYFLOAT", arity=3, flags="write denyoom fast", keys=(1, 1, 1), access="RW access update",
         group="string", since="2.6.0", summary="Increment the float value of a key by the given amount",
         syntax="key increment:double")
def incrbyfloat(db: Db, args: list[bytes], ctx: Context) -> Reply:
    old = db.string(args[1])
    value = longdouble.parse(b"0" if old is None else old)
    increment = longdouble.parse(args[2])
    if value is None or increment is None:
        raise errors.not_float()
    total = longdouble.add(value, increment)
    if total is None or isinstance(total, float):
        raise errors.increment_not_finite()
    text = longdouble.text_of(total)
    db.set_string(args[1], text, keep_ttl=True)
    db.notify(STRING, b"incrbyfloat", args[1])
    return text


@command("MGET", arity=-2, flags="readonly fast", keys=(1, -1, 1), access="RO access", group="string",
         since="1.0.0", summary="Get the values of all the given keys", tips="request_policy:multi_shard",
         complexity="O(N) where N is the number of keys to retrieve.", spread=MGET, syntax="key...")
def mget(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return [_string_or_none(db, key) for key in args[1:]]


def _string_or_none(db: Db, key: bytes) -> bytes | None:
    try:
        return db.string(key)
    except RespError:  # another type counts as absent here
        return None


@command("MSET", arity=-3, flags="write denyoom", keys=(1, -1, 2), access="OW update", group="string",
         since="1.0.1", summary="Set multiple keys to multiple values",
         tips="request_policy:multi_shard response_policy:all_succeeded",
         complexity="O(N) where N is the number of keys to set.", spread=MSET, syntax="(key_value: key value)...")
def mset(db: Db, args: list[bytes], ctx: Context) -> Reply:
    if len(args) % 2 == 0:
        raise errors.arity("mset")
    for key, value in zip(args[1::2], args[2::2], strict=True):
        db.set_string(key, value)
        db.notify(STRING, b"set", key)
    return OK


@command("MSETNX", arity=-3, flags="write denyoom", keys=(1, -1, 2), access="OW insert", group="string",
         since="1.0.1", summary="Set multiple keys to multiple values, only if none of the keys exist",
         tips="request_policy:multi_shard response_policy:agg_min",
         complexity="O(N) where N is the number of keys to set.", syntax="(key_value: key value)...")
def msetnx(db: Db, args: list[bytes], ctx: Context) -> Reply:
    if len(args) % 2 == 0:
        raise errors.arity("msetnx")
    if any(db.exists(key) for key in args[1::2]):
        return 0
    for key, value in zip(args[1::2], args[2::2], strict=True):
        db.set_string(key, value)
        db.notify(STRING, b"set", key)
    return 1
