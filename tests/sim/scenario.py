"""What a seed decides before anything happens: the shape of the cluster, its speed, and which faults it will see."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

# What may happen, and how often in relation to the rest.
FAULTS = {
    "nothing": 3.0,
    "cut": 1.0,
    "silent cut": 1.5,
    "one-way cut": 1.0,
    "bridge": 0.5,
    "lonely leader": 1.0,
    "leader in a minority": 0.5,
    "heal": 3.0,
    "kill": 1.0,
    "power": 1.5,
    "power everywhere": 0.4,
    "die at a step": 1.5,
    "start": 4.0,
    "pause": 1.0,
    "transfer": 1.0,
    "wall clock": 0.7,
    "slow disk": 0.7,
    "disk error": 0.3,
    "flaky link": 0.7,
    "half-deaf leader": 0.5,
    "deaf follower": 0.5,
    "short reigns": 0.3,
}


LONG_VALUES: dict[str, Any] = {
    "mib": 100, "message_bytes": 100, "window_bytes": 800, "value_bytes": (1, 99, 100, 1500, 4000),
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """Seconds and bytes are of the simulated world."""

    nodes: int = 3
    shards: int = 1
    replicas: int = 3
    read_mode: str = "lease"
    timeout_ms: int = 1000
    segment_bytes: int = 8192
    journal_segment_bytes: int = 8192
    journal_keep_bytes: int = 4096
    window_bytes: int = 8 << 20
    message_bytes: int = 1 << 20
    return_after_s: float = 3.0
    busy_per_s: float = 500.0  # see respkv.shard.placement
    crowd: bool = False  # most clients are at one node
    sync_s: tuple[float, float] = (0.0005, 0.004)
    in_step: bool = False  # nodes sync within their turns if the disk is quick, and gather while clients are sending
    latency_s: tuple[float, float] = (0.0005, 0.003)
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    again: float = 0.0  # how many that were sent before on its link come once more with each message
    late_s: float = 2.0  # the longest that a message is overtaken by others
    drift: float = 0.0
    wall_skew_s: float = 0.0
    clients: int = 6
    think_s: float = 0.01
    keys: int = 3  # of each kind
    burst_max: int = 4
    value_bytes: tuple[int, ...] = (1,)
    mib: int = 1 << 20  # what respkv takes for one: from here on values and entries travel in pieces of that size
    kinds: tuple[str, ...] = ("string", "string", "counter", "append", "group")
    leader_stays: bool = False  # nothing happens that could justify another leader
    steps: int = 24
    step_s: float = 0.5
    faults: dict[str, float] = field(default_factory=lambda: dict(FAULTS))


def choose(seed: int, bias: dict[str, Any] | None = None) -> Scenario:
    """The scenario of a seed; `bias` overrides what it names (weights of faults are merged)."""
    rng = random.Random(~seed)
    nodes = rng.choice((3, 3, 3, 5))
    faults = {name: weight * rng.choice((0, 1, 1, 3)) for name, weight in FAULTS.items()}
    faults |= {"nothing": 3.0, "heal": 3.0, "start": 4.0}
    lossy = rng.random() < 0.4
    scenario = Scenario(
        nodes=nodes,
        shards=rng.choice((1, 1, 1, 2, 3)),
        replicas=rng.choice((3, nodes)),
        read_mode=rng.choice(("lease", "lease", "readindex")),
        timeout_ms=rng.choice((300, 1000, 1000, 3000)),
        segment_bytes=rng.choice((2048, 8192, 1 << 16)),
        journal_segment_bytes=rng.choice((4096, 16384, 1 << 16)),
        journal_keep_bytes=rng.choice((0, 2048, 16384)),
        window_bytes=rng.choice((1000, 8 << 20, 8 << 20)),
        message_bytes=rng.choice((1, 300, 1 << 20)),
        return_after_s=rng.choice((0.5, 3.0, 3.0)),
        sync_s=rng.choice(((0.0005, 0.004), (0.0005, 0.004), (0.001, 0.08))),
        latency_s=rng.choice(((0.0005, 0.003), (0.0005, 0.003), (0.001, 0.04))),
        drop=rng.random() * 0.15 * lossy,
        duplicate=rng.random() * 0.15 * lossy,
        reorder=rng.random() * 0.15 * lossy,
        again=rng.choice((0.0, 0.0, 0.0, 0.2)),
        drift=rng.choice((0.0, 0.04)),
        wall_skew_s=rng.choice((0.0, 0.1, 1000.0)),
        clients=rng.choice((3, 5, 8)),
        think_s=rng.choice((0.005, 0.02, 0.05)),
        keys=rng.choice((1, 2, 4, 8)),
        burst_max=rng.choice((1, 3, 8)),
        value_bytes=rng.choice(((1,), (1, 1, 1, 200), (1, 1, 100, 1500))),
        kinds=rng.choice((
            ("string",), ("string", "counter"), ("string", "counter", "append", "group"),
            ("bits", "group", "counter"),
            ("string", "counter", "append", "group", "expiring"), ("string", "counter", "flush"),
        )),
        steps=rng.choice((10, 20, 30)),
        step_s=rng.choice((0.2, 0.5, 1.0)),
        faults=faults,
    )  # fmt: skip
    if rng.random() < 0.05:
        scenario = replace(scenario, leader_stays=True)
    if not bias and rng.random() < 0.3:
        scenario = replace(scenario, kinds=(*scenario.kinds, "transaction"))
    if not bias and rng.random() < 0.25:
        scenario = replace(scenario, **LONG_VALUES)
    if not bias and seed % 5 == 0:
        scenario = replace(scenario, busy_per_s=2.0, crowd=True)
    if not bias and seed % 8 in {4, 5, 7}:  # none of those that once found something
        scenario = replace(scenario, in_step=True)
    if bias:
        merged = dict(bias)
        if "faults" in bias:
            merged["faults"] = scenario.faults | bias["faults"]
        scenario = replace(scenario, **merged)
    return _calm(scenario) if scenario.leader_stays else scenario


def _calm(scenario: Scenario) -> Scenario:
    """One follower has trouble with its links, nothing else: the others' leader has no reason to go."""
    return replace(
        scenario, nodes=3, shards=1, replicas=3, drop=0.0, duplicate=0.0, reorder=0.0, again=0.0,
        latency_s=Scenario.latency_s, sync_s=Scenario.sync_s, return_after_s=1e9, step_s=1.0,
        faults={"lonely follower": 2.0, "heal": 1.0},
    )  # fmt: skip
