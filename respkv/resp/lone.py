"""The lone tier of the parser: a chunk that is one command of two or three short arguments, no more and no less.

That is what a client sends that waits for each reply: `GET key`, `INCR key`, `SET key value`. It is cut at its line
ends; the words between count only if every header says exactly what is there, as then no other reading of the chunk is
possible. Anything else (a line end within an argument, a longer one, more or less of it) is left to the other tiers.

    *2  $<bytes> <name>  $<bytes> <key>                      and an empty word behind the last line end
    *3  $<bytes> <name>  $<bytes> <key>  $<bytes> <value>
"""

from __future__ import annotations

from typing import Final

_LENGTHS: Final = {b"$%d" % length: length for length in range(4096)}
_length_of: Final = _LENGTHS.get
_CRLF: Final = b"\r\n"
_WORDS_OF_TWO: Final = 6
_WORDS_OF_THREE: Final = 8


def lone_command(data: bytes) -> list[bytes] | None:
    """The arguments of the command that `data` is; None if it is none of this kind."""
    words = data.split(_CRLF, _WORDS_OF_THREE)
    count = len(words)
    if count == _WORDS_OF_TWO:
        stars, name_bytes, name, key_bytes, key, rest = words
        if (
            stars == b"*2"
            and not rest
            and _length_of(name_bytes) == len(name)
            and _length_of(key_bytes) == len(key)
        ):
            return [name, key]
    elif count == _WORDS_OF_THREE:
        stars, name_bytes, name, key_bytes, key, value_bytes, value, rest = words
        if (
            stars == b"*3"
            and not rest
            and _length_of(name_bytes) == len(name)
            and _length_of(key_bytes) == len(key)
            and _length_of(value_bytes) == len(value)
        ):
            return [name, key, value]
    return None
