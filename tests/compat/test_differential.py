"""The same commands to a real redis-server and to respkv's commands: every reply and every error text must be equal.

Skipped where `redis-server` is not in PATH. What may differ is said in one place, `comparable`: the order of keys, what
is random, and times to live within the moments that pass between the two sides.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from crcmod import mkCrcFun
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import respkv.commands  # noqa: F401  (fills the table)
from respkv.cluster.slots import SLOTS, slot_of
from respkv.commands.context import Context
from respkv.commands.describe import info
from respkv.commands.table import COMMANDS, resolve, spec_keys
from respkv.keyspace.db import Db
from respkv.keyspace.rdb import dump_string
from respkv.reply import RespError, Simple
from respkv.storage.bitcask import Bitcask
from tests.cluster import NodeProcess

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")

Command = list[bytes]
LIST_KEY = b"list"  # holds another type than a string on both sides
DATA_COMMANDS = sorted(name for name, spec in COMMANDS.items() if spec.kind == "data")


class Target(Protocol):
    """One side: empties itself, makes `LIST_KEY`, runs commands and returns their replies in `parse_reply`'s form."""

    def reset(self) -> None: ...

    def run(self, commands: list[Command]) -> list[Any]: ...


class SocketTarget:
    """A server on a loopback port, spoken to in RESP2 or RESP3."""

    def __init__(self, port: int, protocol: int = 2) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")
        if protocol == 3:
            assert isinstance(self.run([[b"HELLO", b"3"]])[0], dict)

    def reset(self) -> None:
        self.run([[b"FLUSHALL"], [b"RPUSH", LIST_KEY, b"x"]])

    def run(self, commands: list[Command]) -> list[Any]:
        self.socket.sendall(b"".join(map(encode, commands)))
        return [parse_reply(self.file) for _ in commands]

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class LocalTarget:
    """The command functions over a `Db`, by the machine's clock; all of a script in one batch, or one per write."""

    def __init__(self, directory: Path, in_one_batch: bool) -> None:
        self.in_one_batch = in_one_batch
        self.cask = Bitcask(directory, buckets=SLOTS, bucket_of=slot_of, segment_bytes=64 << 20)
        self.db = Db(self.cask)
        self.index = 0

    def reset(self) -> None:
        batch = self.db.begin()
        self.db.flush_all()
        batch.put(LIST_KEY, b"x", 2)
        self.commit()

    def commit(self) -> None:
        self.index += 1
        self.db.commit(self.index, 1)

    def run(self, commands: list[Command]) -> list[Any]:
        self.db.now_ms = time.time_ns() // 1_000_000
        if not self.in_one_batch:
            return [self.one(args) for args in commands]
        self.db.begin()
        try:
            return [self.one(args) for args in commands]
        finally:
            self.commit()

    def one(self, args: Command) -> Any:
        own_batch = False
        try:
            spec = resolve(args)
            assert spec.fn is not None
            if spec.is_write and not self.in_one_batch:
                self.db.begin()
                own_batch = True
            return plain(spec.fn(self.db, args, Context(self.index)))
        except RespError as error:
            return plain(error)
        finally:
            if own_batch:
                self.commit()


def encode(args: Command) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def parse_reply(file: Any) -> Any:
    """A reply: ("+", text), ("-", text), int, bytes, None, a list, or of RESP3 a dict or (kind, text)."""
    line = file.readline()[:-2]
    kind, rest = line[:1], line[1:]
    if kind in (b"+", b"-"):
        return (kind.decode(), rest)
    if kind == b":":
        return int(rest)
    if kind in (b"_", b",", b"#"):
        return None if kind == b"_" else (kind.decode(), rest)
    size = int(rest)
    if kind == b"%":
        return {parse_reply(file): parse_reply(file) for _ in range(size)}
    if kind == b"$":
        return None if size < 0 else file.read(size + 2)[:-2]
    assert kind == b"*", line
    return None if size < 0 else [parse_reply(file) for _ in range(size)]


def plain(reply: Any) -> Any:
    """A reply value in the form of `parse_reply`."""
    if isinstance(reply, Simple):
        return ("+", reply.text)
    if isinstance(reply, RespError):
        return ("-", reply.text.encode(errors="surrogateescape"))
    if isinstance(reply, (list, set)):
        return [plain(item) for item in reply]
    if isinstance(reply, dict):
        return [plain(item) for pair in reply.items() for item in pair]
    return reply


def comparable(args: Command, reply: Any) -> Any:
    """The part of a reply that must be equal on both sides."""
    name = args[0].upper()
    if name == b"DUMP" and len(args) == 2 and (isinstance(reply, tuple) or (reply and reply[0] != 0)):
        return "no string"
    if isinstance(reply, tuple):
        return ("+", b"list") if reply == ("+", b"unknown") else reply
    if name == b"KEYS":
        return sorted(reply)
    if name == b"SCAN" and reply is not None:
        return [reply[0], sorted(reply[1])] if reply[0] == b"0" else None
    if name == b"RANDOMKEY" or (name in (b"OBJECT", b"MEMORY") and args[1].upper() != b"IDLETIME"):
        return reply is None
    if name in (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME") and reply > 0:
        unit_ms = 1 if name.startswith(b"P") else 1000
        return pytest.approx(reply, abs=5000 / unit_ms)
    return reply


@pytest.fixture(scope="module")
def redis(redis_port: int) -> Iterator[SocketTarget]:
    target = SocketTarget(redis_port)
    yield target
    target.close()


@pytest.fixture(scope="module", params=[False, True], ids=["a batch per write", "one batch"])
def ours(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Target]:
    target = LocalTarget(tmp_path_factory.mktemp("respkv"), request.param)
    yield target
    target.cask.close()


def assert_same(redis: Target, ours: Target, commands: list[Command]) -> None:
    # Redis counts a key whose time has come until somebody looks at it; we do not. SCAN looks at all of them.
    look = [b"SCAN", b"0", b"COUNT", b"100000"]
    commands = [args for asked in commands for args in ([look, asked] if asked[0].upper() == b"DBSIZE" else [asked])]
    redis.reset()
    ours.reset()
    for args, theirs, own in zip(commands, redis.run(commands), ours.run(commands), strict=True):
        assert comparable(args, own) == comparable(args, theirs), (args, commands)


# --- what is asked ---


def footed(encoded: bytes, kind: bytes, version: int) -> bytes:
    """A payload of RESTORE with a good checksum around whatever it holds."""
    head = kind + encoded + version.to_bytes(2, "little")
    return head + crc64(head).to_bytes(8, "little")


crc64 = mkCrcFun(0x1AD93D23594C935A9, initCrc=0, rev=True, xorOut=0)

KEYS = [b"a", b"b", b"c", b"{t}1", b"", b"\xff\x00 k", LIST_KEY]
keys = st.sampled_from(KEYS)
integers = st.one_of(
    st.integers(-3, 3),
    st.integers(-(1 << 64), 1 << 64),
    st.sampled_from([(1 << 63) - 1, -(1 << 63), (1 << 63) - 2, 1 << 63, -(1 << 63) - 1]),
).map(lambda value: b"%d" % value)
odd_numbers = st.sampled_from([
    b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"--1", b"1_0", b"0x10", b"1.5", b"-", b"abc", b"1\x00", b"\xd9\xa1",
    b"1e3", b"inf", b"-Infinity", b"nan", b".5", b"5.", b"1e-5", b"5.0e3", b"0x1.8p3", b"0x", b".", b"1e", b"1e5000",
    b"1e-5000",
])  # fmt: skip
decimals = st.builds(
    lambda sign, whole, fraction, exponent: (sign + whole + fraction + exponent).encode(),
    st.sampled_from(["", "-", "+"]),
    st.from_regex(r"[0-9]{0,25}", fullmatch=True),
    st.from_regex(r"(\.[0-9]{0,25})?", fullmatch=True),
    st.one_of(st.just(""), st.integers(-30, 30).map("e{}".format), st.integers(-5000, 5000).map("E{:+}".format)),
)
floats = st.one_of(decimals, st.floats().map(lambda value: repr(value).encode()), odd_numbers)
values = st.one_of(integers, st.binary(max_size=8), odd_numbers, floats)
# Times: in the past, far in the future, out of range; none that comes while the test runs.
times = st.one_of(
    st.sampled_from([
        b"0", b"-1", b"1", b"1000000", b"2000000", b"4102444800", b"4102444800000", b"4102444900000",
        b"9223372036854775807", b"9223372036854775", b"9223372036854776", b"-9223372036854775808",
        b"-9223372036854775", b"-9223372036854776", b"9223370000000000000", b"9223372036854775808",
    ]),
    odd_numbers,
)  # fmt: skip
relative = times.filter(lambda text: text != b"1")  # a second may pass
cased = st.sampled_from([bytes.upper, bytes.lower, bytes.title])


def words(*names: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(lambda case, name: case(name), cased, st.sampled_from(names))


set_options = st.lists(
    st.one_of(
        words(b"NX", b"XX", b"GET", b"KEEPTTL", b"PERSIST", b"nonsense").map(lambda word: [word]),
        st.tuples(words(b"EX", b"PX"), relative).map(list),
        st.tuples(words(b"EXAT", b"PXAT"), times).map(list),
        words(b"EX", b"PXAT").map(lambda word: [word]),
    ),
    max_size=3,
).map(lambda options: [word for option in options for word in option])
expire_options = st.lists(words(b"NX", b"XX", b"GT", b"LT", b"no\nsense"), max_size=3)
scan_options = st.lists(
    st.one_of(
        st.tuples(words(b"MATCH"), st.sampled_from([b"*", b"a*", b"[ab]", b"?"])),
        st.tuples(words(b"COUNT"), st.one_of(st.just(b"100000"), st.just(b"0"), odd_numbers)),
        st.tuples(words(b"TYPE"), words(b"string", b"hash", b"nothing")),
        st.tuples(words(b"nonsense", b"COUNT")),
    ),
    max_size=3,
).map(lambda options: [word for option in options for word in option])


def spliced(*options: st.SearchStrategy[Any], max_size: int = 4) -> st.SearchStrategy[list[bytes]]:
    """Several of `options`, each one word or a tuple of words, as one list of words."""
    rows = st.one_of(*options).map(lambda option: [option] if isinstance(option, bytes) else list(option))
    return st.lists(rows, max_size=max_size).map(lambda drawn: [word for row in drawn for word in row])


# Places in strings: none that makes a string of more than a few hundred bytes.
places = st.one_of(
    st.integers(-20, 300).map(b"%d".__mod__),
    st.sampled_from([b"4294967296", b"9223372036854775807", b"-9223372036854775808", b"99999999999999999999"]),
    odd_numbers,
)
units = words(b"BIT", b"BYTE", b"nonsense")
field_types = st.one_of(
    st.builds(lambda kind, width: b"%b%d" % (kind, width), st.sampled_from([b"i", b"u"]), st.integers(0, 65)),
    st.sampled_from([b"i8", b"u8", b"i5", b"u63", b"i64", b"", b"u", b"8", b"U8", b"i08", b"i8\x009"]),
)
field_places = st.one_of(
    places, st.integers(-2, 30).map(b"#%d".__mod__), st.sampled_from([b"#", b"#4294967296", b"##1"])
)
bitfield_operations = spliced(
    st.tuples(words(b"GET"), field_types, field_places),
    st.tuples(words(b"SET", b"INCRBY"), field_types, field_places, integers),
    st.tuples(words(b"OVERFLOW"), words(b"WRAP", b"SAT", b"FAIL", b"nonsense")),
    words(b"GET", b"SET", b"nonsense"),
    max_size=5,
)
good_fields = spliced(
    st.tuples(st.just(b"OVERFLOW"), st.sampled_from([b"WRAP", b"SAT", b"FAIL"])),
    st.tuples(
        st.sampled_from([b"SET", b"INCRBY"]),
        st.builds(lambda kind, width: b"%b%d" % (kind, width), st.sampled_from([b"i", b"u"]), st.integers(1, 63)),
        st.integers(0, 40).map(b"%d".__mod__),
        integers.filter(lambda number: -(1 << 63) <= int(number) < 1 << 63),
    ),
    max_size=8,
)
compressible = st.builds(
    lambda unit, times, tail: unit * times + tail, st.binary(min_size=1, max_size=5), st.integers(0, 40),
    st.binary(max_size=30),
)
payloads = st.one_of(
    st.one_of(values, compressible).map(dump_string),
    st.builds(footed, st.sampled_from([b"\xc0\x81", b"\xc1\x00\x80", b"\xc2\xff\xff\xff\x7f", b"\x40\x03abc",
                                       b"\x80\x00\x00\x00\x01a", b"\x81" + bytes(7) + b"\x01a", b"\x00", b"\xc4",
                                       b"\xc3\x03\x04\x01ab", b"\xc3\x05\x04\x03abcd", b"\x05abcd", b"\x82\x01a",
                                       b"\xc3\x05\x05\x03abcd", b"\xc3\x05\x88\x03abcd", b"\x81" + b"\xff" * 8,
                                       b"\xc3\xc0\x05abcd", b"\xc2\xff", b""]),
              st.sampled_from([b"\0", b"\0", b"\0", b"\x16", b"\xff"]), st.integers(8, 11)),
    st.builds(lambda payload, cut: payload[:cut], values.map(dump_string), st.integers(0, 20)),
    st.binary(max_size=12),
)
restore_options = spliced(
    words(b"REPLACE", b"ABSTTL", b"nonsense", b"IDLETIME"),
    st.tuples(words(b"REPLACE"), words(b"ABSTTL")),
    st.tuples(words(b"IDLETIME", b"FREQ"), st.sampled_from([b"0", b"5", b"-1", b"256", b"x"])),
    max_size=3,
)
sort_options = spliced(
    words(b"ASC", b"DESC", b"ALPHA", b"nonsense", b"LIMIT", b"STORE", b"BY"),
    st.tuples(words(b"LIMIT"), integers, st.sampled_from([b"0", b"-1", b"x"])),
    st.tuples(words(b"BY", b"GET"), st.sampled_from([b"nosort", b"w_*", b"#"])),
    st.tuples(words(b"STORE"), keys),
    max_size=3,
)


def call(names: st.SearchStrategy[bytes], *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Command]:
    """A command: its name and its arguments; a part that is a list is spliced in."""
    return st.builds(
        lambda name, *drawn: [name] + [w for part in drawn for w in (part if isinstance(part, list) else [part])],
        names,
        *parts,
    )


string_commands = st.one_of(
    call(words(b"SETBIT"), keys, places, st.one_of(st.sampled_from([b"0", b"1"]), integers)),
    call(words(b"GETBIT"), keys, places),
    call(words(b"BITCOUNT"), keys, st.lists(places, max_size=2), st.lists(units, max_size=1)),
    call(words(b"BITPOS"), keys, st.one_of(st.sampled_from([b"0", b"1"]), integers), st.lists(places, max_size=2),
         st.lists(units, max_size=2)),
    call(words(b"BITOP"), words(b"AND", b"OR", b"XOR", b"NOT", b"nonsense"), keys, st.lists(keys, max_size=4)),
    call(words(b"BITFIELD", b"BITFIELD_RO"), keys, bitfield_operations),
    call(words(b"BITFIELD"), keys, good_fields),
    call(words(b"GETRANGE", b"SUBSTR"), keys, places, places),
    call(words(b"SETRANGE"), keys, places, st.binary(max_size=8)),
    call(words(b"LCS"), keys, keys, spliced(
        words(b"IDX", b"LEN", b"WITHMATCHLEN", b"MINMATCHLEN", b"nonsense"),
        st.tuples(words(b"MINMATCHLEN"), places),
    )),
    call(words(b"SET"), keys, st.one_of(compressible, st.text("ab", max_size=20).map(str.encode))),
)  # fmt: skip
key_commands = st.one_of(
    call(words(b"RENAME", b"RENAMENX"), keys, keys),
    call(words(b"COPY"), keys, keys, spliced(
        words(b"REPLACE", b"DB", b"nonsense"), st.tuples(words(b"DB"), st.one_of(integers, st.just(b"0"))), max_size=2
    )),
    call(words(b"DUMP"), keys),
    call(words(b"RESTORE"), keys, st.one_of(st.just(b"0"), relative), payloads, restore_options),
    call(words(b"OBJECT"), words(b"ENCODING", b"FREQ", b"IDLETIME", b"REFCOUNT", b"nonsense"), keys),
    call(words(b"MEMORY"), words(b"USAGE"), keys, spliced(
        words(b"SAMPLES", b"nonsense"), st.tuples(words(b"SAMPLES"), integers), max_size=2
    )),
)  # fmt: skip
sort_commands = call(words(b"SORT", b"SORT_RO"), keys, sort_options)
# Of these a number by chance may ask for a string of hundreds of megabytes, or time goes on while the test runs.
PARTICULAR = (b"SCAN", b"SET", b"SETEX", b"PSETEX", b"GETEX", b"EXPIRE", b"PEXPIRE", b"SETBIT", b"SETRANGE",
              b"BITFIELD", b"SORT", b"SORT_RO")  # fmt: skip
commands = st.one_of(
    string_commands,
    key_commands,
    call(words(b"SET"), keys, values, set_options),
    call(words(b"SET"), keys, values),
    call(words(b"GETEX"), keys, set_options),
    call(words(b"SETEX", b"PSETEX"), keys, relative, values),
    call(words(b"GET", b"GETDEL", b"STRLEN", b"INCR", b"DECR", b"TYPE", b"TTL", b"PTTL", b"PERSIST"), keys),
    call(words(b"EXPIRETIME", b"PEXPIRETIME"), keys),
    call(words(b"SETNX", b"GETSET", b"APPEND"), keys, values),
    call(words(b"INCRBY", b"DECRBY"), keys, st.one_of(integers, odd_numbers)),
    call(words(b"INCRBYFLOAT"), keys, floats),
    call(words(b"MGET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"), st.lists(keys, max_size=4)),
    call(words(b"MSET", b"MSETNX"), st.lists(st.one_of(keys, values), max_size=5)),
    call(words(b"EXPIRE", b"PEXPIRE"), keys, relative, expire_options),
    call(words(b"EXPIREAT", b"PEXPIREAT"), keys, times, expire_options),
    call(words(b"KEYS"), st.sampled_from([b"*", b"**", b"?", b"[a-b]", b"\xff*"])),
    call(words(b"SCAN"), st.sampled_from([b"0", b"0", b"", b"00", b"x", b" 0", b"1 "]), st.just([b"COUNT", b"100000"]),
         scan_options),
    call(words(b"DBSIZE", b"RANDOMKEY")),
    call(words(b"FLUSHALL", b"FLUSHDB"), st.lists(words(b"SYNC", b"ASYNC", b"other"), max_size=2)),
    call(st.sampled_from(DATA_COMMANDS), st.lists(values, max_size=5)).filter(
        lambda args: args[0].upper() not in PARTICULAR
    ),
    call(st.binary(min_size=1, max_size=5).map(lambda name: b"no" + name), st.lists(values, max_size=5)),
)


@settings(suppress_health_check=list(HealthCheck))
@given(script=st.lists(commands, max_size=30))
@example(script=[[b"SET", b"a", b"10.5"], [b"INCRBYFLOAT", b"a", b"0.1"], [b"INCRBYFLOAT", b"a", b"5.0e3"]])
@example(script=[[b"INCRBYFLOAT", b"a", b"1e4000"], [b"INCRBYFLOAT", b"a", b"1e4932"], [b"STRLEN", b"a"]])
@example(script=[[b"nope\r\n\x00x", b"y" * 200, b"z"], [b"nope" * 40], [b"nope", b"a" * 60, b"b" * 60, b"c" * 9]])
@example(script=[[b"EXPIRE", b"a", b"100", b"\xc3\xa9\r\n"], [b"EXPIRE", b"a", b"100", b"x" * 300]])
def test_replies_equal_those_of_redis(redis: Target, ours: Target, script: list[Command]) -> None:
    assert_same(redis, ours, script)


@settings(suppress_health_check=list(HealthCheck))
@given(pairs=st.lists(st.tuples(floats, floats), min_size=1, max_size=20))
def test_float_arithmetic_is_that_of_long_double(
    redis: Target, ours: Target, pairs: list[tuple[bytes, bytes]]
) -> None:
    assert_same(redis, ours, [c for x, y in pairs for c in ([b"SET", b"a", x], [b"INCRBYFLOAT", b"a", y])])


pattern_bytes = st.lists(
    st.sampled_from([b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"a", b"b", b"\x80", b"\xff"]), max_size=12
).map(b"".join)
text_bytes = st.lists(
    st.sampled_from([b"a", b"b", b"]", b"^", b"-", b"\\", b"[", b"\x7f", b"\x80", b"\xff"]), max_size=6
).map(b"".join)


@settings(suppress_health_check=list(HealthCheck))
@given(names=st.lists(text_bytes, min_size=1, max_size=12), patterns=st.lists(pattern_bytes, min_size=1, max_size=12))
def test_patterns_match_as_in_redis(redis: Target, ours: Target, names: list[bytes], patterns: list[bytes]) -> None:
    assert_same(redis, ours, [[b"SET", name, b""] for name in names] + [[b"KEYS", pattern] for pattern in patterns])


# --- the same against a node ---


class StringsTarget(SocketTarget):
    """A server without a list: `LIST_KEY` is a key like the others."""

    def reset(self) -> None:
        self.run([[b"FLUSHALL"]])


@pytest.fixture(scope="module", params=[2, 3], ids=["RESP2", "RESP3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def strings_redis(redis_port: int, protocol: int) -> Iterator[StringsTarget]:
    target = StringsTarget(redis_port, protocol)
    yield target
    target.close()


@pytest.fixture(scope="module")
def node(shared_single: NodeProcess, protocol: int) -> Iterator[StringsTarget]:
    target = StringsTarget(shared_single.port, protocol)
    yield target
    target.close()


def is_atomic_over_shards(args: Command) -> bool:
    """A command that no shard can do alone (MSETNX, RENAME, BITOP), which a node refuses with CROSSSLOT."""
    try:
        spec = resolve(args)
    except RespError:
        return False
    return spec.spread is None and len(set(map(slot_of, spec_keys(spec, args)))) > 1


def in_one_slot(args: Command) -> Command:
    """The same with all the keys of the test, wherever they stand, in one slot."""
    return [args[0], *(b"{one}" + arg if arg in KEYS else arg for arg in args[1:])]


node_commands = st.one_of(commands, sort_commands)
one_slot_commands = st.one_of(string_commands, key_commands, sort_commands).map(in_one_slot)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(script=st.lists(node_commands.filter(lambda args: not is_atomic_over_shards(args)), max_size=40))
def test_a_node_of_three_shards_answers_as_redis(
    strings_redis: StringsTarget, node: StringsTarget, script: list[Command]
) -> None:
    assert_same(strings_redis, node, script)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(script=st.lists(one_slot_commands.filter(lambda args: not is_atomic_over_shards(args)), max_size=40))
def test_a_node_does_what_is_in_one_slot_as_redis(
    strings_redis: StringsTarget, node: StringsTarget, script: list[Command]
) -> None:
    assert_same(strings_redis, node, script)


@settings(suppress_health_check=list(HealthCheck))
@given(stored=st.lists(st.one_of(values, compressible, st.integers(1, 60).map(lambda n: b"x" * n)), max_size=20))
def test_encodings_are_those_that_redis_chooses(redis: SocketTarget, ours: Target, stored: list[bytes]) -> None:
    script = [row for value in stored for row in ([b"SET", b"a", value], [b"OBJECT", b"ENCODING", b"a"])]
    ours.reset()
    redis.reset()
    assert ours.run(script) == redis.run(script)


def test_command_info_is_that_of_redis(redis: SocketTarget) -> None:
    def canonical(entry: list[Any]) -> list[Any]:
        specs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in entry[8]]
        for spec in specs:
            spec[b"flags"] = sorted(spec[b"flags"])
        children = [canonical(child) for child in entry[9] if child[0] in known]
        return [*entry[:2], sorted(entry[2]), *entry[3:6], sorted(entry[6]), sorted(entry[7]), specs, sorted(children)]

    known = {spec.name.encode() for container in COMMANDS.values() for spec in container.subcommands.values()}

    for name in sorted(name for name, spec in COMMANDS.items() if spec.kind == "data" and name.islower()):
        theirs = redis.run([[b"COMMAND", b"INFO", name]])[0][0]
        assert canonical(plain(info(COMMANDS[name]))) == canonical(theirs), name
