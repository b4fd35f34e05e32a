"""The parser on random streams: cutting changes nothing, garbage harms nothing, and what is encoded reads back."""

from itertools import pairwise
from typing import Any

import hiredis
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.resp.encoder import encode, encode_commands
from respkv.resp.parser import Limits, Parser, ProtocolError
from respkv.resp.strict import StrictParser

TOKENS = [
    *(b"*%d\r\n" % n for n in (-1, 0, 1, 2, 3, 10, 99_999, 100_000, 1_048_577)),
    *(b"$%d\r\n" % n for n in (-1, 0, 1, 3, 20_000)),
    *(b"$1\r\n%b\r\n" % mark for mark in (b"a", b"*", b"$", b"+", b"=", b"(", b">", b"~", b"|", b"0", b"\n", b"#")),
    *(b"*1\r\n$1\r\n%b\r\n" % mark for mark in (b"a", b"*", b"=", b"0")),
    *(b"*1\r\n$1\r\na" + trailer for trailer in (b"**", b"==", b"\n*", b"+*", b"#f", b"~|")),
    *(kind + b"1\r\n" for kind in (b"%", b"~", b">", b"|", b":", b",", b"(", b"+", b"-", b"=", b"!")),
    *(kind + b"0\r\n" for kind in (b"%", b"~", b">", b"|", b":", b",", b"(", b"=", b"$")),
    *(b"#f\r\n", b"#t\r\n", b"_\r\n", b"+\r\n", b"=5\r\ntxt:a\r\n", b"=5\r\ntxt:=\r\n", b"=6\r\na=b:==\r\n", b"f\r\n"),
    *(b"PING\r\n", b"\r\n", b"\n", b"\r", b"GET 'a b'\n", b'"', b" ", b"a", b"*", b"$", b"AUTH x\r\n", b"$0\r\n\r\n"),
    *(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*3\r\n$3\r\nSET\r\n", b"*1\r\n$4\r\nPING\r\n"),
]

values = st.one_of(st.binary(max_size=12), st.lists(st.sampled_from(TOKENS), max_size=3).map(b"".join))
commands_lists = st.lists(st.lists(values, min_size=1, max_size=4), max_size=8)
words = st.text(alphabet="abcXYZ019:*$", min_size=1, max_size=5).map(str.encode)
garbage = st.one_of(
    st.binary(max_size=60),
    st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=3)), max_size=12).map(b"".join),
)


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def run(parser: Parser | StrictParser, chunks: list[bytes]) -> tuple[list[list[bytes]], str | None]:
    commands: list[list[bytes]] = []
    try:
        for chunk in chunks:
            commands += parser.feed(chunk)
    except ProtocolError as error:
        return commands + error.commands, error.text
    return commands, None


cut_places = st.lists(st.integers(min_value=0, max_value=1 << 30), max_size=6)


@settings(max_examples=300, deadline=None)
@given(commands_lists, cut_places)
def test_valid_streams_come_out_as_they_were_sent(commands: list[list[bytes]], cuts: list[int]) -> None:
    data = encode_commands(commands)
    parser = Parser(Limits())
    assert run(parser, chunks_of(data, cuts)) == (commands, None)
    assert parser.pending_bytes == 0
    assert run(Parser(Limits()), [data[at : at + 1] for at in range(len(data))]) == (commands, None)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.lists(values, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=3))),
    cut_places,
    st.data(),
)
def test_inline_commands_and_arrays_may_alternate(
    commands: list[list[bytes]], cuts: list[int], data: st.DataObject
) -> None:
    wire = b""
    for command in commands:
        plain = all(word.isalnum() for word in command)
        inline = plain and data.draw(st.booleans())
        wire += (
            b" ".join(command) + data.draw(st.sampled_from([b"\n", b"\r\n"])) if inline else encode_commands([command])
        )
    assert run(Parser(Limits()), chunks_of(wire, cuts)) == (commands, None)


@settings(max_examples=800, deadline=None)
@given(garbage, cut_places)
def test_garbage_gives_the_same_in_any_chunks_and_both_tiers(data: bytes, cuts: list[int]) -> None:
    expected = run(StrictParser(Limits()), [data])
    assert run(Parser(Limits()), [data]) == expected
    assert run(Parser(Limits()), chunks_of(data, cuts)) == expected
    assert run(Parser(Limits()), [data[at : at + 1] for at in range(len(data))]) == expected
    commands = expected[0]
    assert all(type(c) is list and c and all(type(a) is bytes for a in c) for c in commands)


@settings(max_examples=300, deadline=None)
@given(garbage, garbage, cut_places, st.booleans())
def test_garbage_never_buffers_more_than_the_limits(
    start: bytes, end: bytes, cuts: list[int], authenticated: bool
) -> None:
    limits = Limits(max_bulk_bytes=30, max_array=5, query_buffer_bytes=100)
    parser = Parser(limits, authenticated)
    try:
        for chunk in chunks_of(start + end * 20, cuts):
            before = parser.pending_bytes
            commands = parser.feed(chunk)
            assert all(len(c) <= 5 or b"\n" not in c for c in commands)
            assert parser.pending_bytes <= before + len(chunk)
            # A line without an end may grow to its own limit; a command of arguments may not.
            assert parser.pending_bytes <= 64 * 1024
    except ProtocolError:
        pass


scalars = st.one_of(
    st.binary(max_size=20),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
)
replies = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.binary(max_size=5), inner, max_size=4)),
    max_leaves=12,
)


def as_resp2(reply: Any) -> Any:
    if isinstance(reply, bool):
        return int(reply)
    if isinstance(reply, float):
        return b"%.17g" % reply
    if isinstance(reply, list):
        return [as_resp2(item) for item in reply]
    if isinstance(reply, dict):
        return [as_resp2(item) for pair in reply.items() for item in pair]
    return reply


def read(wire: bytes) -> Any:
    """The one reply in `wire`; wrapped in an array, as a lone false looks to hiredis like "no more"."""
    reader = hiredis.Reader()
    reader.feed(b"*1\r\n" + wire)
    (reply,) = reader.gets()
    assert not reader.has_data()
    return reply


@settings(max_examples=200, deadline=None)
@given(replies)
def test_replies_read_back(reply: Any) -> None:
    assert read(encode(reply, 3)) == reply
    assert read(encode(reply, 2)) == as_resp2(reply)
