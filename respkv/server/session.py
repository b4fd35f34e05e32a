"""Who a connection is: protocol, authentication, name and what CLIENT LIST tells of it. Plain state, no I/O."""

from __future__ import annotations

import itertools
import time

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
        "last_command",
        "lib_name",
        "lib_version",
        "local_address",
        "name",
        "no_evict",
        "protocol",
        "readonly",
    )

    def __init__(self, *, cluster_view: bool, authenticated: bool, address: str, local_address: str) -> None:
        self.id = next(_ids)
        self.cluster_view = cluster_view
        self.address = address
        self.local_address = local_address
        self.created_at = time.monotonic()
        self.last_at = self.created_at
        self.last_command = "NULL"
        self.lib_name = b""
        self.lib_version = b""
        self.reset(authenticated=authenticated)

    def reset(self, *, authenticated: bool) -> None:
        """As RESET does it: back to what a new connection is."""
        self.authenticated = authenticated
        self.protocol = 2
        self.name = b""
        self.no_evict = False
        self.readonly = False
