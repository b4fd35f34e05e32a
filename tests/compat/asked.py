"""What the comparisons with Redis ask: strategies for commands, right and wrong ones."""

from __future__ import annotations

from typing import Any

from crcmod import mkCrcFun
from hypothesis import strategies as st

import respkv.commands  # noqa: F401  (fills the table)
from respkv.cluster.slots import slot_of
from respkv.commands.table import COMMANDS, resolve, spec_keys
from respkv.keyspace.rdb import dump_string
from respkv.reply import RespError
from tests.compat.targets import LIST_KEY, Command

DATA_COMMANDS = sorted(name for name, spec in COMMANDS.items() if spec.kind == "data")


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
