"""How clients of the cluster view are told to reach the nodes: `cluster-announce-*`, `cluster-preferred-endpoint-type`.

Every node tells the others what it announces of itself, when they connect and when that changes; a node that has said
nothing is reached at its host and `cluster-port` of the configuration.

| kind       | fields after (kind, 0)                                        |
| ---------- | ------------------------------------------------------------- |
| `ANNOUNCE` | ip, port, hostname; empty, or 0, where nothing is announced    |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from respkv.border import Shape, require
from respkv.cluster.topology import Topology
from respkv.config import Config

ANNOUNCE: Final = 61

_Text = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\s,@]*$")]


class Announce(Shape):
    ip: _Text
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    hostname: _Text


SHAPES: Final[dict[int, type[Shape]]] = {ANNOUNCE: Announce}


class Endpoint(NamedTuple):
    """Where a node is. `hostname` is empty if it has none; `preferred` is None for "where you are already"."""

    ip: str
    port: int
    hostname: str
    preferred: str | None

    @property
    def others(self) -> dict[bytes, bytes]:
        """What is known beside what is preferred, as CLUSTER SLOTS tells it."""
        found = {b"ip": self.ip, b"hostname": self.hostname}
        return {name: text.encode() for name, text in found.items() if text and text != self.preferred}


class Endpoints:
    """What one node knows of all."""

    def __init__(self, topology: Topology, node: str, broadcast: Callable[[Any], None]) -> None:
        self._topology = topology
        self._node = node
        self._broadcast = broadcast
        self._announced: dict[str, tuple[str, int, str]] = {}
        self._preferred_type = "ip"

    def configure(self, config: Config) -> None:
        self._preferred_type = config.preferred_endpoint
        own = (config.announce_ip, config.announce_port, config.announce_hostname)
        if own != self._announced.get(self._node, ("", 0, "")):
            self._announced[self._node] = own
            self._broadcast(self.message())

    def message(self) -> Any:
        """What to tell a node that has connected."""
        return (ANNOUNCE, 0, *self._announced.get(self._node, ("", 0, "")))

    def receive(self, peer: str, message: Any) -> None:
        """What another node says of itself. Raises BadMessage: the link is to be broken."""
        require(message, SHAPES)
        _, _, ip, port, hostname = message
        self._announced[peer] = (ip, port, hostname)

    def of(self, node_id: str, port_shift: int = 0) -> Endpoint:
        """What to tell of a node. `port_shift`: the client speaks TLS, so many ports above `cluster-port`, of which
        nothing is announced."""
        node = self._topology.node(node_id)
        ip, port, hostname = self._announced.get(node_id, ("", 0, ""))
        ip, port = ip or node.host, node.cluster_port + port_shift if port_shift or not port else port
        if self._preferred_type == "unknown-endpoint":
            return Endpoint(ip, port, hostname, None)
        return Endpoint(ip, port, hostname, ip if self._preferred_type == "ip" else hostname or "?")
