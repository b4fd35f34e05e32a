"""RENAME, COPY, RESTORE, OBJECT, MEMORY USAGE and SORT: replies, what moves with a key, errors and their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.cluster.slots import slot_of
from respkv.commands.table import COMMANDS, spec_keys
from respkv.keyspace.rdb import dump_string
from respkv.reply import OK, RespError, Simple
from respkv.storage.record import encode_puts
from tests.unit.one_shard import NOW_MS, OneShard

SYNTAX = "ERR syntax error"
NOT_INTEGER = "ERR value is not an integer or out of range"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
SAME = "ERR source and destination objects are the same"
BUSY = "BUSYKEY Target key name already exists."
CHECKSUM = "ERR DUMP payload version or checksum are wrong"
BAD_TTL = "ERR Invalid TTL value, must be >= 0"
NOT_LFU = (
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching "
    "between policies at runtime LRU and LFU data will take some time to adjust."
)
PAYLOAD = dump_string(b"value")


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[OneShard]:
    shard = OneShard(tmp_path)
    yield shard
    shard.cask.close()


def restore(key: str, ttl: str, *options: str, payload: bytes = PAYLOAD) -> list[bytes]:
    return [b"RESTORE", key.encode(), ttl.encode(), payload, *(option.encode() for option in options)]


SCRIPTS: dict[str, list[tuple[Any, Any]]] = {
    "rename takes value and expiry along and replaces what was there": [
        ("SET a 1 EX 100", OK), ("SET b 2 EX 5", OK), ("RENAME a b", OK), ("GET b", b"1"), ("TTL b", 100),
        ("EXISTS a", 0), ("SET c 3", OK), ("RENAME c b", OK), ("TTL b", -1), ("RENAME b b", OK), ("GET b", b"3"),
        ("RENAME none b", "ERR no such key"), ("RENAME none none", "ERR no such key"),
        ("RENAME other b", OK), ("GET b", WRONG_TYPE), ("EXISTS other", 0),
    ],
    "renamenx": [
        ("MSET a 1 b 2", OK), ("RENAMENX a b", 0), ("RENAMENX a a", 0), ("RENAMENX a c", 1), ("GET c", b"1"),
        ("RENAMENX none d", "ERR no such key"), ("RENAMENX none none", "ERR no such key"),
    ],
    "copy": [
        ("SET a 1 EX 100", OK), ("COPY a b", 1), ("TTL b", 100), ("SET a 2", OK), ("COPY a b", 0), ("GET b", b"1"),
        ("COPY a b REPLACE", 1), ("GET b", b"2"), ("TTL b", -1), ("COPY a c db 0", 1), ("COPY none d", 0),
        ("COPY a a", SAME), ("COPY none none REPLACE", SAME), ("COPY a d DB 1", "ERR DB index is out of range"),
        ("COPY a d DB x", NOT_INTEGER), ("COPY a d DB", SYNTAX), ("COPY a d nonsense", SYNTAX),
        ("COPY a d DB 2147483648",
         "ERR value is out of range, value must between -2147483648 and 2147483647"),
        ("COPY other d", 1), ("GET d", WRONG_TYPE),
    ],
    "restore sets value and expiry": [
        (restore("k", "0"), OK), ("GET k", b"value"), ("TTL k", -1), (restore("k", "5000", "REPLACE"), OK),
        ("PTTL k", 5000), (restore("k", str(NOW_MS + 7), "absttl", "replace"), OK), ("PTTL k", 7),
        (restore("other", "0", "REPLACE"), OK), ("GET other", b"value"),
    ],
    "restore with an expiry in the past only removes": [
        ("SET k 1", OK), (restore("k", "1", "ABSTTL", "REPLACE"), OK), ("EXISTS k", 0),
        (restore("new", "1", "ABSTTL"), OK), ("EXISTS new", 0), (restore("new", str(2**63 - 1)), OK), ("EXISTS new", 0),
    ],
    "restore refuses in the order of redis": [
        ("SET k 1", OK), (restore("k", "-1", payload=b""), BUSY), (restore("k", "x", "nonsense"), SYNTAX),
        (restore("k", "-1", "REPLACE", payload=b""), BAD_TTL), (restore("k", "x", "REPLACE"), NOT_INTEGER),
        (restore("k", "0", "REPLACE", payload=b"x" * 20), CHECKSUM), (restore("k", "0", payload=b"x"), BUSY),
        (restore("n", "0", "IDLETIME", "-1"), "ERR Invalid IDLETIME value, must be >= 0"),
        (restore("n", "0", "FREQ", "256"), "ERR Invalid FREQ value, must be >= 0 and <= 255"),
        (restore("n", "0", "FREQ", "1", "IDLETIME", "1"), SYNTAX), (restore("n", "0", "IDLETIME"), SYNTAX),
        (restore("n", "0", "IDLETIME", "x"), NOT_INTEGER), (restore("n", "0", "FREQ", "255"), OK),
        (restore("n", "0", "REPLACE", payload=dump_string(b"a")[:-1]), CHECKSUM), ("GET k", b"1"),
    ],
    "dump": [("DUMP none", None), ("SET k value", OK), ("DUMP k", PAYLOAD), ("DUMP other", WRONG_TYPE)],
    "object": [
        ("SET k 12", OK), ("OBJECT ENCODING k", b"int"), ("OBJECT encoding none", None),
        ("OBJECT REFCOUNT k", 2147483647), ("SET k 10000", OK), ("OBJECT REFCOUNT k", 1),
        ("OBJECT REFCOUNT none", None), ("OBJECT FREQ none", None), ("OBJECT IDLETIME none", None),
        ("OBJECT FREQ k", NOT_LFU),
        ("OBJECT", "ERR wrong number of arguments for 'object' command"),
        ("OBJECT ENCODING", "ERR wrong number of arguments for 'object|encoding' command"),
        ("OBJECT nonsense k", "ERR unknown subcommand 'nonsense'. Try OBJECT HELP."),
    ],
    "memory usage": [
        ("MEMORY USAGE none", None), ("MEMORY USAGE none SAMPLES x", NOT_INTEGER), ("MEMORY USAGE k SAMPLES", SYNTAX),
        ("MEMORY USAGE k SAMPLES -1", SYNTAX), ("MEMORY USAGE k nonsense 1", SYNTAX),
    ],
    "sort has nothing to sort": [
        ("SORT none", []), ("SORT_RO none LIMIT 0 1 ASC ALPHA BY w_* GET #", []), ("SET t x", OK),
        ("SORT t", WRONG_TYPE),
        ("SORT none STORE t", 0), ("EXISTS t", 0), ("SORT none LIMIT 0 x", NOT_INTEGER), ("SORT none LIMIT 0", SYNTAX),
        ("SORT none STORE", SYNTAX), ("SORT_RO none STORE t", SYNTAX), ("SORT none nonsense", SYNTAX),
    ],
}  # fmt: skip


@pytest.mark.parametrize("title", SCRIPTS)
def test_keys_under_other_names(shard: OneShard, title: str) -> None:
    shard.put_other_type(b"other")
    for line, expected in SCRIPTS[title]:
        reply = shard(line)
        assert (reply.text if isinstance(reply, RespError) else reply) == expected, line


def test_what_was_renamed_or_copied_expires(shard: OneShard) -> None:
    shard("MSET a 1 b 2")
    shard("PEXPIRE a 100")
    shard("COPY a copy")
    shard("RENAME a name")
    assert shard("DBSIZE") == 3
    shard.db.now_ms += 100
    assert shard("DBSIZE") == 1
    assert shard("EXISTS copy name") == 0
    assert sorted(shard.db.deadlines.due(shard.db.now_ms, 10)) == [b"copy", b"name"]


def test_an_expired_key_is_no_source_and_no_obstacle(shard: OneShard) -> None:
    shard("SET a 1 PX 5")
    shard("SET b 2")
    shard.db.now_ms += 5
    assert shard("RENAME a c") == RespError("ERR no such key")
    assert shard("COPY a c") == 0
    assert shard("RENAMENX b a") == 1
    assert shard("TTL a") == -1


def test_encodings(shard: OneShard) -> None:
    for value, encoding in ((b"9" * 18, b"int"), (b"9" * 20, b"embstr"), (b"x" * 44, b"embstr"), (b"x" * 45, b"raw")):
        shard([b"SET", b"k", value])
        assert shard("OBJECT ENCODING k") == encoding


@pytest.mark.parametrize("change", ["APPEND k 2", "SETRANGE k 0 2", "SETBIT k 7 0", "BITFIELD k SET u8 0 51",
                                    "BITOP OR k k"])  # fmt: skip
def test_a_string_changed_in_place_is_raw_until_it_is_set_anew(shard: OneShard, change: str) -> None:
    for anew in ("SET k 1", "INCRBY k 1", "GETSET k 1", "DEL k"):
        shard("SET k 1")
        shard(change)
        assert (shard("OBJECT ENCODING k"), shard("OBJECT REFCOUNT k")) == (b"raw", 1)
        shard("EXPIRE k 100")
        assert shard("OBJECT ENCODING k") == b"raw"
        shard(anew)
        assert shard("OBJECT ENCODING k") != b"raw"
        shard("SET k 1")


def test_a_string_changed_in_place_is_raw_within_its_batch_but_not_when_a_plain_set_follows(shard: OneShard) -> None:
    batch = shard.db.begin()
    for key in (b"a", b"b"):
        shard.db.set_string(key, b"1", raw=True)
        assert shard([b"OBJECT", b"ENCODING", key]) == b"raw"
    batch.put_encoded([slot_of(b"b")], [b"b"], *encode_puts([b"b"], [b"1"]))
    assert shard("OBJECT ENCODING b") == b"int"
    shard.db.commit(1, 1)
    assert (shard("OBJECT ENCODING a"), shard("OBJECT ENCODING b")) == (b"raw", b"int")


def test_memory_usage_grows_with_what_a_key_takes(shard: OneShard) -> None:
    shard([b"SET", b"small", b"x"])
    shard([b"SET", b"large", b"x" * 10_000])
    small, large = shard("MEMORY USAGE small"), shard("MEMORY USAGE large SAMPLES 0")
    assert large - small == 9999
    shard("EXPIRE small 100")
    assert shard("MEMORY USAGE small") > small > len("small") + 1


def test_idle_time_runs_from_the_last_write_or_touch(shard: OneShard) -> None:
    shard("SET k 1")
    shard("SET old 1")
    shard.db.idle.observe()
    shard.db.now_ms += 5000
    shard("SET k 2")
    assert [shard("OBJECT IDLETIME k"), shard("OBJECT IDLETIME old")] == [0, 5]
    shard.db.idle.observe()
    shard.db.now_ms += 20_000
    shard("GET k")
    assert [shard("OBJECT IDLETIME k"), shard("OBJECT IDLETIME old")] == [20, 25]
    assert shard("TOUCH old none") == 1
    shard.db.now_ms += 3000
    assert [shard("OBJECT IDLETIME k"), shard("OBJECT IDLETIME old")] == [23, 3]
    with shard.batch():
        shard.db.set_string(b"k", b"3")
        assert shard("OBJECT IDLETIME k") == 0


def test_restore_sets_the_idle_time(shard: OneShard) -> None:
    assert shard(restore("k", "0", "IDLETIME", "1000")) == OK
    shard.db.idle.observe()
    shard.db.now_ms += 5000
    assert shard("OBJECT IDLETIME k") == 1005
    assert shard("INCRBYFLOAT none 1") == b"1"
    assert shard("SET k 1") == OK
    assert shard("OBJECT IDLETIME k") == 0


def test_idle_times_are_never_too_long_and_take_bounded_memory(shard: OneShard) -> None:
    for second in range(10_000):
        shard.db.now_ms = NOW_MS + second * 1000
        shard(f"SET k{second % 5000} 1")
        shard.db.idle.observe()
    marks = shard.db.idle._marks
    assert all(len(lengths) <= 4097 for lengths, _ in marks.values())
    for number in range(0, 5000, 500):
        true_s = 4999 - number
        assert true_s - 4 <= shard(f"OBJECT IDLETIME k{number}") <= true_s
    for number in range(5000):
        shard(f"TOUCH k{number}")
        shard.db.set_idle(b"new%d" % number, 0)
        shard.db.set_idle(b"newer%d" % number, 0)
    assert len(shard.db.idle._notes) <= 10_000
    shard("FLUSHALL")
    assert not shard.db.idle._notes


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (b"BITOP AND t a b", [b"t", b"a", b"b"]), (b"COPY a b REPLACE", [b"a", b"b"]), (b"LCS a b LEN", [b"a", b"b"]),
        (b"SORT a BY x STORE t", [b"a", b"t"]), (b"SORT a STORE t STORE u", [b"a", b"u"]),
        (b"SORT a LIMIT STORE t", [b"a"]), (b"SORT_RO a", [b"a"]),
    ],
)  # fmt: skip
def test_keys_of_these_commands(line: bytes, keys: list[bytes]) -> None:
    args = line.split()
    assert list(spec_keys(COMMANDS[args[0]], args)) == keys


def test_type_names_survive_a_rename(shard: OneShard) -> None:
    shard("SET a 1")
    shard("RENAME a b")
    assert shard("TYPE b") == Simple(b"string")
