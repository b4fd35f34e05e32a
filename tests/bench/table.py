"""The results as one table for people and one JSON object for programs."""

from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from tests.bench.runs import CELLS, RATIOS, Cell, Ratio, Results, Row


def build_table(results: Results, machine: dict[str, str]) -> Table:
    """Rates and batch latencies per row, then the ratios with their goals."""
    table = Table(title="respkv against redis-server", caption=_caption(results, machine), caption_justify="left")
    table.add_column("commands/s (p50 / p99 ms of a batch)", min_width=30)
    for cell in CELLS:
        table.add_column(cell.name, justify="right", no_wrap=True)
    for row in results.rows:
        table.add_row(row.title, *(_rate(results, row, cell) for cell in CELLS))
    table.add_section()
    for ratio in _comparable(results):
        table.add_row(ratio.title, *(_ratio(results, ratio, cell) for cell in CELLS))
    return table


def build_report(results: Results, machine: dict[str, str]) -> dict[str, Any]:
    """Everything that was measured, every sample included."""
    return {
        "machine": machine,
        "driver": results.driver,
        "rounds": results.rounds,
        "load": asdict(results.load),
        "rows": {row.name: _row_report(results, row) for row in results.rows},
        "ratios": [_ratio_report(results, ratio) for ratio in _comparable(results)],
        "notes": results.notes,
    }


def _comparable(results: Results) -> list[Ratio]:
    """The ratios of which both rows were asked for."""
    names = {row.name for row in results.rows}
    return [ratio for ratio in RATIOS if {ratio.row, ratio.peer} <= names]


def _caption(results: Results, machine: dict[str, str]) -> str:
    load = results.load
    size = f"{load.requests} commands" if load.requests else f"{load.seconds:g} s"
    return (
        f"Medians of {results.rounds} interleaved runs of {size}; "
        "a ratio is the median of the rounds' ratios (least to most). "
        f"{load.connections} clients, {load.value_bytes}-byte values, {load.keyspace:,} random keys. "
        f"{machine['cpu']}, Linux {machine['kernel']}, {machine['filesystem']} with {machine['fdatasync_per_s']} "
        f"fdatasync/s, {machine['when']}."
    )


def _rate(results: Results, row: Row, cell: Cell) -> Text:
    rps, p50, p99 = (results.median(row.name, cell, figure) for figure in ("rps", "p50_ms", "p99_ms"))
    if rps is None:
        return Text("failed" if row.name in results.failed else "-", style="red" if row.name in results.failed else "")
    return Text.assemble(f"{rps:,.0f}\n", (f"{p50:.2f} / {p99:.2f}", "dim"))


def _ratio(results: Results, ratio: Ratio, cell: Cell) -> Text:
    if cell not in ratio.goals:
        return Text("")
    found, goal = results.ratios(ratio, cell), ratio.goals[cell]
    if not found:
        return Text(f"-\ngoal {goal:g}x")
    reached = median(found) >= goal
    spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
    verdict = f"goal {goal:g}x {'reached' if reached else 'missed'}"
    return Text.assemble((f"{median(found):.2f}x", "bold"), f"{spread}\n", (verdict, "green" if reached else "red"))


def _row_report(results: Results, row: Row) -> dict[str, Any]:
    cells = {
        cell.name: {
            "median_rps": results.median(row.name, cell),
            "samples": {
                str(n): asdict(sample) for n, sample in results.samples.get(row.name, {}).get(cell, {}).items()
            },
        }
        for cell in CELLS
    }
    return {
        "title": row.title,
        "failed": row.name in results.failed,
        "facts": results.facts.get(row.name, {}),
        "cells": cells,
    }


def _ratio_report(results: Results, ratio: Ratio) -> dict[str, Any]:
    cells = {}
    for cell, goal in ratio.goals.items():
        found = results.ratios(ratio, cell)
        cells[cell.name] = {"goal": goal, "median": median(found) if found else None, "rounds": found}
    return {"title": ratio.title, "row": ratio.row, "peer": ratio.peer, "cells": cells}
