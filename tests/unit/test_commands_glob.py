"""Patterns match as Redis's stringmatchlen does, corners included, and none takes long."""

from __future__ import annotations

import time

import pytest

from respkv.commands.glob import key_matcher, matches


@pytest.mark.parametrize(
    ("pattern", "matched", "unmatched"),
    [
        (b"", [b""], [b"a"]),
        (b"*", [b"a", b"ab\n\xff"], [b""]),  # so a subscription to `*` misses the channel without a name
        (b"**", [b"a"], [b""]),
        (b"?", [b"a", b"\n"], [b"", b"ab"]),
        (b"a*", [b"a", b"ab"], [b"", b"ba"]),
        (b"*a", [b"a", b"ba"], [b"ab", b""]),
        (b"a*a", [b"aa", b"aba"], [b"a"]),
        (b"h*llo*o", [b"hello o", b"hllohelloo"], [b"hello", b"hellox"]),
        (b"*ab*ab*", [b"abab", b"xabyabz"], [b"aba", b"ab"]),
        (b"a?c*", [b"abc", b"abcd"], [b"ac"]),
        (b"[abc]x", [b"ax", b"cx"], [b"dx", b"x"]),
        (b"[^abc]", [b"d", b"^"], [b"a", b""]),
        (b"[a-c]", [b"b"], [b"d", b"-"]),
        (b"[c-a]", [b"b"], [b"d"]),
        (b"[a^]", [b"^", b"a"], [b"b"]),
        (b"[]", [], [b"", b"]", b"a"]),
        (b"[]a]", [], [b"]", b"a", b"a]"]),
        (b"[^]", [b"a", b"]"], [b""]),
        (b"[abc", [b"a", b"c"], [b"d", b"["]),  # not closed: ends with the pattern
        (b"[", [], [b"[", b""]),
        (b"[^", [b"x"], [b""]),
        (b"[a-]", [b"a", b"]", b"^"], [b"b", b"-"]),  # the bracket is the bound of a range
        (b"[a-", [b"a", b"-"], [b"b"]),
        (b"[\\]]", [b"]"], [b"\\"]),
        (b"[\\-a]", [b"-", b"a"], [b"b"]),
        (b"[\x01-\xff]", [b"\x00", b"\x01", b"\xff"], [b"a", b"\x80"]),  # bounds are signed bytes: -1 to 1
        (b"\\*", [b"*"], [b"a", b"\\*"]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"\\a", [b"a"], [b"\\a"]),
        (b"*.[ch]", [b"x.c", b"x.y.h"], [b"x.cc"]),
        (b"*[0-9]*[0-9]*", [b"a1b2", b"12"], [b"a1b"]),
        (b"user:?:*", [b"user:1:", b"user:1:x"], [b"user:12:x"]),
    ],
)
def test_pattern(pattern: bytes, matched: list[bytes], unmatched: list[bytes]) -> None:
    assert [text for text in matched if not matches(pattern, text)] == []
    assert [text for text in unmatched if matches(pattern, text)] == []


def test_a_single_star_means_every_key() -> None:
    assert [key for key in (b"", b"a") if key_matcher(b"*")(key)] == [b"", b"a"]
    assert [key for key in (b"", b"a") if key_matcher(b"**")(key)] == [b"a"]


def test_case_is_ignored_when_asked() -> None:
    assert matches(b"MaxMemory*", b"maxmemory-policy", ignore_case=True)
    assert matches(b"[A-C]x", b"bX", ignore_case=True)
    assert not matches(b"MAX", b"max")


@pytest.mark.parametrize(
    "pattern", [b"*a" * 200 + b"b", b"*?a" * 100 + b"b", b"*[ab]a" * 100 + b"c*", b"a*" * 2000 + b"b"]
)
def test_no_pattern_is_tried_twice(pattern: bytes) -> None:
    started = time.perf_counter()
    assert not matches(pattern, b"a" * 20_000)
    assert time.perf_counter() - started < 2
