"""Replies to bytes, for RESP2 and RESP3.

| reply | RESP2 | RESP3 |
| --- | --- | --- |
| Simple, RespError | `+text`, `-text` | the same |
| bytes, LongBulk | `$length`, bytes | the same |
| int | `:value` | the same |
| None | `$-1` | `_` |
| NullArray | `*-1` | `_` |
| bool | `:1`, `:0` | `#t`, `#f` |
| float | bulk string of its `%.17g` | `,` and its `%.17g` |
| list | `*length`, items | the same |
| dict | array of keys and values in turn | `%pairs`, keys and values in turn |
| set, frozenset, OrderedSet | array | `~length`, items |
| Push | array | `>length`, items |
| Encoded | as it is | as it is |
| Verbatim | bulk string | `=length`, `txt:` and the text |

Every element of every reply ends with CR LF. Floats are written as Redis 7.0 does: whole ones without a point, `inf`,
`-inf`, `nan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from math import isnan
from typing import Any, Final

from respkv.reply import Encoded, LongBulk, NullArray, OrderedSet, Push, Reply, RespError, Simple, Verbatim

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
NIL2: Final = b"$-1\r\n"
NIL3: Final = b"_\r\n"
NULL_ARRAY2: Final = b"*-1\r\n"
CRLF: Final = b"\r\n"
EMPTY_ARRAY: Final = b"*0\r\n"

BULK_HEADERS: Final = tuple(b"$%d\r\n" % length for length in range(4096))
"""`BULK_HEADERS[len(value)]`, for values shorter than 4096 bytes."""
ARRAY_HEADERS: Final = tuple(b"*%d\r\n" % length for length in range(1024))
INTEGERS: Final = tuple(b":%d\r\n" % value for value in range(1024))
"""`INTEGERS[value]`, for 0 <= value < 1024."""


def encode(reply: Reply, protocol: int) -> bytes:
    """The wire form of `reply` in RESP `protocol` (2 or 3). Raises TypeError for what is not a Reply."""
    value: Any = reply
    kind = type(value)
    if kind is bytes:
        length = len(value)
        return b"%b%b\r\n" % (BULK_HEADERS[length] if length < 4096 else b"$%d\r\n" % length, value)
    if kind is Simple:
        return b"+%b\r\n" % (value.text,)
    if kind is int:
        return INTEGERS[value] if 0 <= value < 1024 else b":%d\r\n" % value
    if value is None:
        return NIL2 if protocol == 2 else NIL3
    parts: list[bytes] = []
    _write(parts, reply, protocol)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parts_of(replies: Iterable[bytes | LongBulk]) -> list[bytes]:
    """The wire form of encoded replies and long ones in parts, for a transport that takes them one by one."""
    parts: list[bytes] = []
    for reply in replies:
        if isinstance(reply, LongBulk):
            _write_long_bulk(parts, reply, 2)
        else:
            parts.append(reply)
    return parts


def encode_commands(commands: Iterable[list[bytes]]) -> bytes:
    """The wire form of commands as a client sends them: arrays of bulk strings."""
    parts: list[bytes] = []
    append = parts.append
    for arguments in commands:
        append(b"*%d\r\n" % len(arguments))
        for argument in arguments:
            length = len(argument)
            append(BULK_HEADERS[length] if length < 4096 else b"$%d\r\n" % length)
            append(argument)
            append(CRLF)
    return b"".join(parts)


def _write(parts: list[bytes], reply: Reply, protocol: int) -> None:
    """Appends the wire form of `reply` in pieces, to be joined once at the end."""
    writer = _WRITERS.get(type(reply))
    if writer is None:
        writer = next((w for kind, w in _WRITERS.items() if isinstance(reply, kind)), None)
        if writer is None:
            raise TypeError(f"not a reply: {type(reply).__name__}")
    writer(parts, reply, protocol)


def _write_bulk(parts: list[bytes], value: bytes, protocol: int) -> None:
    length = len(value)
    parts += (BULK_HEADERS[length] if length < 4096 else b"$%d\r\n" % length, value, CRLF)


def _write_long_bulk(parts: list[bytes], value: LongBulk, protocol: int) -> None:
    parts += (b"$%d\r\n" % value.value_bytes, *value.parts, CRLF)


def _write_integer(parts: list[bytes], value: int, protocol: int) -> None:
    parts.append(INTEGERS[value] if 0 <= value < 1024 else b":%d\r\n" % value)


def _write_null(parts: list[bytes], value: None, protocol: int) -> None:
    parts.append(NIL2 if protocol == 2 else NIL3)


def _write_null_array(parts: list[bytes], value: NullArray, protocol: int) -> None:
    parts.append(NULL_ARRAY2 if protocol == 2 else NIL3)


def _write_bool(parts: list[bytes], value: bool, protocol: int) -> None:
    if protocol == 2:
        parts.append(b":1\r\n" if value else b":0\r\n")
    else:
        parts.append(b"#t\r\n" if value else b"#f\r\n")


def _write_float(parts: list[bytes], value: float, protocol: int) -> None:
    # The sign that a NaN may have means nothing.
    text = b"nan" if isnan(value) else b"%.17g" % value
    if protocol == 2:
        _write_bulk(parts, text, protocol)
    else:
        parts.append(b",%b\r\n" % text)


def _write_simple(parts: list[bytes], value: Simple, protocol: int) -> None:
    parts.append(b"+%b\r\n" % value.text)


def _write_error(parts: list[bytes], value: RespError, protocol: int) -> None:
    line = value.text.encode(errors="surrogateescape").replace(b"\r", b" ").replace(b"\n", b" ")
    parts.append(b"-%b\r\n" % line)


def _write_verbatim(parts: list[bytes], value: Verbatim, protocol: int) -> None:
    if protocol == 2:
        _write_bulk(parts, value.text, protocol)
    else:
        parts.append(b"=%d\r\n%b:%b\r\n" % (len(value.text) + 4, value.format, value.text))


def _write_items(parts: list[bytes], items: Iterable[Any], protocol: int) -> None:
    append = parts.append
    for item in items:
        if type(item) is bytes:  # by far the most common, worth its own line
            length = len(item)
            append(BULK_HEADERS[length] if length < 4096 else b"$%d\r\n" % length)
            append(item)
            append(CRLF)
        else:
            _write(parts, item, protocol)


def _write_list(parts: list[bytes], value: list[Any], protocol: int) -> None:
    length = len(value)
    parts.append(ARRAY_HEADERS[length] if length < 1024 else b"*%d\r\n" % length)
    _write_items(parts, value, protocol)


def _write_set(parts: list[bytes], value: AbstractSet[Any], protocol: int) -> None:
    parts.append(b"%b%d\r\n" % (b"*" if protocol == 2 else b"~", len(value)))
    _write_items(parts, value, protocol)


def _write_ordered_set(parts: list[bytes], value: OrderedSet, protocol: int) -> None:
    parts.append(b"%b%d\r\n" % (b"*" if protocol == 2 else b"~", len(value.items)))
    _write_items(parts, value.items, protocol)


def _write_push(parts: list[bytes], value: Push, protocol: int) -> None:
    parts.append(b"%b%d\r\n" % (b"*" if protocol == 2 else b">", len(value.items)))
    _write_items(parts, value.items, protocol)


def _write_encoded(parts: list[bytes], value: Encoded, protocol: int) -> None:
    parts.append(value.data)


def _write_dict(parts: list[bytes], value: dict[Any, Any], protocol: int) -> None:
    parts.append(b"*%d\r\n" % (2 * len(value)) if protocol == 2 else b"%%%d\r\n" % len(value))
    for pair in value.items():
        _write_items(parts, pair, protocol)


_WRITERS: Final[dict[type, Callable[[list[bytes], Any, int], None]]] = {
    bytes: _write_bulk,
    bool: _write_bool,  # before int, its base class, for the search of subclasses
    int: _write_integer,
    type(None): _write_null,
    NullArray: _write_null_array,
    float: _write_float,
    list: _write_list,
    dict: _write_dict,
    set: _write_set,
    frozenset: _write_set,
    Simple: _write_simple,
    RespError: _write_error,
    OrderedSet: _write_ordered_set,
    Push: _write_push,
    Verbatim: _write_verbatim,
    Encoded: _write_encoded,
    LongBulk: _write_long_bulk,
}
