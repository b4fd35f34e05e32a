"""Fuzzing for as long as wanted: `python -m tests.fuzz [--seconds N] [--target NAME] [--seed N] [--engine atheris]`.

The targets take turns; each case is made from a seed of its own, counted up from `--seed`, or from the clock when that
is 0. A failure prints target and seed; `--target NAME --seed N --seconds 0` runs that case alone. A case that takes
longer than a minute ends the process with a traceback of where it is. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import sys
import time
import traceback
from random import Random

import structlog

from tests.fuzz.source import ByteRandom
from tests.fuzz.targets import HANG_S, TARGETS

TURN_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--target", choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("seeds", "atheris"), default="seeds")
    options, rest = parser.parse_known_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    names = [options.target] if options.target else list(TARGETS)
    if options.engine == "atheris":
        return _with_atheris(names, options.seconds, rest)
    if options.seconds == 0:
        return int(not all(_passes(name, options.seed) for name in names))
    return _by_seeds(names, options.seconds, options.seed or time.time_ns() // 1000)


def _by_seeds(names: list[str], seconds: float, seed: int) -> int:
    seeds = itertools.count(seed)
    cases = dict.fromkeys(names, 0)
    failures = dict.fromkeys(names, 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in names:
            turn_end = min(time.monotonic() + TURN_S, end)
            while time.monotonic() < turn_end:
                cases[name] += 1
                failures[name] += not _passes(name, next(seeds))
    for name in names:
        print(f"{name:28} {cases[name]:9} cases  {failures[name]} failures")
    return int(any(failures.values()))


def _passes(name: str, seed: int) -> bool:
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        TARGETS[name](Random(seed))
    except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
        traceback.print_exc()
        print(f"FAILED: python -m tests.fuzz --target {name} --seed {seed} --seconds 0", file=sys.stderr)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


def _with_atheris(names: list[str], seconds: float, arguments: list[str]) -> int:
    """Coverage-guided, if atheris is there. Does not return: libFuzzer ends the process."""
    import atheris  # type: ignore[import-not-found]

    def one(data: bytes) -> None:
        TARGETS[names[data[0] % len(names)] if data else names[0]](ByteRandom(data[1:]))

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=600", *arguments], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
