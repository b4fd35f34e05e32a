"""Numbers are read when they are asked for; events come out as lines for people or as JSON."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import structlog

import respkv
from respkv import log
from respkv.metrics import BOUNDS_SECONDS, Histogram, Metrics


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def test_the_endpoint_reads_numbers_when_it_is_asked(unused_port: int) -> None:
    counts = {"commands": 5, ("0",): 7}
    metrics = Metrics()
    metrics.register("commands_total", "Commands.", lambda: counts["commands"], kind="counter")
    metrics.register("shard_keys", "Keys.", lambda: {("0",): counts["0",], ("1",): 2}, labels=("shard",))
    fsync = Histogram()
    metrics.register_histogram("fsync_seconds", "Time of a sync.", fsync)
    stop = metrics.serve(unused_port, "127.0.0.1")
    try:
        counts["commands"] = 6
        fsync.observe(0.001)
        fsync.observe(100.0)
        lines = urlopen(f"http://127.0.0.1:{unused_port}/metrics").read().decode().splitlines()
    finally:
        stop()
    assert "respkv_commands_total 6.0" in lines
    assert 'respkv_shard_keys{shard="0"} 7.0' in lines
    assert 'respkv_fsync_seconds_bucket{le="0.0008"} 0.0' in lines
    assert 'respkv_fsync_seconds_bucket{le="0.0016"} 1.0' in lines
    assert 'respkv_fsync_seconds_bucket{le="+Inf"} 2.0' in lines
    assert "respkv_fsync_seconds_count 2.0" in lines


def test_a_histogram_puts_a_bound_below_itself() -> None:
    histogram = Histogram()
    histogram.observe(BOUNDS_SECONDS[3])
    assert [count for _, count in histogram.buckets()[:5]] == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_json_lines_hold_the_bound_values_also_of_libraries(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.setup("info", "json", file)
    log.get_logger(shard=2).info("leader_elected", term=7)
    logging.getLogger("library").warning("says %s", "this")
    ours, theirs = map(json.loads, file.read_text().splitlines())
    assert (ours["event"], ours["shard"], ours["term"], ours["level"]) == ("leader_elected", 2, 7, "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("says this", "library", "warning")


def test_the_level_can_be_changed_for_loggers_that_exist(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.setup("warning", "console", file)
    logger = log.get_logger()
    logger.info("first")
    log.set_level("debug")
    logger.debug("second")
    log.set_level("error")
    logger.warning("third")
    assert [word for word in ("first", "second", "third") if word in file.read_text()] == ["second"]
    assert "\x1b" not in file.read_text()


def events() -> Iterator[tuple[str, object]]:
    """Where respkv logs, and under which name; of what is no literal the source."""
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    for file in Path(respkv.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level), args=args) if level in levels:
                    for event in args:  # only values by name may come behind the first
                        for name in (event.body, event.orelse) if isinstance(event, ast.IfExp) else (event,):
                            shown = name.value if isinstance(name, ast.Constant) else ast.unparse(name)
                            yield f"{file.name}:{node.lineno}", shown


def test_every_event_is_named_in_lower_case_with_underscores() -> None:
    found = list(events())
    wrong = [(place, name) for place, name in found if not re.fullmatch("[a-z]+(_[a-z]+)*", str(name))]
    assert wrong == []
    assert {name for _, name in found} >= {"node_started", "leader_elected", "leader_lost", "torn_tail_cut"}
