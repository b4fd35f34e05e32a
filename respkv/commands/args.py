"""Reading arguments as Redis reads them: strict integers, expiry times, cursors."""

from __future__ import annotations

from typing import Final

from respkv import errors
from respkv.reply import RespError

INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
_INT_BYTES_MAX: Final = 20
_INT32_MIN: Final = -(1 << 31)
_INT32_MAX: Final = (1 << 31) - 1
_UNSIGNED_MAX: Final = (1 << 64) - 1


def integer(text: bytes) -> int:
    """A 64-bit signed integer in its one canonical spelling: no spaces, plus, leading zeros or `-0` (string2ll).

    Raises RespError (not an integer or out of range).
    """
    if len(text) <= _INT_BYTES_MAX:
        try:
            value = int(text)
        except ValueError:
            pass
        else:
            if INT_MIN <= value <= INT_MAX and b"%d" % value == text:
                return value
    raise errors.not_integer()


def integer_else(text: bytes, refusal: str) -> int:
    """`integer`, with a text of the command's own when it is none. Raises RespError."""
    try:
        return integer(text)
    except RespError:
        raise errors.generic(refusal) from None


def wrap64(value: int) -> int:
    """What a signed 64-bit integer of C makes of a sum or product."""
    return ((value - INT_MIN) & _UNSIGNED_MAX) + INT_MIN


def database(text: bytes) -> int:
    """The number of a database; there is only 0. Raises RespError (not an integer; out of range)."""
    index = integer(text)
    if not _INT32_MIN <= index <= _INT32_MAX:
        raise errors.generic(f"value is out of range, value must between {_INT32_MIN} and {_INT32_MAX}")
    if index != 0:
        raise errors.db_out_of_range()
    return index


def scan_cursor(text: bytes) -> int:
    """A SCAN cursor as strtoul(3) reads it, which Redis uses here: signs and leading zeros are allowed, even nothing.

    Raises RespError (invalid cursor).
    """
    if not text:
        return 0
    digits = text[1:] if text[:1] in b"+-" else text
    stripped = digits.lstrip(b"0")
    if not digits.isdigit() or len(stripped) > _INT_BYTES_MAX or int(digits[-_INT_BYTES_MAX:]) > _UNSIGNED_MAX:
        raise errors.invalid_cursor()
    value = int(stripped or b"0")
    return -value & _UNSIGNED_MAX if text[:1] == b"-" else value


def to_milliseconds(name: str, text: bytes, unit_ms: int) -> int:
    """A time of EXPIRE's family in ms, negative allowed. `name` is the command for the error."""
    value = integer(text)
    if unit_ms != 1 and not -(-INT_MIN // unit_ms) <= value <= INT_MAX // unit_ms:
        raise errors.invalid_expire(name)
    return value * unit_ms


def expire_at(name: str, text: bytes, unit_ms: int, base_ms: int) -> int:
    """The expiry of SET's family as Unix time in ms: `text` units after `base_ms`, more than zero.

    Raises RespError (not an integer; invalid expire time in command `name`).
    """
    value = integer(text)
    if value <= 0 or value > INT_MAX // unit_ms:
        raise errors.invalid_expire(name)
    at_ms = value * unit_ms + base_ms
    if at_ms > INT_MAX:
        raise errors.invalid_expire(name)
    return at_ms
