"""Who a connection is: protocol, authentication, name and what CLIENT LIST tells of it. Plain state, no I/O.

Times are those of `respkv.raft.group.Clock`, in seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from respkv.commands.table import COMMANDS
from respkv.raft.group import Clock
from respkv.shard.transaction import Watched

if TYPE_CHECKING:
    from respkv.server.queue import Queue

_ids = itertools.count(1)


class Session:
    """One client's state. `cluster_view` tells which of the two doors it came through."""

    __slots__ = (
        "address",
        "authenticated",
        "cluster_view",
        "created_at",
        "id",
        "last_at",
        "last_words",
        "lib_name",
        "lib_version",
        "local_address",
        "name",
        "no_evict",
        "protocol",
        "readonly",
        "transaction",
        "watched",
    )

    def __init__(self, *, cluster_view: bool, authenticated: bool) -> None:
        self.id = next(_ids)
        self.cluster_view = cluster_view
        self.address = ""
        self.local_address = ""
        self.created_at = self.last_at = Clock.now()
        self.last_words: Sequence[bytes] = ()
        self.lib_name = b""
        self.lib_version = b""
        self.reset(authenticated=authenticated)

    @property
    def last_command(self) -> str:
        """The lower-case full name of the last command for people: `get`, `client|list`."""
        return command_name(self.last_words) if self.last_words else "NULL"

    def reset(self, *, authenticated: bool) -> None:
        """As RESET does it: back to what a new connection is."""
        self.authenticated = authenticated
        self.protocol = 2
        self.name = b""
        self.no_evict = False
        self.readonly = False
        self.end_transaction()

    def end_transaction(self) -> None:
        """Neither in MULTI nor watching anything."""
        self.transaction: Queue | None = None
        self.watched: dict[bytes, Watched] = {}


def command_name(args: Sequence[bytes]) -> str:
    """The lower-case full name of a command for people: `get`, `client|list`."""
    spec = COMMANDS.get(args[0]) or COMMANDS.get(args[0].lower())
    if spec is None:
        return "unknown"
    if spec.subcommands and len(args) > 1:
        spec = spec.subcommands.get(args[1]) or spec.subcommands.get(args[1].lower()) or spec
    return spec.name
