"""The payload of DUMP: Redis's bytes for every encoding, and what a damaged or hostile one does: nothing but refuse."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.keyspace.rdb import BadChecksum, BadFormat, _crc64, dump_string, load_string

LIMIT = 1 << 20


def footed(body: bytes, version: int = 10) -> bytes:
    head = body + version.to_bytes(2, "little")
    return head + _crc64(head).to_bytes(8, "little")


def test_the_checksum_is_the_one_of_redis() -> None:
    assert _crc64(b"123456789") == 0xE9C6D914C4B8D9CA  # crc64.c


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (b"foo", b"\x00\x03foo"),
        (b"", b"\x00\x00"),
        (b"0", b"\x00\xc0\x00"),
        (b"-128", b"\x00\xc0\x80"),
        (b"128", b"\x00\xc1\x80\x00"),
        (b"-32769", b"\x00\xc2\xff\x7f\xff\xff"),
        (b"2147483647", b"\x00\xc2\xff\xff\xff\x7f"),
        (b"2147483648", b"\x00\x0a2147483648"),
        (b"01", b"\x00\x0201"),
        (b" 1", b"\x00\x02 1"),
        (b"1_0", b"\x00\x031_0"),
        (b"a" * 20, b"\x00\x14" + b"a" * 20),
        (b"a" * 100, b"\x00\xc3\x09\x40\x64\x01aa\xe0\x57\x00\x01aa"),
    ],
)
def test_strings_are_encoded_as_redis_encodes_them(value: bytes, body: bytes) -> None:
    assert dump_string(value) == footed(body)
    assert load_string(dump_string(value), LIMIT) == value


@pytest.mark.parametrize("size", [21, 63, 64, 16383, 16384, 300_000])
def test_incompressible_strings_of_every_kind_of_length(size: int) -> None:
    value = random.Random(size).randbytes(size)
    payload = dump_string(value)
    assert len(payload) == size + 11 + (1 if size < 64 else 2 if size < 16384 else 5)
    assert load_string(payload, LIMIT) == value


@given(value=st.binary(max_size=300), unit=st.binary(min_size=1, max_size=4), times=st.integers(0, 5000))
def test_what_is_dumped_is_loaded(value: bytes, unit: bytes, times: int) -> None:
    for stored in (value, unit * times, value + unit * times):
        assert load_string(dump_string(stored), LIMIT) == stored


@given(payload=st.binary(max_size=60))
def test_no_bytes_do_more_than_refuse(payload: bytes) -> None:
    with pytest.raises(BadChecksum):
        load_string(payload + b"\xff\xff" + bytes(8), LIMIT)
    try:
        value = load_string(footed(payload), LIMIT)
    except BadFormat:
        return
    assert payload[0] == 0
    assert load_string(dump_string(value), LIMIT) == value


@given(value=st.binary(max_size=60), where=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(value: bytes, where: int, bit: int) -> None:
    payload = bytearray(dump_string(value))
    payload[where % len(payload)] ^= 1 << bit
    with pytest.raises(BadChecksum):
        load_string(bytes(payload), LIMIT)


def test_newer_versions_are_refused_and_older_ones_read() -> None:
    assert load_string(footed(b"\x00\x01a", 6), LIMIT) == b"a"
    with pytest.raises(BadChecksum):
        load_string(footed(b"\x00\x01a", 11), LIMIT)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\x00", b"\x01\x01a", b"\x00\x02a", b"\x00\x40", b"\x00\x80\x00\x00", b"\x00\x82\x01a", b"\x00\xc4\x01",
        b"\x00\x81" + b"\xff" * 8, b"\x00\xc2\xff", b"\x00\xc3\x02", b"\x00\xc3\xc0\x01a", b"\x00\xc3\x03\x04\x01ab",
        b"\x00\xc3\x04\x04\x20\xff\xff\xff", b"\x00\xc3\x02\x80\x00\x0f\xff\xff\x00a",
        b"\x00\xc3\x02\x81" + b"\xff" * 8 + b"\x00a", b"\x00\xc3\x00\x00", b"\x00\xc3\x04\x01\x02abc",
    ],
)  # fmt: skip
def test_an_intact_payload_that_makes_no_sense_is_bad_format(body: bytes) -> None:
    with pytest.raises(BadFormat):
        load_string(footed(body), LIMIT)


def test_a_small_payload_cannot_ask_for_much_memory() -> None:
    bomb = dump_string(bytes(2 * LIMIT))
    assert len(bomb) < LIMIT // 16
    with pytest.raises(BadFormat):
        load_string(bomb, LIMIT)
