"""Replies on the wire are what Redis writes, and a client library reads them back."""

import math
from typing import Any

import hiredis
import pytest

from respkv.reply import NULL_ARRAY, OK, OrderedSet, Push, RespError, Simple, Verbatim
from respkv.resp import encoder
from respkv.resp.encoder import encode, encode_commands

REPLIES: list[tuple[Any, bytes, bytes]] = [
    (OK, b"+OK\r\n", b"+OK\r\n"),
    (Simple(b"QUEUED"), b"+QUEUED\r\n", b"+QUEUED\r\n"),
    (RespError("ERR no"), b"-ERR no\r\n", b"-ERR no\r\n"),
    (RespError("ERR a\r\nb\nc"), b"-ERR a  b c\r\n", b"-ERR a  b c\r\n"),
    (RespError("ERR got '\udcff\u00e9'"), b"-ERR got '\xff\xc3\xa9'\r\n", b"-ERR got '\xff\xc3\xa9'\r\n"),
    (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    (0, b":0\r\n", b":0\r\n"),
    (1023, b":1023\r\n", b":1023\r\n"),
    (1024, b":1024\r\n", b":1024\r\n"),
    (-1, b":-1\r\n", b":-1\r\n"),
    (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
    (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    (None, b"$-1\r\n", b"_\r\n"),
    (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
    (True, b":1\r\n", b"#t\r\n"),
    (False, b":0\r\n", b"#f\r\n"),
    (3.0, b"$1\r\n3\r\n", b",3\r\n"),
    (-0.5, b"$4\r\n-0.5\r\n", b",-0.5\r\n"),
    (0.1, b"$19\r\n0.10000000000000001\r\n", b",0.10000000000000001\r\n"),
    (1e100, b"$6\r\n1e+100\r\n", b",1e+100\r\n"),
    (1e16, b"$17\r\n10000000000000000\r\n", b",10000000000000000\r\n"),
    (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
    (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
    (-math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
    ([], b"*0\r\n", b"*0\r\n"),
    (
        [b"a", None, 1, [OK]],
        b"*4\r\n$1\r\na\r\n$-1\r\n:1\r\n*1\r\n+OK\r\n",
        b"*4\r\n$1\r\na\r\n_\r\n:1\r\n*1\r\n+OK\r\n",
    ),
    ({}, b"*0\r\n", b"%0\r\n"),
    (
        {b"a": 1, b"b": [True]},
        b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n:1\r\n",
        b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n#t\r\n",
    ),
    ({b"a"}, b"*1\r\n$1\r\na\r\n", b"~1\r\n$1\r\na\r\n"),
    (frozenset({1}), b"*1\r\n:1\r\n", b"~1\r\n:1\r\n"),
    (OrderedSet([b"b", [b"a"]]), b"*2\r\n$1\r\nb\r\n*1\r\n$1\r\na\r\n", b"~2\r\n$1\r\nb\r\n*1\r\n$1\r\na\r\n"),
    (Push([b"message", 1]), b"*2\r\n$7\r\nmessage\r\n:1\r\n", b">2\r\n$7\r\nmessage\r\n:1\r\n"),
    (Verbatim(b"text"), b"$4\r\ntext\r\n", b"=8\r\ntxt:text\r\n"),
    (Verbatim(b"# t", b"mkd"), b"$3\r\n# t\r\n", b"=7\r\nmkd:# t\r\n"),
]


@pytest.mark.parametrize(("reply", "resp2", "resp3"), REPLIES)
def test_every_reply_alone_and_nested(reply: Any, resp2: bytes, resp3: bytes) -> None:
    for protocol, wire in ((2, resp2), (3, resp3)):
        assert encode(reply, protocol) == wire
        assert encode([reply, b"x", [reply]], protocol) == b"*3\r\n" + wire + b"$1\r\nx\r\n*1\r\n" + wire
        start = b"*2\r\n" if protocol == 2 else b"%1\r\n"
        assert encode({b"k": reply}, protocol) == start + b"$1\r\nk\r\n" + wire


def read(wire: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(wire)
    reply = reader.gets()
    assert not reader.has_data()
    return reply


def test_clients_read_resp3_types_back() -> None:
    values = [b"x", 1, None, True, 1.5, math.inf, [1, [b"a"]], {b"k": {b"n": 1}}, [b""]]
    assert read(encode(values, 3)) == values
    assert read(encode(Verbatim(b"abc"), 3)) == b"abc"
    assert list(read(encode(Push([b"a", 1]), 3))) == [b"a", 1]
    assert str(read(encode(RespError("WRONGTYPE no"), 3))) == "WRONGTYPE no"


def test_subclasses_are_written_as_what_they_are() -> None:
    class WrongTypeError(RespError):
        pass

    class Count(int):
        pass

    assert encode(WrongTypeError("WRONGTYPE x"), 2) == b"-WRONGTYPE x\r\n"
    assert encode([Count(7)], 2) == b"*1\r\n:7\r\n"


@pytest.mark.parametrize("value", ["text", (1,), bytearray(b"x"), object()])
def test_what_is_no_reply_is_refused(value: Any) -> None:
    for reply in (value, [value], {b"k": value}):
        with pytest.raises(TypeError, match="not a reply"):
            encode(reply, 2)


def test_tables_hold_what_their_index_says() -> None:
    for number in (0, 1, 9, 10, 999, 1023):
        assert encoder.BULK_HEADERS[4 * number] == b"$%d\r\n" % (4 * number)
        assert encoder.ARRAY_HEADERS[number] == b"*%d\r\n" % number
        assert encoder.INTEGERS[number] == b":%d\r\n" % number
    for size in (1023, 1024, 4095, 4096, 5000):
        assert encode([bytes(size)], 2) == b"*1\r\n$%d\r\n%b\r\n" % (size, bytes(size))
        assert encode([0] * size, 2) == b"*%d\r\n" % size + b":0\r\n" * size


def test_large_replies_take_linear_time() -> None:
    reply = [[b"%d" % n, n, {b"k": n}] for n in range(20_000)]
    assert read(encode(reply, 3)) == reply


def test_commands_are_arrays_of_bulk_strings() -> None:
    assert encode_commands([]) == b""
    assert encode_commands([[b"GET", b"k"], [b""]]) == b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$0\r\n\r\n"
