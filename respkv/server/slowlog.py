"""The slow log: the newest commands that kept the node's loop busy for longer than `slowlog-log-slower-than`.

An entry is as in Redis: at most 32 arguments of at most 128 bytes, what is secret left out. Of plain GETs that were run
together the first is shown, and how many more there were; the time is that of all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

ARGUMENTS_MAX: Final = 32
ARGUMENT_BYTES_MAX: Final = 128
REDACTED: Final = b"(redacted)"


class Entry(NamedTuple):
    id: int
    at_s: int
    micros: int
    args: list[bytes]
    address: bytes
    name: bytes


class Slowlog:
    """At most `length_max` entries; their ids never repeat while the node runs."""

    def __init__(self, length_max: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=length_max)
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def length_max(self) -> int:
        return self._entries.maxlen or 0

    @length_max.setter
    def length_max(self, length: int) -> None:
        if length != self.length_max:
            self._entries = deque(islice(reversed(self._entries), length), maxlen=length)
            self._entries.reverse()

    def add(self, args: Sequence[bytes], seconds: float, address: str, name: bytes) -> None:
        entry = Entry(self._next, int(time.time()), int(seconds * 1e6), trimmed(args), address.encode(), name)
        self._next += 1
        self._entries.append(entry)

    def newest(self, count: int) -> list[Entry]:
        """At most `count`, the newest first; -1 is all."""
        return list(islice(reversed(self._entries), count if count >= 0 else None))

    def clear(self) -> None:
        self._entries.clear()


def trimmed(args: Sequence[bytes]) -> list[bytes]:
    """As an entry shows a command."""
    args = redacted(args)
    shown = [_trimmed(arg) for arg in args[:ARGUMENTS_MAX]]
    if len(args) > ARGUMENTS_MAX:
        shown[-1] = b"... (%d more arguments)" % (len(args) - ARGUMENTS_MAX + 1)
    return shown


def _trimmed(arg: bytes) -> bytes:
    more = len(arg) - ARGUMENT_BYTES_MAX
    return arg if more <= 0 else b"%b... (%d more bytes)" % (arg[:ARGUMENT_BYTES_MAX], more)


_SECRET_OPTIONS: Final = frozenset((b"masterauth", b"masteruser", b"requirepass"))


def redacted(args: Sequence[bytes]) -> Sequence[bytes]:
    """The command without passwords: for logs, and for whoever else watches commands."""
    name = args[0].lower()
    if name == b"auth":
        secret = set(range(1, len(args)))
    elif name == b"acl" and len(args) > 2 and args[1].lower() == b"setuser":
        secret = set(range(2, len(args)))
    elif name == b"config" and len(args) > 2 and args[1].lower() == b"set":
        secret = {i + 1 for i in range(2, len(args), 2) if args[i].lower() in _SECRET_OPTIONS}
    elif name in (b"hello", b"migrate"):
        secret = _after_auth(args)
    else:
        return args
    return [REDACTED if i in secret else arg for i, arg in enumerate(args)]


def _after_auth(args: Sequence[bytes]) -> set[int]:
    """What follows the options AUTH and AUTH2: HELLO's AUTH has a user, MIGRATE's has not."""
    first, counts = (2, {b"auth": 2}) if args[0].lower() == b"hello" else (6, {b"auth": 1, b"auth2": 2})
    return {at + i for at in range(first, len(args)) for i in range(1, counts.get(args[at].lower(), 0) + 1)}
