"""Bits and parts of strings: replies, effects and errors, long strings, and LCS against the textbook's table."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.commands.bits import _CHUNK_BYTES, popcount
from respkv.commands.context import Context
from respkv.commands.lcs import Match, length, matches
from respkv.reply import OK, RespError
from tests.unit.one_shard import OneShard

SYNTAX = "ERR syntax error"
NOT_INTEGER = "ERR value is not an integer or out of range"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
BAD_OFFSET = "ERR bit offset is not an integer or out of range"
BAD_BIT = "ERR bit is not an integer or out of range"
BAD_TYPE = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
TOO_LONG = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
INT_MIN = -(2**63)


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[OneShard]:
    shard = OneShard(tmp_path)
    yield shard
    shard.cask.close()


SCRIPTS: dict[str, list[tuple[Any, Any]]] = {
    "setbit answers the old bit and grows the string": [
        ("SETBIT k 9 1", 0), ("GET k", b"\0\x40"), ("SETBIT k 9 0", 1), ("SETBIT k 9 0", 0), ("STRLEN k", 2),
        ("SETBIT new 20 0", 0), ("GET new", bytes(3)), ("GETBIT new 1000", 0), ("GETBIT none 0", 0),
    ],
    "setbit keeps the expiry": [("SET k a", OK), ("EXPIRE k 10", 1), ("SETBIT k 0 1", 0), ("TTL k", 10)],
    "setbit refuses": [
        ("SETBIT k -1 1", BAD_OFFSET), ("SETBIT k 4294967296 1", BAD_OFFSET), ("SETBIT k x 1", BAD_OFFSET),
        ("SETBIT k 0 2", BAD_BIT), ("SETBIT k 0 -1", BAD_BIT), ("SETBIT k 0 x", BAD_BIT), ("GETBIT k -1", BAD_OFFSET),
        ("SETBIT other 0 1", WRONG_TYPE), ("GETBIT other 0", WRONG_TYPE), ("EXISTS k", 0),
    ],
    "bitcount": [
        ("SET k foobar", OK), ("BITCOUNT k", 26), ("BITCOUNT k 0 0", 4), ("BITCOUNT k 1 1", 6), ("BITCOUNT k -2 -1", 7),
        ("BITCOUNT k 5 30 BIT", 17), ("BITCOUNT k 5 5 bit", 1),
        ("BITCOUNT k 7 7 BIT", 0), ("BITCOUNT k 6 9", 0),
        ("BITCOUNT k 1 1 BYTE", 6),
        ("BITCOUNT none", 0), ("BITCOUNT none x y", 0), ("BITCOUNT k 0", SYNTAX), ("BITCOUNT k 0 1 NIT", SYNTAX),
        ("BITCOUNT k -1 -2 NIT", 0), ("BITCOUNT k x 1", NOT_INTEGER), ("BITCOUNT other", WRONG_TYPE),
    ],
    "bitpos": [
        ([b"SET", b"k", b"\xff\xf0\x00"], OK), ("BITPOS k 0", 12), ("BITPOS k 1 2", -1), ("BITPOS k 1 1", 8),
        ("BITPOS k 0 0 0", -1), ("BITPOS k 0 9 11 BIT", -1), ("BITPOS k 0 9 12 BIT", 12), ("BITPOS none 1", -1),
        ("BITPOS none 0", 0), ([b"SET", b"k", b"\xff\xff"], OK), ("BITPOS k 0", 16), ("BITPOS k 0 0 -1", -1),
        ("BITPOS k 0 1", 16), ("BITPOS k 0 5", -1), ("BITPOS k 2", "ERR The bit argument must be 1 or 0."),
        ("BITPOS k 1 0 1 x", SYNTAX), ("BITPOS k 1 0 1 BIT x", SYNTAX), ("BITPOS k x", NOT_INTEGER),
    ],
    "bitop pads with zeros and drops the expiry of its target": [
        ([b"SET", b"a", b"\xff\x0f\x01"], OK), ([b"SET", b"b", b"\x0f\xff"], OK), ("SET t x EX 10", OK),
        ("BITOP and t a b", 3), ("GET t", b"\x0f\x0f\0"), ("TTL t", -1), ("BITOP OR t a b none", 3),
        ("GET t", b"\xff\xff\x01"), ("BITOP XOR t a a", 3), ("GET t", bytes(3)), ("BITOP NOT t a", 3),
        ("GET t", b"\x00\xf0\xfe"), ("BITOP AND t none nothing", 0), ("EXISTS t", 0), ("BITOP NAND t a b", SYNTAX),
        ("BITOP NOT t a b", "ERR BITOP NOT must be called with a single source key."),
        ("BITOP AND t a other", WRONG_TYPE), ("BITOP OR other a b", 3),
    ],
    "bitfield reads, sets and adds in order": [
        ("BITFIELD k SET u8 0 255 GET u8 0 INCRBY i5 #1 3 GET i5 5", [0, 255, -1, -1]),
        ("BITFIELD k GET u4 0 get i4 4", [15, -1]), ("BITFIELD none GET u63 #7", [0]), ("EXISTS none", 0),
        ("BITFIELD k", []), ("BITFIELD_RO k GET u8 0", [255]),
    ],
    "bitfield overflows as it is told": [
        ("BITFIELD k SET u8 0 250 INCRBY u8 0 10 OVERFLOW SAT INCRBY u8 0 255", [0, 4, 255]),
        ("BITFIELD k OVERFLOW FAIL INCRBY u8 0 1 GET u8 0", [None, 255]),
        ("BITFIELD s OVERFLOW SAT SET i8 0 127 INCRBY i8 0 1 INCRBY i8 0 -300", [0, 127, -128]),
        ("BITFIELD u OVERFLOW SAT INCRBY u8 0 -1 SET u8 0 -1 GET u8 0", [0, 0, 255]),
        ("BITFIELD w SET i64 0 9223372036854775807 INCRBY i64 0 1", [0, INT_MIN]),
        ("BITFIELD f OVERFLOW FAIL SET u8 16 256", [None]), ("GET f", bytes(3)),
    ],
    "bitfield refuses": [
        ("BITFIELD k GET u64 0", BAD_TYPE), ("BITFIELD k GET i65 0", BAD_TYPE), ("BITFIELD k GET x8 0", BAD_TYPE),
        ("BITFIELD k GET u0 0", BAD_TYPE), ("BITFIELD k GET u8 -1", BAD_OFFSET), ("BITFIELD k GET u8", SYNTAX),
        ("BITFIELD k SET u8 0", SYNTAX), ("BITFIELD k SET u8 0 x", NOT_INTEGER), ("BITFIELD k FETCH u8 0", SYNTAX),
        ("BITFIELD k OVERFLOW BURST", "ERR Invalid OVERFLOW type specified"), ("BITFIELD other GET u8 0", WRONG_TYPE),
        ("BITFIELD_RO k SET u8 0 1", "ERR BITFIELD_RO only supports the GET subcommand"),
    ],
    "getrange": [
        ("SET k Hello", OK), ("GETRANGE k 1 3", b"ell"), ("SUBSTR k -3 -1", b"llo"), ("GETRANGE k 0 -1", b"Hello"),
        ("GETRANGE k 4 1", b""), ("GETRANGE k -1 -3", b""), ("GETRANGE k -100 100", b"Hello"), ("GETRANGE k 9 10", b""),
        ("GETRANGE none 0 1", b""), ("GETRANGE k x 1", NOT_INTEGER), ("GETRANGE other 0 1", WRONG_TYPE),
    ],
    "setrange": [
        ("SETRANGE k 3 ab", 5), ("GET k", b"\0\0\0ab"), ("EXPIRE k 10", 1), ("SETRANGE k 1 x", 5), ("TTL k", 10),
        ("GET k", b"\0x\0ab"), ([b"SETRANGE", b"k", b"9", b""], 5), ([b"SETRANGE", b"none", b"9", b""], 0),
        ("EXISTS none", 0), ("SETRANGE k -1 x", "ERR offset is out of range"), ("SETRANGE k 536870912 x", TOO_LONG),
        ("SETRANGE other 0 x", WRONG_TYPE),
    ],
    "lcs": [
        ("MSET a ohmytext b mynewtext", OK), ("LCS a b", b"mytext"), ("LCS a b LEN", 6), ("LCS a none", b""),
        ("LCS a b IDX", {b"matches": [[[4, 7], [5, 8]], [[2, 3], [0, 1]]], b"len": 6}),
        ("LCS a b IDX MINMATCHLEN 3 WITHMATCHLEN", {b"matches": [[[4, 7], [5, 8], 4]], b"len": 6}),
        ("LCS a b IDX LEN", "ERR If you want both the length and indexes, please just use IDX."),
        ("LCS a b MINMATCHLEN", SYNTAX), ("LCS a b MINMATCHLEN x", NOT_INTEGER), ("LCS a b nonsense", SYNTAX),
        ("LCS a other", "ERR The specified keys must contain string values"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("title", SCRIPTS)
def test_bits_and_parts_of_strings(shard: OneShard, title: str) -> None:
    shard.put_other_type(b"other")
    for line, expected in SCRIPTS[title]:
        reply = shard(line)
        assert (reply.text if isinstance(reply, RespError) else reply) == expected, line


def test_strings_of_several_chunks(shard: OneShard) -> None:
    size = 3 * _CHUNK_BYTES + 5
    random_bytes = random.Random(1).randbytes
    first, second = random_bytes(size), random_bytes(size - _CHUNK_BYTES)
    for key, value in ((b"a", first), (b"b", second), (b"ones", b"\xff" * size + b"\x7f"), (b"zero", bytes(size))):
        shard([b"SET", key, value])
    assert shard("BITCOUNT a") == sum(byte.bit_count() for byte in first) == popcount(first)
    assert shard(f"BITCOUNT ones 3 {size * 8 - 2} BIT") == size * 8 - 4
    assert shard("BITPOS ones 0") == size * 8
    assert shard("BITPOS zero 1") == -1
    assert shard("BITPOS zero 0 1") == 8
    assert shard("BITOP XOR t a b") == size
    assert shard("GET t") == bytes(x ^ y for x, y in zip(first, second.ljust(size, b"\0"), strict=True))
    assert shard("BITOP NOT t zero") == size
    assert shard("GET t") == b"\xff" * size


def test_nothing_grows_beyond_the_limit_that_all_replicas_share(shard: OneShard) -> None:
    shard.context = Context(value_bytes_max=8)
    assert shard("SETBIT k 63 1") == 0
    assert shard("SETBIT k 64 1") == RespError(BAD_OFFSET)
    assert shard("BITFIELD k SET u8 #8 1") == RespError(BAD_OFFSET)
    assert shard("SETRANGE k 8 x") == RespError(TOO_LONG)
    assert shard("STRLEN k") == 8
    assert "transient memory for LCS exceeds" in shard("LCS k k").text


def redis_lcs(a: bytes, b: bytes) -> list[Match]:
    """Redis's own way: the whole table, then back through it one step at a time."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            table[i][j] = table[i - 1][j - 1] + 1 if same else max(table[i - 1][j], table[i][j - 1])
    found: list[Match] = []
    i, j, run = len(a), len(b), 0
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j, run = i - 1, j - 1, run + 1
            continue
        if run:
            found.append(Match(i, j, run))
            run = 0
        if table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return [*found, Match(i, j, run)] if run else found


texts = st.lists(st.sampled_from([b"a", b"b", b"c", b"\xff"]), max_size=40).map(b"".join)


@given(a=texts, b=texts)
def test_lcs_takes_the_choices_of_redis(a: bytes, b: bytes) -> None:
    expected = redis_lcs(a, b)
    assert matches(a, b) == expected
    assert length(a, b) == sum(match.length for match in expected)


def test_lcs_of_two_long_strings_is_a_matter_of_rows() -> None:
    """A loop over the 10^8 cells would take a minute, beyond the time limit of a test on a slow machine."""
    generator = random.Random(2)
    a, b = (bytes(generator.choices(b"abcd", k=10_000)) for _ in range(2))
    found = matches(a, b)
    assert sum(match.length for match in found) == length(a, b) > 6000
    assert all(a[m.first : m.first + m.length] == b[m.second : m.second + m.length] for m in found)
