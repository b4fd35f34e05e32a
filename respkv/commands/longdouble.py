"""The arithmetic of INCRBYFLOAT: x87 80-bit floating point, exact to the last bit, on any machine.

Redis computes with C's `long double` and prints with `%.17Lf` without trailing zeros. The result is data, so it must be
the same on every replica, whatever its processor; and clients compare it with Redis's. Values are therefore pairs of
Python integers, `mantissa * 2**exponent` with |mantissa| < 2**64, rounded half to even like the processor does (IEEE
754-2019, section 4.3.1); denormals included. Infinity is the float `inf`; there is no NaN: what would be one is None.
"""

from __future__ import annotations

import math
import re
from typing import Final

LongDouble = tuple[int, int] | float  # float only for the infinities

_MANTISSA_BITS: Final = 64
_EXPONENT_MIN: Final = -16445  # of the last bit of a denormal
_EXPONENT_END: Final = 16384  # values are below 2**16384
_TEXT_BYTES_MAX: Final = 5 * 1024 - 1
_DECIMAL_MAGNITUDE_MAX: Final = 5000  # far outside the range on both sides
_HEX_MAGNITUDE_MAX: Final = 40000
_FRACTION_DIGITS: Final = 17
_CHUNK_DIGITS: Final = 4000  # Python refuses to convert more digits at once

_DECIMAL: Final = re.compile(rb"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?")
_HEX: Final = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?\d+))?")
_INFINITY: Final = re.compile(rb"([+-]?)inf(?:inity)?", re.IGNORECASE)


def parse(text: bytes) -> LongDouble | None:
    """What strtold(3) makes of all of `text`; None if it is not a number, is NaN, or does not fit."""
    if not 0 < len(text) <= _TEXT_BYTES_MAX:
        return None
    found, base, exponent_base = _DECIMAL.fullmatch(text), 10, 10
    if found is None:
        found, base, exponent_base = _HEX.fullmatch(text), 16, 2
    if found is None:
        found = _INFINITY.fullmatch(text)
        return None if found is None else -math.inf if found[1] == b"-" else math.inf
    if not (found[2] or found[3]):
        return None
    fraction = found[3] or b""
    digits = _digits_to_int(found[2] + fraction, base)
    if digits == 0:
        return (0, 0)
    exponent = _bounded_int(found[4] or b"0") - len(fraction) * (4 if base == 16 else 1)
    value = _scaled(digits, exponent, exponent_base)
    if value is None:
        return None
    return (-value[0], value[1]) if found[1] == b"-" else value


def add(left: LongDouble, right: LongDouble) -> LongDouble | None:
    """The rounded sum; None if it is not a finite number."""
    if isinstance(left, float) or isinstance(right, float):
        return None
    exponent = min(left[1], right[1])
    total = (left[0] << (left[1] - exponent)) + (right[0] << (right[1] - exponent))
    rounded = _rounded(abs(total), 1, exponent)
    if rounded is None:
        return None
    return (-rounded[0], rounded[1]) if total < 0 else rounded


def text_of(value: tuple[int, int]) -> bytes:
    """`%.17Lf` without trailing zeros and without a minus before zero."""
    mantissa, exponent = abs(value[0]), value[1]
    scale: int = 10**_FRACTION_DIGITS
    scaled = (mantissa * scale) << exponent if exponent >= 0 else _half_even(mantissa * scale, 1 << -exponent)
    if scaled == 0:
        return b"0"
    whole, fraction = divmod(scaled, scale)
    text = _int_to_digits(whole)
    if fraction:
        text += b"." + (b"%017d" % fraction).rstrip(b"0")
    return b"-" + text if value[0] < 0 else text


def _scaled(digits: int, exponent: int, base: int) -> tuple[int, int] | None:
    """`digits * base**exponent` rounded; None if that is infinite or rounds to zero."""
    if base == 2:
        if abs(exponent) > _HEX_MAGNITUDE_MAX + 4 * _TEXT_BYTES_MAX:
            return None
        value = _rounded(digits, 1, exponent)
    else:
        magnitude = digits.bit_length() * 30103 // 100000 + exponent
        if abs(magnitude) > _DECIMAL_MAGNITUDE_MAX:
            return None
        value = _rounded(digits * 10**exponent, 1, 0) if exponent >= 0 else _rounded(digits, 10**-exponent, 0)
    return value if value is not None and value[0] else None


def _rounded(numerator: int, denominator: int, exponent: int) -> tuple[int, int] | None:
    """`numerator / denominator * 2**exponent` (not negative) to 64 bits, half to even; None if it overflows."""
    if numerator == 0:
        return (0, 0)
    shift = numerator.bit_length() - denominator.bit_length() - _MANTISSA_BITS  # of the quotient's last bit, or one off
    while True:
        shift = max(shift, _EXPONENT_MIN - exponent)
        if shift >= 0:
            mantissa = _half_even(numerator, denominator << shift)
        else:
            mantissa = _half_even(numerator << -shift, denominator)
        if mantissa.bit_length() <= _MANTISSA_BITS:
            break
        if mantissa == 1 << _MANTISSA_BITS:  # rounded up to a power of two
            mantissa, shift = mantissa >> 1, shift + 1
            break
        shift += 1
    if mantissa.bit_length() + shift + exponent > _EXPONENT_END:
        return None
    return (mantissa, shift + exponent)


def _half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1))


def _bounded_int(text: bytes) -> int:
    """An exponent; what is out of any range is cut to something that still is."""
    sign = -1 if text[:1] == b"-" else 1
    digits = text.lstrip(b"+-").lstrip(b"0")
    return sign * (int(digits or b"0") if len(digits) <= 7 else 10**7)


def _digits_to_int(digits: bytes, base: int) -> int:
    if base == 16 or len(digits) <= _CHUNK_DIGITS:
        return int(digits, base)
    head, tail = digits[:-_CHUNK_DIGITS], digits[-_CHUNK_DIGITS:]
    return int(head) * int(10**_CHUNK_DIGITS) + int(tail)


def _int_to_digits(value: int) -> bytes:
    if value.bit_length() < 3 * _CHUNK_DIGITS:
        return b"%d" % value
    head, tail = divmod(value, 10**_CHUNK_DIGITS)
    return b"%d%04000d" % (head, tail) if head else b"%d" % tail
