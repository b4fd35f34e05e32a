"""`python -m tests.bench`: starts respkv and its peers one after the other, loads them, prints one table of ratios.

Run it from the top of the repository. Progress goes to stderr, the table to stdout. Exits with 1 when a row could not
be measured; a missed goal is only shown. Other measurements become subcommands: a function under `@app.command`.
"""

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from tests.bench import machine
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
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name, progress.status("prepares") as status:
        directory = Path(name)
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
