"""The bounds of what a client may send, and the error that ends a connection which breaks the protocol."""

from __future__ import annotations

from typing import Any, Final

HEADER_BYTES_MAX: Final = 64 * 1024
"""Longest header line or inline command, without its line end (Redis: PROTO_INLINE_MAX_SIZE)."""
UNAUTHENTICATED_ARRAY_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16 * 1024

ARGUMENT_BYTES_MIN: Final = 6
"""The shortest argument on the wire, `$0\\r\\n\\r\\n`: six bytes a time bound the number of arguments."""


class Limits:
    """What one command may take at the most. All connections share one object; attributes may be set at any time.

    max_bulk_bytes: longest argument (`proto-max-bulk-len`).
    max_array: most arguments of one command.
    query_buffer_bytes: most bytes of one command on the wire, headers and all (`client-query-buffer-limit`).
    uncritical_bytes: derived; a chunk no longer than this cannot hold a whole command that breaks a limit.
    """

    __slots__ = ("max_array", "max_bulk_bytes", "query_buffer_bytes", "uncritical_bytes")

    max_bulk_bytes: int
    max_array: int
    query_buffer_bytes: int
    uncritical_bytes: int

    def __init__(
        self,
        max_bulk_bytes: int = 512 << 20,
        max_array: int = 1 << 20,
        query_buffer_bytes: int = 1 << 30,
    ) -> None:
        set_plain = object.__setattr__
        set_plain(self, "max_bulk_bytes", max_bulk_bytes)
        set_plain(self, "max_array", max_array)
        self.query_buffer_bytes = query_buffer_bytes

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        uncritical_bytes = min(self.max_bulk_bytes, self.query_buffer_bytes, self.max_array * ARGUMENT_BYTES_MIN)
        object.__setattr__(self, "uncritical_bytes", uncritical_bytes)


class ProtocolError(Exception):
    """The client broke the protocol: answer `commands`, then `-ERR <text>`, then close the connection.

    text: Redis's words, without `ERR`; a byte of the client's that is not UTF-8 stands in it as a surrogate escape.
    commands: the complete commands that came before the bad frame in the same chunk.
    """

    def __init__(self, text: str, commands: list[list[bytes]] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.commands: list[list[bytes]] = [] if commands is None else commands
