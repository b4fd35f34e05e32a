"""Redis's own Tcl test suite against respkv: `python -m tests.compat.suites.tcl --checkout DIRECTORY [FILE ...]`.

Nothing of Redis is in this repository: DIRECTORY holds its source (a checkout of tag 7.0.15), and its harness runs in
external mode with one database, as `external.tcl` says. Each file gets a respkv of its own, with `--nodes 3` the
standalone view of a cluster of three nodes and three shards. With `--own-servers` those tests run too that Redis does
not run in external mode, each block on a fresh server with the settings it wants.

A test that hangs loses its connections and fails; if that does not help, the file goes on behind it with a new client.
Needs tclsh and, for some files, redis-cli.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from respkv.client import Address, Client, ClientError
from respkv.config.tree import options
from tests.cluster import NodeProcess, running_cluster, running_redis
from tests.compat.suites.report import Outcome, missing, save, show

FILES = [
    "unit/type/string", "unit/type/incr", "unit/keyspace", "unit/scan", "unit/expire", "unit/protocol", "unit/info",
    "unit/info-command", "unit/multi", "unit/auth", "unit/acl", "unit/acl-v2", "unit/querybuf", "unit/limits",
    "unit/introspection", "unit/introspection-2", "unit/slowlog", "unit/latency-monitor", "unit/quit", "unit/other",
    "unit/dump", "unit/tracking", "unit/pause", "unit/pubsub", "unit/pubsubshard", "unit/bitops", "unit/bitfield",
    "integration/redis-cli",
]  # fmt: skip
# Tests of Redis's own replication stream, of its files, and of commands for its developers.
DENIED_TAGS = "-needs:repl -needs:save -needs:pfdebug"
# Thousands of writes one after another: what a sync takes is not what is tested. And DEBUG is used by the tests.
FAST = {"APPENDFSYNC": "no", "ENABLE_DEBUG_COMMAND": "yes"}
TOOLS = ("redis-cli", "redis-server", "redis-benchmark")
DRIVER = Path(__file__).with_name("external.tcl")
HANG_S = 120.0
RESUMES_MAX = 20


class Ended(Exception):
    """The Tcl client went away, or hangs for good."""


@dataclass
class TclClient:
    """One Tcl process that runs test files; yields what it tells."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    buffer: bytes = b""

    def tell(self, payload: str) -> None:
        self.connection.sendall(f"{len(payload)}\n{payload}".encode())

    def message(self, timeout_s: float) -> tuple[str, str]:
        """A status and its data. Raises TimeoutError and Ended."""
        self.connection.settimeout(timeout_s)
        while b"\n" not in self.buffer:
            self._receive()
        line, _, self.buffer = self.buffer.partition(b"\n")
        status, size, _ = line.split()
        while len(self.buffer) < int(size):
            self._receive()
        data, self.buffer = self.buffer[: int(size)], self.buffer[int(size) :]
        return status.decode(), data.decode(errors="replace")

    def _receive(self) -> None:
        try:
            data = self.connection.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            raise Ended
        self.buffer += data

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait(10)


@contextmanager
def harness(checkout: Path) -> Iterator[Path]:
    """A directory as the harness wants its current one: a copy of `tests`, and Redis's programs in `src`."""
    with tempfile.TemporaryDirectory(prefix="respkv-tcl-") as name:
        directory = Path(name)
        shutil.copytree(checkout / "tests", directory / "tests", symlinks=True)
        (directory / "tests" / "tmp").mkdir(exist_ok=True)
        (directory / "src").mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (directory / "src" / tool).symlink_to(found)
        yield directory


@contextmanager
def running_client(directory: Path, port: int, leave_out: list[str], options: list[str]) -> Iterator[TclClient]:
    """`options`: "shared" or "own", and then what else the harness is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        skips = directory / "skip.txt"
        skips.write_text("\n".join(leave_out))
        command = ["tclsh", str(DRIVER), str(listener.getsockname()[1]), str(port), str(skips), *options]
        command += ["--tags", DENIED_TAGS]
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        listener.settimeout(20)
        connection, _ = listener.accept()
    with closing(TclClient(process, connection)) as client:
        yield client


class OwnServers:
    """The servers that tests ask for: fresh ones, with the settings of theirs that respkv has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: dict[int, ExitStack] = {}

    @property
    def ports(self) -> list[int]:
        return list(self._running)

    def start(self, settings: str) -> int:
        """From names and values in turn, one a line; returns the port."""
        words = settings.split("\n") if settings else []
        asked = dict(zip(words[::2], words[1::2], strict=True))
        if "aclfile" in asked:
            asked["aclfile"] = str(self.directory / asked.get("dir", "") / asked["aclfile"])
        ours = set(options()) - {"dir", "port", "bind"}
        kept = {name: value for name, value in asked.items() if name in ours}
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="respkv-own-")))
            variables = {options()[name].variable.removeprefix("RESPKV_"): value for name, value in kept.items()}
            cluster = stack.enter_context(running_cluster(place, nodes=1, shards=1, **FAST | variables))
            self._running[cluster.port] = stack.pop_all()
            return cluster.port

    def stop(self, port: int) -> None:
        self._running.pop(port).close()

    def close(self) -> None:
        for port in self.ports:
            self.stop(port)


@dataclass
class FileRun:
    """The tests of one file, over as many Tcl clients as it takes."""

    directory: Path
    path: str
    port: int
    known: frozenset[str]
    options: list[str]
    verbose: bool
    outcomes: list[Outcome] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # tests that ended
    current: str = ""

    def run(self) -> list[Outcome]:
        for _ in range(RESUMES_MAX):
            with (
                running_client(self.directory, self.port, self.seen, self.options) as client,
                closing(OwnServers(self.directory)) as servers,
            ):
                client.tell(f"run {self.path}")
                try:
                    self._follow(client, servers)
                    return self.outcomes
                except (Ended, TimeoutError) as error:
                    reason = "the test's process ended" if isinstance(error, Ended) else "hangs"
                    if not self.current:
                        self._add("(between tests)", "failed", reason)
                        return self.outcomes
                    self._add(self.current, "failed", reason)
        return self.outcomes

    def _follow(self, client: TclClient, servers: OwnServers) -> None:
        self.current = ""
        while True:
            try:
                status, data = client.message(HANG_S)
            except TimeoutError:
                for port in [self.port, *servers.ports]:
                    disconnect_all(port)
                status, data = client.message(HANG_S)
            if status == "done":
                return
            if status == "server-wanted":
                client.tell(str(servers.start(data)))
            elif status == "server-unwanted":
                servers.stop(int(data))
            else:
                self._told(status, data)

    def _told(self, status: str, data: str) -> None:
        if status == "testing":
            self.current = data
        elif status == "ok":
            self._add(data, "passed")
        elif status == "err":
            title, _, message = data.partition("\n")
            self._add(title.removesuffix(f" in tests/{self.path}.tcl"), "failed", message)
        elif status == "ignore" or (status == "skip" and data not in self.seen):
            self._add(data, "skipped")
        elif status == "sent" and self.outcomes:
            self.outcomes[-1] = replace(self.outcomes[-1], missing=missing(data.split(), self.known))
        elif status == "exception":
            self._add(self.current or "(between tests)", "failed", data)
        elif status == "passed-over" and self.verbose:
            print(f"passed over in {self.path}: {data}", file=sys.stderr)

    def _add(self, name: str, status: str, message: str = "") -> None:
        self.current = ""
        self.seen.append(name)
        self.outcomes.append(Outcome(self.path, name, status, message))
        if self.verbose:
            print(f"{status:8} {self.path}: {name}", file=sys.stderr)


def disconnect_all(port: int) -> None:
    """Every client of a server loses its connection: whoever waits for a reply in vain goes on."""
    with suppress(ClientError, OSError), Client(Address("127.0.0.1", port), 5.0) as client:
        for kind in ("normal", "pubsub"):
            client.call("CLIENT", "KILL", "TYPE", kind)


def known_commands(port: int) -> frozenset[str]:
    with Client(Address("127.0.0.1", port), 5.0) as client:
        return frozenset(name.decode().lower() for name in client.call("COMMAND", "LIST"))


@contextmanager
def server(kind: str, settings: dict[str, str]) -> Iterator[tuple[int, NodeProcess | None]]:
    """A server of `kind` and the port to test: "redis", or a number of respkv nodes with three shards."""
    with tempfile.TemporaryDirectory(prefix="respkv-suite-") as name:
        if kind == "redis":
            with running_redis(Path(name)) as port:
                yield port, None
            return
        count, shards = int(kind), int(settings.pop("SHARDS", "3"))
        with running_cluster(Path(name), nodes=count, shards=shards, **FAST | settings) as cluster:
            if count > 1:
                cluster.wait_home()
            yield cluster.nodes[0].port, cluster.nodes[0]


def run_file(directory: Path, path: str, asked: argparse.Namespace) -> list[Outcome]:
    settings = dict(option.split("=", 1) for option in asked.set)
    harness_options = ["own" if asked.own_servers else "shared", *asked.tcl]
    with server(asked.nodes, settings) as (port, node):
        outcomes = FileRun(directory, path, port, known_commands(port), harness_options, asked.verbose).run()
        if node is not None and not node.running:
            outcomes.append(Outcome(path, "(the node ended)", "failed", node.log()[-1500:]))
        elif node is not None and "Traceback" in node.log():
            log = node.log()
            outcomes.append(Outcome(path, "(the node's log)", "failed", log[log.index("Traceback") - 500 :][:2500]))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, help="Redis's source, tag 7.0.15")
    parser.add_argument("--nodes", default="1", help="1, 3, or redis: a real redis-server to compare with")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="option of respkv; SHARDS=n")
    parser.add_argument("--tcl", action="append", default=[], help="option for the harness, such as --cluster-mode")
    parser.add_argument("--own-servers", action="store_true", help="also what needs a server of its own")
    parser.add_argument("--output", type=Path, help="a file for all outcomes, as JSON")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("files", nargs="*", default=FILES, metavar="FILE", help="such as unit/type/string")
    asked = parser.parse_args()
    if shutil.which("tclsh") is None:
        sys.exit("tclsh is not in PATH: install tcl")
    outcomes: list[Outcome] = []
    with harness(asked.checkout) as directory:
        for path in asked.files:
            try:
                outcomes += run_file(directory, path, asked)
            except AssertionError as error:  # a server that does not start
                outcomes.append(Outcome(path, "(all tests)", "failed", str(error)))
            if asked.output:
                save(outcomes, asked.output)
    show(outcomes, f"Redis's suite against {asked.nodes}", messages=True)


if __name__ == "__main__":
    main()
