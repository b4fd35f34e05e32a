"""The commands about keys: replies, effects, errors, and what each does to a key whose time has come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.cluster.slots import slot_of
from respkv.commands.keys import expire_keys
from respkv.reply import OK, RespError, Simple
from tests.unit.one_shard import NOW_MS, OneShard

SECOND = NOW_MS // 1000
SYNTAX = "ERR syntax error"
CURSOR = "ERR invalid cursor"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_INTEGER = "ERR value is not an integer or out of range"
INT_MAX = 2**63 - 1


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[OneShard]:
    shard = OneShard(tmp_path)
    yield shard
    shard.cask.close()


SCRIPTS: dict[str, list[tuple[str, Any]]] = {
    "del and unlink count what was there": [
        ("MSET a 1 b 2 c 3", OK), ("DEL a a none", 1), ("UNLINK b other", 2), ("DBSIZE", 1), ("DEL none", 0),
    ],
    "exists and touch count repetitions": [
        ("SET a 1", OK), ("EXISTS a a none other", 3), ("TOUCH a a none other", 3),
    ],
    "type": [("SET a 1", OK), ("TYPE a", Simple(b"string")), ("TYPE none", Simple(b"none"))],
    "expire and the four clocks": [
        ("SET k 1", OK), ("EXPIRE k 100", 1), ("TTL k", 100), ("PTTL k", 100_000), ("EXPIRETIME k", SECOND + 100),
        ("PEXPIRETIME k", NOW_MS + 100_000), ("PEXPIRE k 1499", 1), ("TTL k", 1), ("PEXPIRE k 1500", 1), ("TTL k", 2),
        (f"EXPIREAT k {SECOND + 9}", 1), ("PTTL k", 9000), (f"PEXPIREAT k {NOW_MS + 5}", 1), ("PTTL k", 5),
        ("PERSIST k", 1), ("PERSIST k", 0), ("TTL k", -1), ("PTTL k", -1), ("EXPIRETIME k", -1), ("PEXPIRETIME k", -1),
    ],
    "without the key": [
        ("EXPIRE k 100", 0), ("PERSIST k", 0), ("TTL k", -2), ("PTTL k", -2), ("EXPIRETIME k", -2),
        ("PEXPIRETIME k", -2),
    ],
    "an expiry in the past deletes": [
        ("MSET a 1 b 1 c 1 d 1", OK), ("EXPIRE a 0", 1), ("PEXPIRE b -5", 1), ("EXPIREAT c 0", 1),
        (f"PEXPIREAT d {NOW_MS}", 1), ("EXISTS a b c d", 0), ("DBSIZE", 1),
    ],
    "nx, xx, gt, lt": [
        ("SET k 1", OK), ("EXPIRE k 100 XX", 0), ("EXPIRE k 100 GT", 0), ("EXPIRE k 100 NX", 1), ("EXPIRE k 200 NX", 0),
        ("EXPIRE k 100 GT", 0), ("EXPIRE k 101 gt", 1), ("EXPIRE k 101 LT", 0), ("EXPIRE k 50 lt XX", 1), ("TTL k", 50),
        ("EXPIRE k 60 XX GT", 1), ("PERSIST k", 1), ("EXPIRE k 70 LT", 1), ("TTL k", 70), ("EXPIRE k -1 LT", 1),
        ("EXISTS k", 0),
    ],
    "conditions that do not go together": [
        ("EXPIRE k 1 NX XX", "ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE k 1 NX GT", "ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE k 1 LT NX", "ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE k 1 GT LT", "ERR GT and LT options at the same time are not compatible"),
        ("EXPIRE k x AB NX XX", "ERR Unsupported option AB"), ("EXPIRE k 1 NX NX", 0),
    ],
    "times that do not fit": [
        ("EXPIRE k x", NOT_INTEGER), ("EXPIRE k 1.5", NOT_INTEGER),
        (f"EXPIRE k {INT_MAX // 1000}", "ERR invalid expire time in 'expire' command"),
        (f"EXPIRE k {INT_MAX // 1000 + 1}", "ERR invalid expire time in 'expire' command"),
        (f"EXPIRE k -{INT_MAX // 1000}", 0),
        (f"EXPIRE k -{INT_MAX // 1000 + 1}", "ERR invalid expire time in 'expire' command"),
        (f"PEXPIRE k {INT_MAX}", "ERR invalid expire time in 'pexpire' command"), (f"PEXPIRE k -{INT_MAX}", 0),
        (f"EXPIREAT k {INT_MAX}", "ERR invalid expire time in 'expireat' command"), (f"PEXPIREAT k {INT_MAX}", 0),
    ],
    "expiry of another type": [
        ("EXPIRE other 10", 1), ("TTL other", 10), ("GETEX other", WRONG_TYPE), ("PERSIST other", 1),
        ("EXISTS other", 1),
    ],
    "flush": [
        ("SET a 1 EX 10", OK), ("FLUSHALL", OK), ("DBSIZE", 0), ("SET a 1", OK), ("TTL a", -1), ("FLUSHDB async", OK),
        ("DBSIZE", 0), ("FLUSHALL SYNC", OK), ("FLUSHALL now", SYNTAX), ("FLUSHDB SYNC ASYNC", SYNTAX),
    ],
    "scan refuses": [
        ("SCAN x", CURSOR), ("SCAN 18446744073709551616", CURSOR), ("SCAN 1.0", CURSOR), ("SCAN 0 COUNT", SYNTAX),
        ("SCAN 0 COUNT 0", SYNTAX), ("SCAN 0 COUNT x", NOT_INTEGER),
        ("SCAN 0 MATCH", SYNTAX), ("SCAN 0 nonsense 1", SYNTAX), ("SCAN x COUNT 0", CURSOR),
        ("SCAN 18446744073709551615", [b"0", []]), ("SCAN 16384", [b"0", []]),
    ],
    "scan filters": [
        ("MSET a 1 ab 2 b 3", OK), ("SCAN 0 MATCH a* COUNT 100 TYPE STRING", [b"0", [b"a", b"ab"]]),
        ("SCAN 0 TYPE hash COUNT 100", [b"0", []]), ("SCAN 0 MATCH o* TYPE string COUNT 100", [b"0", []]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("title", SCRIPTS)
def test_key_commands(shard: OneShard, title: str) -> None:
    shard.put_other_type(b"other")
    for line, expected in SCRIPTS[title]:
        reply = shard(line)
        if line.startswith("SCAN") and isinstance(reply, list):
            reply = [reply[0], sorted(reply[1])]
        assert (reply.text if isinstance(reply, RespError) else reply) == expected, line


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("GET k", None), ("EXISTS k", 0), ("TYPE k", Simple(b"none")), ("TTL k", -2), ("STRLEN k", 0),
        ("MGET k", [None]),
        ("DEL k", 0), ("EXPIRE k 10", 0), ("PERSIST k", 0), ("KEYS *", []), ("SCAN 0", [b"0", []]), ("DBSIZE", 0),
        ("RANDOMKEY", None), ("SET k 2 XX", None), ("SETNX k 2", 1), ("INCR k", 1), ("APPEND k x", 1),
        ("GETDEL k", None),
        ("GETEX k PERSIST", None), ("SET k 2 KEEPTTL GET", None), ("MSETNX k 1", 1), ("TOUCH k", 0),
    ],
)  # fmt: skip
def test_an_expired_key_is_absent_before_its_removal(shard: OneShard, line: str, reply: Any) -> None:
    shard("SET k 5 PX 100")
    shard.db.now_ms += 99
    assert shard("GET k") == b"5"
    shard.db.now_ms += 1
    assert shard(line) == reply
    assert shard("TTL k") in (-2, -1)  # what wrote it anew did not inherit the expiry


def test_removal_of_expired_keys_spares_what_was_written_since(shard: OneShard) -> None:
    for key in ("gone", "renewed", "persistent"):
        shard(f"SET {key} 1 PX 100")
    shard("SET young 1 PX 101")
    shard.db.now_ms += 100
    shard("SET renewed 2 PX 100")
    shard("SET persistent 2")
    with shard.batch():
        assert expire_keys(shard.db, [b"gone", b"renewed", b"persistent", b"young", b"never"]) == 1
    assert sorted(shard.cask) == [b"persistent", b"renewed", b"young"]


def test_scan_returns_every_key_once_and_survives_changes_of_others(shard: OneShard) -> None:
    stay = {b"stay%d" % i for i in range(300)}
    for key in stay:
        shard([b"SET", key, b""])
    seen: list[bytes] = []
    cursor, step = b"0", 0
    while True:
        cursor, keys = shard([b"SCAN", cursor, b"COUNT", b"7"])
        seen += keys
        shard([b"SET", b"come%d" % step, b""])
        shard([b"DEL", b"come%d" % (step - 3)])
        step += 1
        if cursor == b"0":
            break
    assert sorted(key for key in seen if key in stay) == sorted(stay)
    assert step > 20


def test_scan_takes_whole_slots(shard: OneShard) -> None:
    for i in range(30):
        shard(f"SET {{tag}}{i} 1")
    cursor, keys = shard("SCAN 0 COUNT 1")
    assert len(keys) == 30
    assert int(cursor) == slot_of(b"tag") + 1
    assert shard([b"SCAN", cursor]) == [b"0", []]


def test_the_walks_inside_a_batch_see_its_writes(shard: OneShard) -> None:
    shard("MSET a 1 b 1 c 1")
    with shard.batch():
        db, context = shard.db, shard.context
        db.set_string(b"d", b"")
        db.delete(b"a")
        db.set_expiry(b"b", NOW_MS - 1)
        assert sorted(db.keys()) == [b"c", b"d"]
        assert (len(db), sorted(db.scan(0, 100)[1])) == (2, [b"c", b"d"])
        assert db.random_key(context.rng) in (b"c", b"d")
        assert db.keys_in_slot(slot_of(b"a")) == []
        db.flush_all()
        db.set_string(b"e", b"", NOW_MS + 5)
        assert (list(db.keys()), len(db), db.random_key(context.rng)) == ([b"e"], 1, b"e")
    assert shard("KEYS *") == [b"e"]
    assert shard("PTTL e") == 5


def test_random_key_finds_the_one_live_key_among_expired_ones(shard: OneShard) -> None:
    for i in range(500):
        shard(f"SET k{i} 1 PX 100")
    shard("SET live 1")
    shard.db.now_ms += 100
    assert {shard("RANDOMKEY") for _ in range(20)} == {b"live"}


def test_random_key_reaches_all_keys(shard: OneShard) -> None:
    names = {b"k%d" % i for i in range(10)} | {b"{t}%d" % i for i in range(10)}
    for name in names:
        shard([b"SET", name, b""])
    assert {shard("RANDOMKEY") for _ in range(400)} == names
