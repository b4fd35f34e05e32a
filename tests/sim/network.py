"""Links between simulated nodes: one per pair, in order, lossy where Raft must stand it, cut and healed at will.

What was said on a link may come again, however old it is.

A cut may be known to both ends at once (`notice`, as when a connection is reset) or to nobody until the silence is
too long, and it may be in one direction only. What is under way on a link that breaks is lost.
"""

from __future__ import annotations

from collections import defaultdict, deque
from functools import partial
from typing import TYPE_CHECKING, Any

from respkv.cluster.codec import decode, encode
from respkv.raft.messages import REPLICA_KIND_MAX

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

DEAD_AFTER_S = 4.0
SAID_MAX = 100  # messages of a link that may come again
REDIAL_S = 0.3


class Network:
    """Who hears whom, and how well."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.latency_s = (0.0005, 0.003)
        self.drop = self.duplicate = self.reorder = self.again = 0.0
        self.late_s = 2.0
        self.cut: set[tuple[str, str]] = set()  # (from, to)
        self.up: dict[tuple[str, str], int] = {}  # in both directions: the number of the link
        self._links = 0
        self._last_arrival: dict[tuple[str, str], float] = {}
        self._said: dict[tuple[str, int], deque[bytes]] = defaultdict(partial(deque, maxlen=SAID_MAX))

    def linked(self, one: str, other: str) -> bool:
        return (one, other) in self.up

    # -- messages

    def post(self, source: str, target: str, messages: list[Any]) -> None:
        """One turn's messages of one node to another."""
        link = self.up.get((source, target))
        if link is None:
            return
        world, rng = self._world, self._world.rng
        lossy = bool(self.drop or self.duplicate or self.reorder or self.again)
        arrival = max(world.now + rng.uniform(*self.latency_s), self._last_arrival.get((source, target), 0.0))
        self._last_arrival[source, target] = arrival
        for message in messages:
            payload = encode(message)
            if not lossy or message[0] > REPLICA_KIND_MAX:  # no proposer has to stand more than a link does
                self._send(arrival, source, target, link, payload)
                continue
            for _ in range(1 + (rng.random() < self.duplicate)):
                if rng.random() < self.drop:
                    continue
                late_s = rng.random() * rng.choice((0.01, 0.1, self.late_s)) if rng.random() < self.reorder else 0.0
                self._send(arrival + late_s, source, target, link, payload)
            said = self._said[target, link]
            said.append(payload)
            for _ in range(int(self.again + rng.random())):
                self._send(arrival, source, target, link, rng.choice(said))

    def _send(self, arrival: float, source: str, target: str, link: int, payload: bytes) -> None:
        node = self._world.nodes[target]
        self._world.at(arrival, node, partial(self._deliver, source, node, link, payload))

    def _deliver(self, source: str, node: SimNode, link: int, payload: bytes) -> None:
        if self.up.get((source, node.name)) != link or (source, node.name) in self.cut:
            return
        message = decode(payload)
        self._world.story.delivered(source, node.name, message, payload)
        node.deliver(source, message)

    # -- links

    def cut_off(self, one: str, other: str, *, notice: bool, both: bool = True) -> None:
        """`other` hears `one` no more, nor the other way round if `both`."""
        self.cut.add((one, other))
        if both:
            self.cut.add((other, one))
        if notice:
            self.unlink(one, other)
        else:
            link = self.up.get((one, other))
            self._world.at(self._world.now + DEAD_AFTER_S, None, partial(self._notice, one, other, link))

    def _notice(self, one: str, other: str, link: int | None) -> None:
        if link is not None and self.up.get((one, other)) == link and self._is_cut(one, other):
            self.unlink(one, other)

    def _is_cut(self, one: str, other: str) -> bool:
        return (one, other) in self.cut or (other, one) in self.cut

    def partition(self, *groups: str, notice: bool, both: bool = True) -> None:
        """Only nodes that are in a group together hear each other; with `both` unset the first group hears all."""
        names = self._world.names
        for one in names:
            for other in names:
                if one < other and not any(one in group and other in group for group in groups):
                    first, second = (other, one) if other in groups[0] else (one, other)
                    self.cut_off(first, second, notice=notice, both=both)

    def heal(self) -> None:
        """All cuts end. A link that had one is made anew: what it lost would never come."""
        cut, self.cut = self.cut, set()
        for one, other in sorted(cut):
            if (one, other) in self.up:
                self.unlink(one, other)
        self.redial()

    def unlink(self, one: str, other: str) -> None:
        if self.up.pop((one, other), None) is None:
            return
        del self.up[other, one]
        for name, peer in ((one, other), (other, one)):
            node = self._world.nodes[name]
            self._world.at(self._world.now, node, partial(node.link_down, peer))

    def redial(self) -> None:
        """Makes the links that could be there."""
        world = self._world
        for one in world.names:
            for other in world.names:
                wanted = one < other and not self.linked(one, other) and not self._is_cut(one, other)
                if wanted and world.nodes[one].up and world.nodes[other].up:
                    self._links += 1
                    self.up[one, other] = self.up[other, one] = self._links
                    for name, peer in ((one, other), (other, one)):
                        node = world.nodes[name]
                        world.at(world.now, node, partial(node.link_up, peer))
