"""What DUMP answers and RESTORE takes: a value as Redis's RDB format has it, with a footer that protects it.

| bytes | field    |                                                                                            |
| ----- | -------- | ------------------------------------------------------------------------------------------ |
| 1     | type     | 0: string, the only one here                                                               |
|       | value    | a string: its length and bytes, or an integer, or compressed                               |
| 2     | version  | of the RDB format, little endian; we write 10 (Redis 7.0) and read that and older          |
| 8     | checksum | CRC-64 (Jones) of all before it, little endian                                             |

A length is 6 bits in one byte (`00......`), 14 in two (`01......`, big endian), 32 behind `0x80` or 64 behind `0x81`.
`11......` says that a string is an integer of 8, 16 or 32 bits (`0xC0` to `0xC2`, little endian), or LZF-compressed
(`0xC3`, compressed length, length, bytes). We choose between them as Redis does. Values of more than
`_COMPRESS_BYTES_MAX` are not compressed, so that DUMP does not hold up the node for long.
"""

from __future__ import annotations

import struct
from typing import Final

import lzf
from crcmod import mkCrcFun

VERSION: Final = 10
_STRING: Final = 0
_FOOTER: Final = struct.Struct("<HQ")
_INTEGERS: Final = {0xC0: struct.Struct("<b"), 0xC1: struct.Struct("<h"), 0xC2: struct.Struct("<i")}
_LZF: Final = 0xC3
_INTEGER_BYTES_MAX: Final = 11
_COMPRESS_BYTES_MIN: Final = 21
_COMPRESS_BYTES_MAX: Final = 64 << 20
_GAIN_BYTES_MIN: Final = 4
_LZF_RATIO_MAX: Final = 264 // 3 + 1  # no three bytes of LZF stand for more than 264

_crc64 = mkCrcFun(0x1AD93D23594C935A9, initCrc=0, rev=True, xorOut=0)


class BadChecksum(Exception):
    """The footer does not belong to the payload, or is that of a version we do not know."""


class BadFormat(Exception):
    """The payload is intact but not a value that we can read."""


def dump_string(value: bytes) -> bytes:
    """The payload of a string."""
    body = bytes((_STRING,)) + _encode(value)
    head = body + VERSION.to_bytes(2, "little")
    return head + _crc64(head).to_bytes(8, "little")


def load_string(payload: bytes, value_bytes_max: int) -> bytes:
    """The inverse of `dump_string`. Raises BadChecksum, and BadFormat also for more than `value_bytes_max` bytes."""
    if len(payload) < _FOOTER.size:
        raise BadChecksum
    version, checksum = _FOOTER.unpack(payload[-_FOOTER.size :])
    if version > VERSION or _crc64(memoryview(payload)[:-8]) != checksum:
        raise BadChecksum
    body = _Reader(payload, len(payload) - _FOOTER.size)
    if body.take(1)[0] != _STRING:
        raise BadFormat
    return _decode(body, value_bytes_max)


def _encode(value: bytes) -> bytes:
    if len(value) <= _INTEGER_BYTES_MAX:
        integer = _encode_integer(value)
        if integer is not None:
            return integer
    elif _COMPRESS_BYTES_MIN <= len(value) <= _COMPRESS_BYTES_MAX:
        packed = lzf.compress(value, len(value) - _GAIN_BYTES_MIN)
        if packed:
            return b"".join((bytes((_LZF,)), _length(len(packed)), _length(len(value)), packed))
    return _length(len(value)) + value


def _encode_integer(value: bytes) -> bytes | None:
    """None if `value` is not a 32-bit integer in its canonical spelling."""
    try:
        number = int(value)
    except ValueError:
        return None
    if b"%d" % number != value:
        return None
    for code, shape in _INTEGERS.items():
        half = 1 << (shape.size * 8 - 1)
        if -half <= number < half:
            return bytes((code,)) + shape.pack(number)
    return None


def _length(length: int) -> bytes:
    if length < 1 << 6:
        return bytes((length,))
    if length < 1 << 14:
        return (length | 0x4000).to_bytes(2, "big")
    if length < 1 << 32:
        return b"\x80" + length.to_bytes(4, "big")
    return b"\x81" + length.to_bytes(8, "big")


class _Reader:
    """Takes bytes from the front of a payload, up to `end`; raises BadFormat when they run out."""

    def __init__(self, data: bytes, end: int) -> None:
        self._data = data
        self._at = 0
        self._end = end

    def take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > self._end:
            raise BadFormat
        return self._data[start : self._at]

    def length(self) -> int:
        """A length; if it is none but one of the special encodings, its negative code."""
        first = self.take(1)[0]
        match first >> 6:
            case 0:
                return first
            case 1:
                return (first & 0x3F) << 8 | self.take(1)[0]
            case 3:
                return -first
        if first not in (0x80, 0x81):
            raise BadFormat
        return int.from_bytes(self.take(8 if first & 1 else 4), "big")


def _decode(body: _Reader, value_bytes_max: int) -> bytes:
    length = body.length()
    if length >= 0:
        return body.take(length)
    if -length in _INTEGERS:
        shape = _INTEGERS[-length]
        return b"%d" % int(shape.unpack(body.take(shape.size))[0])
    if -length != _LZF:
        raise BadFormat
    packed_bytes, value_bytes = body.length(), body.length()
    if not 0 < packed_bytes <= value_bytes_max or not 0 < value_bytes <= value_bytes_max:
        raise BadFormat
    packed = body.take(packed_bytes)
    if value_bytes > packed_bytes * _LZF_RATIO_MAX:
        raise BadFormat
    return _unpack(packed, value_bytes)


def _unpack(packed: bytes, value_bytes: int) -> bytes:
    try:
        value: bytes | None = lzf.decompress(packed, value_bytes)  # None: it would be longer
    except ValueError:
        raise BadFormat from None
    if value is None or len(value) != value_bytes:
        raise BadFormat
    return value
