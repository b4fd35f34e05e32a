"""The lone tier of the parser: a chunk that is one command of two or three short arguments, no more and no less.

That is what a client sends that waits for each reply: `GET key`, `INCR key`, `SET key value`. It is cut at its line
ends; the words between count only if every header says exactly what is there, as then no other reading of the chunk is
possible. Anything else (a line end within an argument, a longer one, more or less of it) is left to the other tiers.

A GET need not even be cut: how long the chunk is tells how long its key must be, and so how the chunk must begin.

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


def _get_heads() -> list[tuple[bytes, ...]]:
    """By the length of a chunk that is a GET, what stands before its key; empty where there is no such key."""
    heads: list[tuple[bytes, ...]] = []
    for key_bytes in range(len(_LENGTHS)):
        head = b"*2\r\n$3\r\n%b\r\n$%d\r\n"
        both = (head % (b"GET", key_bytes), head % (b"get", key_bytes))
        length = len(both[0]) + key_bytes + len(_CRLF)
        heads += [()] * (length - len(heads)) + [both]
    return heads


_GET_HEADS: Final = _get_heads()
SET_HEADS: Final = (b"*3\r\n$3\r\nSET\r\n", b"*3\r\n$3\r\nset\r\n")


def lone_get(data: bytes) -> bytes | None:
    """The key if `data` is one GET of a short one; None if it is anything else."""
    length = len(data)
    if length < len(_GET_HEADS) and data.startswith(heads := _GET_HEADS[length]) and data.endswith(_CRLF):
        return data[len(heads[0]) : -len(_CRLF)]
    return None


def get_chunks(key: bytes) -> tuple[bytes, bytes]:
    """The chunks of which `lone_get` says that they are a GET of `key`."""
    head = b"*2\r\n$3\r\n%b\r\n$%d\r\n%b\r\n"
    return head % (b"GET", len(key), key), head % (b"get", len(key), key)


def lone_set(data: bytes) -> tuple[bytes, bytes] | None:
    """Key and value if `data`, which starts with one of `SET_HEADS`, is one SET of short ones without options; None if
    it is anything else."""
    words = data.split(_CRLF, _WORDS_OF_THREE)
    if len(words) == _WORDS_OF_THREE:
        _, _, _, key_bytes, key, value_bytes, value, rest = words
        if not rest and _length_of(key_bytes) == len(key) and _length_of(value_bytes) == len(value):
            return key, value
    return None


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
