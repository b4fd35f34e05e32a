"""The systems that are compared: redis-server alone and replicated, respkv on one node and on three.

Each `start_*` is a context manager on an empty directory: inside it the servers run and are ready, and it gives the
`Target` that the load goes to. What is assumed of respkv's command line stands in its two `start_*` and nowhere else.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import PeerError, free_ports, running, wait_until_ready
from tests.bench.wire import ServerError, ask, ask_info, fields

REPOSITORY = Path(__file__).resolve().parents[2]
NODES = 3
REDIS_REPLICAS = 2
# A leader goes home when it has led elsewhere for three seconds; a run begins when none has moved for this long.
STEADY_S = 4.5


@dataclass(frozen=True)
class Target:
    """Where the load goes, what was found out about it, and `complaints`: asked again after the load."""

    port: int
    facts: dict[str, str]
    complaints: Callable[[], list[str]]


# ---- redis-server ----


@contextmanager
def start_redis(directory: Path) -> Iterator[Target]:
    """One redis-server that fdatasyncs before it answers."""
    with ExitStack() as servers:
        port = _start_redis_server(servers, directory / "redis")
        yield Target(port, _redis_facts(port), lambda: _wrong_appendfsync([port], "always"))


@contextmanager
def start_redis_replicated(directory: Path) -> Iterator[Target]:
    """A redis-server and two replicas of it, all three fdatasyncing."""
    with ExitStack() as servers:
        master = _start_redis_server(servers, directory / "master")
        replicas = [_start_redis_server(servers, directory / f"replica{i}", master) for i in range(REDIS_REPLICAS)]

        def complaints() -> list[str]:
            online = _online_replicas(master)
            found = [] if online == REDIS_REPLICAS else [f"{online} replicas online at the end, not {REDIS_REPLICAS}"]
            return found + _wrong_appendfsync([master, *replicas], "always")

        yield Target(master, _redis_facts(master), complaints)


def _start_redis_server(servers: ExitStack, directory: Path, master: int | None = None) -> int:
    binary = shutil.which("redis-server")
    if binary is None:
        raise PeerError("redis-server was not found")
    directory.mkdir()
    port = free_ports(1)
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--daemonize", "no"]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    # The first copy to a replica starts at once, not after 5 s; the load comes later and is not affected.
    command += ["--repl-diskless-sync-delay", "0"]
    if master is not None:
        command += ["--replicaof", f"127.0.0.1 {master}"]
    log = directory.with_suffix(".log")
    process = servers.enter_context(running(command, directory, log, signal.SIGTERM))
    wait_until_ready(process, log, lambda: _redis_not_ready(port, master))
    return port


def _redis_not_ready(port: int, master: int | None) -> str | None:
    ask(port, "PING")
    if master is None:
        return None
    if ask_info(port, "replication").get("master_link_status") != "up":
        return "the replica's link is not up"
    # A replica rewrites its AOF after the first copy, and does not answer the master's WAIT in the meantime.
    persistence = ask_info(port, "persistence")
    if persistence.get("aof_rewrite_in_progress") != "0" or persistence.get("aof_rewrite_scheduled") != "0":
        return "the replica rewrites its AOF"
    return None


def _online_replicas(master: int) -> int:
    info = ask_info(master, "replication")
    return sum(name.startswith("slave") and "state=online" in value for name, value in info.items())


def _redis_facts(port: int) -> dict[str, str]:
    return {"version": ask_info(port, "server").get("redis_version", "unknown")}


# ---- respkv ----


@contextmanager
def start_respkv_single(directory: Path, shards: int) -> Iterator[Target]:
    """One node without replicas, fdatasyncing before it answers."""
    port = free_ports(1)
    arguments = ["server", "--dir", str(directory / "data"), "--port", str(port)]
    options = {"APPENDFSYNC": "always", "CLUSTER_SHARDS": str(shards), "CLUSTER_REPLICAS": "1"}
    with _start_respkv(directory, arguments, options, [port], shards) as leaders:
        yield _respkv_target(port, [port], leaders, shards, "always")


@contextmanager
def start_respkv_node(directory: Path, options: dict[str, str]) -> Iterator[int]:
    """One node with its data in `directory`, `RESPKV_` options by environment; gives its port once it answers."""
    port = free_ports(1)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RESPKV_")}
    command = [sys.executable, "-m", "respkv", "server", "--dir", str(directory / "data"), "--port", str(port)]
    log = directory / "respkv.log"

    def why_not() -> str | None:
        ask(port, "SET", "ready", "yes")
        ask(port, "DEL", "ready")
        return None

    with running(command, REPOSITORY, log, signal.SIGINT, inherited | options) as process:
        wait_until_ready(process, log, why_not)
        yield port


@contextmanager
def start_respkv_cluster(directory: Path, shards: int, appendfsync: str) -> Iterator[Target]:
    """Three nodes with every shard on each. With one shard the target is its leader's node, else the first node."""
    first = free_ports(NODES)
    ports = [first + i for i in range(NODES)]
    arguments = ["cluster", str(directory / "data"), "--nodes", str(NODES), "--shards", str(shards)]
    arguments += ["--replicas", str(NODES), "--port", str(first)]
    with _start_respkv(directory, arguments, {"APPENDFSYNC": appendfsync}, ports, shards) as leaders:
        port = leaders["shard0"] if shards == 1 else first
        yield _respkv_target(port, ports, leaders, shards, appendfsync)


@contextmanager
def _start_respkv(
    directory: Path, arguments: list[str], options: dict[str, str], ports: list[int], shards: int
) -> Iterator[dict[str, int]]:
    """Gives the port of each shard's leader once all shards have had theirs for STEADY_S."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RESPKV_")}
    environment = inherited | {f"RESPKV_{name}": value for name, value in options.items()}
    command = [sys.executable, "-m", "respkv", *arguments]
    log = directory / "respkv.log"
    leaders: dict[str, int] = {}
    steady_since = time.monotonic()

    def why_not() -> str | None:
        nonlocal leaders, steady_since
        found = _leaders(ports, shards)
        if found != leaders:
            leaders, steady_since = found, time.monotonic()
        if time.monotonic() - steady_since < STEADY_S:
            return "leaders still move"
        ask(ports[0], "SET", "key:000000000000", "ready")
        return None

    with running(command, REPOSITORY, log, signal.SIGINT, environment) as process:
        wait_until_ready(process, log, why_not)
        yield leaders


def _leaders(ports: list[int], shards: int) -> dict[str, int]:
    """Shard name to the port of the node that says it leads it. Raises ServerError unless each shard has one leader."""
    leaders: dict[str, int] = {}
    for port in ports:
        states = {name: fields(text) for name, text in ask_info(port, "raft").items() if "role=" in text}
        if len(states) != shards:
            raise ServerError(f"INFO raft on port {port} lists {len(states)} shards, not {shards}")
        for shard, state in states.items():
            if state["role"] != "leader":
                continue
            if shard in leaders:
                raise ServerError(f"{shard} has two leaders: ports {leaders[shard]} and {port}")
            leaders[shard] = port
    if len(leaders) != shards:
        raise ServerError(f"{shards - len(leaders)} of {shards} shards have no leader")
    return leaders


def _respkv_target(port: int, ports: list[int], leaders: dict[str, int], shards: int, appendfsync: str) -> Target:
    led = ", ".join(f"{shard} at n{ports.index(at) + 1}" for shard, at in sorted(leaders.items()))
    facts = {"leaders": led, "client": f"n{ports.index(port) + 1}"}

    def complaints() -> list[str]:
        moved = [] if _leaders(ports, shards) == leaders else ["a leader moved during the load"]
        return moved + _wrong_appendfsync(ports, appendfsync)

    return Target(port, facts, complaints)


def _wrong_appendfsync(ports: list[int], wanted: str) -> list[str]:
    found = []
    for port in ports:
        try:
            reply = ask(port, "CONFIG", "GET", "appendfsync")
        except ServerError as error:
            found.append(f"appendfsync could not be checked: {error}")
            continue
        if reply != ["appendfsync", wanted]:
            found.append(f"CONFIG GET appendfsync says {reply}, not {wanted}")
    return sorted(set(found))
