"""The simulated world: one clock, one heap of events, one seed, and the nodes, links and clients in it.

Time passes only from event to event. What is due at the same time happens in the order in which it was asked for. Every
event belongs to a node's process (or to the world): it is dropped if that has ended and waits while it stands still.
"""

from __future__ import annotations

import heapq
import random
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from respkv.cluster.topology import Node as TopologyNode
from respkv.cluster.topology import Topology
from tests.sim.disk import Died
from tests.sim.linearizable import History
from tests.sim.network import Network
from tests.sim.node import SimNode, SimReplica
from tests.sim.scenario import Scenario
from tests.sim.seams import SLOTS
from tests.sim.story import Story
from tests.sim.watch import Broken, Watch
from tests.sim.workload import Workload

if TYPE_CHECKING:
    from tests.sim.clients import Client

_EARLIER = 1 << 60
Action = Callable[[], None]
Event = tuple[float, int, SimNode | None, int, Action]


@cache
def _topology(names: str, shards: int, replicas: int) -> Topology:
    nodes = [TopologyNode(name, f"host-{name}", 1, 2, 3) for name in names]
    topology = Topology.build(nodes, shards, replicas, cluster_id="sim")
    topology.__dict__["slots"] = tuple(slot % shards for slot in range(SLOTS))
    return topology


class World:
    """Made for one seed and one scenario; used within `seams.installed`."""

    def __init__(self, seed: int, scenario: Scenario, root: Path) -> None:
        self.seed = seed
        self.scenario = scenario
        self.root = root
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.current: SimNode | None = None
        self.read_mode = scenario.read_mode
        self.segment_bytes = scenario.segment_bytes
        self.journal_segment_bytes = scenario.journal_segment_bytes
        self.journal_keep_bytes = scenario.journal_keep_bytes
        self.timeout_ms = scenario.timeout_ms
        self.return_after_s = scenario.return_after_s
        self.sync_s = scenario.sync_s
        self.in_step = scenario.in_step
        self.names = "abcde"[: scenario.nodes]
        self.topology = _topology(self.names, scenario.shards, scenario.replicas)
        self.story = Story(lambda: self.now)
        self.watch = Watch(self)
        self.history = History()
        self.network = Network(self)
        self.clients: list[Client] = []
        self.workload = Workload(scenario)
        self.elected: Callable[[SimNode], None] = lambda _node: None  # told of each new leader
        self.steps = 0
        self.peace = False  # no more faults; what ends of an earlier one comes back
        self._events: list[Event] = []
        self._count = 0
        self._replicas: dict[int, list[SimReplica]] = {}
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        self.nodes = {name: SimNode(self, name) for name in self.names}

    def start(self) -> None:
        scenario, rng = self.scenario, self.rng
        network = self.network
        network.drop, network.duplicate, network.reorder = scenario.drop, scenario.duplicate, scenario.reorder
        network.again = scenario.again
        network.latency_s, network.late_s = scenario.latency_s, scenario.late_s
        for node in self.nodes.values():
            node.clock_rate = 1 + self._drift(node) * scenario.drift
            node.clock_offset = rng.random() * 1e5
            node.wall_offset_s = 1e9 + rng.uniform(-1, 1) * scenario.wall_skew_s
        for node in self.nodes.values():
            node.start()

    def _drift(self, node: SimNode) -> float:
        """Where its clock is within what is allowed: anywhere, or the likely leader's at one end, the others' at the
        other."""
        one_end = self.seed // 2 % 2 * 2 - 1
        if self.seed % 2:
            return self.rng.uniform(-1, 1)
        return one_end if node.name == self.topology.shards[0].replicas[0] else -one_end

    def close(self) -> None:
        for node in self.nodes.values():
            if node.up:
                node.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    # -- time

    def at(self, time: float, node: SimNode | None, action: Action) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, node, node.life if node is not None else 0, action))

    def first(self, node: SimNode, action: Action) -> None:
        """Before everything else that is due now: it has waited."""
        self._count += 1
        heapq.heappush(self._events, (self.now, self._count - _EARLIER, node, node.life, action))

    def later(self, seconds: float, action: Action) -> None:
        """Belongs to the process that is at work now."""
        self.at(self.now + seconds, self.current, action)

    def act(self, node: SimNode, action: Action) -> None:
        """Something happens in a process; it may be its end."""
        before, self.current = self.current, node
        try:
            action()
        except Died:
            node.kill(power=node.dies_by_power)
        else:
            if node.up:
                self.watch.stepped(node)
        finally:
            self.current = before

    def _step(self) -> None:
        self.now, _, node, life, action = heapq.heappop(self._events)
        self.steps += 1
        if node is None:
            action()
        elif life == node.life and node.up:
            if node.stands:
                node.kept.append(action)
            else:
                self.act(node, action)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Raises Broken if it does not come to pass in time."""
        end = self.now + seconds
        while not condition():
            step_end = min(end, self.now + 0.02)
            if self.now >= end:
                raise Broken(f"in {seconds} s it did not come to pass that {what}")
            self.run(step_end - self.now)

    def clock(self) -> float:
        """CLOCK_BOOTTIME of whoever asks."""
        return self.current.clock() if self.current is not None else self.now

    def wall_ms(self) -> int:
        node = self.current
        return int((self.now + (node.wall_offset_s if node is not None else 0.0)) * 1000)

    def work_s(self) -> float:
        """How long a job of the worker takes, in two halves."""
        node = self.current
        return self.rng.uniform(*(node.sync_s if node is not None else self.sync_s))

    # -- what nodes tell

    def logged(self, event: str, values: dict[str, object]) -> None:
        if event == "replica_damaged":
            raise Broken(f"{self.current.name if self.current else ''}: damage that nobody did: {values}")
        detail = " ".join(f"{key}={value}" for key, value in sorted(values.items()))
        self.story.tell(self.current.name if self.current else "", event, detail.replace(str(self.root), ""))

    def ended(self, node: SimNode) -> None:
        """A process is gone, and with it the connections of its clients."""
        if self.peace:
            self.at(self.now, None, node.start)
        for client in self.clients:
            if client.node is node:
                self.at(self.now, None, partial(client.lost, node.life))

    def replicas_of(self, shard: int) -> list[SimReplica]:
        """Those that are there now, standing still or not."""
        return [node.replicas[shard] for node in self.nodes.values() if node.up and shard in node.replicas]

    def up(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.up]
