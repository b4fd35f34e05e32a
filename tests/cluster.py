"""Real nodes for the tests: `python -m respkv` processes on free loopback ports, in a directory of their own.

A `TestCluster` writes its configuration with `respkv cluster --init-only`, starts each node by itself, waits for
leaders, finds them by INFO, kills, stops, freezes and restarts nodes. What it starts it also ends, whatever happens
to the test. Everything that waits has a deadline and polls.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from respkv.client import Address, Client, ClientError, parse_info, parse_shards

POLL_S = 0.03
START_S = 120.0  # of a machine that does much else at the same time
STOP_S = 40.0
CLUSTER_PORT_OFFSET = 1_000
PEER_PORT_OFFSET = 10_000
ROOT = Path(__file__).parent.parent

# Small files, so that a test of a few seconds sees them sealed, trimmed and merged.
SMALL_FILES = {"JOURNAL_SEGMENT_BYTES": "4mb", "SEGMENT_BYTES": "16mb"}


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = START_S) -> Any:
    """Polls until `condition()` is true and returns that value; connection errors count as not yet."""
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while True:
        try:
            value = condition()
            if value:
                return value
        except (redis.RedisError, ClientError, OSError) as error:
            last = error
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}" + (f" ({last})" if last else "")
        time.sleep(POLL_S)


def environment(options: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `options` (names without prefix) as the only settings of respkv in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RESPKV_")}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path} | {f"RESPKV_{name}": value for name, value in options.items()}


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free, as are those 1,000 and 10,000 higher.

    They lie below the range from which the system takes the ports of outgoing connections.
    """
    for _ in range(200):
        base = random.randrange(11_000, 21_000)
        wanted = [base + i + offset for i in range(count) for offset in (0, CLUSTER_PORT_OFFSET, PEER_PORT_OFFSET)]
        if all(map(_is_free, wanted)):
            return base
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class NodeProcess:
    """One node: its directory, its ports and, while it runs, its process.

    `prefix` goes before its command (to run it somewhere else), `variables` into its environment.
    """

    def __init__(
        self, directory: Path, name: str, port: int, options: Mapping[str, str], host: str = "127.0.0.1"
    ) -> None:
        self.directory = directory
        self.host = host
        self.prefix: list[str] = []
        self.variables: dict[str, str] = {}
        self.name = name
        self.port = port
        self.cluster_port = port + CLUSTER_PORT_OFFSET
        self.peer_port = port + PEER_PORT_OFFSET
        self.options = dict(options)
        self.process: subprocess.Popen[bytes] | None = None

    # -- the process

    def start(self) -> None:
        """Starts it without waiting until it answers."""
        assert not self.running
        server = [sys.executable, "-m", "respkv", "server", "--config", str(self.directory / "respkv.toml")]
        server += ["--enable-debug-command", "yes"]
        if self.host != "127.0.0.1":
            server += ["--protected-mode", "no"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *server],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment(self.options) | self.variables,
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: nothing is said, nothing is flushed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_S)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nobody answers."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    @property
    def log_file(self) -> Path:
        return self.directory / "respkv.log"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def memory_bytes(self) -> int:
        """What the process has in memory but for pages of files."""
        fields = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("RssAnon:"))

    # -- as a client

    def client(self, **options: Any) -> redis.Redis:
        """A client of the standalone view that fails at once rather than trying again behind the test's back."""
        settings: dict[str, Any] = {"socket_timeout": 20, "protocol": 2, "retry": None} | options
        return redis.Redis(self.host, self.port, **settings)

    def connect(self, timeout_s: float = 10.0, *, cluster_view: bool = False) -> socket.socket:
        """A bare connection."""
        port = self.cluster_port if cluster_view else self.port
        return socket.create_connection((self.host, port), timeout_s)

    def call(self, *args: str | bytes, timeout_s: float = 5.0) -> Any:
        """One command on a connection of its own; the reply as it is: bytes, int, None or a list of these."""
        assert self.running, f"{self.name} ended:\n{self.log()[-3000:]}"
        with Client(Address(self.host, self.port, self.options.get("REQUIREPASS", "")), timeout_s) as client:
            return client.call(*args)

    def info(self) -> dict[str, str]:
        return parse_info(self.call("INFO", "everything").decode())

    def shards(self) -> dict[int, dict[str, str]]:
        """INFO raft: shard -> field -> value."""
        return parse_shards(self.info())

    def answers(self) -> bool:
        return self.call("PING") == b"PONG"


class TestCluster:
    """Nodes `node-1`, `node-2`, ... with ids n1, n2, ... in one directory."""

    __test__ = False  # not for pytest to collect

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        shards: int = 3,
        replicas: int = 3,
        hosts: Sequence[str] = (),
        port: int = 0,
        **options: str,
    ) -> None:
        self.directory = directory
        self.shard_count = shards
        self.options = SMALL_FILES | options
        self.port = port or free_ports(nodes)
        command = [sys.executable, "-m", "respkv", "cluster", str(directory), "--init-only"]
        command += ["--nodes", str(nodes), "--shards", str(shards), "--port", str(self.port)]
        command += ["--replicas", str(min(replicas, nodes)), "--hosts", ",".join(hosts or ["127.0.0.1"])]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=START_S, cwd=ROOT, env=environment({}), check=False
        )
        assert done.returncode == 0, done.stderr
        self.nodes = [
            NodeProcess(directory / f"node-{i + 1}", f"n{i + 1}", self.port + i, self.options, *hosts[i : i + 1])
            for i in range(nodes)
        ]

    def __getitem__(self, name: str) -> NodeProcess:
        return next(node for node in self.nodes if node.name == name)

    @property
    def running(self) -> list[NodeProcess]:
        return [node for node in self.nodes if node.running]

    # -- life

    def start(self, timeout_s: float = START_S) -> None:
        """Starts all nodes that do not run and waits until the cluster serves."""
        for node in self.nodes:
            if not node.running:
                node.start()
        self.wait_ready(timeout_s)

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Every running node answers, and all that hold a shard know the same leader of it."""
        for node in self.running:
            wait_until(node.answers, f"{node.name} answers", timeout_s)
        wait_until(self._has_leaders, "every node knows every leader", timeout_s)

    def _has_leaders(self) -> bool:
        seen = [node.shards() for node in self.running]
        names = {node.name for node in self.running}
        for shard in range(self.shard_count):
            leaders = {shards[shard]["leader"] for shards in seen if shard in shards}
            if len(leaders) != 1 or not leaders <= names:
                return False
        return True

    def wait_home(self, timeout_s: float = START_S) -> None:
        """The leaders are spread: with as many shards as nodes, one on each node."""
        spread = min(len(self.nodes), self.shard_count)
        wait_until(lambda: len(set(self.leaders().values())) == spread, "leaders are spread", timeout_s)

    def wait_settled(self, timeout_s: float = 0.75 * START_S) -> None:
        """Every replica on a running node has applied all that is in the log."""
        try:
            wait_until(self._is_settled, "all replicas have applied the same", timeout_s)
        except AssertionError as error:
            for node in self.running:
                error.add_note(f"{node.name}: {node.shards()}\n{node.log()[-3000:]}")
            raise

    def _is_settled(self) -> bool:
        if not self._has_leaders():
            return False
        seen = [node.shards() for node in self.running]
        return all(
            len({shards[shard][field] for shards in seen if shard in shards for field in ("applied", "last")}) == 1
            for shard in range(self.shard_count)
        )

    def stop(self) -> None:
        """SIGTERM to all; each must end with status 0."""
        nodes = self.running
        for node in nodes:
            node.signal(signal.SIGTERM)
        for node in nodes:
            assert node.process is not None
            assert node.process.wait(STOP_S) == 0, node.log()[-3000:]

    def kill_all(self) -> None:
        """SIGKILL to all before any of them is waited for."""
        nodes = self.running
        for node in nodes:
            node.signal(signal.SIGKILL)
        for node in nodes:
            assert node.process is not None
            node.process.wait(STOP_S)

    # -- what it looks like

    def leaders(self) -> dict[int, str]:
        """Shard -> id of the node that says it leads, in the newest term anybody says so."""
        found: dict[int, tuple[int, str]] = {}
        for node in self.running:
            for shard, fields in node.shards().items():
                if fields["role"] == "leader":
                    found[shard] = max(found.get(shard, (-1, "")), (int(fields["term"]), node.name))
        return {shard: name for shard, (_, name) in sorted(found.items())}

    def leader(self, shard: int) -> NodeProcess:
        name = wait_until(lambda: self.leaders().get(shard), f"a leader of shard {shard}")
        return self[name]

    def followers(self, shard: int) -> list[NodeProcess]:
        leader = self.leader(shard)
        return [node for node in self.running if node is not leader]

    def digests(self) -> dict[int, dict[str, str]]:
        """Shard -> id of each running node that holds it -> its DEBUG DIGEST there."""
        found: dict[int, dict[str, str]] = {shard: {} for shard in range(self.shard_count)}
        for node in self.running:
            for shard in node.shards():
                digest = node.call("DEBUG", "DIGEST", "SHARD", str(shard), timeout_s=30)
                found[shard][node.name] = digest.decode()
        return found

    def assert_replicas_equal(self) -> None:
        """At rest, all replicas hold the same."""
        self.wait_settled()
        for shard, digests in self.digests().items():
            assert len(set(digests.values())) == 1, (shard, digests)

    def shard_of(self, key: bytes | str) -> int:
        """The shard that holds `key`, as CLUSTER SHARDS tells it."""
        node = self.running[0]
        slot = node.call("CLUSTER", "KEYSLOT", key)
        for number, shard in enumerate(node.call("CLUSTER", "SHARDS")):
            ranges = dict(zip(shard[::2], shard[1::2], strict=True))[b"slots"]
            if any(first <= slot <= last for first, last in zip(ranges[::2], ranges[1::2], strict=True)):
                return number
        raise AssertionError(f"no shard has slot {slot}")

    def keys_of_shard(self, shard: int, count: int, prefix: str = "k") -> list[str]:
        """`count` keys that live on `shard`."""
        tags = self._tags()
        return [f"{prefix}{{{tags[shard]}}}{i}" for i in range(count)]

    def _tags(self) -> dict[int, str]:
        found: dict[int, str] = {}
        number = 0
        while len(found) < self.shard_count:
            found.setdefault(self.shard_of(f"t{number}"), f"t{number}")
            number += 1
        return found


@contextmanager
def running_cluster(
    directory: Path,
    nodes: int = 3,
    shards: int = 3,
    *,
    start: bool = True,
    replicas: int = 3,
    port: int = 0,
    **options: str,
) -> Iterator[TestCluster]:
    """A cluster that serves, or is still to be started; whatever is still running at the end is killed. `options` as in
    the environment, without the prefix: `CLUSTER_TIMEOUT_MS="1000"`."""
    cluster = TestCluster(directory, nodes, shards, replicas, port=port, **options)
    try:
        if start:
            cluster.start()
        yield cluster
    finally:
        for node in cluster.running:
            node.kill()


@contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[int]:
    """A real redis-server to compare with; yields its port."""
    port = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    command += ["--dir", str(directory), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, "redis-server answers")
        yield port
    finally:
        process.kill()
        process.wait(10)
