"""One seed from the beginning to the verdict: faults for a while, then peace, and then everything must add up."""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from typing import Any

from tests.sim import disk, model, seams
from tests.sim.clients import Client
from tests.sim.faults import disturb
from tests.sim.linearizable import check
from tests.sim.scenario import Scenario, choose
from tests.sim.watch import Broken
from tests.sim.world import World

SETTLE_S = 30.0
CHECK_STEPS_MAX = 50_000  # of one group of keys


@dataclass(frozen=True)
class Result:
    """`failure` is empty if all is well; `trace` tells runs apart; `counts` says how often what has happened."""

    seed: int
    failure: str
    story: str
    trace: int
    steps: int
    operations: int
    seconds: float
    counts: dict[str, int]

    def __str__(self) -> str:
        if not self.failure:
            return f"seed {self.seed}: fine, {self.operations} operations, {self.steps} steps, trace {self.trace:08x}"
        return f"{self.story}\n\nseed {self.seed}: {self.failure}"


def run(seed: int, bias: dict[str, Any] | None = None, *, events: int = 150, nodes: str = "") -> Result:
    """Runs one seed; never raises for what it finds. `events` and `nodes` say how much of the story to tell."""
    scenario = choose(seed, bias)
    world = World(seed, scenario, disk.directory())
    failure = ""
    with seams.installed(world):
        try:
            _run(world)
        except Broken as broken:
            failure = str(broken) or "broken"
            if broken.__cause__ is not None:
                failure += "\n" + "".join(traceback.format_exception(broken.__cause__))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the seed has found
            failure = f"{type(error).__name__}: {error}\n" + "".join(traceback.format_exception(error))
        finally:
            world.close()
    history = world.history.operations
    story = f"{scenario}\n{world.story.last(events, nodes)}" if failure else ""
    return Result(
        seed, failure, story, world.story.trace, world.steps, len(history), world.now - 1000, dict(world.story.counts)
    )


def _run(world: World) -> None:
    scenario = world.scenario
    world.start()
    world.clients = [Client(world, number) for number in range(scenario.clients)]
    rng = random.Random(world.seed + 1)
    world.run(rng.random() * 1.5)
    for _ in range(scenario.steps):
        disturb(world, rng)
        world.run(rng.choice((0.01, 0.1, 1, 1)) * rng.random() * scenario.step_s)
    _make_peace(world)
    _read_all(world)
    _check_settled(world)
    if world.story.counts["command_failed"]:
        raise Broken("a command ended in an internal error")
    verdict = check(world.history.operations, steps_max=CHECK_STEPS_MAX)
    world.story.counts["undecided"] += len(verdict.undecided)
    if verdict.violations:
        raise Broken("\n\n".join(map(str, verdict.violations[:3])))


def _make_peace(world: World) -> None:
    """All faults end: every node runs, every link works; what clients have asked for must come to an end."""
    network = world.network
    world.peace = True
    world.elected = lambda _node: None
    network.drop = network.duplicate = network.reorder = network.again = 0.0
    network.latency_s = Scenario.latency_s
    for node in world.nodes.values():
        node.sync_s = Scenario.sync_s
        node.disk.dies_in = 0
        node.disk.fails.clear()
        node.go_on()
        if not node.up:
            node.start()
    network.heal()
    world.run(1.0)
    for client in world.clients:
        client.stopped = True
    world.run_until(lambda: not any(client.waiting for client in world.clients), SETTLE_S, "every client has an answer")


def _read_all(world: World) -> None:
    """What is there in the end is part of the history."""
    keys = sorted({key for operation in world.history.operations for key in model.keys_of(operation.args)})
    reader = Client(world, len(world.clients))
    reader.stopped = True
    world.clients.append(reader)
    end = world.now + SETTLE_S
    while keys and world.now < end:
        if reader.node is None:
            reader.connect()
        reader.send([[b"GET", key] for key in keys])
        world.run_until(lambda: not reader.waiting, SETTLE_S, "the last reads are answered")
        told = zip(keys, world.history.operations[-len(keys) :], strict=True)
        keys = [key for key, operation in told if operation.outcome != "applied"]
    if keys:
        raise Broken(f"long after all faults these cannot be read: {keys}")


def _check_settled(world: World) -> None:
    def together() -> bool:
        return all(
            len({replica.group.applied for replica in world.replicas_of(shard.id)}) == 1
            and len(world.replicas_of(shard.id)) == len(shard.replicas)
            and sum(replica.group.leader for replica in world.replicas_of(shard.id)) == 1
            for shard in world.topology.shards
        )

    world.run_until(together, SETTLE_S, "all replicas have applied the same")
    world.run(1.0)
    world.run_until(
        lambda: together() and not any(node.leftovers() for node in world.nodes.values()),
        SETTLE_S,
        f"nothing is left open: {[node.leftovers() for node in world.nodes.values()]}",
    )
    world.watch.settled()
