"""BITFIELD and BITFIELD_RO: integers of 1 to 64 bits anywhere in a string, with arithmetic that wraps, saturates or
fails.

The arithmetic is that of Redis 7.0 down to its corners: what an unsigned field makes of a negative number, and which
side a number saturates to that is far out of a field's range.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from respkv import errors
from respkv.commands.args import integer, integer_else, wrap64
from respkv.commands.bits import bit_offset
from respkv.commands.context import Context
from respkv.commands.table import command
from respkv.keyspace.db import Db
from respkv.keyspace.watch import STRING
from respkv.reply import Reply, RespError

_BAD_TYPE: Final = "Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
_WIDE: Final = 9  # bytes that a field of 64 bits can touch
_ARGUMENTS: Final = {b"GET": 2, b"SET": 3, b"INCRBY": 3, b"OVERFLOW": 1}

Overflow = Literal[b"WRAP", b"SAT", b"FAIL"]


class _Field(NamedTuple):
    """Where a field is and how it is read."""

    offset: int
    width: int
    signed: bool

    def read(self, data: bytes | bytearray) -> int:
        """The field's value; behind the end of `data` there are zeros."""
        byte = self.offset >> 3
        bits = int.from_bytes(data[byte : byte + _WIDE].ljust(_WIDE, b"\0"), "big")
        return self.fold(bits >> (_WIDE * 8 - (self.offset & 7) - self.width))

    def fold(self, value: int) -> int:
        """The value that the field's low bits of `value` stand for."""
        value &= (1 << self.width) - 1
        return value - (1 << self.width) if self.signed and value >> (self.width - 1) else value

    def write(self, data: bytearray, value: int) -> None:
        """Sets the field; `data` must reach to its end."""
        first, last = self.offset >> 3, (self.offset + self.width - 1) >> 3
        shift = (last - first + 1) * 8 - (self.offset & 7) - self.width
        mask = (1 << self.width) - 1
        bits = int.from_bytes(data[first : last + 1], "big") & ~(mask << shift) | (value & mask) << shift
        data[first : last + 1] = bits.to_bytes(last - first + 1, "big")

    def overflow(self, value: int, increment: int) -> int:
        """1 if `value + increment` is too much for the field, -1 if too little, 0 if it fits."""
        if not self.signed:
            if value > (1 << self.width) - 1 or 0 < increment > (1 << self.width) - 1 - value:
                return 1
            return -1 if increment < 0 and increment < -value else 0
        most = (1 << (self.width - 1)) - 1
        least = -most - 1
        narrow = self.width != 64
        up, down = wrap64(most - value), wrap64(least - value)
        if value > most or (narrow and increment > up) or (value >= 0 and 0 < increment > up):
            return 1
        if value < least or (narrow and increment < down) or (value < 0 and 0 > increment < down):
            return -1
        return 0

    def limit(self, side: int) -> int:
        """The field's largest value, or (`side` -1) its smallest."""
        if not self.signed:
            return (1 << self.width) - 1 if side > 0 else 0
        return (1 << (self.width - 1)) - 1 if side > 0 else -(1 << (self.width - 1))


class _Operation(NamedTuple):
    name: bytes
    field: _Field
    value: int
    overflow: Overflow


def _parse(args: list[bytes], ctx: Context) -> list[_Operation]:
    """Raises RespError."""
    found: list[_Operation] = []
    overflow: Overflow = b"WRAP"
    at = 2
    while at < len(args):
        name = args[at].upper()
        count = _ARGUMENTS.get(name, len(args))
        if at + count >= len(args):
            raise errors.syntax()
        if name == b"OVERFLOW":
            overflow = _overflow(args[at + 1])
        else:
            signed, width = _type(args[at + 1])
            field = _Field(bit_offset(args[at + 2], ctx, width), width, signed)
            found.append(_Operation(name, field, 0 if name == b"GET" else integer(args[at + 3]), overflow))
        at += 1 + count
    return found


def _overflow(word: bytes) -> Overflow:
    match word.upper():
        case b"WRAP":
            return b"WRAP"
        case b"SAT":
            return b"SAT"
        case b"FAIL":
            return b"FAIL"
    raise errors.generic("Invalid OVERFLOW type specified")


def _type(text: bytes) -> tuple[bool, int]:
    """Whether it is signed, and its width in bits. Raises RespError."""
    signed = text.startswith(b"i")
    if not signed and not text.startswith(b"u"):
        raise errors.generic(_BAD_TYPE)
    width = integer_else(text[1:].partition(b"\0")[0], _BAD_TYPE)
    if not 1 <= width <= (64 if signed else 63):
        raise errors.generic(_BAD_TYPE)
    return signed, width


def _change(operation: _Operation, data: bytearray) -> int | None:
    """Runs SET or INCRBY; the reply, None if nothing was done because of OVERFLOW FAIL."""
    field, number = operation.field, operation.value
    old = field.read(data)
    if operation.name == b"SET":
        base, increment = (number if field.signed else number & (1 << 64) - 1), 0
    else:
        base, increment = old, number
    side = field.overflow(base, increment)
    if side and operation.overflow == b"FAIL":
        return None
    new = field.limit(side) if side and operation.overflow == b"SAT" else field.fold(base + increment)
    field.write(data, new)
    return old if operation.name == b"SET" else new


@command("BITFIELD", arity=-2, flags="write denyoom", keys=(1, 1, 1), access="RW access update variable_flags",
         key_notes="This command allows both access and modification of the key", group="bitmap", since="3.2.0",
         summary="Perform arbitrary bitfield integer operations on strings",
         complexity="O(1) for each subcommand specified",
         syntax="key "
                "[operation: GET (encoding_offset: encoding offset:integer) | "
                "(write: [OVERFLOW (wrap_sat_fail: WRAP | SAT | FAIL)] "
                "(write_operation: SET (encoding_offset_value: encoding offset:integer value:integer) | "
                "INCRBY (encoding_offset_increment: encoding offset:integer increment:integer)))]...")
def bitfield(db: Db, args: list[bytes], ctx: Context) -> Reply:
    operations = _parse(args, ctx)
    changes = [operation.field for operation in operations if operation.name != b"GET"]
    old = db.string(args[1])
    if not changes:
        return [operation.field.read(old or b"") for operation in operations]
    size = max((field.offset + field.width - 1) >> 3 for field in changes) + 1
    data = bytearray((old or b"").ljust(size, b"\0"))
    replies: list[int | None] = []
    for operation in operations:
        replies.append(operation.field.read(data) if operation.name == b"GET" else _change(operation, data))
    new = bytes(data)
    if new != old:  # as in Redis the string also grows when no operation did anything
        db.set_string(args[1], new, keep_ttl=True, raw=True)
        if any(reply is not None and each.name != b"GET" for each, reply in zip(operations, replies, strict=True)):
            db.notify(STRING, b"setbit", args[1])
    return replies


@command("BITFIELD_RO", arity=-2, flags="readonly fast", keys=(1, 1, 1), access="RO access", group="bitmap",
         since="6.0.0", complexity="O(1) for each subcommand specified",
         summary="Perform arbitrary bitfield integer operations on strings. Read-only variant of BITFIELD",
         syntax="key [GET (encoding_offset: encoding offset:integer)]...")
def bitfield_ro(db: Db, args: list[bytes], ctx: Context) -> Reply:
    operations = _parse(args, ctx)
    if any(operation.name != b"GET" for operation in operations):
        raise RespError("ERR BITFIELD_RO only supports the GET subcommand")
    value = db.string(args[1]) or b""
    return [operation.field.read(value) for operation in operations]
