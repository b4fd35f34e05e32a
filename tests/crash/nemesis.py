"""The faults: what each does to a running trial, for how long, and which nodes' clients it must not touch.

A fault is a context: it begins, yields the nodes it spares (their clients may have to wait, and must see no error), and
ends. Bringing everything back (healing links, disks and clocks, starting stopped nodes) is the trial's business, for
all faults alike.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster import NodeProcess, wait_until
from tests.crash.network import separate

if TYPE_CHECKING:
    from tests.crash.trial import Trial

Nodes = list[NodeProcess]
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Fault:
    """`needs_network`: it can only be had where the links between the nodes are ours."""

    name: str
    run: Callable[[Trial], AbstractContextManager[Nodes]]
    lasts_s: tuple[float, float]
    needs_network: bool = False


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, lasts_s: tuple[float, float], *, needs_network: bool = False
) -> Callable[[Callable[[Trial], Iterator[Nodes]]], Callable[[Trial], Iterator[Nodes]]]:
    def register(function: Callable[[Trial], Iterator[Nodes]]) -> Callable[[Trial], Iterator[Nodes]]:
        FAULTS[name] = Fault(name, contextmanager(function), lasts_s, needs_network)
        return function

    return register


def _others(trial: Trial, *nodes: NodeProcess) -> Nodes:
    return [node for node in trial.cluster.nodes if node not in nodes]


def _any(trial: Trial) -> NodeProcess:
    return trial.random.choice(trial.cluster.nodes)


def _leader(trial: Trial) -> NodeProcess:
    return trial.cluster.leader(trial.random.randrange(trial.cluster.shard_count))


def _minority(trial: Trial) -> Nodes:
    """As many nodes as a shard can do without."""
    return trial.random.sample(trial.cluster.nodes, (trial.replicas - 1) // 2)


# -- processes


@fault("kill one node", (0.5, 3.0))
def kill_one(trial: Trial) -> Iterator[Nodes]:
    victim = _any(trial)
    victim.kill()
    yield _others(trial, victim)


@fault("kill the leader", (0.5, 3.0))
def kill_leader(trial: Trial) -> Iterator[Nodes]:
    victim = _leader(trial)
    victim.kill()
    yield _others(trial, victim)


@fault("kill a minority", (0.5, 3.0))
def kill_minority(trial: Trial) -> Iterator[Nodes]:
    victims = _minority(trial)
    for victim in victims:
        victim.signal(signal.SIGKILL)
    for victim in victims:
        victim.kill()
    yield _others(trial, *victims)


@fault("kill a majority", (0.2, 4.0))
def kill_majority(trial: Trial) -> Iterator[Nodes]:
    for victim in trial.random.sample(trial.cluster.nodes, len(trial.cluster.nodes) // 2 + 1):
        victim.kill()
    yield []


@fault("kill all nodes at once", (0.0, 1.0))
def kill_all(trial: Trial) -> Iterator[Nodes]:
    trial.cluster.kill_all()
    yield []


@fault("kill the leader again and again", (0.5, 1.0))
def kill_leaders(trial: Trial) -> Iterator[Nodes]:
    """Each new leader dies as soon as it is one; the one before comes back at the same moment."""
    for _ in range(3):
        victim = _leader(trial)
        victim.kill()
        victim.start()
        time.sleep(trial.random.uniform(0.1, 1.0))
    yield []


@fault("pause one node", (1.0, 10.0))
def pause_one(trial: Trial) -> Iterator[Nodes]:
    yield from _paused(trial, [_any(trial)])


@fault("pause the leader", (1.0, 10.0))
def pause_leader(trial: Trial) -> Iterator[Nodes]:
    yield from _paused(trial, [_leader(trial)])


@fault("pause a majority", (0.5, 4.0))
def pause_majority(trial: Trial) -> Iterator[Nodes]:
    for _ in _paused(trial, trial.random.sample(trial.cluster.nodes, len(trial.cluster.nodes) // 2 + 1)):
        yield []


@fault("pause all nodes at once", (0.5, 4.0))
def pause_all(trial: Trial) -> Iterator[Nodes]:
    yield from _paused(trial, trial.cluster.nodes)


def _paused(trial: Trial, victims: Nodes) -> Iterator[Nodes]:
    for victim in victims:
        victim.freeze()
    try:
        yield _others(trial, *victims)
    finally:
        for victim in victims:
            victim.thaw()


@fault("restart all nodes one by one", (0.0, 0.5))
def rolling_restart(trial: Trial) -> Iterator[Nodes]:
    """By SIGTERM, each when the one before serves again; their clients connect again and see no error either."""
    for node in trial.cluster.nodes:
        assert node.stop() == 0, node.log()[-3000:]
        node.start()
        trial.cluster.wait_ready(40)
    yield trial.cluster.nodes


# -- the network


@fault("isolate the leader", (1.0, 8.0), needs_network=True)
def isolate_leader(trial: Trial) -> Iterator[Nodes]:
    victim = _leader(trial)
    yield _separated(trial, [victim], _others(trial, victim))


@fault("isolate one node", (1.0, 8.0), needs_network=True)
def isolate_one(trial: Trial) -> Iterator[Nodes]:
    victim = _any(trial)
    yield _separated(trial, [victim], _others(trial, victim))


@fault("split the cluster", (1.0, 8.0), needs_network=True)
def split(trial: Trial) -> Iterator[Nodes]:
    minority = _minority(trial)
    yield _separated(trial, minority, _others(trial, *minority))


@fault("cut all links", (0.5, 4.0), needs_network=True)
def cut_all(trial: Trial) -> Iterator[Nodes]:
    _separated(trial, *([node] for node in trial.cluster.nodes))
    yield []


def _separated(trial: Trial, *groups: Nodes) -> Nodes:
    """Returns the nodes of the largest group."""
    assert trial.network is not None
    separate(trial.network, groups)
    return max(groups, key=len)


@fault("cut one direction of a link", (1.0, 8.0), needs_network=True)
def one_way(trial: Trial) -> Iterator[Nodes]:
    assert trial.network is not None
    source, target = trial.random.sample(trial.cluster.nodes, 2)
    trial.network.cut(source, target)
    yield _others(trial, source, target)


@fault("the leader is heard and hears nobody", (1.0, 8.0), needs_network=True)
def deaf_leader(trial: Trial) -> Iterator[Nodes]:
    assert trial.network is not None
    leader = _leader(trial)
    for node in _others(trial, leader):
        trial.network.cut(node, leader)
    yield _others(trial, leader)


@fault("the leader hears and nobody hears it", (1.0, 8.0), needs_network=True)
def mute_leader(trial: Trial) -> Iterator[Nodes]:
    assert trial.network is not None
    leader = _leader(trial)
    for node in _others(trial, leader):
        trial.network.cut(leader, node)
    yield _others(trial, leader)


@fault("two nodes do not see each other", (1.0, 8.0), needs_network=True)
def no_link(trial: Trial) -> Iterator[Nodes]:
    """All others see both, so each may have a majority."""
    assert trial.network is not None
    one, other = trial.random.sample(trial.cluster.nodes, 2)
    trial.network.cut(one, other)
    trial.network.cut(other, one)
    yield _others(trial, one, other)


@fault("slow links", (2.0, 6.0), needs_network=True)
def slow_links(trial: Trial) -> Iterator[Nodes]:
    assert trial.network is not None
    trial.network.slow(trial.random.choice([20, 60, 120]), trial.random.choice([0, 200_000, 2_000_000]))
    yield []


@fault("links that come and go", (0.2, 0.5), needs_network=True)
def flapping(trial: Trial) -> Iterator[Nodes]:
    assert trial.network is not None
    for _ in range(6):
        isolated = _any(trial)
        separate(trial.network, [[isolated], _others(trial, isolated)])
        time.sleep(trial.random.uniform(0.1, 0.9))
        trial.network.heal()
        time.sleep(trial.random.uniform(0.0, 0.3))
    yield []


# -- disks


@fault("a failed fdatasync", (0.5, 2.0))
def failed_sync(trial: Trial) -> Iterator[Nodes]:
    victim = _any(trial)
    trial.injectors[victim.name].fail_syncs(trial.random.choice(["", "journal"]), skip=trial.random.randrange(20))
    _wait_stopped(trial, victim)
    yield _others(trial, victim)


@fault("a failed write", (0.5, 2.0))
def failed_write(trial: Trial) -> Iterator[Nodes]:
    victim = _any(trial)
    where = trial.random.choice(["", "journal", "shard-"])
    number = trial.random.choice([errno.EIO, errno.ENOSPC])
    trial.injectors[victim.name].fail_writes(where, number, skip=trial.random.randrange(20))
    _wait_stopped(trial, victim)
    yield _others(trial, victim)


@fault("no room on a disk", (0.5, 2.0))
def no_room(trial: Trial) -> Iterator[Nodes]:
    """Unannounced: the disk had room a moment ago, and every write fails from now on."""
    victim = _leader(trial)
    trial.injectors[victim.name].fail_writes("", errno.ENOSPC)
    _wait_stopped(trial, victim)
    yield _others(trial, victim)


@fault("a disk that cannot be read", (0.5, 2.0))
def failed_read(trial: Trial) -> Iterator[Nodes]:
    """Damage of one replica, which the others refill. What work in the background has met may be told later."""
    victim = _any(trial)
    shard = trial.random.choice(sorted(victim.shards()))
    trial.unreadable.add(victim)
    trial.injectors[victim.name].fail_reads(f"shard-{shard}/", skip=trial.random.randrange(20))
    yield _others(trial, victim)
    trial.injectors[victim.name].heal_disk()
    wait_until(lambda: _is_whole(victim.log()), f"{victim.name} is repaired")


def _is_whole(log: str) -> bool:
    return log.rfind("replica_repaired") >= log.rfind("replica_repairing")


def _wait_stopped(trial: Trial, victim: NodeProcess) -> None:
    """A node whose disk failed must not go on."""
    wait_until(lambda: not victim.running, f"{victim.name} stops because its disk failed")
    assert victim.process is not None
    assert victim.process.returncode == 1, victim.log()[-2000:]
    assert trial.injectors[victim.name].hits, "nothing was made to fail"


@fault("a slow disk", (1.0, 4.0))
def slow_disk(trial: Trial) -> Iterator[Nodes]:
    victim = _any(trial)
    trial.injectors[victim.name].slow_syncs(trial.random.choice([20, 100, 300]))
    yield []


@fault("little room on a disk", (1.0, 2.0))
def little_room(trial: Trial) -> Iterator[Nodes]:
    """More headroom is asked for than there is: the leaders on that node refuse writes, as not applied."""
    victim = _leader(trial)
    before = victim.call("CONFIG", "GET", "disk-headroom-bytes")[1]
    victim.call("CONFIG", "SET", "disk-headroom-bytes", str(1 << 49))
    try:
        yield []
    finally:
        victim.call("CONFIG", "SET", "disk-headroom-bytes", before)
        time.sleep(1.0)  # until the disk is looked at again


# -- clocks


@fault("the clock of one node jumps", (0.5, 3.0))
def clock_jump(trial: Trial) -> Iterator[Nodes]:
    shift_ms = trial.random.choice([-DAY_MS, -3_600_000, -5_000, -500, 500, 5_000, 3_600_000, DAY_MS])
    trial.injectors[_any(trial).name].shift_clock(shift_ms)
    yield trial.cluster.nodes


@fault("all clocks jump apart", (0.5, 3.0))
def clocks_apart(trial: Trial) -> Iterator[Nodes]:
    for injector in trial.injectors.values():
        injector.shift_clock(trial.random.randint(-DAY_MS, DAY_MS))
    yield trial.cluster.nodes


# -- several at once


@fault("a leader dies while another node is cut off", (0.5, 3.0), needs_network=True)
def kill_and_isolate(trial: Trial) -> Iterator[Nodes]:
    victim = _leader(trial)
    isolated = trial.random.choice(_others(trial, victim))
    _separated(trial, [isolated], _others(trial, isolated))
    time.sleep(trial.random.uniform(0.0, 1.0))
    victim.kill()
    yield []


@fault("a node is killed while it starts", (0.1, 1.0))
def kill_starting(trial: Trial) -> Iterator[Nodes]:
    victim = _any(trial)
    for _ in range(3):
        victim.kill()
        victim.start()
        time.sleep(trial.random.uniform(0.05, 1.2))
    victim.kill()
    yield _others(trial, victim)


@fault("power fails while a disk is slow", (0.0, 0.5))
def power_and_slow_disk(trial: Trial) -> Iterator[Nodes]:
    for injector in trial.injectors.values():
        injector.slow_syncs(trial.random.choice([10, 50, 200]))
    time.sleep(trial.random.uniform(0.5, 2.0))
    trial.cluster.kill_all()
    yield []
