"""`python -m tests.sim`: runs seeds for a time, or one seed with its story, or the search for planted mistakes.

    python -m tests.sim                        new seeds for SECONDS (default 60), from SEED (default: by the clock)
    python -m tests.sim seeds 0 500            these seeds
    python -m tests.sim replay 57 [a,b]        one seed twice: the same trace? then its story (of these nodes)
    python -m tests.sim regressions            the seeds in seeds.txt
    python -m tests.sim mutations [name ...]   how many seeds each planted mistake survives; `known`: from where it
                                               was found before
    python -m tests.sim planted NAME           the story of a seed that finds one

Ends with status 1 if something was found.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.sim import mutations
from tests.sim.simulation import Result, run

SEEDS = Path(__file__).with_name("seeds.txt")


def fix_hashing() -> None:
    """Starts over with a fixed PYTHONHASHSEED: sets of text must have one order for a seed to replay exactly."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], environment)


def regressions() -> list[int]:
    """The seeds that once found something."""
    lines = SEEDS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def run_all(seeds: Iterable[int], seconds: float = float("inf")) -> int:
    """Runs seeds until the time is up or one fails; says what was done. Returns the exit status."""
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    done = operations = 0
    simulated_s = 0.0
    failed: Result | None = None
    for seed in seeds:
        result = run(seed)
        done, operations, simulated_s = done + 1, operations + result.operations, simulated_s + result.seconds
        counts.update(result.counts)
        if result.failure:
            failed = result
            break
        if time.monotonic() > end:
            break
    if failed is not None:
        print(failed)
        print(f"replay it: python -m tests.sim replay {failed.seed}")
    print(f"{done} seeds, {operations} operations, {simulated_s:.0f} simulated seconds: {_most(counts)}")
    return int(failed is not None)


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in counts.most_common(40))


def replay(seed: int, nodes: str) -> int:
    first, second = run(seed, events=2000, nodes=nodes), run(seed)
    print(first)
    same = (first.trace, first.steps, first.failure == "") == (second.trace, second.steps, second.failure == "")
    print(f"trace {first.trace:08x}, {'the same' if same else 'NOT the same'} twice")
    return int(bool(first.failure) or not same)


def main(args: list[str]) -> int:
    match args:
        case []:
            seed = int(os.environ.get("SEED") or time.time_ns() // 1000 % 10**12)
            print(f"from seed {seed}")
            return run_all(range(seed, seed + 10**9), float(os.environ.get("SECONDS") or 60))
        case ["seeds", first, end]:
            return run_all(range(int(first), int(end)))
        case ["replay", seed, *nodes]:
            return replay(int(seed), "".join(nodes).replace(",", ""))
        case ["regressions"]:
            return run_all(regressions())
        case ["mutations", "known"]:
            return mutations.search_known()
        case ["mutations", *names]:
            return mutations.search(names)
        case ["planted", name]:
            count, result = mutations.find(name, range(mutations.FOUND_BY[name], 10**6))
            print(result, f"found in {count} seeds", sep="\n")
            return 0
        case _:
            print(__doc__)
            return 2


if __name__ == "__main__":
    fix_hashing()
    sys.exit(main(sys.argv[1:]))
