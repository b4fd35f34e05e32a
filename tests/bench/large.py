"""What one very large value costs: SET and GET of it through every node of a cluster, and what everybody else notices.

Three nodes, three shards, one led on each node; all settings as they are by default. While a value is written through
one node and read through all, a client of each shard writes small values at every node and each node is PINGed: their
longest pauses are measured, as is the memory of each process, and whether any shard has changed its leader.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import NodeProcess, TestCluster, running_cluster

BLOCK_BYTES = 1 << 20
WATCH_S = 0.02
TIMEOUT_S = 120.0


class Content:
    """A value of any size that is not in memory: one random block, each time with its number in front."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._block = random.Random(seed).randbytes(BLOCK_BYTES)

    def blocks(self) -> Iterator[bytes]:
        for start in range(0, self.size, BLOCK_BYTES):
            yield (start.to_bytes(8, "little") + self._block[8:])[: self.size - start]


def send_set(sock: socket.socket, key: str, content: Content) -> None:
    """SET; raises AssertionError if the answer is not OK."""
    sock.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key.encode(), content.size))
    for block in content.blocks():
        sock.sendall(block)
    sock.sendall(b"\r\n")
    with sock.makefile("rb") as replies:
        answer = replies.readline()
    assert answer == b"+OK\r\n", answer


def check_get(sock: socket.socket, key: str, content: Content) -> None:
    """GET; raises AssertionError if it is not `content`."""
    sock.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key.encode()))
    with sock.makefile("rb", BLOCK_BYTES) as replies:
        head = replies.readline()
        assert head == b"$%d\r\n" % content.size, head[:200]
        for number, block in enumerate(content.blocks()):
            assert replies.read(len(block)) == block, f"block {number} differs"
        assert replies.read(2) == b"\r\n"


@dataclass
class Pauses:
    """The longest time for which each of the others waited: by what they did."""

    longest_s: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def worst(self, part: str) -> float:
        return max((seconds for name, seconds in self.longest_s.items() if part in name), default=0.0)


@contextmanager
def bystanders(cluster: TestCluster, pauses: Pauses, shards: list[int]) -> Iterator[None]:
    """Small writes to each of `shards` and PINGs at every node, until the end of the block."""
    over = threading.Event()
    threads = []
    for node in cluster.nodes:
        threads.append(threading.Thread(target=_ask, args=(node, "ping", ["PING"], pauses, over)))
        for shard in shards:
            key = cluster.keys_of_shard(shard, 1, f"small-{node.name}-")[0]
            threads.append(
                threading.Thread(target=_ask, args=(node, f"shard {shard}", ["SET", key, "v"], pauses, over))
            )
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask(node: NodeProcess, what: str, command: list[str], pauses: Pauses, over: threading.Event) -> None:
    name = f"{what} at {node.name}"
    line = b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in command)
    longest = 0.0
    try:
        with node.connect(TIMEOUT_S) as sock, sock.makefile("rb") as replies:
            while not over.is_set():
                started = time.monotonic()
                sock.sendall(line)
                answer = replies.readline()
                longest = max(longest, time.monotonic() - started)
                if answer not in {b"+OK\r\n", b"+PONG\r\n"}:
                    pauses.errors.append(f"{name}: {answer!r}")
                time.sleep(WATCH_S)
    except OSError as error:
        pauses.errors.append(f"{name}: {error}")
    pauses.longest_s[name] = longest


@contextmanager
def watched_memory(cluster: TestCluster, peaks: dict[str, int]) -> Iterator[None]:
    """The highest memory of each process (without pages of files) within the block."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for node in cluster.nodes:
                peaks[node.name] = max(peaks.get(node.name, 0), node.memory_bytes())
            time.sleep(WATCH_S)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class Step:
    """One SET or GET: through which node, of a key that which node leads, and what it did to the others."""

    what: str
    seconds: float
    pauses: Pauses
    peak_bytes: dict[str, int]
    leaders_changed: bool


def measure(directory: Path, size: int, report: Callable[[Step], None]) -> None:
    """Writes a value of `size` bytes through each node in turn, and reads it through every node; reports each step."""
    with running_cluster(directory, JOURNAL_SEGMENT_BYTES="64mb", SEGMENT_BYTES="128mb") as cluster:
        cluster.wait_home()
        for number, node in enumerate(cluster.nodes):
            shard = number if number != 1 else 2  # through its leader, a follower, its leader
            key = cluster.keys_of_shard(shard, 1, f"large-{node.name}-")[0]
            content = Content(size, number)
            leader = cluster.leader(shard).name
            _step(cluster, f"SET via {node.name} (led by {leader})", shard, report, _setting(node, key, content))
            for reader in cluster.nodes:
                what = f"GET via {reader.name} (led by {leader})"
                _step(cluster, what, shard, report, _getting(reader, key, content))
            with node.connect(TIMEOUT_S) as sock, sock.makefile("rb") as replies:
                sock.sendall(b"*2\r\n$3\r\nDEL\r\n$%d\r\n%b\r\n" % (len(key), key.encode()))
                assert replies.readline() == b":1\r\n"


def _setting(node: NodeProcess, key: str, content: Content) -> Callable[[], None]:
    def run() -> None:
        with node.connect(TIMEOUT_S) as sock:
            send_set(sock, key, content)

    return run


def _getting(node: NodeProcess, key: str, content: Content) -> Callable[[], None]:
    def run() -> None:
        with node.connect(TIMEOUT_S) as sock:
            check_get(sock, key, content)

    return run


def _terms(cluster: TestCluster) -> list[tuple[int, str]]:
    return [(shard, fields["term"]) for node in cluster.nodes for shard, fields in node.shards().items()]


def _step(
    cluster: TestCluster, what: str, shard: int, report: Callable[[Step], None], run: Callable[[], None]
) -> None:
    others = [other for other in range(cluster.shard_count) if other != shard]
    pauses, peaks, before = Pauses(), dict[str, int](), _terms(cluster)
    with bystanders(cluster, pauses, others), watched_memory(cluster, peaks):
        started = time.monotonic()
        try:
            run()
        except (OSError, AssertionError) as error:
            pauses.errors.append(f"{what}: {str(error)[:200]}")
        seconds = time.monotonic() - started
        time.sleep(1.0)  # what a change of leaders would need to show
    report(Step(what, seconds, pauses, peaks, _terms(cluster) != before))
