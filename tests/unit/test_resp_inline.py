"""Inline commands are split into words as `sdssplitargs` does."""

import pytest

from respkv.resp.inline import UnbalancedQuotesError, split_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b" \t ", []),
        (b"PING", [b"PING"]),
        (b"  SET  a\tb ", [b"SET", b"a", b"b"]),
        (b'SET a "b c"', [b"SET", b"a", b"b c"]),
        (b'SET a ""', [b"SET", b"a", b""]),
        (b"SET a ''", [b"SET", b"a", b""]),
        (rb'"\n\r\t\b\a\x00\xfF\q\"\\"', [b'\n\r\t\b\a\x00\xffq"\\']),
        (rb'"\x1 \xzz"', [b"x1 xzz"]),
        (rb"'\n\'\x00'", [b"\\n'\\x00"]),
        (b'foo"bar baz" x', [b"foobar baz", b"x"]),
        (b"foo'bar' x", [b"foobar", b"x"]),
        (b"'a\"b' \"c'd\"", [b'a"b', b"c'd"]),
        (b"a\vb \v\fc", [b"a\vb", b"c"]),
        (b"'a'\vb", [b"a", b"b"]),
        (b"a\0b '\0'", [b"a\0b", b"\0"]),
        (b"a\rb", [b"a", b"b"]),
        (b"\xff\xfe", [b"\xff\xfe"]),
    ],
)
def test_words_and_quotes(line: bytes, words: list[bytes]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize(
    "line", [b'"', b"'", b'a "b', b"a 'b", b'"a"b', b"'a'b", b"'a''b'", rb'"a\"', rb"'a\'", b'"\\']
)
def test_unbalanced_quotes_are_refused(line: bytes) -> None:
    with pytest.raises(UnbalancedQuotesError):
        split_words(line)
