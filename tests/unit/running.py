"""Servers in processes of their own, and a client that shows replies as they are on the wire: for tests of `server`."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import hiredis

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]
START_S = 60.0
_MARK = b"<the end>"


class Wire:
    """A connection whose `raw` gives the bytes of a reply, and whose call the reply as hiredis understands it.

    A command is words in one string, or a list of arguments.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=START_S)
        self._reader = hiredis.Reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.socket.close()

    def send(self, *commands: str | Sequence[bytes]) -> None:
        arguments = [c.encode().split() if isinstance(c, str) else list(c) for c in commands]
        self.socket.sendall(b"".join(hiredis.pack_command(tuple(args)) for args in arguments))

    def raw(self, command: str | Sequence[bytes]) -> bytes:
        """All bytes that come for `command`. ECHO must be allowed by then."""
        self.send(command, [b"ECHO", _MARK])
        end = b"$%d\r\n%b\r\n" % (len(_MARK), _MARK)
        found = b""
        while not found.endswith(end):
            found += self._receive()
        return found.removesuffix(end)

    def __call__(self, command: str | Sequence[bytes]) -> object:
        """The next reply after `command` was sent. Errors are returned, as `hiredis.ReplyError`."""
        self.send(command)
        return self.reply()

    def reply(self) -> object:
        """The next reply or message of those that have come or are to come."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._receive())
        return reply

    def rest_of_line(self) -> bytes:
        """The next line of what the server sends, and no byte more."""
        found = b""
        while not found.endswith(b"\r\n"):
            byte = self.socket.recv(1)
            assert byte, "the server closed the connection"
            found += byte
        return found

    def rest(self) -> bytes:
        """What still comes until the server closes the connection."""
        found = b""
        try:
            while data := self.socket.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the server closed the connection")
        return data


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody uses (nor those 1000 and 10000 higher)."""
    for _ in range(100):
        first = random.SystemRandom().randrange(11_000, 21_000)
        try:
            for port in (first + step + i for step in (0, 1000, 10_000) for i in range(count)):
                with socket.socket() as probe:
                    probe.bind((HOST, port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def eventually(holds: Callable[[], object], timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "the server ended at once"
    try:
        with Wire(port):
            return True
    except OSError:
        return False


@contextmanager
def _started(commands: list[tuple[list[str], int]], directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = []
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        for command, port in commands:
            with (directory / f"{port}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, cwd=directory, env=environ, stdout=log, stderr=log))
        for process, (_, port) in zip(processes, commands, strict=True):
            eventually(lambda process=process, port=port: _answers(process, port))  # type: ignore[misc]
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def respkv(directory: Path, *options: str) -> Iterator[int]:
    """One node with the options given; its port. The cluster view is 1000 higher."""
    port = free_ports(1)
    command = [sys.executable, "-m", "respkv", "server", "--dir", str(directory / "data"), "--port", str(port)]
    if "--enable-debug-command" not in options:
        command += ["--enable-debug-command", "yes"]
    with _started([([*command, *options], port)], directory) as processes:
        eventually(lambda: _answers(processes[0], port + 1000))
        yield port


@contextmanager
def respkv_cluster(directory: Path, count: int, *, shards: int, replicas: int) -> Iterator[list[int]]:
    """The ports of `count` nodes that form a cluster, once each shard is led by the node that should lead it."""
    first = free_ports(count)
    ports = [first + i for i in range(count)]
    nodes = ",".join(f"n{i + 1}={HOST}:{port}" for i, port in enumerate(ports))
    shared = ["--cluster-nodes", nodes, "--cluster-secret", "s", "--cluster-id", "tests"]
    shared += ["--cluster-shards", str(shards), "--cluster-replicas", str(replicas)]
    server = [sys.executable, "-m", "respkv", "server", "--enable-debug-command", "yes", *shared]
    commands = [
        ([*server, "--node", f"n{i + 1}", "--dir", str(directory / str(i))], port) for i, port in enumerate(ports)
    ]
    with _started(commands, directory):
        eventually(lambda: all(_leaders_settled(port, min(count, shards)) for port in ports))
        yield ports


def _leaders_settled(port: int, leaders: int) -> bool:
    """Whether the first `leaders` nodes lead, and no other: shard i prefers node i modulo the number of nodes."""
    with Wire(port) as wire:
        info = bytes(wire("CLUSTER INFO"))  # type: ignore[call-overload]
        lines = bytes(wire("CLUSTER NODES")).splitlines()  # type: ignore[call-overload]
    leading = [len(line.split(b" ")) > 8 for line in lines]
    return b"cluster_state:ok\r\n" in info and leading == [i < leaders for i in range(len(lines))]


@contextmanager
def redis(directory: Path, *options: str) -> Iterator[int]:
    """A real redis-server that keeps nothing; its port."""
    port = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--enable-debug-command", "yes"]
    with _started([([*command, *options], port)], directory):
        yield port
