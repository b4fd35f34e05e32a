"""What a client has queued since MULTI.

A command is checked when it comes: it exists, has a right number of arguments, may be run by this client, and its keys
are on one shard, led where the cluster view says so. One that is refused spoils the transaction: EXEC will do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from respkv import errors
from respkv.commands.table import COMMANDS, Spec, spec_keys
from respkv.reply import QUEUED, Reply
from respkv.server.dispatch import check_refusal, home_of

if TYPE_CHECKING:
    from respkv.server.connection import Connection

log = structlog.get_logger()

BYTES_MAX: Final = 256 << 20  # one entry holds it all, and is applied in one go
COMMANDS_MAX: Final = 1 << 20
ARGUMENT_BYTES: Final = 57  # what an argument takes in memory beside its bytes


class Queue:
    """The commands of one transaction, in order.

    commands  (spec, arguments) of each
    count     how many have come, those that are not kept any more included
    bytes     about what they take in memory
    broken    one was refused
    is_write  one is a write
    """

    __slots__ = ("broken", "bytes", "commands", "count", "is_write")

    def __init__(self) -> None:
        self.commands: list[tuple[Spec, list[bytes]]] = []
        self.count = 0
        self.bytes = 0
        self.broken = self.is_write = False

    def add(self, connection: Connection, spec: Spec, args: list[bytes]) -> Reply:
        """Raises what refuses the command."""
        if "no_multi" in spec.flags:
            raise errors.not_in_multi()
        if spec.kind == "data":
            if args[0] not in COMMANDS:
                args[0] = args[0].upper()
            keys = spec_keys(spec, args)
            if keys:
                check_refusal(home_of(connection, keys, any_slot=spec.spread is not None), spec)
        if not self.broken:
            self._keep(connection, spec, args)
        return QUEUED

    def _keep(self, connection: Connection, spec: Spec, args: list[bytes]) -> None:
        self.count += 1
        self.bytes += sum(map(len, args)) + ARGUMENT_BYTES * len(args)
        if self.bytes + connection.input_bytes > connection.server.limits.query_buffer_bytes:
            log.warning("client_query_buffer_limit", client=connection.session.id, bytes=self.bytes)
            connection.abort()
        if self.bytes > BYTES_MAX or self.count > COMMANDS_MAX:
            raise errors.transaction_too_large(COMMANDS_MAX, BYTES_MAX)
        self.commands.append((spec, args))
        self.is_write = self.is_write or spec.is_write

    def spoil(self) -> None:
        """A command was refused: what was queued will never run."""
        self.broken = True
        self.commands.clear()
        self.bytes = 0
