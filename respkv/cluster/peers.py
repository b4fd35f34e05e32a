"""The links between nodes: one connection per pair of nodes for all shards (`respkv.cluster.link`).

The node that comes first in the topology dials. Both ends prove that they know the cluster's secret (`handshake`); the
first message names the sender, its cluster and the fingerprint of its topology. At most `HANDSHAKES_MAX` connections
may be on the way to that; the oldest of more is closed.

Delivery is at most once and in order while a link lasts; a link that breaks loses what was under way, and
`disconnected` says so. A node that stops in order asks the others first to send nothing more, and waits for what they
had sent (`LEAVE_S` at the most), so that it can be answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from respkv.cluster.frames import Message
from respkv.cluster.link import DEAD_AFTER_S, LEAVING, LEFT, PING, Link
from respkv.cluster.topology import Topology
from respkv.listener import listen, relisten
from respkv.tls import PeerContexts

log = structlog.get_logger()

HANDSHAKE_S = 5.0
REFUSED_TOLD_S = 1.0
LEAVE_S = 0.5
HANDSHAKES_MAX = 128
BACKLOG = 512


class Counts:
    """What went over links since the start, those that are gone included: bytes, messages, and the PINGs among them."""

    __slots__ = ("received", "received_bytes", "received_pings", "sent", "sent_bytes", "sent_pings")

    def __init__(self) -> None:
        self.received = self.received_bytes = self.received_pings = 0
        self.sent = self.sent_bytes = self.sent_pings = 0


class Peers:
    """All links of this node.

    Args:
        agreement: settings that all nodes must share, as text; a node with other ones is refused.
        deliver: called as `deliver(node_id, message)` for each message received, a list that begins with an int; a
            `BadMessage` that it raises breaks the link.
        connected, disconnected: called with the node's id when a link is ready and when it is gone.
        dirty: called when there is something to flush this turn.
        tls: what links are encrypted with; None: they are not.
    """

    def __init__(
        self,
        topology: Topology,
        node: str,
        secret: bytes,
        agreement: str,
        *,
        deliver: Callable[[str, Message], None],
        connected: Callable[[str], None],
        disconnected: Callable[[str], None],
        dirty: Callable[[], None],
        tls: PeerContexts | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.secret = secret
        self.hello = (node, topology.cluster_id, topology.fingerprint, agreement)
        self.deliver = deliver
        self.links: dict[str, Link] = {}
        self.counts = Counts()
        self._topology = topology
        self._node = node
        self._connected = connected
        self._disconnected = disconnected
        self._dirty = dirty
        self._tls = tls
        self._waiting: list[Link] = []
        self._greeting: dict[Link, asyncio.TimerHandle] = {}  # in the order of their coming
        self._refused: dict[str, tuple[float, int]] = {}  # by reason: when one was told of, and how many were not since
        self._servers: list[asyncio.Server] = []
        self._sending: set[Link] = set()  # whose other ends may still send, though this node leaves
        self._all_said = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, addresses: Sequence[str], port: int) -> None:
        """Listens on the peer port and dials the nodes that come after this one. Raises ConfigError."""
        if len(self._topology.nodes) == 1:
            return
        for address in addresses:
            context = self._tls.listens if self._tls is not None else None
            self._servers += await listen(self.loop, self._accept, address, port, BACKLOG, context)
        names = [node.id for node in self._topology.nodes]
        for name in names[names.index(self._node) + 1 :]:
            self._tasks.append(self.loop.create_task(self._dial(name)))
        self._tasks.append(self.loop.create_task(self._watch()))

    def _accept(self) -> Link:
        return Link(self, None)

    async def renew(self, tls: PeerContexts | None) -> None:
        """Links that are made from now on use other certificates."""
        self._tls = tls
        if tls is not None:
            self._servers = await relisten(self.loop, self._accept, self._servers, BACKLOG, tls.listens)

    async def leave(self) -> None:
        """Has the others send nothing more, and waits for what they had sent, but not for long."""
        self._sending = {link for name, link in self.links.items() if self.send(name, (LEAVING,))}
        self.flush()
        if self._sending:
            self._all_said.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._all_said.wait()
        self.flush()
        await asyncio.sleep(0)  # what was written leaves with the loop's turn

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        for link in (*self.links.values(), *self._greeting):
            link.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, name: str, message: Message) -> bool:
        """Joins this turn's frame to node `name`; False if there is no link, or that node is about to stop (the message
        is dropped)."""
        link = self.links.get(name)
        if link is None or link.parting:
            return False
        if not link.out:
            self._waiting.append(link)
            self._dirty()
        link.out.append(message)
        return True

    def waiting_bytes(self, name: str) -> int:
        """What node `name` has not taken yet of what was sent in earlier turns."""
        link = self.links.get(name)
        return 0 if link is None else link.waiting_bytes

    def flush(self) -> None:
        """Sends what this turn has gathered, one frame per peer."""
        waiting, self._waiting = self._waiting, []
        for link in waiting:
            link.flush()

    # -- called by links

    def admit(self, link: Link) -> None:
        """Counts a connection whose other end has not named itself; the oldest of too many goes."""
        if len(self._greeting) >= HANDSHAKES_MAX:
            oldest = next(iter(self._greeting))
            self._over(oldest)
            oldest.abort()
        self._greeting[link] = self.loop.call_later(HANDSHAKE_S, link.abort)

    def _over(self, link: Link) -> None:
        timer = self._greeting.pop(link, None)
        if timer is not None:
            timer.cancel()

    def refused(self, reason: str, address: Any) -> None:
        """Logs a stranger who was thrown out: of many with the same reason one per second, and how many others."""
        now = self.loop.time()
        told_at, untold = self._refused.get(reason, (float("-inf"), 0))
        if now - told_at < REFUSED_TOLD_S:
            self._refused[reason] = (told_at, untold + 1)
            return
        log.warning("peer_refused", reason=reason, address=address, untold_before=untold)
        self._refused[reason] = (now, 0)

    def welcome(
        self, link: Link, name: Any, cluster: Any, fingerprint: Any, agreement: Any, *, dialed: str | None
    ) -> str | None:
        """Takes a link whose other end has named itself; returns why not, if not."""
        known = [node.id for node in self._topology.nodes if node.id != self._node]
        if name not in known or (dialed is not None and name != dialed):
            return f"unexpected node {name!r}"
        if cluster != self._topology.cluster_id or fingerprint != self._topology.fingerprint:
            return f"node {name} has another cluster map"
        if agreement != self.hello[3]:
            return f"node {name} has {agreement!r}, this one {self.hello[3]!r}"
        self._over(link)
        old = self.links.pop(name, None)
        if old is not None:
            old.abort()
            old.name = None
            self._disconnected(name)
        link.name = name
        self.links[name] = link
        log.info("peer_connected", peer=name)
        self._connected(name)
        return None

    def dismiss(self, link: Link) -> None:
        """The other end is about to stop: it gets what was sent so far."""
        self.send(str(link.name), (LEFT,))
        link.parting = True

    def said_all(self, link: Link) -> None:
        """From the other end nothing more comes."""
        self._sending.discard(link)
        if not self._sending:
            self._all_said.set()

    def lost(self, link: Link) -> None:
        self._over(link)
        self.said_all(link)
        name = link.name
        if name is not None and self.links.get(name) is link:
            del self.links[name]
            log.info("peer_disconnected", peer=name)
            self._disconnected(name)

    # -- tasks

    async def _dial(self, name: str) -> None:
        peer = self._topology.node(name)
        delay = 0.05
        while True:
            if name not in self.links:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(HANDSHAKE_S):
                        context = self._tls.dials if self._tls is not None else None
                        _, link = await self.loop.create_connection(
                            lambda: Link(self, name),
                            peer.host,
                            peer.peer_port,
                            ssl=context,
                            server_hostname=peer.host if context is not None else None,
                        )
                    await link.closed.wait()
                    delay = 0.05 if link.name is not None else delay
            await asyncio.sleep(delay * (0.75 + random.random() / 2))
            delay = min(delay * 1.5, 1.0)

    async def _watch(self) -> None:
        """Keeps idle links known to be alive, and breaks those on which nothing comes any more."""
        while True:
            await asyncio.sleep(DEAD_AFTER_S / 4)
            for name, link in list(self.links.items()):
                link.check(self.loop.time())
                self.counts.sent_pings += self.send(name, (PING,))
