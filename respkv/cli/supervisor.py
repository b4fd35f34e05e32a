"""Runs the nodes of one machine as child processes, and tells what happens to them.

It starts each node once, watches (asking each node for INFO twice a second), prints every change of state, and stops
on SIGINT, SIGTERM or SIGHUP what it has started. It restarts nothing, and it neither starts nor stops a node that
somebody else runs. Nodes are in sessions of their own, so that a Ctrl-C in the terminal reaches them as an orderly
SIGTERM from here; if this process is killed they run on, and the next `respkv cluster` leaves them alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Final

from respkv import tls
from respkv.cli.process import running_pid
from respkv.cli.status import NodeStatus, find_leaders
from respkv.cli.words import console, counted
from respkv.client import Address, Client, ClientError, parse_info, parse_shards
from respkv.config import Cluster, Config, ConfigError

POLL_S: Final = 0.5
STOP_S: Final = 10.0
PATIENCE_S: Final = 15.0
LOG_FILE: Final = "respkv.log"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Variables that say who a node is would make all nodes the same one; the files say it here.
OWN_VARIABLES: Final = ("DIR", "NODE", "BIND", "PORT", "PEER_PORT", "METRICS_PORT", "LOG_FILE", "CONFIG")


@dataclass
class Process:
    """A node as seen from here."""

    directory: Path
    config: Config
    child: subprocess.Popen[bytes] | None = None
    client: Client | None = None
    up: bool = False
    ever_up: bool = False
    stranger: str = ""  # what answers at the node's address and is not the node
    status: NodeStatus = field(init=False)

    def __post_init__(self) -> None:
        self.status = NodeStatus(str(self.address), self.name)

    @property
    def name(self) -> str:
        return self.config.node

    @property
    def address(self) -> Address:
        node = self.config.self_node
        return Address(node.host, node.port, self.config.requirepass, tls=tls.for_tools(self.config))

    @property
    def log(self) -> Path:
        return self.directory / LOG_FILE

    def poll(self) -> bool:
        """Asks the node for its state; True if it answers. `stranger` says what answers in its place, if anything."""
        self.status.shards = {}
        self.stranger = ""
        try:
            if self.client is None:
                self.client = Client(self.address, timeout_s=1.0)
            info = parse_info(self.client.text("INFO", "raft", "respkv"))
        except ClientError as error:
            self._hang_up()
            if not error.code or error.code in ("LOADING", "CLUSTERDOWN"):
                return False
            # It is there, if it refuses; who it is only its process can tell then.
            if not self.runs:
                self.stranger = f"{error.code} is all that it tells"
            return self.runs
        self.stranger = self._stranger(info)
        if self.stranger:
            self._hang_up()
            return False
        self.status.shards = parse_shards(info)
        return True

    @property
    def runs(self) -> bool:
        """Whether there is a process of this node, whoever started it."""
        return self.child is not None or running_pid(self.directory) is not None

    def _hang_up(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = None

    def _stranger(self, info: dict[str, str]) -> str:
        """Who answers, if it is not this node of this cluster; else nothing."""
        if "node" not in info or "cluster_id" not in info:
            return "not a node of respkv"
        if info["cluster_id"] != self.config.cluster.id:
            return f"node {info['node']} of another cluster"
        return f"node {info['node']} of this cluster" if info["node"] != self.name else ""


def node_command(directory: Path) -> list[str]:
    """The command line of a node."""
    return [sys.executable, "-m", "respkv", "server", "--config", str(directory / "respkv.toml")]


def node_environment() -> dict[str, str]:
    """The environment for the nodes: as here, without what only one of them could be."""
    own = {f"RESPKV_{name}" for name in OWN_VARIABLES}
    own |= {key for key in os.environ if key.startswith("RESPKV_CLUSTER_") and key != "RESPKV_CLUSTER_TIMEOUT_MS"}
    return {key: value for key, value in os.environ.items() if key not in own}


class Supervisor:
    """The nodes by directory, from start to stop."""

    def __init__(self, configs: dict[Path, Config]) -> None:
        self._processes = [Process(directory.resolve(), config) for directory, config in configs.items()]
        self._leaders: dict[int, str | None] = {}
        self._stop = threading.Event()
        self._signals = 0
        self._ready = False
        self._complained = False
        self._started = time.monotonic()

    def run(self) -> int:
        """Starts the nodes and watches until a signal, then stops them. 0 if none had to be killed, else 1.

        Also returns 1 if every node ended before the cluster was ever ready.
        """
        old = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            for process in self._processes:
                self._start(process)
            while not self._stop.is_set():
                self._look()
                if not self._ready and not any(_alive(process) for process in self._processes):
                    say("no node is running")
                    return 1
                self._stop.wait(POLL_S)
            return self._shut_down()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._stop.set()

    def _start(self, process: Process) -> None:
        pid = running_pid(process.directory)
        if pid:
            say(f"{process.name} already runs as process {pid}: left alone")
            return
        if _taken(process.address):
            say(f"{process.name}: port {process.address} is already in use: not started")
            return
        try:
            with process.log.open("ab") as log:
                process.child = subprocess.Popen(
                    node_command(process.directory),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=node_environment(),
                )
        except OSError as error:
            raise ConfigError(str(process.log), error.strerror or str(error)) from None

    def _look(self) -> None:
        """One round: children that ended, nodes that came or went, leaders that changed."""
        for process in self._processes:
            if process.child is not None and process.child.poll() is not None:
                say(f"{process.name} down: {_ending(process.child.returncode)}; see {process.log}")
                if not process.ever_up:
                    say(f"{process.name} said last: {_last_line(process.log)}")
                process.child = None
                process.up = False
                process.status.shards = {}
                continue
            before = process.stranger
            answers = process.poll()
            if answers and not process.up:
                self._note_up(process)
            elif process.stranger not in ("", before):
                say(f"{process.name}: something else answers at {process.address}: {process.stranger}")
            elif process.up and not answers:
                say(f"{process.name} does not answer")
            process.up = answers
        self._look_at_leaders()
        if not self._ready and self._is_ready():
            self._ready = True
            print_connections(self._processes)
        elif not self._ready and not self._complained and time.monotonic() > self._started + PATIENCE_S:
            self._complained = True
            self._say_what_is_missing()

    def _say_what_is_missing(self) -> None:
        silent = [process.name for process in self._processes if not process.up]
        shards = range(self._processes[0].config.cluster.shards)
        leaderless = [str(shard) for shard in shards if not self._leaders.get(shard)]
        missing = [f"{', '.join(silent)} to answer"] if silent else []
        missing += [f"a leader of shard {', '.join(leaderless)}"] if leaderless else []
        say(f"not ready yet: waiting for {' and '.join(missing)}")

    def _note_up(self, process: Process) -> None:
        if process.child is not None:
            who = f"process {process.child.pid}"
        else:
            who = f"process {running_pid(process.directory) or 'unknown'}, not started here"
        say(f"{process.name} up at {process.address} ({who})")
        process.ever_up = True

    def _look_at_leaders(self) -> None:
        leaders = find_leaders(process.status for process in self._processes)
        for shard, leader in leaders.items():
            before = self._leaders.get(shard)
            if leader != before and self._ready:
                text = f"leader {before} -> {leader}" if before and leader else f"leader {leader}"
                say(f"shard {shard}: {text if leader else 'no leader'}")
        for shard, before in self._leaders.items():
            if shard not in leaders and before is not None and self._ready:
                say(f"shard {shard}: no replica answers")
                leaders[shard] = None
        self._leaders |= leaders

    def _is_ready(self) -> bool:
        """Every node that lives answers, and every shard has a leader."""
        living = [process for process in self._processes if _alive(process)]
        shards = self._processes[0].config.cluster.shards
        leaders = [leader for leader in self._leaders.values() if leader]
        return bool(living) and all(process.up for process in living) and len(leaders) == shards

    def _shut_down(self) -> int:
        """SIGTERM to the nodes started here; after STOP_S seconds, or at a second signal, SIGKILL."""
        children = [process for process in self._processes if process.child is not None]
        for process in self._processes:
            if process.child is None and process.up:
                say(f"{process.name} was not started here: left running")
        if children:
            say(f"stopping {', '.join(process.name for process in children)}")
        for process in children:
            _child(process).terminate()
        deadline = time.monotonic() + STOP_S
        before = self._signals
        while time.monotonic() < deadline and self._signals == before:
            if all(_child(process).poll() is not None for process in children):
                break
            time.sleep(0.05)
        killed = [process for process in children if _child(process).poll() is None]
        for process in killed:
            _child(process).kill()
            _child(process).wait()
            say(f"{process.name} did not stop in time: killed")
        for process in children:
            if process not in killed and _child(process).returncode != 0:
                say(f"{process.name} ended: {_ending(_child(process).returncode)}; see {process.log}")
        if not killed:
            say("stopped")
        return 1 if killed else 0


def print_connections(processes: list[Process]) -> None:
    """How to connect, once the cluster is ready."""
    from rich.table import Table

    table = Table("node", "standalone view", "cluster view", "process", box=None, pad_edge=False)
    for process in processes:
        node = process.config.self_node
        pid = process.child.pid if process.child else running_pid(process.directory)
        state = str(pid or "?") if process.up else "down"
        table.add_row(process.name, f"{node.host}:{node.port}", f"{node.host}:{node.cluster_port}", state)
    first = next(process for process in processes if process.up).config.self_node
    cluster = processes[0].config.cluster
    say(f"ready: {extent(cluster)}")
    print()
    console().print(table)
    host = "" if first.host in ("127.0.0.1", "localhost") else f" -h {first.host}"
    print(f"""
  redis-cli{host} -p {first.port}          looks like one Redis server, any node will do
  redis-cli{host} -c -p {first.cluster_port}       looks like a Redis Cluster
  redis.Redis(host="{first.host}", port={first.port}, decode_responses=True)
  redis.RedisCluster(host="{first.host}", port={first.cluster_port}, decode_responses=True)

Ctrl-C stops the nodes.
""")
    sys.stdout.flush()


def extent(cluster: Cluster) -> str:
    counts = (len(cluster.nodes), "node"), (cluster.shards, "shard"), (cluster.replicas, "replica")
    return ", ".join(counted(*count) for count in counts) + " of each"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _alive(process: Process) -> bool:
    return process.up or process.runs


def _child(process: Process) -> subprocess.Popen[bytes]:
    if process.child is None:
        raise AssertionError("only for nodes started here")
    return process.child


def _taken(address: Address) -> bool:
    """Does somebody listen there?"""
    try:
        Client(replace(address, password=""), timeout_s=1.0).close()
    except ClientError:
        return False
    return True


def _ending(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def _last_line(log: Path) -> str:
    try:
        lines: Iterable[str] = log.read_text(errors="replace").splitlines()
    except OSError:
        return "nothing"
    return next((line for line in reversed(list(lines)) if line.strip()), "nothing")
