"""Who a connection is: protocol, authentication, name and what CLIENT LIST tells of it. Plain state, no I/O.

Times are those of `respkv.raft.group.Clock`, in seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from respkv.acl.user import User
from respkv.commands.table import COMMANDS
from respkv.raft.group import Clock
from respkv.shard.transaction import Watched

if TYPE_CHECKING:
    from respkv.server.queue import Queue

if TYPE_CHECKING:
    from respkv.server.channels import Subscriptions
    from respkv.server.tracking import Tracker

# Whether replies are sent (CLIENT REPLY): all; all but that to the next command; none.
HEARD: Final = 0
SKIPS_NEXT: Final = 1
SILENT: Final = 2

_ids = itertools.count(1)


class Session:
    """One client's state. `cluster_view` tells which of the two doors it came through."""

    __slots__ = (
        "address",
        "authenticated",
        "blocked",
        "cluster_view",
        "created_at",
        "id",
        "is_unix",
        "last_at",
        "last_words",
        "lib_name",
        "lib_version",
        "local_address",
        "logged_in",
        "monitors",
        "muted",
        "name",
        "no_evict",
        "no_touch",
        "port_shift",
        "protocol",
        "readonly",
        "subscriptions",
        "tracker",
        "transaction",
        "user",
        "watched",
    )

    def __init__(self, *, cluster_view: bool, user: User, authenticated: bool) -> None:
        self.id = next(_ids)
        self.cluster_view = cluster_view
        self.address = ""
        self.local_address = ""
        self.is_unix = False
        self.port_shift = 0  # from the ports of the cluster view to those that this client is to be told of
        self.created_at = self.last_at = Clock.now()
        self.last_words: Sequence[bytes] = ()
        self.lib_name = b""
        self.lib_version = b""
        self.subscriptions: Subscriptions | None = None
        self.tracker: Tracker | None = None
        self.monitors = False
        self.blocked: list[Callable[[bool], None]] = []  # ends the first wait, and so on; with whether as an error
        self.reset(user=user, authenticated=authenticated)

    @property
    def last_command(self) -> str:
        """The lower-case full name of the last command for people: `get`, `client|list`."""
        return command_name(self.last_words) if self.last_words else "NULL"

    def reset(self, *, user: User, authenticated: bool) -> None:
        """As RESET does it: back to what a new connection is.

        `authenticated` says whether commands are run: for who has `logged_in`, and for all while `default` is open.
        """
        self.user = user
        self.logged_in = self.authenticated = authenticated
        self.protocol = 2
        self.name = b""
        self.no_evict = self.no_touch = False
        self.readonly = False
        self.muted = HEARD
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
