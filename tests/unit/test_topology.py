"""The cluster map: who holds what is fixed by the nodes and counts alone, and spread evenly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import msgspec
import pytest

from respkv.cluster.slots import SLOTS, slot_of
from respkv.cluster.topology import Node, Topology, redis_id
from respkv.config import load


def nodes(count: int, hosts: int | None = None) -> list[Node]:
    return [Node(f"n{i + 1}", f"10.0.0.{i % (hosts or count)}", 7001 + i, 8001 + i, 17001 + i) for i in range(count)]


def test_preferred_leaders_go_round_the_nodes_in_natural_order() -> None:
    topology = Topology.build(nodes(12), 24, 3)
    assert [shard.replicas[0] for shard in topology.shards] == [f"n{i + 1}" for i in range(12)] * 2


@pytest.mark.parametrize(("count", "shards"), list(product((1, 2, 3, 5, 9), (1, 3, 8, 20))))
def test_replicas_are_on_distinct_nodes_and_spread_evenly(count: int, shards: int) -> None:
    for replicas in range(1, count + 1):
        topology = Topology.build(nodes(count), shards, replicas)
        assert all(len(set(shard.replicas)) == replicas for shard in topology.shards)
        held = [len(topology.shards_of(node.id)) for node in topology.nodes]
        assert max(held) - min(held) <= 2
        led = Counter(shard.replicas[0] for shard in topology.shards)
        assert max(led.values()) - min(led[node.id] for node in topology.nodes) <= 1


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_replicas_are_on_distinct_hosts_where_there_are_enough(hosts: int) -> None:
    topology = Topology.build(nodes(9, hosts), 20, 3)
    for shard in topology.shards:
        used = {topology.node(node_id).host for node_id in shard.replicas}
        assert len(used) == min(hosts, 3)


def test_the_order_in_which_nodes_are_listed_does_not_matter() -> None:
    there, back = nodes(11), nodes(11)[::-1]
    assert Topology.build(there, 7, 3) == Topology.build(back, 7, 3)


def test_one_more_shard_leaves_the_others_where_they_are() -> None:
    for shards in range(1, 12):
        old, new = Topology.build(nodes(5), shards, 3), Topology.build(nodes(5), shards + 1, 3)
        assert new.shards[:shards] == old.shards


def test_the_slot_table_and_the_ranges_say_the_same() -> None:
    topology = Topology.build(nodes(3), 8, 2)
    owned = {
        slot: shard for shard in range(8) for first, last in topology.ranges(shard) for slot in range(first, last + 1)
    }
    assert [owned[slot] for slot in range(SLOTS)] == list(topology.slots)
    assert topology.slots[slot_of(b"foo")] in range(8)
    assert Topology.build(nodes(1), 1, 1).ranges(0) == ((0, SLOTS - 1),)


def test_a_topology_survives_json_and_messagepack() -> None:
    topology = Topology.build(nodes(3), 5, 3, cluster_id="blue", epoch=7)
    assert Topology.from_json(topology.to_json()) == topology == Topology.from_bytes(topology.to_bytes())
    assert Topology.from_bytes(topology.to_bytes()).slots == topology.slots
    with pytest.raises(ValueError, match="Expected"):
        Topology.from_bytes(b"\x01")


def test_fingerprints_differ_when_maps_do() -> None:
    topology = Topology.build(nodes(3), 5, 3)
    assert topology.fingerprint == Topology.build(nodes(3), 5, 3).fingerprint
    others = [
        Topology.build(nodes(3), 5, 2),
        Topology.build(nodes(3), 4, 3),
        msgspec.structs.replace(topology, epoch=2),
    ]
    assert topology.fingerprint not in [other.fingerprint for other in others]


def test_redis_ids_are_stable_and_tell_clusters_apart() -> None:
    assert redis_id("blue", "n1") == "4f3b1c83721082d36e59430740142fb5ffcea80d"
    assert redis_id("blue", "n1") != redis_id("green", "n1") != redis_id("green", "n2")
    assert Topology.build(nodes(1), 1, 1, cluster_id="blue").redis_id("n1") == redis_id("blue", "n1")


@pytest.mark.parametrize(("shards", "replicas"), [(0, 1), (1, 0), (1, 4), (101, 1)])
def test_counts_out_of_range_are_refused(shards: int, replicas: int) -> None:
    with pytest.raises(ValueError, match=r"shards|replicas"):
        Topology.build(nodes(3), shards, replicas)


def test_two_nodes_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        Topology.build([*nodes(2), *nodes(1)], 1, 1)


def test_a_configuration_gives_its_topology() -> None:
    config = load(environ={}, flags={"cluster-nodes": "a=h1:1000,b=h2:1000", "node": "a", "cluster-secret": "s"})
    config = replace(config, cluster=replace(config.cluster, id="blue", replicas=2))
    topology = Topology.from_config(config)
    assert topology.nodes == (Node("a", "h1", 1000, 2000, 11000), Node("b", "h2", 1000, 2000, 11000))
    assert topology.cluster_id == "blue"
    assert [shard.replicas for shard in topology.shards] == [("a", "b"), ("b", "a"), ("a", "b")]
