"""What nodes say to each other arrives as it was said."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.cluster.codec import decode, encode
from respkv.reply import NULL_ARRAY, RespError, Simple, Verbatim


@pytest.mark.parametrize(
    "value",
    [
        Simple(b"OK"),
        RespError("WRONGTYPE no"),
        RespError("ERR \udcff\udc80 bytes of a client"),
        {b"k": [1, None, 2.5, True], b"l": {b"m": b"n"}},
        [Simple(b""), [RespError("ERR a")]],
        1 << 63,
        -(1 << 63),
        "Grüße",
    ],
)
def test_a_reply_arrives_equal(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize("value", [{b"a", b"b"}, frozenset([b"x"]), set()])
def test_a_set_arrives_as_a_list_of_its_members(value: set[bytes]) -> None:
    assert sorted(decode(encode(value))) == sorted(value)


def test_a_null_array_and_verbatim_text_arrive_as_what_they_are() -> None:
    assert decode(encode([NULL_ARRAY]))[0] is NULL_ARRAY
    arrived = decode(encode(Verbatim(b"text\r\n", b"mkd")))
    assert isinstance(arrived, Verbatim)
    assert (arrived.text, arrived.format) == (b"text\r\n", b"mkd")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary()
    | st.text()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.binary(), inner),
    max_leaves=20,
)


@given(values)
def test_any_plain_message_arrives_with_lists_for_tuples(value: Any) -> None:
    def listed(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: listed(item) for key, item in part.items()}
        return [listed(item) for item in part] if isinstance(part, (list, tuple)) else part

    assert decode(encode(value)) == listed(value)


def test_what_does_not_travel_is_refused_where_it_is_sent() -> None:
    with pytest.raises(TypeError, match="object"):
        encode([object()])


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\xc7\x03\x09abc", b"\x01\x02"])
def test_what_is_no_messagepack_of_ours_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)
