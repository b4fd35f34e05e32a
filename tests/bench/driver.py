"""The load generator as a Python call: compiles load.c, runs it, and gives its figures as a `Sample`.

Without a C compiler redis-benchmark stands in. It cannot send a WAIT behind each batch, so those cells are left out;
it counts no misses, and it does not stop by time, so a short run first tells how many requests to ask for.
"""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench import wire

SOURCE = Path(__file__).with_name("load.c")
CALIBRATION_BATCHES = 500
GRACE_S = 60.0


class DriverError(Exception):
    """The load could not be run to its end; the text says why."""


@dataclass(frozen=True)
class Load:
    """What to send. `requests` 0 means: as many as fit into `seconds`."""

    op: str
    pipeline: int
    connections: int = 50
    keyspace: int = 100_000
    value_bytes: int = 64
    seconds: float = 4.0
    requests: int = 0
    wait_replicas: int = 0
    seed: int = 1


@dataclass(frozen=True)
class Sample:
    """What one run measured. Latencies are of a whole batch; `client_cpu` near 1 says that the client was the limit."""

    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    commands: int
    elapsed_s: float
    client_cpu: float
    errors: int = 0
    first_error: str = ""
    misses: int = 0
    short_waits: int = 0

    def complaints(self) -> list[str]:
        """What makes the figure doubtful, in words; empty for a clean run."""
        found = []
        if self.errors:
            found.append(f"{self.errors} errors, the first: {self.first_error}")
        if self.misses:
            found.append(f"{self.misses} GETs found no key")
        if self.short_waits:
            found.append(f"{self.short_waits} WAITs timed out")
        return found


@dataclass(frozen=True)
class Driver:
    """`name` for the report; `run` and `fill` against a port on loopback; whether it can send WAIT."""

    name: str
    run: Callable[[int, Load], Sample]
    fill: Callable[[int, Load], None]
    can_wait: bool


def find_driver(build_dir: Path) -> Driver:
    """load.c compiled into `build_dir`, else redis-benchmark. Raises DriverError when there is neither."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is not None:
        return _compiled_driver(compiler, build_dir / "load")
    benchmark = shutil.which("redis-benchmark")
    if benchmark is not None:
        return _benchmark_driver(benchmark)
    raise DriverError("neither a C compiler nor redis-benchmark was found")


def _compiled_driver(compiler: str, binary: Path) -> Driver:
    _output([compiler, "-O2", "-o", str(binary), str(SOURCE)], timeout_s=GRACE_S)

    def run(port: int, load: Load) -> Sample:
        figures = json.loads(_output([str(binary), *_arguments(port, load)], timeout_s=load.seconds + GRACE_S))
        return _sample(figures)

    def fill(port: int, load: Load) -> None:
        filled = run(port, replace(load, op="load", pipeline=100, seconds=0, requests=load.keyspace, wait_replicas=0))
        if filled.complaints():
            raise DriverError("loading the keys: " + "; ".join(filled.complaints()))

    return Driver("load.c", run, fill, can_wait=True)


def _arguments(port: int, load: Load) -> list[str]:
    options = {
        "port": port,
        "op": load.op,
        "pipeline": load.pipeline,
        "connections": load.connections,
        "keyspace": load.keyspace,
        "value-bytes": load.value_bytes,
        "total": load.requests,
        "seconds": 0 if load.requests else load.seconds,
        "wait-replicas": load.wait_replicas,
        "seed": load.seed,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def _sample(figures: dict[str, Any]) -> Sample:
    return Sample(**{name: value for name, value in figures.items() if name != "op"})


def _benchmark_driver(benchmark: str) -> Driver:
    def run_requests(port: int, load: Load, requests: int) -> Sample:
        command = [benchmark, "-h", wire.HOST, "-p", str(port), "-t", load.op, "-c", str(load.connections)]
        command += ["-P", str(load.pipeline), "-n", str(requests), "-r", str(load.keyspace)]
        command += ["-d", str(load.value_bytes), "--csv"]
        return _benchmark_sample(_output(command, timeout_s=load.seconds * 10 + GRACE_S), requests)

    def run(port: int, load: Load) -> Sample:
        if load.wait_replicas:
            raise DriverError("redis-benchmark cannot send WAIT behind a batch")
        requests = load.requests
        if not requests:
            calibration = run_requests(port, load, CALIBRATION_BATCHES * load.pipeline)
            requests = max(1, int(calibration.rps * load.seconds))
        return run_requests(port, load, requests)

    def fill(port: int, load: Load) -> None:
        wire.fill_keys(port, load.keyspace, load.value_bytes)

    return Driver("redis-benchmark", run, fill, can_wait=False)


def _benchmark_sample(text: str, requests: int) -> Sample:
    rows = list(csv.DictReader(line for line in text.splitlines() if line.startswith('"')))
    if len(rows) != 1:
        raise DriverError(f"redis-benchmark printed no figures: {text.strip()[:200]}")
    row = {name: float(value) for name, value in rows[0].items() if name != "test"}
    return Sample(
        rps=row["rps"],
        p50_ms=row["p50_latency_ms"],
        p99_ms=row["p99_latency_ms"],
        max_ms=row["max_latency_ms"],
        commands=requests,
        elapsed_s=requests / row["rps"],
        client_cpu=0.0,
    )


def _output(command: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise DriverError(f"{Path(command[0]).name} did not end within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise DriverError((done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}")[:300])
    return done.stdout
