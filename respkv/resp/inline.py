"""Inline commands: a line of words as a person types it into telnet, with Redis's quoting rules (`sdssplitargs`).

Words are separated by white space. `"..."` understands `\\n \\r \\t \\b \\a \\xHH` and takes any other escaped byte
as it is; `'...'` understands `\\'` alone. A quote may open in the middle of a word, but a closing quote ends the word:
white space or the end of the line must follow. A NUL is a byte like any other (C strings make Redis wait behind one).
"""

from __future__ import annotations

import re
from typing import Final

_SPACE: Final = b" \t\n\v\f\r"
_WORD_END: Final = b" \t\n\r"
_ESCAPES: Final = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("b"): b"\b", ord("a"): b"\a"}
_DOUBLE: Final = ord('"')
_SINGLE: Final = ord("'")
_BACKSLASH: Final = ord("\\")

_hex_escape = re.compile(rb"\\x([0-9a-fA-F]{2})").match
_plain_run = re.compile(rb"[^\"' \t\n\r]+").match


class UnbalancedQuotesError(ValueError):
    """A quote is not closed, or something other than white space follows the closing one."""


def split_words(line: bytes) -> list[bytes]:
    """The words of `line` (without its line end), none for a blank line. Raises UnbalancedQuotesError."""
    if b'"' not in line and b"'" not in line and b"\v" not in line and b"\f" not in line:
        return line.split()
    words: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        if at == len(line):
            return words
        word, at = _word(line, at)
        words.append(word)


def _word(line: bytes, at: int) -> tuple[bytes, int]:
    """The word that starts at `at`, and where it ends."""
    parts = []
    while at < len(line) and line[at] not in _WORD_END:
        if line[at] == _DOUBLE:
            part, at = _double_quoted(line, at + 1)
            parts.append(part)
            break
        if line[at] == _SINGLE:
            part, at = _single_quoted(line, at + 1)
            parts.append(part)
            break
        run = _plain_run(line, at)
        assert run is not None
        parts.append(run[0])
        at = run.end()
    return b"".join(parts), at


def _double_quoted(line: bytes, at: int) -> tuple[bytes, int]:
    content = bytearray()
    while at < len(line) and line[at] != _DOUBLE:
        if line[at] != _BACKSLASH or at + 1 == len(line):
            content.append(line[at])
            at += 1
        elif code := _hex_escape(line, at):
            content.append(int(code[1], 16))
            at = code.end()
        else:
            content += _ESCAPES.get(line[at + 1], line[at + 1 : at + 2])
            at += 2
    return bytes(content), _after_quote(line, at)


def _single_quoted(line: bytes, at: int) -> tuple[bytes, int]:
    content = bytearray()
    while at < len(line) and line[at] != _SINGLE:
        if line.startswith(b"\\'", at):
            at += 1
        content.append(line[at])
        at += 1
    return bytes(content), _after_quote(line, at)


def _after_quote(line: bytes, at: int) -> int:
    """The place behind the closing quote at `at`, which must exist and end the word."""
    if at >= len(line) or (at + 1 < len(line) and line[at + 1] not in _SPACE):
        raise UnbalancedQuotesError
    return at + 1
