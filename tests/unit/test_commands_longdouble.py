"""80-bit arithmetic: corners of reading and writing, and that every result is the nearest one there is."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from respkv.commands.longdouble import add, parse, text_of


def shown(text: bytes) -> bytes | None:
    value = parse(text)
    return None if value is None or isinstance(value, float) else text_of(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0", b"0"), (b"-0", b"0"), (b"+5", b"5"), (b"5.", b"5"), (b".5", b"0.5"), (b"1e3", b"1000"),
        (b"10.6", b"10.6"), (b"0.1", b"0.1"), (b"-1.25", b"-1.25"), (b"1e-18", b"0"), (b"-1e-18", b"0"),
        (b"5e-18", b"0"), (b"6e-18", b"0.00000000000000001"), (b"0x10", b"16"), (b"0x1.8p1", b"3"),
        (b"0X.8P-1", b"0.25"),
        (b"18446744073709551615", b"18446744073709551615"), (b"18446744073709551617", b"18446744073709551616"),
        (b"18446744073709551619", b"18446744073709551620"), (b"1e-4950", b"0"), (b"0e99999999999999999999", b"0"),
        (b"0" * 5000 + b"7", b"7"),
    ],
)  # fmt: skip
def test_numbers(text: bytes, expected: bytes) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    "text", [b"", b" 1", b"1 ", b".", b"-", b"e5", b"1e", b"1e+", b"0x", b"0xg", b"0x1p", b"1_0", b"1\0", b"nan",
             b"NaN(1)", b"1e4933", b"-1e4933", b"1e99999999999999999999", b"1e-4970", b"0x1p16384",
             b"0x1p-99999", b"9" * 5120]
)  # fmt: skip
def test_what_is_no_number_or_does_not_fit(text: bytes) -> None:
    assert parse(text) is None


def test_infinity_is_read_but_never_a_sum() -> None:
    assert [parse(b"inf"), parse(b"-INFINITY")] == [math.inf, -math.inf]
    assert add(math.inf, (1, 0)) is None
    largest = parse(b"0x1.fffffffffffffffep16383")
    assert largest is not None
    assert add(largest, largest) is None


def test_rounding_is_half_to_even_to_64_bits() -> None:
    one_bit_too_many = (2**64 + 1, 0)
    assert parse(b"%d" % one_bit_too_many[0]) == parse(b"%d" % 2**64)
    assert parse(b"%d" % (2**64 + 3)) == parse(b"%d" % (2**64 + 4))
    assert add((2**63, 1), (1, 0)) == parse(b"%d" % 2**64)


def test_every_digit_of_the_largest_number_is_written() -> None:
    assert shown(b"0x1.fffffffffffffffep16383") == _digits((2**64 - 1) << (16384 - 64))


def _digits(value: int) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return b"%d" % value
    finally:
        sys.set_int_max_str_digits(limit)


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: repr(value).encode()),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda value: str(value).encode()),
    st.builds(lambda a, b: b"%d.%de%d" % (a, b, a % 60 - 30), st.integers(-(10**25), 10**25), st.integers(0, 10**25)),
)


@given(left=numbers, right=numbers)
def test_a_sum_is_the_nearest_representable_number(left: bytes, right: bytes) -> None:
    x, y = parse(left), parse(right)
    assume(isinstance(x, tuple) and isinstance(y, tuple))
    assert isinstance(x, tuple)
    assert isinstance(y, tuple)
    total = add(x, y)
    assert isinstance(total, tuple)
    exact = _fraction(x) + _fraction(y)
    error = abs(_fraction(total) - exact)
    assert abs(total[0]) < 2**64
    assert error == 0 or (abs(total[0]) >= 2**63 and error <= Fraction(2) ** (total[1] - 1))


@given(number=numbers)
def test_a_text_is_the_nearest_with_17_decimals_and_reads_back_the_same(number: bytes) -> None:
    value = parse(number)
    assume(isinstance(value, tuple))
    assert isinstance(value, tuple)
    text = text_of(value)
    assume(len(text) < 4000)  # Python refuses to read more digits at once
    assert abs(Fraction(text.decode()) - _fraction(value)) <= Fraction(1, 2 * 10**17)
    again = parse(text)
    assert isinstance(again, tuple)
    assert text_of(again) == text


def _fraction(value: tuple[int, int]) -> Fraction:
    return Fraction(value[0]) * Fraction(2) ** value[1]
