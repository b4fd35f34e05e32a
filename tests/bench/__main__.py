"""`python -m tests.bench`: starts respkv and its peers one after the other, loads them, prints one table of ratios.

Run it from the top of the repository. Progress goes to stderr, the table to stdout. Exits with 1 when a row could not
be measured; a missed goal is only shown. Other measurements become subcommands: a function under `@app.command`.
"""

import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from tests.bench import large as large_values
from tests.bench import machine, upkeep
from tests.bench.driver import DriverError, Load, find_driver
from tests.bench.peers import REPOSITORY
from tests.bench.runs import ROWS, Bench, Row
from tests.bench.table import build_report, build_table

WIDTH_WITHOUT_TERMINAL = 130

app = App(name="python -m tests.bench", help="Benchmarks of respkv.")


@app.default
def compare(
    *,
    rounds: int = 3,
    seconds: float = 4.0,
    requests: int = 0,
    only: str = "",
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Measure respkv against redis-server and print the table: about 7 minutes on 2 cores.

    Parameters
    ----------
    rounds
        How often every row is measured; the medians are printed.
    seconds
        Length of each run: a row has four.
    requests
        Commands of each run, in place of a length in time.
    only
        Names of rows, separated by commas: respkv-1n, redis, respkv-3n1s, redis-wait, respkv-3n3s, respkv-3n3s-no.
    json_file
        Write every sample to this file.
    """
    rows = _choose_rows(only)
    load = Load(op="set", pipeline=1, seconds=seconds, requests=requests)
    progress = Console(stderr=True)
    with _scratch() as directory, progress.status("prepares") as status:
        if machine.filesystem(directory) in machine.MEMORY_FILESYSTEMS:
            raise SystemExit(f"{directory} is in memory: its fdatasync says nothing")
        try:
            driver = find_driver(directory)
        except DriverError as error:
            raise SystemExit(str(error)) from error
        facts = machine.describe(directory)
        results = Bench(driver, load, directory / "row", status.update).measure(rows, rounds)
    if json_file is not None:
        json_file.write_text(json.dumps(build_report(results, facts), indent=2) + "\n")
    output = Console() if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL)
    output.print(build_table(results, facts))
    for note in results.notes:
        output.print(f"Note: {note}", markup=False, highlight=False)
    return 1 if results.failed else 0


@app.command
def latency(*, gib: float = 1.0) -> int:
    """PING one node while it merges: about a minute.

    Parameters
    ----------
    gib
        Size of the data before merging; 60 % of it are dead.
    """
    with _scratch() as directory:
        quiet, busy, seconds = upkeep.merge_latency(directory, gib)
    for name, figures in (("idle", quiet), (f"merging {gib:g} GiB ({seconds:.0f} s)", busy)):
        print(
            f"PING {name}: p50 {figures.p50_ms:.2f} ms, p99 {figures.p99_ms:.2f} ms, "
            f"max {figures.max_ms:.2f} ms of {figures.count}"
        )
    return 0


@app.command
def sustained(*, seconds: int = 60, only: str = "respkv-1n,redis,respkv-3n1s") -> int:
    """SET without a pause for so long that files fill up, are hinted and merged: a minute for each row.

    Parameters
    ----------
    seconds
        How long each row is loaded, with SETs at pipeline 16.
    only
        Names of rows, as for the table.
    """
    with _scratch() as directory:
        driver = find_driver(directory)
        for row in _choose_rows(only):
            load = Load(op="set", pipeline=16, seconds=1.0, wait_replicas=row.wait_replicas)
            rates = Bench(driver, load, directory / "row", lambda _: None).sustain(row, seconds)
            print(
                f"{row.title}, SET p16 for {seconds} s: {median(rates[: seconds // 6]):,.0f}/s in the first sixth, "
                f"{median(rates[seconds // 2 :]):,.0f}/s in the second half, {min(rates):,.0f}/s in the slowest second",
                flush=True,
            )
    return 0


@app.command
def memory(*, keys: int = 1_000_000) -> int:
    """Process memory per key, and the time from start to serving: about half a minute.

    Parameters
    ----------
    keys
        Number of keys, of 20 bytes each.
    """
    with _scratch() as directory:
        figures = upkeep.memory_and_restart(directory, keys)
    print(f"{keys} keys of 20 bytes: {figures.bytes_per_key:.0f} bytes of process memory a key, "
          f"serving {figures.restart_seconds:.1f} s after the start")
    return 0


@app.command
def large(*, mib: int = 512) -> int:
    """SET and GET one large value through every node of a cluster of three: about two minutes.

    Parameters
    ----------
    mib
        Size of the value.
    """
    failed = False

    def report(step: large_values.Step) -> None:
        nonlocal failed
        failed = failed or step.leaders_changed or bool(step.pauses.errors)
        peak = max(step.peak_bytes.values()) / (mib << 20)
        print(
            f"{step.what}: {step.seconds:.1f} s; longest pause of other shards {step.pauses.worst('shard'):.2f} s, of "
            f"PING {step.pauses.worst('ping'):.2f} s; memory of a node up to {peak:.1f} times the value; "
            f"{'LEADERS CHANGED' if step.leaders_changed else 'no leader changed'}",
            flush=True,
        )
        for error in step.pauses.errors:
            print(f"    {error}")

    with _scratch() as directory:
        large_values.measure(directory / "large", mib << 20, report)
    return 1 if failed else 0


@contextmanager
def _scratch() -> Iterator[Path]:
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name:
        yield Path(name)


def _choose_rows(only: str) -> list[Row]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        raise SystemExit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if not names or row.name in names]


def _stop(signal_number: int, _frame: object) -> None:
    """SIGTERM unwinds like Ctrl-C, so that no server and no data stay behind."""
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(app())
