"""Parts of strings: GETRANGE, SUBSTR, SETRANGE, and what two strings have in common: LCS."""

from __future__ import annotations

from typing import NamedTuple

from respkv import errors
from respkv.commands.args import integer
from respkv.commands.context import Context
from respkv.commands.lcs import Match, length, matches
from respkv.commands.table import command
from respkv.keyspace.db import Db
from respkv.keyspace.watch import STRING
from respkv.reply import Reply, RespError

_RANGE_COMPLEXITY = (
    "O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned "
    "length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for "
    "small strings."
)
_CELL_BYTES = 4  # of Redis's table, which decides how long the strings of LCS may be


@command("GETRANGE", arity=4, flags="readonly", keys=(1, 1, 1), access="RO access", group="string", since="2.4.0",
         summary="Get a substring of the string stored at a key", complexity=_RANGE_COMPLEXITY,
         syntax="key start:integer end:integer")
def getrange(db: Db, args: list[bytes], ctx: Context) -> Reply:
    start, end = integer(args[2]), integer(args[3])
    value = db.string(args[1]) or b""
    if start < 0 and end < 0 and start > end:
        return b""
    size = len(value)
    start = max(start + size if start < 0 else start, 0)
    end = max(end + size if end < 0 else end, 0)
    return value[start : end + 1]


@command("SUBSTR", arity=4, flags="readonly", keys=(1, 1, 1), access="RO access", group="string", since="1.0.0",
         summary="Get a substring of the string stored at a key", complexity=_RANGE_COMPLEXITY,
         syntax="key start:integer end:integer", deprecated="2.0.0 `GETRANGE`")
def substr(db: Db, args: list[bytes], ctx: Context) -> Reply:
    return getrange(db, args, ctx)


@command("SETRANGE", arity=4, flags="write denyoom", keys=(1, 1, 1), access="RW update", group="string", since="2.2.0",
         summary="Overwrite part of a string at key starting at the specified offset",
         complexity="O(1), not counting the time taken to copy the new string in place. Usually, this string is very "
                    "small so the amortized complexity is O(1). Otherwise, complexity is O(M) with M being the length "
                    "of the value argument.", syntax="key offset:integer value")
def setrange(db: Db, args: list[bytes], ctx: Context) -> Reply:
    key, offset, part = args[1], integer(args[2]), args[3]
    if offset < 0:
        raise errors.offset_out_of_range()
    old = db.string(key) or b""
    if not part:
        return len(old)
    end = offset + len(part)
    if end > ctx.value_bytes_max:
        raise errors.string_too_long()
    value = b"".join((old[:offset].ljust(offset, b"\0"), part, old[end:]))
    db.set_string(key, value, keep_ttl=True, raw=True)
    db.notify(STRING, b"setrange", key)
    return len(value)


class _Options(NamedTuple):
    """What is asked of LCS beside the keys."""

    length: bool = False
    indexes: bool = False
    with_match_length: bool = False
    match_length_min: int = 0


def _lcs_options(args: list[bytes]) -> _Options:
    """Raises RespError."""
    options = _Options()
    words = iter(args[3:])
    for word in words:
        match word.upper():
            case b"IDX":
                options = options._replace(indexes=True)
            case b"LEN":
                options = options._replace(length=True)
            case b"WITHMATCHLEN":
                options = options._replace(with_match_length=True)
            case b"MINMATCHLEN":
                number = next(words, None)
                if number is None:
                    raise errors.syntax()
                options = options._replace(match_length_min=integer(number))
            case _:
                raise errors.syntax()
    if options.length and options.indexes:
        raise errors.generic("If you want both the length and indexes, please just use IDX.")
    return options


def _lcs_string(db: Db, key: bytes) -> bytes:
    try:
        return db.string(key) or b""
    except RespError:
        raise errors.generic("The specified keys must contain string values") from None


@command("LCS", arity=-3, flags="readonly", keys=(1, 2, 1), access="RO access", group="string", since="7.0.0",
         summary="Find longest common substring",
         complexity="O(N*M) where N and M are the lengths of s1 and s2, respectively",
         syntax="key1:key key2:key [LEN] [IDX] [MINMATCHLEN len:integer] [WITHMATCHLEN]")
def lcs(db: Db, args: list[bytes], ctx: Context) -> Reply:
    first, second = _lcs_string(db, args[1]), _lcs_string(db, args[2])
    options = _lcs_options(args)
    if (len(first) + 1) * (len(second) + 1) * _CELL_BYTES > ctx.value_bytes_max:
        raise errors.generic("Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
    if options.length:
        return length(first, second)
    found = matches(first, second)
    if not options.indexes:
        return b"".join(first[match.first : match.first + match.length] for match in reversed(found))
    rows = [_row(match, options) for match in found if match.length >= options.match_length_min]
    return {b"matches": rows, b"len": sum(match.length for match in found)}


def _row(match: Match, options: _Options) -> Reply:
    ranges: list[Reply] = [[start, start + match.length - 1] for start in (match.first, match.second)]
    return [*ranges, match.length] if options.with_match_length else ranges
