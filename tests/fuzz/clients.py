"""What clients and operators may send: RESP, inline commands, glob patterns, arguments of commands, configuration."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from random import Random

from respkv.cluster.slots import SLOTS, slot_of
from respkv.commands.glob import matcher
from respkv.commands.table import all_specs
from respkv.config import Config, ConfigError, load
from respkv.keyspace import rdb
from respkv.resp.encoder import encode, encode_commands
from respkv.resp.inline import UnbalancedQuotesError, split_words
from respkv.resp.parser import Limits, Parser, ProtocolError
from respkv.resp.strict import StrictParser
from respkv.shard.batch import Entry, Ops, decode_entry, encode_entry
from respkv.shard.machine import Machine
from respkv.storage import Bitcask
from tests.fuzz.source import cut, mutate, some_bytes

WORDS = (
    *(b"*%d\r\n" % n for n in (-1, 0, 1, 2, 9, 100_000, 1_048_577, 2**31, 10**20)),
    *(b"$%d\r\n" % n for n in (-1, 0, 1, 3, 20_000, 2**31, 10**20)),
    *(b"\r\n", b"\n", b"\r", b"%1\r\n", b"~1\r\n", b">1\r\n", b"|1\r\n", b":1\r\n", b",1\r\n", b"(1\r\n", b"+a\r\n"),
    *(b"=5\r\ntxt:a\r\n", b"#t\r\n", b"_\r\n", b"!3\r\nerr\r\n", b"PING\r\n", b'"', b"'", b" ", b"\\x", b"$", b"*"),
)
NAMES = (b"GET", b"SET", b"INCR", b"MSET", b"DEL", b"SCAN", b"PING", b"x")


def commands(rng: Random) -> list[list[bytes]]:
    def one() -> list[bytes]:
        return [rng.choice(NAMES), *(some_bytes(rng) for _ in range(rng.randrange(4)))]

    return [one() for _ in range(rng.randrange(1, 5))]


def parsed(parser: Parser | StrictParser, chunks: list[bytes]) -> tuple[list[list[bytes]], str | None]:
    found: list[list[bytes]] = []
    try:
        for chunk in chunks:
            found += parser.feed(chunk)
    except ProtocolError as error:
        return found + error.commands, error.text
    return found, None


def resp(rng: Random) -> None:
    """Both tiers and any cutting make the same of it: commands, and at most a protocol error."""
    data = encode_commands(commands(rng))
    if rng.randrange(8):
        data = mutate(rng, data, WORDS)
    limits = Limits(max_bulk_bytes=rng.choice((30, 1 << 20)), max_array=rng.choice((5, 1 << 20)))
    expected = parsed(StrictParser(limits), [data])
    assert parsed(Parser(limits), [data]) == expected
    assert parsed(Parser(limits), cut(rng, data)) == expected
    assert all(command and all(type(arg) is bytes for arg in command) for command in expected[0])


def inline(rng: Random) -> None:
    """A line is split into words or has unbalanced quotes."""
    alphabet = b"ab \t\v\"'\\xn0f\x00\xff{}"
    line = bytes(rng.choice(alphabet) for _ in range(rng.randrange(40)))
    try:
        words = split_words(line)
    except UnbalancedQuotesError:
        return
    assert all(type(word) is bytes for word in words)
    assert sum(map(len, words)) <= len(line)


def glob(rng: Random) -> None:
    """Any pattern of a few hundred bytes is decided on any text, in about the time of pattern times text."""
    alphabet = rng.choice((b"a*", b"a*?", b"ab*?[]^-\\", bytes(range(256))))
    pattern = bytes(rng.choice(alphabet) for _ in range(rng.randrange(60))) * rng.choice((1, 1, 5))
    text = rng.choice((b"a", b"ab", some_bytes(rng))) * rng.choice((1, 10, 500))
    assert matcher(pattern, bool(rng.randrange(2)))(text) in (True, False)


@cache
def _machine() -> Machine:
    path = tempfile.mkdtemp(prefix="respkv-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    cask = Bitcask(path, buckets=SLOTS, bucket_of=slot_of)
    for number in range(20):
        cask.put(b"key%d" % number, b"%d" % number if number % 2 else b"text %d" % number)
    return Machine(cask)


ARGUMENTS = (
    *(b"%d" % n for n in (0, 1, -1, 100_000, 2**32, 2**63 - 1, -(2**63), 2**64, 10**30)),
    *(b"1e308", b"-1e400", b"nan", b"inf", b"0x10", b" 1", b"1 ", b"", b"1.5", b"-0", b"+1", b"\xff", b"\x00"),
    *(b"EX", b"PX", b"EXAT", b"PXAT", b"NX", b"XX", b"GT", b"LT", b"GET", b"KEEPTTL", b"MATCH", b"COUNT", b"TYPE"),
    *(b"PERSIST", b"REPLACE", b"STORE", b"BY", b"LIMIT", b"LEN", b"IDX", b"OVERFLOW", b"u8", b"i64", b"#1", b"*"),
)


def dump_payload(rng: Random) -> bytes:
    """What RESTORE takes, bent, with a right checksum: every client can make that."""
    value = rng.choice((b"12345", b"-1", b"x", b"abc" * 50, rng.randbytes(100), b"a" * 5000))
    head = mutate(rng, rdb.dump_string(value)[:-8], (b"\xc3", b"\x81", b"\x80", b"\xc0", b"\xff"))
    return head + rdb._crc64(head).to_bytes(8, "little")


def dumps(rng: Random) -> None:
    """A payload of RESTORE is a value of allowed size, or refused."""
    try:
        assert len(rdb.load_string(dump_payload(rng), 6000)) <= 6000
    except (rdb.BadChecksum, rdb.BadFormat):
        pass


def data_commands(rng: Random) -> None:
    """Every data command with a right number of any arguments is applied or refused: nothing escapes `apply`."""
    specs = [spec for spec in all_specs() if spec.kind == "data" and spec.fn is not None]
    machine = _machine()
    ops = []
    for _ in range(rng.randrange(1, 6)):
        spec = rng.choice(specs)
        count = spec.arity if spec.arity > 0 else -spec.arity + rng.randrange(5)
        pool = (rng.choice(ARGUMENTS), b"key%d" % rng.randrange(22), some_bytes(rng, 8))
        args = [spec.name.upper().encode(), *(rng.choice((*pool, rng.choice(ARGUMENTS))) for _ in range(count - 1))]
        if spec.name == "restore" and rng.randrange(2):
            args[2:4] = [b"0", dump_payload(rng)]
        assert machine.can_apply(args), args
        if spec.is_readonly:
            encode(machine.read(args), 2)
        ops.append(args)
    entry = decode_entry(encode_entry(Entry(rng.randrange(1 << 45), rng.getrandbits(63), [], [Ops(ops)])))
    replies = machine.apply(machine.applied + 1, 1, entry)
    assert len(replies) == len(ops)
    for reply in replies:
        for protocol in (2, 3):
            assert encode(reply, protocol).endswith(b"\r\n")


TOML = """\
node = "n1"
port = 6379
dir = "/tmp/respkv"
appendfsync = "everysec"
segment-bytes = "64mb"
bind = "127.0.0.1 ::1"
election-timeout-ms = 500
[cluster]
id = "c"
secret = "s"
shards = 3
replicas = 1
[[cluster.nodes]]
id = "n1"
host = "127.0.0.1"
port = 6379
"""
TOML_WORDS = (
    *(b'"', b"'", b"=", b"[", b"]", b"{", b"}", b"#", b"\n", b'"""', b"-1", b"1e99", b"1979-05-27", b"true", b"[1, 2]"),
    *(b"99999999999999999999", b'"1gb"', b'"-5mb"', b'"\\u0000"', b"cluster", b"nodes", b"dir", b"inf", b"nan"),
    b"\xff",
)


def configuration(rng: Random) -> None:
    """A configuration is whole, or refused with a `ConfigError`."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(mutate(rng, TOML.encode(), TOML_WORDS))
        flag = rng.choice(("port", "bind", "dir", "cluster-nodes", "x"))
        flags = {flag: rng.choice(("", "1", "a=b:1", "\x00", "-1"))}
        try:
            config = load(Path(file.name), {}, flags if rng.randrange(4) == 0 else {})
        except ConfigError as error:
            assert "\n" not in str(error)
            return
    assert isinstance(config, Config)

