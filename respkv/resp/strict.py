"""The strict tier of the parser: any bytes in any portions, everything bounded before memory is taken. Sans-IO.

A command is an array of bulk strings or an inline command (any other first byte):

    *<arguments>\\r\\n  then for each argument  $<bytes>\\r\\n<argument>\\r\\n      | word word "quoted word"\\r\\n

Counts are decimal without leading zeros or `+`. Arrays of no arguments (`*0`, `*-1`) and blank lines say nothing. As in
Redis (`networking.c`, whose error texts these are) the two bytes behind an argument are skipped unseen. Stricter than
Redis: a header ends with `\\r\\n`, not with `\\r` and any byte.

Bytes wait in one growing buffer, so that an argument of any size in portions of any size is put together in linear
time with about twice its size in memory. From `LONG_BYTES` on it is gathered in a buffer of its own, which becomes the
argument without a copy: copying half a gigabyte would hold everybody up.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from respkv.resp.inline import UnbalancedQuotesError, split_words
from respkv.resp.limits import (
    HEADER_BYTES_MAX,
    UNAUTHENTICATED_ARRAY_MAX,
    UNAUTHENTICATED_BULK_BYTES_MAX,
    Limits,
    ProtocolError,
)

_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")
_NO_BULK: Final = -1
_LOGIN_COMMANDS: Final = frozenset((b"AUTH", b"HELLO"))
_ENDLESS: Final = 1 << 62
LONG_BYTES: Final = 1 << 20


class StrictParser:
    """Turns the bytes of one connection into commands. After a ProtocolError it must not be fed again.

    While `authenticated` is False commands are held to the tighter limits of Redis. What follows an AUTH or HELLO in
    the same chunk is let off, as its success is not known yet and the bytes are in memory anyway.
    """

    __slots__ = (
        "_arguments",
        "_at",
        "_buffer",
        "_bulk_bytes",
        "_command_bytes",
        "_let_off",
        "_limits",
        "_long",
        "_missing",
        "_searched",
        "authenticated",
    )

    def __init__(self, limits: Limits, authenticated: bool = True) -> None:
        self.authenticated = authenticated
        self._limits = limits
        self._buffer = bytearray()
        self._at = 0  # in the buffer: everything before is parsed
        self._searched = 0  # in the buffer: no line end between `_at` and here
        self._arguments: list[bytes] = []  # of the incomplete command
        self._missing = 0  # arguments to come; 0 at a boundary between commands
        self._bulk_bytes = _NO_BULK  # length of the argument to come, once its header is read
        self._command_bytes = 0  # of the incomplete command, parsed already
        self._let_off = False
        self._long: BytesIO | None = None  # the argument to come, as far as it has come, if it is long

    @property
    def pending_bytes(self) -> int:
        """Wire bytes that have come of a command that is not complete; 0 at a boundary."""
        long_bytes = self._long.tell() if self._long is not None else 0
        return self._command_bytes + long_bytes + len(self._buffer) - self._at

    @property
    def argument_bytes(self) -> int:
        """Of these, the bytes of arguments that are complete."""
        return sum(map(len, self._arguments))

    def feed(self, data: bytes, commands_max: int = _ENDLESS) -> list[list[bytes]]:
        """Takes `data` and returns the commands complete with it, `commands_max` at the most. Raises ProtocolError."""
        self._let_off = False
        if self._long is not None:
            missing = self._bulk_bytes - self._long.tell()
            self._long.write(memoryview(data)[:missing])
            data = data[missing:]
        self._buffer += data
        commands: list[list[bytes]] = []
        try:
            self._check_still_allowed()
            while len(commands) < commands_max:
                command = self._next_command()
                if command is None:
                    break
                if command:
                    commands.append(command)
                    self._let_off = self._let_off or command[0].upper() in _LOGIN_COMMANDS
        except ProtocolError as error:
            error.commands = commands
            raise
        finally:
            self._drop_parsed()
        return commands

    def take_rest(self) -> bytes:
        """What is behind the last command of a `feed` that stopped at `commands_max`; it is forgotten here."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _drop_parsed(self) -> None:
        if self._at == len(self._buffer):
            self._buffer.clear()
        else:
            del self._buffer[: self._at]
        self._searched = max(0, self._searched - self._at)
        self._at = 0

    def _next_command(self) -> list[bytes] | None:
        """The next command, an empty list for an input that says nothing, None when bytes are missing."""
        if not self._missing:
            if self._at == len(self._buffer):
                return None
            if self._buffer[self._at] != _STAR:
                return self._inline()
            if not self._array_header():
                return None
            if not self._missing:
                self._command_bytes = 0
                return []
        arguments = self._arguments
        while self._missing:
            if self._bulk_bytes == _NO_BULK and not self._bulk_header():
                return None
            argument = self._long_argument() if self._bulk_bytes >= LONG_BYTES else self._argument()
            if argument is None:
                return None
            arguments.append(argument)
            self._command_bytes += self._bulk_bytes + 2
            self._bulk_bytes = _NO_BULK
            self._missing -= 1
        self._arguments = []
        self._command_bytes = 0
        return arguments

    def _argument(self) -> bytes | None:
        """The argument of `_bulk_bytes` at `_at`, None when it is not complete with the two bytes behind it."""
        start = self._at
        end = start + self._bulk_bytes
        if end + 2 > len(self._buffer):
            return None
        self._at = self._searched = end + 2
        with memoryview(self._buffer) as view:
            return bytes(view[start:end])

    def _long_argument(self) -> bytes | None:
        """The same for a long one."""
        long = self._long
        if long is None:
            long = self._long = BytesIO()
            end = self._at + self._bulk_bytes
            with memoryview(self._buffer) as view:
                self._at += long.write(view[self._at : end])
            self._searched = self._at
        if long.tell() < self._bulk_bytes or self._at + 2 > len(self._buffer):
            return None
        self._at = self._searched = self._at + 2
        self._long = None
        return long.getvalue()

    def _array_header(self) -> bool:
        """Reads `*<arguments>` into `_missing`; False when the line is not complete."""
        line = self._header("Protocol error: too big mbulk count string")
        if line is None:
            return False
        count = _decimal(line)
        if count is None or count > self._limits.max_array:
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > UNAUTHENTICATED_ARRAY_MAX and self._tight:
            raise ProtocolError("Protocol error: unauthenticated multibulk length")
        self._missing = max(0, count)
        return True

    def _bulk_header(self) -> bool:
        """Reads `$<bytes>` into `_bulk_bytes`; False when the line is not complete."""
        if self._at == len(self._buffer):
            return False
        if self._buffer[self._at] != _DOLLAR:
            got = bytes(self._buffer[self._at : self._at + 1]).decode(errors="surrogateescape")
            raise ProtocolError(f"Protocol error: expected '$', got '{got}'")
        line = self._header("Protocol error: too big bulk count string")
        if line is None:
            return False
        count = _decimal(line)
        if count is None or not 0 <= count <= self._limits.max_bulk_bytes:
            raise ProtocolError("Protocol error: invalid bulk length")
        if count > UNAUTHENTICATED_BULK_BYTES_MAX and self._tight:
            raise ProtocolError("Protocol error: unauthenticated bulk length")
        if self._command_bytes + count + 2 > self._limits.query_buffer_bytes:
            raise ProtocolError("Protocol error: command exceeds client-query-buffer-limit")
        self._bulk_bytes = count
        return True

    def _header(self, too_big: str) -> bytes | None:
        """The header line at `_at` without its type byte and line end, None when it is not complete."""
        buffer = self._buffer
        end = buffer.find(b"\r\n", self._searched)
        if end < 0:
            # A \r at the very end may be half of the line end: it is looked at again and does not count yet.
            end = len(buffer) - buffer.endswith(b"\r")
            self._searched = max(end, self._at)
            line = None
        else:
            line = bytes(buffer[self._at + 1 : min(end, self._at + 32)])
        if end - self._at > HEADER_BYTES_MAX:
            raise ProtocolError(too_big)
        if line is not None:
            self._command_bytes += end + 2 - self._at
            self._at = self._searched = end + 2
        return line

    def _inline(self) -> list[bytes] | None:
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        if (end if end >= 0 else len(buffer)) - self._at > HEADER_BYTES_MAX:
            raise ProtocolError("Protocol error: too big inline request")
        if end < 0:
            self._searched = len(buffer)
            return None
        line = bytes(buffer[self._at : end])
        self._at = self._searched = end + 1
        try:
            return split_words(line.removesuffix(b"\r"))
        except UnbalancedQuotesError:
            raise ProtocolError("Protocol error: unbalanced quotes in request") from None

    @property
    def _tight(self) -> bool:
        return not self.authenticated and not self._let_off

    def _check_still_allowed(self) -> None:
        """Holds a command that was let off to the tight limits when the login before it turns out to have failed."""
        if self.authenticated:
            return
        if self._missing + len(self._arguments) > UNAUTHENTICATED_ARRAY_MAX:
            raise ProtocolError("Protocol error: unauthenticated multibulk length")
        if self._bulk_bytes > UNAUTHENTICATED_BULK_BYTES_MAX:
            raise ProtocolError("Protocol error: unauthenticated bulk length")


def _decimal(text: bytes) -> int | None:
    """The integer written in `text` by the rules of Redis's `string2ll`, None when it is not one."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or (digits[0] == 0x30 and text != b"0"):
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None
