"""Where clients come in: the addresses and ports of both views, plain and over TLS, and the Unix socket.

Certificates may be renewed while clients come and go: the sockets go on listening, what connects from then on gets the
new ones, and who is connected stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from respkv import tls
from respkv.config import Config
from respkv.config.live import Live
from respkv.listener import listen, listen_unix, relisten

Accept = Callable[[bool, int], asyncio.BaseProtocol]
"""Makes the protocol of a new client: whether it gets the cluster view, and how far its port is from the plain one."""


class _SecureDoor(NamedTuple):
    factory: Callable[[], asyncio.BaseProtocol]
    servers: list[asyncio.Server]


class Doors:
    """All listening sockets for clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: Live, accept: Accept) -> None:
        self._loop = loop
        self._live = config
        self._accept = accept
        self._plain: list[asyncio.Server] = []
        self._secure: list[_SecureDoor] = []

    def _factory(self, cluster_view: bool, port_shift: int = 0) -> Callable[[], asyncio.BaseProtocol]:
        return lambda: self._accept(cluster_view, port_shift)

    async def open(self) -> None:
        """Raises ConfigError."""
        config = self._live.config
        context = tls.for_clients(config) if config.tls_port or config.tls_cluster_port else None
        views = ((False, config.port, config.tls_port), (True, config.cluster_port, config.tls_cluster_port))
        for address in config.bind_addresses:
            for cluster_view, port, tls_port in views:
                factory = self._factory(cluster_view)
                if port != tls_port:
                    self._plain += await listen(self._loop, factory, address, port, config.tcp_backlog)
                if tls_port:
                    factory = self._factory(cluster_view, tls_port - port)
                    servers = await listen(self._loop, factory, address, tls_port, config.tcp_backlog, context)
                    self._secure.append(_SecureDoor(factory, servers))
        if config.unixsocket is not None:
            factory, mode = self._factory(cluster_view=False), int(config.unixsocketperm, 8)
            self._plain.append(await listen_unix(self._loop, factory, config.unixsocket, mode, config.tcp_backlog))

    async def renew(self, config: Config) -> None:
        """From now on clients that come over TLS get what `config` says. Raises ConfigError; then nothing changes."""
        if not self._secure:
            return
        context = tls.for_clients(config)
        doors, self._secure = self._secure, []
        for factory, servers in doors:
            renewed = await relisten(self._loop, factory, servers, config.tcp_backlog, context)
            self._secure.append(_SecureDoor(factory, renewed))

    def close(self) -> None:
        for server in self._plain:
            server.close()
        for door in self._secure:
            for server in door.servers:
                server.close()
        unixsocket = self._live.config.unixsocket
        if unixsocket is not None:
            unixsocket.unlink(missing_ok=True)
