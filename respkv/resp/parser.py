"""The parser of a connection: a fast tier for what well-behaved clients send, a strict tier for everything else.

A chunk that is one short command goes to neither: see `respkv.resp.lone`.

Fast tier: `hiredis.Reader`. It is a parser of replies, made to trust its peer, and as a server's parser it has holes:
it reserves memory for as many elements as a header announces, waits without limit, knows no inline commands, and
accepts every RESP type wherever a value may stand. Therefore it sees only chunks that start at a boundary between
commands with `*` and announce no huge aggregate, and what it makes of a chunk counts only if these cheap checks prove
that the chunk was nothing but arrays of bulk strings:

1. every value is a list or the like, not empty, and every item in it bytes (they can be joined);
2. no byte of the chunk is the type byte of something else that hiredis turns into bytes or an aggregate (`+(=>~|%`);
3. behind the last value nothing is left. This is asked before each value is taken: an attempt in vain hides a type byte
   or a whole incomplete array from `has_data`.

Where 2 fails because of bytes inside the arguments, counting those there decides. A chunk that ends within a command
is settled by writing its complete commands out again: they must be the bytes that the chunk starts with, and the rest
goes to the strict tier. In every other doubt the whole chunk goes there: `StrictParser` alone says what an error is. It
hands back to the fast tier at the next boundary. So what comes out depends on the bytes alone, not on how they were cut
into chunks (a login in the middle apart: see `StrictParser`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Final

import hiredis

from respkv.resp.encoder import encode_commands
from respkv.resp.limits import Limits, ProtocolError
from respkv.resp.lone import lone_command
from respkv.resp.strict import StrictParser

__all__ = ["Limits", "Parser", "ProtocolError"]

_find_long_array = re.compile(rb"\*\d{3}").search
_find_long_aggregates = tuple((mark, re.compile(rb"[%c](\d{3,18})" % mark).findall) for mark in b"*>~|")
_ANNOUNCED_MAX: Final = 1 << 17
"""Elements of long aggregates announced in one chunk: hiredis reserves 8 bytes for each. Short ones do no harm, as it
gives up at 1024 of them nested."""
_MISLEADING_TYPES: Final = tuple(b"+(=>~|%")
_STAR: Final = ord("*")
_CR: Final = ord("\r")

_flat = chain.from_iterable
_join = b"".join


class Parser:
    """Turns the bytes of one connection into commands (lists of arguments, the name first, never empty).

    After a ProtocolError the parser is of no more use: every further `feed` raises the same error again.

    Attributes:
        at_boundary: whether the next chunk begins a command, of a client that may send any: then it need not go
            through `feed` if it is known to be one command and no more (`respkv.resp.lone`).
    """

    __slots__ = ("_failure", "_limits", "_reader", "_strict", "at_boundary")

    def __init__(self, limits: Limits, authenticated: bool = True) -> None:
        self._limits = limits
        self._reader = hiredis.Reader()
        self._strict = StrictParser(limits, authenticated)
        self._failure: str | None = None
        self._choose_tier()

    @property
    def authenticated(self) -> bool:
        """Whether the client has logged in or need not; until then commands are held to Redis's tighter limits."""
        return self._strict.authenticated

    @authenticated.setter
    def authenticated(self, value: bool) -> None:
        self._strict.authenticated = value
        self._choose_tier()

    @property
    def pending_bytes(self) -> int:
        """Wire bytes that have come of a command that is not complete; 0 at a boundary between commands."""
        return self._strict.pending_bytes

    @property
    def argument_bytes(self) -> int:
        """Of these, the bytes of arguments that are complete."""
        return self._strict.argument_bytes

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Takes the next chunk of the stream and returns the commands that are complete with it, perhaps none.

        Raises ProtocolError, which carries the commands that came before the bad frame.
        """
        if not self.at_boundary or not data or data[0] != _STAR or len(data) > self._limits.uncritical_bytes:
            return self._feed_strict(data)
        last_star = data.rfind(_STAR)
        if last_star == 0 and (lone := lone_command(data)) is not None:
            return [lone]
        # + ( = > ~ | % spelled out, as a loop costs more than all of them; by number, as `b"+" in data` is far slower.
        unclear = 43 in data or 40 in data or 61 in data or 62 in data or 126 in data or 124 in data or 37 in data
        # A single array announced with five digits at the most needs no search.
        has_long_array = (last_star > 0 or _CR not in data[:7]) and _find_long_array(data)
        if (has_long_array or unclear) and _announces_too_much(data):
            return self._feed_strict(data)
        reader = self._reader
        try:
            reader.feed(data)
            command = reader.gets()
            if command and not reader.has_data():
                payload = _join(command)
                if not unclear or _are_all_inside(_MISLEADING_TYPES, data, payload):
                    return [command]
            commands: list[list[bytes]] = []
            take, has_data = reader.gets, reader.has_data
            while command:
                commands.append(command)
                if not has_data():
                    break
                command = take()
            payload = _join(_flat(commands))
        except Exception:  # noqa: BLE001  # whatever hiredis or the check did not like: the strict tier says what it is
            return self._reject(data)
        if unclear or not command:
            return self._settle(data, commands, payload, complete=bool(command))
        return commands

    def _settle(self, data: bytes, commands: list[list[bytes]], payload: bytes, complete: bool) -> list[list[bytes]]:
        """Decides about a chunk that is not clean at first sight, or not `complete`: other than by a command ended."""
        if complete and _are_all_inside(_MISLEADING_TYPES, data, payload):
            return commands
        wire = encode_commands(commands)
        if not data.startswith(wire):
            return self._reject(data)
        if len(wire) == len(data):
            return commands
        self._reader = hiredis.Reader()
        return self._feed_strict(data[len(wire) :], commands)

    def _reject(self, data: bytes) -> list[list[bytes]]:
        """Has the whole chunk parsed again by the strict tier."""
        self._reader = hiredis.Reader()
        return self._feed_strict(data)

    def _feed_strict(self, data: bytes, before: list[list[bytes]] | None = None) -> list[list[bytes]]:
        """Feeds the strict tier; returns its commands behind those of `before`, which came earlier in the chunk."""
        commands = [] if before is None else before
        if self._failure is not None:
            raise ProtocolError(self._failure)
        resumable = not self.at_boundary and self._strict.authenticated
        try:
            if resumable:
                # A command was cut by the end of the last chunk: with it complete the fast tier may go on.
                commands += self._strict.feed(data, 1)
                if commands and (rest := self._strict.take_rest()):
                    self._choose_tier()
                    commands += self.feed(rest)
            else:
                commands += self._strict.feed(data)
        except ProtocolError as error:
            commands += error.commands
            self._failure = error.text
            self._choose_tier()
            raise ProtocolError(error.text, commands) from None
        self._choose_tier()
        return commands

    def _choose_tier(self) -> None:
        strict = self._strict
        # Also within a command that it has begun.
        self.at_boundary = self._failure is None and strict.authenticated and strict.pending_bytes == 0


def _announces_too_much(data: bytes) -> bool:
    """Whether hiredis, which reserves memory at each header, might reserve too much for `data`."""
    announced = 0
    for mark, find_lengths in _find_long_aggregates:
        if mark in data:
            announced += sum(map(int, find_lengths(data)))
    return announced > _ANNOUNCED_MAX


def _are_all_inside(marks: Iterable[int], data: bytes, payload: bytes) -> bool:
    """Whether each of `marks` occurs in `data` as often as in `payload`, which is the arguments in `data`."""
    for mark in marks:  # noqa: SIM110  # all() with a generator takes twice as long
        if mark in data and data.count(mark) != payload.count(mark):
            return False
    return True
