"""`python -m tests.crash`: real nodes, every command, faults from a seed; see `tests.crash.trial`.

Run it from the top of the repository. Exits with 1 at the first thing that must not be, and says what led to it.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cyclopts import App

from tests.crash import measure
from tests.crash.inject import Injector
from tests.crash.isolated import isolated, why_not
from tests.crash.nemesis import FAULTS
from tests.crash.trial import Trial

SIZES = ((3, 3), (5, 5), (3, 3), (5, 3))  # nodes, replicas
TRIAL_S = 45.0  # then everything is checked, and the next trial begins with a new cluster
FAILOVER_GOAL_MS = 1500
ROLLING_GOAL_MS = 500
INSIDE = "CRASH_ISOLATED"

Net = Literal["mesh", "namespaces"]
app = App(name="python -m tests.crash", help="Faults on real nodes.")


@app.default
def run(*, seed: int = 0, seconds: float = 60.0, nodes: int = 0, network: Net = "mesh", only: str = "") -> int:
    """Break things for some time.

    Parameters
    ----------
    seed
        Decides which faults come, whom they hit and how long they last; 0 takes one at random.
    seconds
        How long to go on beginning new faults.
    nodes
        Size of the cluster; 0 takes 3 and 5 in turn, the latter with 5 and with 3 replicas of each shard.
    network
        mesh: proxies between the nodes, which need no rights. namespaces: the kernel's own network.
    only
        Names of faults, separated by commas.
    """
    return _trials(seed, nodes, network, only, until=time.monotonic() + seconds, count=1 << 30)


@app.command
def cycles(*, count: int = 100, seed: int = 0, nodes: int = 0, network: Net = "mesh", only: str = "") -> int:
    """Go through `count` faults, all kinds in turn: about 5 seconds each."""
    return _trials(seed, nodes, network, only, until=float("inf"), count=count)


@app.command
def faults() -> int:
    """List the kinds of faults."""
    for name, fault in FAULTS.items():
        print(f"{name:45} {fault.lasts_s[0]:4} to {fault.lasts_s[1]:4} s")
    return 0


@app.command
def failover(*, kills: int = 50, samples_file: Path | None = None) -> int:
    """How long clients of other nodes wait when a leader is killed: about 6 seconds for each kill.

    Parameters
    ----------
    samples_file
        Adds the samples (ms, one a line) to this file and reports on all that are in it.
    """
    with _scratch() as directory:
        samples, errors = measure.failover(directory / "cluster", kills)
    if samples_file is not None:
        with samples_file.open("a") as file:
            file.writelines(f"{sample}\n" for sample in samples)
        samples = [float(line) for line in samples_file.read_text().split()]
    print(f"interruption: {measure.figures(samples)}, goal p99 {FAILOVER_GOAL_MS} ms; errors: {len(errors)}")
    return _told(errors)


@app.command
def rolling(*, rounds: int = 2) -> int:
    """How long clients wait, and what fails, while all nodes are restarted one after the other."""
    with _scratch() as directory:
        pauses, errors, cut = measure.rolling(directory / "cluster", rounds)
    print(f"longest pauses: {measure.figures(pauses)}, goal {ROLLING_GOAL_MS} ms at most")
    print(f"failed commands: {len(errors)}; connections that ended with a command under way: {cut}")
    return _told(errors)


@app.command
def catchup(*, gib: float = 1.0) -> int:
    """A node comes back after it has missed `gib` GiB of writes."""
    with _scratch() as directory:
        for line in measure.catch_up(directory / "cluster", gib):
            print(line, flush=True)
    return 0


def _trials(seed: int, nodes: int, network: Net, only: str, *, until: float, count: int) -> int:
    if network == "namespaces" and INSIDE not in os.environ:
        return _enter()
    seed = seed or random.randrange(1, 1 << 30)
    kinds = [name.strip() for name in only.split(",")] if only else list(FAULTS)
    print(f"seed {seed}, disk and clock faults by {Injector.how()}, network: {network}", flush=True)
    done = number = 0
    while done < count and time.monotonic() < until:
        size, replicas = (nodes, min(nodes, 5)) if nodes else SIZES[number % len(SIZES)]
        done += _trial(seed + number, size, replicas, network, kinds, until, count - done)
        number += 1
    print(f"{done} faults in {number} trials: nothing was lost, nothing diverged")
    return 0


def _trial(seed: int, nodes: int, replicas: int, network: Net, kinds: list[str], until: float, count: int) -> int:
    """One cluster; returns how many faults it went through."""
    until = min(until, time.monotonic() + TRIAL_S)
    deck: list[str] = []
    with (
        _scratch() as directory,
        Trial(directory / "cluster", seed=seed, nodes=nodes, replicas=replicas, network=network) as trial,
    ):
        while time.monotonic() < until and trial.cycles < count:
            if not deck:
                deck = random.Random(seed).sample(kinds, len(kinds))
            trial.cycle(deck.pop())
        print(f"seed {seed}, {nodes} nodes, {replicas} replicas: {trial.verify()}", flush=True)
        return trial.cycles


def _enter() -> int:
    """The same command again, in namespaces of its own."""
    reason = why_not()
    if reason is not None:
        print(f"--network namespaces: {reason}; without it the links go over proxies", file=sys.stderr)
        return 2
    os.environ[INSIDE] = "1"
    return subprocess.call(isolated([sys.executable, "-m", "tests.crash", *sys.argv[1:]]))


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="respkv-crash-") as name:
        yield Path(name)


def _told(errors: list[str]) -> int:
    for text in sorted(set(errors)):
        print(f"  {errors.count(text)} times: {text}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(app())
