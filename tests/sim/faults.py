"""What goes wrong, one thing at a time, by the weights of the scenario."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from tests.sim.node import SimNode
from tests.sim.world import World

Fault = Callable[[World, random.Random], None]


def disturb(world: World, rng: random.Random) -> None:
    """One thing happens."""
    weights = world.scenario.faults
    (name,) = rng.choices(list(weights), list(weights.values()))
    if name in _FAULTS:
        world.story.tell("", "fault", name)
        _FAULTS[name](world, rng)


def _some_node(world: World, rng: random.Random) -> SimNode | None:
    """A node that runs; a leader as often as not."""
    up = world.up()
    leaders = [node for node in up if any(replica.group.leader for replica in node.replicas.values())]
    chosen = leaders if leaders and rng.random() < 0.5 else up
    return rng.choice(chosen) if chosen else None


def _split(world: World, rng: random.Random) -> tuple[str, str]:
    names = list(world.names)
    rng.shuffle(names)
    node = _some_node(world, rng)
    if node is not None and rng.random() < 0.4:
        rest = [name for name in names if name != node.name]
        return node.name, "".join(rest)
    at = rng.randint(1, len(names) - 1)
    return "".join(names[:at]), "".join(names[at:])


def _cut(world: World, rng: random.Random) -> None:
    world.network.partition(*_split(world, rng), notice=True)


def _silent_cut(world: World, rng: random.Random) -> None:
    world.network.partition(*_split(world, rng), notice=False)


def _one_way_cut(world: World, rng: random.Random) -> None:
    world.network.partition(*_split(world, rng), notice=False, both=False)


def _bridge(world: World, rng: random.Random) -> None:
    """Two halves that hear one node in common."""
    names = list(world.names)
    rng.shuffle(names)
    middle, rest = names[0], names[1:]
    half = len(rest) // 2
    one, other = "".join(rest[:half]), "".join(rest[half:])
    world.network.partition(one + middle, middle + other, notice=rng.random() < 0.5)


def _lonely_leader(world: World, rng: random.Random) -> None:
    """Nobody hears a leader any more, nor it them, and nobody is told."""
    leaders = [node for node in world.up() if any(replica.group.leader for replica in node.replicas.values())]
    if leaders:
        one = rng.choice(leaders).name
        world.network.partition(one, world.names.replace(one, ""), notice=False)


def _leader_in_a_minority(world: World, rng: random.Random) -> None:
    """A leader keeps one follower, and cannot commit if that is not enough."""
    leaders = [node for node in world.up() if any(replica.group.leader for replica in node.replicas.values())]
    if leaders:
        one = rng.choice(leaders).name
        kept = one + rng.choice(world.names.replace(one, ""))
        world.network.partition(kept, "".join(name for name in world.names if name not in kept), notice=False)


def _short_reigns(world: World, rng: random.Random) -> None:
    """This leader and each of the next, the moment it is elected, is heard by one follower alone: all that they do is
    to leave entries behind that nobody commits."""
    reigns = iter(range(rng.randint(2, 6)))

    def cut_short(leader: SimNode) -> None:
        if next(reigns, None) is None:
            world.elected = _nothing
            return
        world.network.heal()
        deaf = world.names.replace(leader.name, "")
        both = rng.random() < 0.5
        for name in rng.sample(deaf, len(deaf) - 1):
            world.network.cut_off(leader.name, name, notice=False, both=both)

    world.elected = cut_short
    leaders = [node for node in world.up() if any(replica.group.leader for replica in node.replicas.values())]
    if leaders:
        cut_short(rng.choice(leaders))


def _nothing(node: SimNode) -> None: ...


def _leader_and_follower(world: World, rng: random.Random) -> tuple[str, str] | None:
    """A leader and another node, if nothing is cut."""
    leaders = [node for node in world.up() if any(replica.group.leader for replica in node.replicas.values())]
    if not leaders or world.network.cut:
        return None
    leader = rng.choice(leaders).name
    return leader, rng.choice(world.names.replace(leader, ""))


def _half_deaf_leader(world: World, rng: random.Random) -> None:
    """Nobody hears a leader any more, and it hears one node, of which something may still be on its way."""
    if pair := _leader_and_follower(world, rng):
        leader, heard = pair
        for name in world.names.replace(leader, ""):
            world.network.cut_off(leader, name, notice=False, both=name != heard)


def _deaf_follower(world: World, rng: random.Random) -> None:
    """A node hears all others but the leader."""
    if pair := _leader_and_follower(world, rng):
        world.network.cut_off(*pair, notice=False, both=False)


def _lonely_follower(world: World, rng: random.Random) -> None:
    """A node that does not lead hears nobody, or is heard by nobody, or both."""
    followers = [n for n in world.up() if not any(replica.group.leader for replica in n.replicas.values())]
    if len(followers) == len(world.names) - 1 and not world.network.cut:
        one = rng.choice(followers).name
        rest = world.names.replace(one, "")
        world.network.partition(one, rest, notice=rng.random() < 0.5, both=rng.random() < 0.5)


def _flaky_link(world: World, rng: random.Random) -> None:
    one, other = sorted(rng.sample(world.names, 2))
    world.network.unlink(one, other)
    world.network.redial()


def _heal(world: World, rng: random.Random) -> None:
    world.network.heal()


def _kill(world: World, rng: random.Random) -> None:
    node = _some_node(world, rng)
    if node is not None:
        node.kill()


def _power(world: World, rng: random.Random) -> None:
    node = _some_node(world, rng)
    if node is not None:
        node.kill(power=True)


def _power_everywhere(world: World, rng: random.Random) -> None:
    for node in world.up():
        node.kill(power=True)


def _die_at_a_step(world: World, rng: random.Random) -> None:
    """Somewhere in what the process does with its disk next."""
    node = _some_node(world, rng)
    if node is not None:
        node.dies_by_power = rng.random() < 0.6
        node.disk.dies_in = rng.choice((rng.randint(1, 10), rng.randint(1, 100)))


def _start(world: World, rng: random.Random) -> None:
    down = [node for node in world.nodes.values() if not node.up]
    for node in rng.sample(down, rng.randint(0, len(down))):
        if rng.random() < 0.1:
            node.dies_by_power = True
            node.disk.dies_in = rng.randint(1, 40)  # on the way up
        node.start()


def _pause(world: World, rng: random.Random) -> None:
    node = _some_node(world, rng)
    if node is not None:
        node.pause(rng.choice((0.05, 0.5, 1.5, 5.0)) * rng.random() * 2)


def _transfer(world: World, rng: random.Random) -> None:
    for node in world.up():
        for replica in node.replicas.values():
            if replica.group.leader and not node.stands:
                others = [name for name in replica.shard.replicas if name != node.name]
                world.act(node, partial(replica.group.transfer, rng.choice(others)))


def _wall_clock(world: World, rng: random.Random) -> None:
    node = rng.choice(list(world.nodes.values()))
    node.wall_offset_s += rng.choice((-1, 1)) * rng.choice((0.1, 2, 1000, 1e6)) * rng.random()


def _slow_disk(world: World, rng: random.Random) -> None:
    node = rng.choice(list(world.nodes.values()))
    node.sync_s = rng.choice(((0.0005, 0.004), (0.05, 0.3), (0.3, 1.5)))


def _disk_error(world: World, rng: random.Random) -> None:
    node = _some_node(world, rng)
    if node is not None:
        node.disk.fails[rng.choice(("sync", "sync", "write", "rename", "create"))] = rng.randint(1, 20)


_FAULTS: dict[str, Fault] = {
    "cut": _cut,
    "silent cut": _silent_cut,
    "one-way cut": _one_way_cut,
    "bridge": _bridge,
    "heal": _heal,
    "kill": _kill,
    "power": _power,
    "power everywhere": _power_everywhere,
    "die at a step": _die_at_a_step,
    "start": _start,
    "pause": _pause,
    "transfer": _transfer,
    "wall clock": _wall_clock,
    "slow disk": _slow_disk,
    "disk error": _disk_error,
    "flaky link": _flaky_link,
    "lonely leader": _lonely_leader,
    "leader in a minority": _leader_in_a_minority,
    "half-deaf leader": _half_deaf_leader,
    "deaf follower": _deaf_follower,
    "lonely follower": _lonely_follower,
    "short reigns": _short_reigns,
}
