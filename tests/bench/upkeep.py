"""What upkeep costs clients: PING while a node merges, memory per key, the time a restart takes.

One node, three shards, `appendfsync no` (nothing here waits for the disk on purpose). It is loaded over its socket.
"""

from __future__ import annotations

import random
import re
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import start_respkv_node
from tests.bench.wire import ask, ask_info

KEY_BYTES = 20
PIPELINE = 1000


@dataclass(frozen=True)
class Latency:
    """PING round trips in milliseconds, and how long they were measured."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    count: int
    seconds: float


def fill(port: int, numbers_to_set: Sequence[int], value_bytes: int) -> None:
    """Sets the keys of these numbers, of 20 bytes each, pipelined."""
    value = b"x" * value_bytes
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as replies:
        for start in range(0, len(numbers_to_set), PIPELINE):
            numbers = numbers_to_set[start : start + PIPELINE]
            sock.sendall(b"".join(_set(number, value) for number in numbers))
            for _ in numbers:
                assert replies.readline() == b"+OK\r\n"


def _set(number: int, value: bytes) -> bytes:
    return b"*3\r\n$3\r\nSET\r\n$%d\r\nkey:%016d\r\n$%d\r\n%b\r\n" % (KEY_BYTES, number, len(value), value)


def merge_latency(directory: Path, gib: float, value_bytes: int = 1000) -> tuple[Latency, Latency, float]:
    """PING before and while a node merges `gib` GiB of which 60 % are dead; and the seconds that merging took."""
    keys = int(gib * (1 << 30) / (value_bytes + KEY_BYTES + 21) / 2.5)
    rng = random.Random(1)
    options = {"RESPKV_APPENDFSYNC": "no", "RESPKV_MERGE_DEAD_RATIO": "0.95", "RESPKV_SEGMENT_BYTES": "32mb"}
    with start_respkv_node(directory, options) as port:
        fill(port, range(keys), value_bytes)
        fill(port, [rng.randrange(keys) for _ in range(keys * 3 // 2)], value_bytes)
        quiet = _ping(port, lambda: False, seconds=5)
        before = _data_bytes(port)
        ask(port, "CONFIG", "SET", "merge-dead-ratio", "0.3")
        started = time.monotonic()
        busy = _ping(port, lambda: _data_bytes(port) < before * 0.6, seconds=120)
        return quiet, busy, time.monotonic() - started


def _data_bytes(port: int) -> int:
    return sum(int(size) for size in re.findall(r"[,]bytes=(\d+)", str(ask_info(port, "raft"))))


def _ping(port: int, over: Callable[[], bool], seconds: float) -> Latency:
    """PINGs one after the other, about a thousand a second, until `over()` or the time is up."""
    taken: list[float] = []
    started = looked = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.monotonic() - started < seconds:
            asked = time.perf_counter()
            sock.sendall(b"PING\r\n")
            sock.recv(64)
            taken.append((time.perf_counter() - asked) * 1000)
            time.sleep(0.001)
            if time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                if over():
                    break
    taken.sort()
    duration = time.monotonic() - started
    return Latency(statistics.median(taken), taken[int(len(taken) * 0.99)], taken[-1], len(taken), duration)


@dataclass(frozen=True)
class Memory:
    """Bytes of process memory per key (mapped files not counted), and seconds until a restarted node serves."""

    bytes_per_key: float
    restart_seconds: float


def memory_and_restart(directory: Path, keys: int) -> Memory:
    """Fills a node with keys of 20 bytes, stops it, starts it again."""
    environment = {"RESPKV_APPENDFSYNC": "no", "RESPKV_JOURNAL_KEEP_BYTES": "1mb"}
    with start_respkv_node(directory, environment) as port:
        fill(port, range(1000), 8)
        empty = _private_bytes(port)
        fill(port, range(keys), 8)
        _settle(port)
    started = time.monotonic()
    with start_respkv_node(directory, environment) as port:
        restart_seconds = time.monotonic() - started
        assert ask(port, "DBSIZE") == keys
        full = _private_bytes(port)
        return Memory((full - empty) / keys, restart_seconds)


def _settle(port: int) -> None:
    """Until the journal no longer keeps what was written."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        kept = sum(map(int, re.findall(r"log_bytes=(\d+)", str(ask_info(port, "raft")))))
        if kept < 4 << 20:
            return
        time.sleep(0.2)


def _private_bytes(port: int) -> int:
    """Resident memory that is not the page cache of mapped files."""
    status = Path(f"/proc/{ask_info(port, 'server')['process_id']}/status").read_text()
    return 1024 * sum(int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("RssAnon", "RssShmem"))
