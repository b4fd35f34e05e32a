"""Reply values: what a command returns, before any wire format is chosen.

Plain Python values stand for themselves: `bytes` is a bulk string, `int` an integer, `None` a null, `list` an
array, `float` a double, `bool` a boolean, `dict` a map (a flat array in RESP2), `set`/`frozenset` a set.
What has no Python counterpart has a small type here. The encoder (`respkv.resp.encoder`) turns them into RESP2 or
RESP3; node-to-node links carry them as MessagePack (`respkv.shard.wire`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final


class Simple:
    """A simple string (`+OK`): a short status without CR or LF."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Simple) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Simple({self.text!r})"


class RespError(Exception):
    """An error reply, raised or returned by a command; equal on every replica.

    `text` is the whole line without the leading `-`, its first word the error code: `"ERR syntax error"`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RespError) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class LongBulk:
    """A bulk string in parts, so long that they are joined only where it goes to its client."""

    __slots__ = ("parts", "value_bytes")

    def __init__(self, value_bytes: int, parts: list[bytes]) -> None:
        self.value_bytes = value_bytes
        self.parts = parts


class OrderedSet:
    """A set (`~`) in the order given, also of what Python's sets cannot hold; an array in RESP2.

    Nothing is looked up in it: that no item comes twice is for its maker to see to.
    """

    __slots__ = ("items",)

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = list(items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrderedSet) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]  # its items need not be hashable


class Push:
    """An out-of-band message of RESP3 (`>`); RESP2 connections get it as an array."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items


class Encoded:
    """What is on the wire already, in the protocol of the client that gets it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Verbatim:
    """A verbatim string of RESP3 with its three-letter format; a bulk string in RESP2."""

    __slots__ = ("format", "text")

    def __init__(self, text: bytes, format: bytes = b"txt") -> None:
        self.text = text
        self.format = format


class NullArray:
    """A null array (`*-1`) in RESP2, a null in RESP3."""



OK: Final = Simple(b"OK")
PONG: Final = Simple(b"PONG")
QUEUED: Final = Simple(b"QUEUED")
NULL_ARRAY: Final = NullArray()

Reply = bytes | int | float | bool | None | list[Any] | dict[Any, Any] | set[Any] | frozenset[Any] | (
    Simple | RespError | OrderedSet | Push | Verbatim | Encoded | NullArray | LongBulk
)
