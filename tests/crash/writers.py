"""Clients that write without pause and remember what they were told: acknowledged, not applied, or not known.

Each writer has a connection to one node, which it makes anew when it breaks, and keys of its own: counters that it
increments and keys that it sets once, each with a value of its own, spread over all shards. It sends a few commands at
a time and pairs replies with them in order; what had no reply when the connection broke may have been applied. Now and
then it sends nothing but pipelines of SETs for a while, which the intake of its node reads for it.

`check` holds a server to it: every acknowledged SET is there, a SET that was refused as not applied is not, and each
counter has at least the acknowledged and at most the acknowledged and unknown increments.
"""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis

from respkv.intake import PIPELINE_MIN
from tests.cluster import POLL_S, NodeProcess, TestCluster, wait_until

COUNTERS = 6
PIPELINE_MAX = 6
PIPELINES_MAX = 100
REPLY_S = 15.0

_numbers = itertools.count(1)  # no two writers share a name, and so a key

Command = tuple[bytes, ...]


class Writer(threading.Thread):
    """One client of `node`. `errors` and `pauses` tell what it went through; `fault` what no server may do."""

    def __init__(self, node: NodeProcess, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.node = node
        self.acknowledged: dict[bytes, bytes] = {}
        self.refused: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.increments: Counter[bytes] = Counter()
        self.increments_unknown: Counter[bytes] = Counter()
        self.errors: list[str] = []
        self.reconnects = 0
        self.acks = 0
        self.longest_pause_s = 0.0
        self.fault: str | None = None
        self._counted: dict[bytes, int] = {}
        self._stop_asked = threading.Event()
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()
        self._random = random.Random(name)
        self._number = 0
        self._pipelines = 0  # to come, of nothing but SETs
        self._heard_at = time.monotonic()

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                if self._socket is None:
                    self._connect()
                else:
                    self._exchange(self._commands())
        except Exception as error:  # noqa: BLE001 - told by `check`
            self.fault = f"{type(error).__name__}: {error}"
        finally:
            if self._socket is not None:
                self._socket.close()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(REPLY_S + 5)
        assert not self.is_alive(), f"{self.name} hangs"

    def restart_clock(self) -> None:
        """`longest_pause_s` counts from now."""
        self.longest_pause_s, self._heard_at = 0.0, time.monotonic()

    # -- inside

    def _connect(self) -> None:
        try:
            self._socket = self.node.connect(REPLY_S)
            self._reader = hiredis.Reader()
        except OSError:
            self._stop_asked.wait(POLL_S)

    def _commands(self) -> list[Command]:
        if self._random.random() < 0.01:
            self._pipelines = self._random.randint(1, PIPELINES_MAX)
        if self._pipelines > 0:
            self._pipelines -= 1
            return [self._set() for _ in range(self._random.randint(PIPELINE_MIN, 2 * PIPELINE_MIN))]
        commands: list[Command] = []
        for _ in range(self._random.randint(1, PIPELINE_MAX)):
            if self._random.random() < 0.5:
                commands.append((b"INCR", f"count:{self.name}:{self._random.randrange(COUNTERS)}".encode()))
            else:
                commands.append(self._set())
        return commands

    def _set(self) -> Command:
        self._number += 1
        key = f"set:{self.name}:{self._number}".encode()
        return b"SET", key, key + b"=" + b"v" * self._random.randrange(300)

    def _exchange(self, commands: Sequence[Command]) -> None:
        assert self._socket is not None
        done = 0
        try:
            self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))
            while done < len(commands):
                reply = self._reader.gets()
                if reply is False:
                    data = self._socket.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    self._reader.feed(data)
                    continue
                self._note(commands[done], reply)
                done += 1
        except OSError as error:
            if isinstance(error, TimeoutError):
                self.errors.append("no reply")
            for command in commands[done:]:
                self._note_unknown(command)
            self.reconnects += 1
            self._socket.close()
            self._socket = None

    def _note(self, command: Command, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._note_error(command, str(reply))
            return
        now = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, now - self._heard_at)
        self._heard_at = now
        self.acks += 1
        key = command[1]
        if command[0] == b"SET":
            assert reply == b"OK", (command, reply)
            self.acknowledged[key] = command[2]
            return
        self.increments[key] += 1
        least, most = self._counted.get(key, 0) + 1, self.increments[key] + self.increments_unknown[key]
        assert least <= reply <= most, f"INCR {key!r} answered {reply}, which must be from {least} to {most}"
        self._counted[key] = reply

    def _note_error(self, command: Command, text: str) -> None:
        self.errors.append(text)
        if "may have been applied" in text:
            self._note_unknown(command)
            return
        assert "not applied" in text, text
        if command[0] == b"SET":
            self.refused.add(command[1])

    def _note_unknown(self, command: Command) -> None:
        if command[0] == b"SET":
            self.unknown.add(command[1])
        else:
            self.increments_unknown[command[1]] += 1


@contextmanager
def writing(nodes: Sequence[NodeProcess], per_node: int = 2) -> Iterator[list[Writer]]:
    """Writers on each of `nodes` until the block ends; by then each has been heard."""
    writers = [Writer(node, f"{node.name}.{next(_numbers)}") for node in nodes for _ in range(per_node)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: all(writer.acks for writer in writers), "every writer is acknowledged")
        for writer in writers:
            writer.restart_clock()
        yield writers
    finally:
        for writer in writers:
            writer.stop()


def go_on(writers: Sequence[Writer], acks: int = 30, timeout_s: float = 60.0) -> None:
    """Waits until each of `writers` has had `acks` more acknowledgements."""
    wanted = [writer.acks + acks for writer in writers]
    wait_until(
        lambda: all(writer.acks >= count or writer.fault for writer, count in zip(writers, wanted, strict=True)),
        "the writers go on",
        timeout_s,
    )


def check(cluster: TestCluster, writers: Sequence[Writer]) -> None:
    """All promises of what was acknowledged, read on every node; then that the replicas are equal."""
    for writer in writers:
        assert writer.fault is None, f"{writer.name}: {writer.fault}"
    for node in cluster.running:
        with node.client() as client:
            for writer in writers:
                _check_sets(node, writer, client)
                _check_counters(node, writer, client)
    cluster.assert_replicas_equal()


def _check_sets(node: NodeProcess, writer: Writer, client: Any) -> None:
    acknowledged = list(writer.acknowledged.items())
    for start in range(0, len(acknowledged), 500):
        part = acknowledged[start : start + 500]
        for (key, wanted), found in zip(part, client.mget([key for key, _ in part]), strict=True):
            assert found == wanted, f"on {node.name}, {key!r} was acknowledged and is {found!r}"
    for key in writer.refused:
        assert client.get(key) is None, f"on {node.name}, {key!r} was 'not applied' and is there"


def _check_counters(node: NodeProcess, writer: Writer, client: Any) -> None:
    for key in set(writer.increments) | set(writer.increments_unknown):
        value, least = int(client.get(key) or 0), writer.increments[key]
        most = least + writer.increments_unknown[key]
        assert least <= value <= most, f"on {node.name}, {key!r} is {value}, which must be from {least} to {most}"
