"""Each string command: its replies, its effect on value and expiry, and every error it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.commands.context import Context
from respkv.commands.table import resolve
from respkv.reply import OK, RespError
from tests.unit.one_shard import NOW_MS, OneShard

SECOND = NOW_MS // 1000
SYNTAX = "ERR syntax error"
NOT_INTEGER = "ERR value is not an integer or out of range"
NOT_FLOAT = "ERR value is not a valid float"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
OVERFLOW = "ERR increment or decrement would overflow"
INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[OneShard]:
    shard = OneShard(tmp_path)
    yield shard
    shard.cask.close()


def check(shard: OneShard, script: list[tuple[str, Any]]) -> None:
    """Runs commands and compares replies; a str is the text of an error."""
    for line, expected in script:
        reply = shard(line)
        assert (reply.text if isinstance(reply, RespError) else reply) == expected, line


SCRIPTS: dict[str, list[tuple[str, Any]]] = {
    "set overwrites and drops the expiry": [
        ("SET k 1 EX 100", OK), ("SET k 2", OK), ("GET k", b"2"), ("TTL k", -1),
    ],
    "set keeps the expiry when asked": [("SET k 1 PX 5000", OK), ("SET k 2 KEEPTTL", OK), ("PTTL k", 5000)],
    "keepttl on a new key gives it none": [("SET k 1 KEEPTTL", OK), ("TTL k", -1)],
    "set nx and xx": [
        ("SET k 1 XX", None), ("GET k", None), ("SET k 1 NX", OK), ("SET k 2 NX", None), ("SET k 3 XX", OK),
        ("GET k", b"3"),
    ],
    "set get returns the old value and may be joined by nx and xx": [
        ("SET k 1 GET", None), ("SET k 2 GET", b"1"), ("SET k 3 NX GET", b"2"), ("GET k", b"2"),
        ("SET k 4 GET XX", b"2"), ("GET k", b"4"), ("SET new 1 NX GET", None), ("GET new", b"1"),
        ("SET absent 1 XX GET", None), ("EXISTS absent", 0),
    ],
    "set takes every kind of expiry, in any case": [
        ("SET k 1 ex 10", OK), ("PTTL k", 10000), ("SET k 1 Px 10", OK), ("PTTL k", 10),
        (f"SET k 1 exat {SECOND + 7}", OK), ("PTTL k", 7000), (f"SET k 1 PXAT {NOW_MS + 7}", OK), ("PTTL k", 7),
        ("SET k 1 EX 5 EX 6", OK), ("TTL k", 6),
    ],
    "set with an expiry in the past leaves nothing": [
        ("SET k 1", OK), ("SET k 2 PXAT 1", OK), ("GET k", None), ("SET new 1 EXAT 1", OK),
        ("DBSIZE", 1),  # the key of another type
    ],
    "set refuses options that do not go together": [
        (f"SET k v {options}", SYNTAX)
        for options in (
            "NX XX", "XX NX", "EX 1 PX 1", "PX 1 EX 1", "EX 1 KEEPTTL", "KEEPTTL EX 1", "EXAT 1 PXAT 1", "EX", "PX",
            "EXAT", "PXAT", "PERSIST", "nonsense", "GET nonsense", "EX 1 EXAT 2",
        )
    ],
    "set refuses bad times": [
        ("SET k v EX abc", NOT_INTEGER), ("SET k v EX 1.5", NOT_INTEGER),
        *[
            (f"SET k v {option}", "ERR invalid expire time in 'set' command")
            for option in ("EX 0", "EX -1", "PX 0", f"EX {INT_MAX}", f"EX {INT_MAX // 1000}", f"PX {INT_MAX}", "EXAT 0",
                           f"EXAT {INT_MAX // 1000 + 1}", "PXAT -5")
        ],
        (f"SET k v PXAT {INT_MAX}", OK),
    ],
    "set replaces another type, but get does not read it": [
        ("SET other 1 GET", WRONG_TYPE), ("SET other 1 NX GET", WRONG_TYPE), ("SET other 1 NX", None),
        ("SET other 1", OK), ("GET other", b"1"),
    ],
    "set checks syntax before the time, and the time before the type": [
        ("SET other v GET EX 0 nonsense", SYNTAX), ("SET other v GET EX 0", "ERR invalid expire time in 'set' command"),
    ],
    "setnx": [("SETNX k 1", 1), ("SETNX k 2", 0), ("GET k", b"1"), ("SETNX other 1", 0)],
    "setex and psetex": [
        ("SETEX k 10 v", OK), ("PTTL k", 10000), ("PSETEX k 10 w", OK), ("PTTL k", 10), ("GET k", b"w"),
        ("SETEX k 0 v", "ERR invalid expire time in 'setex' command"), ("SETEX k x v", NOT_INTEGER),
        ("PSETEX k -1 v", "ERR invalid expire time in 'psetex' command"),
        (f"SETEX k {INT_MAX // 1000} v", "ERR invalid expire time in 'setex' command"),
    ],
    "getset drops the expiry": [
        ("GETSET k 1", None), ("EXPIRE k 10", 1), ("GETSET k 2", b"1"), ("TTL k", -1), ("GETSET other 1", WRONG_TYPE),
    ],
    "getdel": [("SET k 1", OK), ("GETDEL k", b"1"), ("GETDEL k", None), ("GETDEL other", WRONG_TYPE)],
    "getex changes the expiry alone": [
        ("GETEX k EX 10", None), ("SET k 1", OK), ("GETEX k", b"1"), ("TTL k", -1), ("GETEX k EX 10", b"1"),
        ("TTL k", 10), ("GETEX k", b"1"), ("TTL k", 10), ("GETEX k PERSIST", b"1"), ("TTL k", -1),
        ("GETEX k PERSIST", b"1"), ("GETEX k PXAT 1", b"1"), ("EXISTS k", 0),
    ],
    "getex refuses": [
        ("SET k 1", OK), ("GETEX k KEEPTTL", SYNTAX), ("GETEX k NX", SYNTAX), ("GETEX k EX 1 PERSIST", SYNTAX),
        ("GETEX k PERSIST EX 1", SYNTAX), ("GETEX k EX", SYNTAX), ("GETEX k GET", SYNTAX),
        ("GETEX k EX 0", "ERR invalid expire time in 'getex' command"), ("GETEX k EX x", NOT_INTEGER),
        ("GETEX none EX x", None), ("GETEX other EX x", WRONG_TYPE),
    ],
    "append keeps the expiry": [
        ("APPEND k ab", 2), ("EXPIRE k 10", 1), ("APPEND k cd", 4), ("GET k", b"abcd"), ("TTL k", 10),
        ("APPEND other x", WRONG_TYPE),
    ],
    "strlen": [("STRLEN k", 0), ("SET k abc", OK), ("STRLEN k", 3), ("STRLEN other", WRONG_TYPE)],
    "counters": [
        ("INCR k", 1), ("INCRBY k 10", 11), ("DECR k", 10), ("DECRBY k -5", 15), ("GET k", b"15"),
        ("EXPIRE k 10", 1), ("INCR k", 16), ("TTL k", 10),
    ],
    "counters refuse": [
        ("INCR other", WRONG_TYPE), ("INCRBY k 1.0", NOT_INTEGER), (f"SET k {INT_MAX}", OK), ("INCR k", OVERFLOW),
        ("DECRBY k -1", OVERFLOW), (f"SET k {INT_MIN}", OK), ("DECR k", OVERFLOW), (f"INCRBY k {INT_MIN}", OVERFLOW),
        (f"DECRBY k {INT_MIN}", "ERR decrement would overflow"), (f"INCRBY k {INT_MAX}", -1),
        ("SET k abc", OK), ("INCR k", NOT_INTEGER), ("GET k", b"abc"),
    ],
    "incrbyfloat": [
        ("INCRBYFLOAT k 10.5", b"10.5"), ("INCRBYFLOAT k 0.1", b"10.6"), ("INCRBYFLOAT k -5", b"5.6"),
        ("EXPIRE k 10", 1), ("INCRBYFLOAT k 5.0e3", b"5005.60000000000000009"), ("TTL k", 10),
        ("GET k", b"5005.60000000000000009"),
        ("SET k 3.0e3", OK), ("INCRBYFLOAT k 200", b"3200"), ("INCRBYFLOAT other 1", WRONG_TYPE),
        ("INCRBYFLOAT k x", NOT_FLOAT), ("INCRBYFLOAT k nan", NOT_FLOAT), ("INCRBYFLOAT k 1e5000", NOT_FLOAT),
        ("INCRBYFLOAT k inf", "ERR increment would produce NaN or Infinity"),
        ("SET k abc", OK), ("INCRBYFLOAT k 1", NOT_FLOAT),
    ],
    "mget answers null for what is no string": [
        ("MSET a 1 b 2", OK), ("MGET a none b other a", [b"1", None, b"2", None, b"1"]),
    ],
    "mset takes pairs, the last of a key wins": [
        ("MSET a 1 b 2 a 3", OK), ("GET a", b"3"), ("MSET a 1 b", "ERR wrong number of arguments for 'mset' command"),
        ("MSET a", "ERR wrong number of arguments for 'mset' command"), ("MSET other 1", OK), ("GET other", b"1"),
    ],
    "msetnx sets all or nothing": [
        ("MSETNX a 1 b 2", 1), ("MSETNX b 3 c 4", 0), ("EXISTS c", 0), ("GET b", b"2"),
        ("MSETNX a 1 b", "ERR wrong number of arguments for 'msetnx' command"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("title", SCRIPTS)
def test_string_commands(shard: OneShard, title: str) -> None:
    shard.put_other_type(b"other")
    check(shard, SCRIPTS[title])


@pytest.mark.parametrize(
    "text", [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1_0", b"--1", b"-", b"0x1", b"1\0", b"9" * 19, b"1" * 30,
             b"\xd9\xa1"]
)  # fmt: skip
def test_only_the_canonical_spelling_is_an_integer(shard: OneShard, text: bytes) -> None:
    assert shard([b"SET", b"k", text]) == OK
    assert shard("INCR k") == RespError(NOT_INTEGER)
    assert shard([b"INCRBY", b"n", text]) == RespError(NOT_INTEGER)


def test_append_does_not_exceed_the_limit_that_all_replicas_share(shard: OneShard) -> None:
    shard.context = Context(value_bytes_max=8)
    assert shard("APPEND k 12345678") == 8
    assert shard("APPEND k 9") == RespError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    assert shard("STRLEN k") == 8


@pytest.mark.parametrize(
    "line", ["SET k v EX 0", "INCR k", "INCRBYFLOAT k 1", "GETEX k EX 0", "SETEX k 0 v", "MSET k 1 k", "SET k v NX XX"]
)
def test_a_refused_command_writes_nothing(shard: OneShard, line: str) -> None:
    shard("SET k abc")
    args = line.encode().split()
    spec = resolve(args)
    batch = shard.db.begin()
    with pytest.raises(RespError):
        spec.fn(shard.db, args, shard.context)  # type: ignore[misc]
    assert len(batch) == 0


def test_inside_a_batch_reads_see_its_writes(shard: OneShard) -> None:
    with shard.batch():
        for line, expected in (("SET k 1", OK), ("INCR k", 2), ("GET k", b"2"), ("GETDEL k", b"2"), ("GET k", None)):
            args = line.encode().split()
            assert resolve(args).fn(shard.db, args, shard.context) == expected  # type: ignore[misc]
    assert shard("GET k") is None
