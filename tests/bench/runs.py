"""What is measured, in which order, and how the ratios come about.

A round measures every row once: start it on an empty directory, load the keys, run the four cells, stop it, delete its
data. Nothing else runs meanwhile. The rows of a ratio are neighbours in the order, and every second round goes back
through it, so that a machine that slows down or speeds up does so for both. A ratio is taken within each round; the
median of those is reported.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench import peers
from tests.bench.driver import Driver, DriverError, Load, Sample
from tests.bench.processes import PeerError
from tests.bench.wire import ServerError


@dataclass(frozen=True)
class Cell:
    """One column of the table."""

    op: str
    pipeline: int

    @property
    def name(self) -> str:
        return f"{self.op.upper()} p{self.pipeline}"


@dataclass(frozen=True)
class Row:
    """One system. SETs of a row with `wait_replicas` have a WAIT behind each batch."""

    name: str
    title: str
    start: Callable[[Path], AbstractContextManager[peers.Target]]
    wait_replicas: int = 0


@dataclass(frozen=True)
class Ratio:
    """`row` divided by `peer`, and the goal for each cell that is compared."""

    title: str
    row: str
    peer: str
    goals: dict[Cell, float]


SET_P1, SET_P16, GET_P1, GET_P16 = CELLS = (Cell("set", 1), Cell("set", 16), Cell("get", 1), Cell("get", 16))

# In the order of a round: the two rows of every ratio next to each other.
ROWS = (
    Row("respkv-1n", "respkv, 1 node, 3 shards, always", partial(peers.start_respkv_single, shards=3)),
    Row("redis", "redis-server, always", peers.start_redis),
    Row(
        "respkv-3n1s",
        "respkv, 3 nodes, 1 shard, always; client at the leader",
        partial(peers.start_respkv_cluster, shards=1, appendfsync="always"),
    ),
    Row("redis-wait", "redis-server + 2 replicas, always; SETs then WAIT 1", peers.start_redis_replicated, 1),
    Row(
        "respkv-3n3s",
        "respkv, 3 nodes, 3 shards, always; client at one node",
        partial(peers.start_respkv_cluster, shards=3, appendfsync="always"),
    ),
    Row(
        "respkv-3n3s-no",
        "respkv, 3 nodes, 3 shards, appendfsync no; client at one node",
        partial(peers.start_respkv_cluster, shards=3, appendfsync="no"),
    ),
)

RATIOS = (
    Ratio("3 nodes 1 shard / redis + WAIT 1", "respkv-3n1s", "redis-wait", {SET_P1: 1.0, SET_P16: 1.0}),
    Ratio("3 nodes 3 shards / redis + WAIT 1", "respkv-3n3s", "redis-wait", {SET_P1: 0.55, SET_P16: 0.7}),
    Ratio("1 node / redis always", "respkv-1n", "redis", {SET_P1: 0.55, SET_P16: 0.85}),
    Ratio("3 nodes 1 shard / redis GET", "respkv-3n1s", "redis", {GET_P1: 0.75, GET_P16: 0.35}),
)


@dataclass
class Results:
    """The samples by row, cell and round; what each start found out; notes on doubtful figures; rows that failed."""

    rows: list[Row]
    rounds: int
    load: Load
    driver: str
    samples: dict[str, dict[Cell, dict[int, Sample]]] = field(default_factory=dict)
    facts: dict[str, dict[int, dict[str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _of(self, row: str, cell: Cell) -> list[Sample]:
        return list(self.samples.get(row, {}).get(cell, {}).values())

    def median(self, row: str, cell: Cell, figure: str = "rps") -> float | None:
        values = [getattr(sample, figure) for sample in self._of(row, cell)]
        return float(median(values)) if values else None

    def ratios(self, ratio: Ratio, cell: Cell) -> list[float]:
        """One ratio for each round that measured both rows."""
        ours, theirs = (self.samples.get(name, {}).get(cell, {}) for name in (ratio.row, ratio.peer))
        return [ours[n].rps / theirs[n].rps for n in sorted(ours.keys() & theirs.keys())]


@dataclass(frozen=True)
class Bench:
    """`load` is what a cell sends, but for op, pipeline, WAIT and seed; `directory` comes and goes with each row."""

    driver: Driver
    load: Load
    directory: Path
    progress: Callable[[str], None]

    def measure(self, rows: list[Row], rounds: int) -> Results:
        """All rounds of `rows`. A row that fails once is noted and left out of the rounds that follow."""
        results = Results(rows, rounds, self.load, self.driver.name)
        if not self.driver.can_wait and any(row.wait_replicas for row in rows):
            results.note(f"SET cells with WAIT are left out: {self.driver.name} cannot send them")
        for round_number in range(1, rounds + 1):
            for row in rows if round_number % 2 else reversed(rows):
                if row.name in results.failed:
                    continue
                try:
                    self._measure_row(results, row, round_number)
                except (PeerError, ServerError, DriverError) as error:
                    results.failed.add(row.name)
                    results.note(f"{row.name}: failed in round {round_number}: {error}")
        return results

    def sustain(self, row: Row, runs: int) -> list[float]:
        """Commands per second of each of so many runs of `load`, one right after the other, on one start of `row`."""
        self.directory.mkdir()
        try:
            with row.start(self.directory) as target:
                self.driver.fill(target.port, self.load)
                return [self.driver.run(target.port, replace(self.load, seed=run)).rps for run in range(runs)]
        finally:
            shutil.rmtree(self.directory)

    def _measure_row(self, results: Results, row: Row, round_number: int) -> None:
        self.directory.mkdir()
        self.progress(f"round {round_number}: {row.name} starts")
        try:
            with row.start(self.directory) as target:
                results.facts.setdefault(row.name, {})[round_number] = target.facts
                self.driver.fill(target.port, self.load)
                for cell in CELLS:
                    self._measure_cell(results, row, cell, round_number, target.port)
                for complaint in target.complaints():
                    results.note(f"{row.name} in round {round_number}: {complaint}")
        finally:
            shutil.rmtree(self.directory)
            # What this row left in the page cache must not be written back during the next one.
            os.sync()

    def _measure_cell(self, results: Results, row: Row, cell: Cell, round_number: int, port: int) -> None:
        wait_replicas = row.wait_replicas if cell.op == "set" else 0
        if wait_replicas and not self.driver.can_wait:
            return
        self.progress(f"round {round_number}: {row.name} {cell.name}")
        load = replace(self.load, op=cell.op, pipeline=cell.pipeline, wait_replicas=wait_replicas, seed=round_number)
        sample = self.driver.run(port, load)
        results.samples.setdefault(row.name, {}).setdefault(cell, {})[round_number] = sample
        for complaint in sample.complaints():
            results.note(f"{row.name} {cell.name} in round {round_number}: {complaint}")
