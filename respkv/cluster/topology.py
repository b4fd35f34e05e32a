"""The topology: which nodes there are, which shards, who holds what. An immutable value with an epoch.

Nothing else in respkv computes who owns a key: `topology.slots[slot_of(key)]` is the shard,
`topology.shards[shard].replicas` are the nodes that hold it, the first one the preferred leader. Who leads *now* is
known to Raft, not to the topology.

`Topology.build` is deterministic: the same nodes (in any order), shard and replica counts give the same value on
every machine, and what it gives for n shards begins with what it gives for n - 1. `fingerprint` tells
two nodes in one short text whether they see the same map.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec

from respkv.cluster import ring
from respkv.cluster.slots import SLOTS
from respkv.config import Config


class Node(msgspec.Struct, frozen=True):
    """A node and the address at which clients and other nodes reach it."""

    id: str
    host: str
    port: int
    cluster_port: int
    peer_port: int


class Shard(msgspec.Struct, frozen=True):
    """A shard: `id` is its index in `Topology.shards`, `replicas` are node ids, the first is the preferred leader."""

    id: int
    tokens: tuple[int, ...]
    replicas: tuple[str, ...]


class Topology(msgspec.Struct, frozen=True, dict=True):
    """The cluster map. Equal and hashable by value; the tables below are worked out once, on first use."""

    epoch: int
    cluster_id: str
    nodes: tuple[Node, ...]
    shards: tuple[Shard, ...]

    @classmethod
    def build(
        cls, nodes: Iterable[Node], shards: int, replicas: int, *, cluster_id: str = "", epoch: int = 1
    ) -> Topology:
        """The first map of a cluster.

        Raises ValueError if node ids repeat, or counts are out of range (`replicas` 1..number of nodes).
        """
        ordered = tuple(sorted(nodes, key=lambda node: _natural(node.id)))
        if len({node.id for node in ordered}) != len(ordered):
            raise ValueError("node ids must differ")
        if not 1 <= replicas <= len(ordered):
            raise ValueError(f"{replicas} replicas need as many nodes, there are {len(ordered)}")
        placement = _place_replicas(ordered, shards, replicas)
        tokens = ring.tokens(shards)
        return cls(epoch, cluster_id, ordered, tuple(Shard(i, tokens[i], placement[i]) for i in range(shards)))

    @classmethod
    def from_config(cls, config: Config) -> Topology:
        """The first map of the cluster that a loaded configuration describes."""
        cluster = config.cluster
        nodes = [Node(n.id, n.host, n.port, n.cluster_port, n.peer_port) for n in cluster.nodes]
        return cls.build(nodes, cluster.shards, cluster.replicas, cluster_id=cluster.id)

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """The shard of each of the 16384 slots. Keep a reference where it is needed per command."""
        return ring.owners([shard.tokens for shard in self.shards])

    @cached_property
    def _nodes_by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _ranges(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        slots = self.slots
        found: list[list[tuple[int, int]]] = [[] for _ in self.shards]
        start = 0
        for slot in range(1, SLOTS + 1):
            if slot == SLOTS or slots[slot] != slots[start]:
                found[slots[start]].append((start, slot - 1))
                start = slot
        return tuple(tuple(own) for own in found)

    def ranges(self, shard: int) -> tuple[tuple[int, int], ...]:
        """The slots of a shard as ascending ranges (first, last), both included, as CLUSTER SLOTS shows them."""
        return self._ranges[shard]

    def node(self, node_id: str) -> Node:
        """The node of this id. Raises KeyError."""
        return self._nodes_by_id[node_id]

    def shards_of(self, node_id: str) -> tuple[Shard, ...]:
        """The shards that this node holds a replica of."""
        return tuple(shard for shard in self.shards if node_id in shard.replicas)

    def redis_id(self, node_id: str) -> str:
        """The node's 40 hexadecimal digits for CLUSTER NODES and MYID."""
        return redis_id(self.cluster_id, node_id)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal if, and only if, the maps are."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Topology:
        """The inverse of `to_json`. Raises ValueError."""
        return msgspec.json.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """The map as MessagePack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Topology:
        """The inverse of `to_bytes`. Raises ValueError."""
        return msgspec.msgpack.decode(data, type=cls)


def redis_id(cluster_id: str, node_id: str) -> str:
    """An id in the form that Redis Cluster clients expect: the same as long as cluster id and node id are."""
    return hashlib.sha1(f"{cluster_id}/{node_id}".encode(), usedforsecurity=False).hexdigest()


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key that puts n2 before n10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)] + [(-2, text)]


def _place_replicas(nodes: Sequence[Node], shards: int, replicas: int) -> list[tuple[str, ...]]:
    """Node ids per shard. Shard i prefers node i modulo n as leader; each follower is the node that shares no host with
    the shard's other replicas if there is one, holds least so far, and comes next in a turn that shifts every round.
    """
    count = len(nodes)
    held = [0] * count
    placed = []
    for shard in range(shards):
        leader, shift = shard % count, 1 + shard // count
        if leader == 0:  # a round of leaders is counted in advance, so that followers even it out at once
            held = [replicas_held + 1 for replicas_held in held]
        chosen = [leader]
        while len(chosen) < replicas:
            hosts = {nodes[i].host for i in chosen}
            rest = [i for i in range(count) if i not in chosen]
            best = min(rest, key=lambda i: (nodes[i].host in hosts, held[i], (i - leader - shift) % count))
            chosen.append(best)
            held[best] += 1
        placed.append(tuple(nodes[i].id for i in chosen))
    return placed
