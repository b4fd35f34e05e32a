"""The latency monitor and the times of commands, by themselves and through LATENCY on a running node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import respkv.server.commands  # fills the table
from respkv.config import Config
from respkv.server.latency import Event, LatencyMonitor, Sample, graph, report
from respkv.server.stats import Stats
from respkv.server.times import Times
from respkv.server.watch import Watch
from respkv.shard.transaction import exec_args
from tests.unit.running import Wire, eventually, respkv


def test_only_what_reaches_the_threshold_is_noted_and_off_nothing() -> None:
    monitor = LatencyMonitor()
    monitor.note("command", 5.0)
    assert monitor.events == {}
    monitor.threshold_ms = 100
    monitor.note("command", 0.099)
    assert monitor.events == {}
    monitor.note("command", 0.1)
    assert [sample.millis for sample in monitor.events["command"].samples] == [100]


def test_of_a_second_the_longest_is_kept_and_the_oldest_are_forgotten() -> None:
    event = Event()
    for at_s, millis in ((1, 5), (1, 9), (1, 7), (2, 3)):
        event.add(at_s, millis)
    assert (list(event.samples), event.max_ms) == ([Sample(1, 9), Sample(2, 3)], 9)
    for at_s in range(3, 500):
        event.add(at_s, 1)
    assert (len(event.samples), event.samples[0].at_s, event.max_ms) == (160, 340, 9)


def test_reset_forgets_what_is_named_or_everything() -> None:
    monitor = LatencyMonitor()
    monitor.threshold_ms = 1
    for name in ("a", "b", "c"):
        monitor.note(name, 1.0)
    assert monitor.reset(["a", "nothing"]) == 1
    assert monitor.reset([]) == 2
    assert monitor.events == {}


def test_a_stall_is_explained_by_what_was_noted_meanwhile() -> None:
    monitor = LatencyMonitor()
    monitor.threshold_ms = 1
    monitor.note("command", 0.4)
    assert monitor.explains(0.5)
    assert not monitor.explains(0.5)


def test_the_graph_is_redis_own() -> None:
    event = Event()
    now = int(time.time())
    for ago, millis in ((3, 100), (2, 300), (1, 200)):
        event.add(now - ago, millis)
    lines = graph("command", event).splitlines()
    assert lines[0] == "command - high 300 ms, low 100 ms (all time high 300 ms)"
    assert lines[1] == "-" * 80
    assert lines[2:7] == [" # ", " |_", " ||", "_||", "   "]
    assert lines[8] == "sss"


def test_the_doctor_tells_what_was_slow_and_what_to_do() -> None:
    monitor = LatencyMonitor()
    assert "monitoring is disabled" in report(monitor, 10_000)
    monitor.threshold_ms = 50
    assert "no latency spike was observed" in report(monitor, 10_000)
    monitor.note("command", 0.2)
    text = report(monitor, 100_000)
    assert "1. command: 1 latency spikes (average 200ms, mean deviation 0ms" in text
    assert "CONFIG SET slowlog-log-slower-than 50000" in text
    assert "CONFIG SET slowlog" not in report(monitor, 10_000)


# --- times ---


def test_a_slow_transaction_is_a_command_and_no_fast_one() -> None:
    watch = Watch(Stats())
    watch.configure(Config(latency_monitor_threshold_ms=1))
    watch.applied_slowly(SimpleNamespace(client="n2"), exec_args([], [[b"SET", b"k", b"v"]]), 1.0)
    assert list(watch.latency.events) == ["command"]
    assert [(entry.args[0], entry.address) for entry in watch.slowlog.newest(-1)] == [(b"EXEC", b"node n2")]


def test_percentiles_are_at_most_an_eighth_too_high() -> None:
    times = Times()
    for micros in range(1, 1001):
        times.add(micros / 1e6)
    for percent, exact in ((50, 500), (99, 990), (100, 1000)):
        found = times.percentiles([percent])[0]
        assert exact <= found <= exact * 1.126
    assert Times().percentiles([50]) == [0.0]


def test_the_histogram_is_cumulative_in_powers_of_two() -> None:
    times = Times()
    for micros in (0.5, 1.0, 3.0, 3.5, 100.0):
        times.add(micros / 1e6)
    assert times.histogram() == {1: 2, 4: 4, 131: 5}
    assert Times().histogram() == {}


@pytest.mark.parametrize("total", [1, 3, 1000])
def test_a_sample_stands_for_all(total: int) -> None:
    exact, sample = Times(), Times()
    exact.add(0.5)
    for micros in (10, 10, 1000):
        sample.add(micros / 1e6)
    both = exact.with_sample(sample, total)
    assert both.count == total + 1
    assert list(both.histogram().values())[-1] == total + 1
    assert exact.count == 1


# --- on a node ---


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire
        wire("CONFIG SET latency-monitor-threshold 0")
        wire("LATENCY RESET")


def events(wire: Wire) -> dict[bytes, list[int]]:
    reply = wire("LATENCY LATEST")
    assert isinstance(reply, list)
    return {name: figures for name, *figures in reply}


def test_a_slow_command_is_an_event_and_no_stall_besides(wire: Wire) -> None:
    wire("CONFIG SET latency-monitor-threshold 150")
    wire("DEBUG SLEEP 0.2")
    eventually(lambda: b"command" in events(wire))
    _, latest_ms, max_ms = events(wire)[b"command"]
    assert 200 <= latest_ms <= max_ms
    history = wire("LATENCY HISTORY command")
    assert isinstance(history, list)
    assert history[0][1] == latest_ms
    assert b"loop-stall" not in events(wire)
    assert b"command - high" in bytes(wire("LATENCY GRAPH command"))  # type: ignore[call-overload]
    assert b"command: 1 latency spikes" in bytes(wire("LATENCY DOCTOR"))  # type: ignore[call-overload]
    assert wire("LATENCY RESET command") == 1
    assert events(wire).get(b"command") is None


def test_an_fdatasync_is_an_event(wire: Wire) -> None:
    wire("CONFIG SET latency-monitor-threshold 1")

    def noted() -> bool:
        wire([b"SET", b"k", b"x" * 500_000])
        return b"aof-fsync-always" in events(wire)

    eventually(noted)


def test_latency_histogram_has_every_call(wire: Wire) -> None:
    wire("CONFIG RESETSTAT")
    for line in ("SET a 1", "SET a 2", "GET a", "CLIENT ID", "CLIENT GETNAME", "INCR a"):
        wire(line)
    wire("HELLO 3")

    def histogram(names: str) -> dict[bytes, int]:
        reply = wire("LATENCY HISTOGRAM " + names)
        assert isinstance(reply, dict)
        for found in reply.values():
            assert list(found[b"histogram_usec"].values())[-1] == found[b"calls"]
        return {name: found[b"calls"] for name, found in reply.items()}

    assert histogram("set get nothing") == {b"set": 2, b"get": 1}
    assert histogram("client") == {b"client|id": 1, b"client|getname": 1}
    assert histogram("client|id") == {b"client|id": 1}
    assert {b"set", b"get", b"incr", b"hello"} < histogram("").keys()
