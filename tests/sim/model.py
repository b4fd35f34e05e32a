"""What the commands mean, said a second time and as plainly as possible: the specification that histories are checked
against.

A state is a tuple with one element per key of a group of keys: None when the key is absent, else `(value, expires)`. A
key that expires may be gone whenever it is looked at, for the specification knows no clock; once gone it stays gone
until it is written again. `outcomes` gives every next state and reply that a command may have.

Replies are bytes, ints, None, lists, `str` for a simple string, `Failure` for an error. Left out, for no state of a few
keys can tell their replies: SCAN, KEYS, RANDOMKEY, DBSIZE, and the conditions of EXPIRE that compare times; and the
rarer ones among the string and bit commands. FLUSHALL empties every group on its own, which demands a little less than
the command does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

Value = tuple[bytes, bool] | None
State = tuple[Value, ...]
Args = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error reply; `code` is its first word, which is all that is compared."""

    code: str


class _AnyTime:
    """The reply of TTL and its like for a key that expires: some number that is not negative."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other >= 0

    def __hash__(self) -> int:
        return 0


OK: Final = "OK"
_ERR: Final = Failure("ERR")
_TIME: Final = _AnyTime()
INT_MAX: Final = (1 << 63) - 1
_TTL_OPTIONS: Final = (b"EX", b"PX", b"EXAT", b"PXAT")

Db = dict[bytes, tuple[bytes, bool]]


def _set(db: Db, args: Args) -> Any:
    key, value, options = args[1], args[2], [option.upper() for option in args[3:]]
    old = db.get(key)
    reply = (old[0] if old else None) if b"GET" in options else OK
    if (b"NX" in options and old) or (b"XX" in options and not old):
        return reply if b"GET" in options else None
    expires = any(option in options for option in _TTL_OPTIONS)
    if b"KEEPTTL" in options and old:
        expires = old[1]
    db[key] = (value, expires)
    return reply


def _setnx(db: Db, args: Args) -> int:
    if args[1] in db:
        return 0
    db[args[1]] = (args[2], False)
    return 1


def _setex(db: Db, args: Args) -> Any:
    db[args[1]] = (args[3], True)
    return OK


def _get(db: Db, args: Args) -> bytes | None:
    return db[args[1]][0] if args[1] in db else None


def _getset(db: Db, args: Args) -> bytes | None:
    old = _get(db, args)
    db[args[1]] = (args[2], False)
    return old


def _getdel(db: Db, args: Args) -> bytes | None:
    old = db.pop(args[1], None)
    return old[0] if old else None


def _getex(db: Db, args: Args) -> bytes | None:
    value = _get(db, args)
    if value is not None and len(args) > 2:
        db[args[1]] = (value, args[2].upper() != b"PERSIST")
    return value


def _append(db: Db, args: Args) -> int:
    value, expires = db.get(args[1], (b"", False))
    db[args[1]] = (value + args[2], expires)
    return len(value) + len(args[2])


def _strlen(db: Db, args: Args) -> int:
    return len(_get(db, args) or b"")


def _adder(sign: int) -> Callable[[Db, Args], Any]:
    def add(db: Db, args: Args) -> Any:
        value, expires = db.get(args[1], (b"0", False))
        increment = sign * (int(args[2]) if len(args) > 2 else 1)
        if not value.lstrip(b"-").isdigit() or abs(int(value)) > INT_MAX or abs(int(value) + increment) > INT_MAX:
            return _ERR
        total = int(value) + increment
        db[args[1]] = (b"%d" % total, expires)
        return total

    return add


def _delete(db: Db, args: Args) -> int:
    return sum(db.pop(key, None) is not None for key in args[1:])


def _exists(db: Db, args: Args) -> int:
    return sum(key in db for key in args[1:])


def _type(db: Db, args: Args) -> str:
    return "string" if args[1] in db else "none"


def _mget(db: Db, args: Args) -> list[bytes | None]:
    return [db[key][0] if key in db else None for key in args[1:]]


def _mset(db: Db, args: Args) -> Any:
    db.update({key: (value, False) for key, value in zip(args[1::2], args[2::2], strict=True)})
    return OK


def _msetnx(db: Db, args: Args) -> int:
    if any(key in db for key in args[1::2]):
        return 0
    _mset(db, args)
    return 1


def _expire(db: Db, args: Args) -> int:
    if len(args) > 3:
        raise ValueError("the conditions of EXPIRE are not in the model")
    if args[1] not in db:
        return 0
    if int(args[2]) <= 0:
        del db[args[1]]
    else:
        db[args[1]] = (db[args[1]][0], True)
    return 1


def _persist(db: Db, args: Args) -> int:
    value = db.get(args[1])
    if value is None or not value[1]:
        return 0
    db[args[1]] = (value[0], False)
    return 1


def _ttl(db: Db, args: Args) -> Any:
    if args[1] not in db:
        return -2
    return _TIME if db[args[1]][1] else -1


def _rename(db: Db, args: Args) -> Any:
    if args[1] not in db:
        return _ERR
    if args[0] == b"RENAMENX" and args[2] in db:
        return 0
    db[args[2]] = db.pop(args[1])
    return OK if args[0] == b"RENAME" else 1


def _copy(db: Db, args: Args) -> int:
    if args[1] not in db or (args[2] in db and b"REPLACE" not in args[3:]):
        return 0
    db[args[2]] = db[args[1]]
    return 1


def _getrange(db: Db, args: Args) -> bytes:
    return (_get(db, args) or b"")[int(args[2]) : int(args[3]) + 1]


def _setrange(db: Db, args: Args) -> int:
    value, expires = db.get(args[1], (b"", False))
    start = int(args[2])
    if args[3]:
        value = value[:start].ljust(start, b"\0") + args[3] + value[start + len(args[3]) :]
        db[args[1]] = (value, expires)
    return len(value)


def _getbit(db: Db, args: Args) -> int:
    value, bit = _get(db, args) or b"", int(args[2])
    return value[bit // 8] >> (7 - bit % 8) & 1 if bit // 8 < len(value) else 0


def _setbit(db: Db, args: Args) -> int:
    value, expires = db.get(args[1], (b"", False))
    byte, shift = int(args[2]) // 8, 7 - int(args[2]) % 8
    bits = bytearray(value.ljust(byte + 1, b"\0"))
    old = bits[byte] >> shift & 1
    bits[byte] = bits[byte] & ~(1 << shift) | int(args[3]) << shift
    db[args[1]] = (bytes(bits), expires)
    return old


def _bitcount(db: Db, args: Args) -> int:
    return int.from_bytes(_get(db, args) or b"", "big").bit_count()


def _clear(db: Db, args: Args) -> Any:
    db.clear()
    return OK


def _transaction(db: Db, args: Args) -> list[Any]:
    """What a transaction that was not called off has answered; before that, what the watched key was."""
    replies = [db[args[1]][0] if args[1] in db else None] if args[1] else []
    return replies + [COMMANDS[words[0]](db, words) for words in commands_of(args)]


COMMANDS: Final[dict[bytes, Callable[[Db, Args], Any]]] = {
    b"SET": _set, b"SETNX": _setnx, b"SETEX": _setex, b"PSETEX": _setex, b"GET": _get, b"GETSET": _getset,
    b"GETDEL": _getdel, b"GETEX": _getex, b"APPEND": _append, b"STRLEN": _strlen, b"INCR": _adder(1),
    b"DECR": _adder(-1), b"INCRBY": _adder(1), b"DECRBY": _adder(-1), b"DEL": _delete, b"UNLINK": _delete,
    b"EXISTS": _exists, b"TOUCH": _exists, b"TYPE": _type, b"MGET": _mget, b"MSET": _mset, b"MSETNX": _msetnx,
    b"EXPIRE": _expire, b"PEXPIRE": _expire, b"EXPIREAT": _expire, b"PEXPIREAT": _expire, b"PERSIST": _persist,
    b"TTL": _ttl, b"PTTL": _ttl, b"EXPIRETIME": _ttl, b"PEXPIRETIME": _ttl, b"FLUSHALL": _clear, b"FLUSHDB": _clear,
    b"RENAME": _rename, b"RENAMENX": _rename, b"COPY": _copy, b"GETRANGE": _getrange, b"SETRANGE": _setrange,
    b"GETBIT": _getbit, b"SETBIT": _setbit, b"BITCOUNT": _bitcount,
    b"TRANSACTION": _transaction,
}  # fmt: skip

READS: Final = frozenset((
    b"GET", b"STRLEN", b"EXISTS", b"TOUCH", b"TYPE", b"MGET", b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME",
    b"GETRANGE", b"GETBIT", b"BITCOUNT",
))  # fmt: skip
PARTIAL: Final = frozenset((b"GETRANGE", b"SETRANGE", b"GETBIT", b"SETBIT", b"BITCOUNT"))
"""They show or change parts of values."""
CLEARS: Final = frozenset((b"FLUSHALL", b"FLUSHDB"))
_ZERO_IS_NO_EFFECT: Final = frozenset((b"SETNX", b"MSETNX", b"DEL", b"UNLINK", b"EXPIRE", b"PEXPIRE", b"PERSIST",
                                b"RENAMENX", b"COPY"))  # fmt: skip


NEXT: Final = b"|"


def commands_of(args: Sequence[bytes]) -> list[Args]:
    """The commands of `TRANSACTION watched-key | command | command ...`: MULTI and EXEC as one operation.

    With a watched key it is WATCH, GET of that key, and then the transaction; else the first word is empty.
    """
    found: list[Args] = []
    for word in args[2:]:
        if word == NEXT:
            found.append(())
        else:
            found[-1] += (word,)
    return found


def keys_of(args: Sequence[bytes]) -> tuple[bytes, ...]:
    """The keys that a command is about; none for one that clears everything. Raises KeyError for a command unknown."""
    name = args[0]
    COMMANDS[name]
    if name in CLEARS:
        return ()
    if name == b"TRANSACTION":
        return tuple(dict.fromkeys(key for words in commands_of(args) for key in keys_of(words)))
    if name in {b"MSET", b"MSETNX"}:
        return tuple(args[1::2])
    if name in {b"MGET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"}:
        return tuple(args[1:])
    if name in {b"RENAME", b"RENAMENX", b"COPY"}:
        return (args[1], args[2])
    return (args[1],)


def changes_nothing(args: Sequence[bytes], reply: Any) -> bool:
    """Whether a command that got this reply has left the state as it was (an expiry apart)."""
    name = args[0]
    return (
        name in READS
        or isinstance(reply, Failure)
        or (reply == 0 and isinstance(reply, int) and name in _ZERO_IS_NO_EFFECT)
        or (reply is None and name in {b"GETDEL", b"GETEX"})
    )


def outcomes(
    keys: tuple[bytes, ...], state: State, args: Args, *, expiry: bool = True
) -> Iterator[tuple[State, Any]]:
    """Every (next state, reply) of a command on the keys of a group. Without `expiry` none that expires is gone yet."""
    touched = keys_of(args)
    expiring = [
        position
        for position, value in enumerate(state)
        if expiry and value is not None and value[1] and (keys[position] in touched or not touched)
    ]
    run = COMMANDS[args[0]]
    for gone in product((False, True), repeat=len(expiring)):
        lost = {position for position, is_gone in zip(expiring, gone, strict=True) if is_gone}
        db = {
            keys[position]: value
            for position, value in enumerate(state)
            if value is not None and position not in lost
        }
        reply = run(db, args)
        yield tuple(db.get(key) for key in keys), reply


_STATUS: Final = frozenset((b"RENAME", b"MSET", b"SETEX", b"PSETEX", b"TYPE", b"FLUSHALL", b"FLUSHDB"))


def reply_of(args: Sequence[bytes], reply: Any, *, error: bool = False) -> Any:
    """A reply as a client library gives it (status lines as bytes, the text of an error), as this module says it."""
    if error:
        return Failure(str(reply).split(" ", 1)[0])
    status = args[0] in _STATUS or (args[0] == b"SET" and b"GET" not in args[3:])
    return reply.decode() if status and isinstance(reply, bytes) else reply
