"""The slow log, by itself and through SLOWLOG on a running node."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from respkv.config import Config
from respkv.raft.clock import Clock
from respkv.server.slowlog import Slowlog, redacted, trimmed
from respkv.server.stats import Stats
from respkv.server.watch import TELL_EVERY_S, Watch
from tests.unit.running import Wire, eventually, respkv


def test_the_newest_entries_are_kept_and_their_ids_never_repeat() -> None:
    log = Slowlog(3)
    for number in range(5):
        log.add([b"GET", b"%d" % number], 0.5, "1.2.3.4:5", b"me")
    assert [(entry.id, entry.args[1]) for entry in log.newest(-1)] == [(4, b"4"), (3, b"3"), (2, b"2")]
    assert [entry.id for entry in log.newest(2)] == [4, 3]
    assert log.newest(0) == []
    log.clear()
    assert len(log) == 0
    log.add([b"PING"], 0.25, "1.2.3.4:5", b"me")
    entry = log.newest(1)[0]
    assert (entry.id, entry.micros, entry.address, entry.name) == (5, 250_000, b"1.2.3.4:5", b"me")


def test_a_shorter_log_keeps_the_newest() -> None:
    log = Slowlog(5)
    for number in range(5):
        log.add([b"%d" % number], 1.0, "", b"")
    log.length_max = 2
    assert [entry.args for entry in log.newest(-1)] == [[b"4"], [b"3"]]
    log.length_max = 0
    log.add([b"x"], 1.0, "", b"")
    assert len(log) == 0


def test_long_commands_are_trimmed_as_in_redis() -> None:
    shown = trimmed([b"MGET", *(b"%d" % i for i in range(1, 34))])
    assert len(shown) == 32
    assert shown[-2:] == [b"30", b"... (3 more arguments)"]
    assert trimmed([b"SET", b"k", b"A" * 129]) == [b"SET", b"k", b"A" * 128 + b"... (1 more bytes)"]
    assert trimmed([b"x"] * 32) == [b"x"] * 32
    assert trimmed([b"A" * 128]) == [b"A" * 128]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("AUTH user secret", "AUTH (redacted) (redacted)"),
        ("acl setuser me >secret", "acl setuser (redacted) (redacted)"),
        ("ACL LIST", "ACL LIST"),
        ("CONFIG SET timeout 1 MasterAuth secret", "CONFIG SET timeout 1 MasterAuth (redacted)"),
        ("config get requirepass", "config get requirepass"),
        ("HELLO 3 AUTH me secret SETNAME x", "HELLO 3 AUTH (redacted) (redacted) SETNAME x"),
        ("MIGRATE h 1 k 0 9 AUTH secret", "MIGRATE h 1 k 0 9 AUTH (redacted)"),
        ("MIGRATE h 1 k 0 9 AUTH2 me secret", "MIGRATE h 1 k 0 9 AUTH2 (redacted) (redacted)"),
        ("SET auth secret", "SET auth secret"),
    ],
)
def test_what_is_secret_is_not_shown(line: str, shown: str) -> None:
    assert b" ".join(redacted(line.encode().split())).decode() == shown


def test_what_is_very_slow_is_told_by_name_in_the_log_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, now = Watch(Stats()), 100.0
    monkeypatch.setattr(Clock, "now", lambda: now)
    watch.configure(Config())
    client: Any = SimpleNamespace(session=SimpleNamespace(address="1.2.3.4:5", name=b"me"))
    with capture_logs() as events:
        for seconds in (0.05, 0.25, 0.5, 0.75):
            watch.slow_get(client, b"secret", seconds)
        now += TELL_EVERY_S
        watch.applied_slowly(SimpleNamespace(client="n2"), [b"SET", b"secret", b"secret"], 2.0)
    slow = {"event": "slow_command", "log_level": "warning"}
    assert events == [  # nothing of the arguments
        slow | {"command": "get", "took_ms": 250, "address": "1.2.3.4:5", "untold_before": 0},
        slow | {"command": "set", "took_ms": 2000, "address": "node n2", "untold_before": 2},
    ]
    assert len(watch.slowlog) == 5


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node"), "--slowlog-log-slower-than", "-1") as port:
        with Wire(port) as wire:  # what no shard leads yet would be logged where it waits, and where it is applied
            eventually(lambda: b"shards_led:3\r\n" in bytes(wire("INFO respkv")))  # type: ignore[call-overload]
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        wire("CONFIG SET slowlog-log-slower-than -1 slowlog-max-len 128")
        wire("SLOWLOG RESET")
        yield wire


def commands(wire: Wire, count: int = -1) -> list[bytes]:
    reply = wire(f"SLOWLOG GET {count}")
    assert isinstance(reply, list)
    return [b" ".join(entry[3]) for entry in reply]


def test_each_command_is_logged_once_when_every_command_is_slow(wire: Wire) -> None:
    """Reads, writes, plain ones and others, alone and in one pipeline."""
    wire("CONFIG SET slowlog-log-slower-than 0")
    lines = ["SET k 1", "GET k", "get k", "INCR k", "STRLEN k", "DEL k", "PING"]
    for line in lines:
        wire(line)
    wire("CONFIG SET slowlog-log-slower-than -1")
    end = b"CONFIG SET slowlog-log-slower-than 0"
    assert commands(wire) == [line.encode() for line in reversed(lines)] + [end]


@pytest.mark.parametrize("queued", [("GET k", "STRLEN k"), ("SET k 1", "GET k")])
def test_a_transaction_is_logged_as_a_whole(wire: Wire, queued: tuple[str, str]) -> None:
    """Whether it writes, or only reads and needs no entry in the log."""
    wire("CONFIG SET slowlog-log-slower-than 0")
    for line in ("MULTI", *queued, "EXEC"):
        wire(line)
    wire("CONFIG SET slowlog-log-slower-than -1")
    end = b"CONFIG SET slowlog-log-slower-than 0"
    assert commands(wire) == [b"EXEC ... (a transaction as a whole)", b"MULTI", end]


def test_the_reads_of_a_transaction_that_are_fast_are_not_logged(wire: Wire) -> None:
    wire("CONFIG SET slowlog-log-slower-than 10000000")
    for line in ("MULTI", "GET k", "EXEC"):
        wire(line)
    assert wire("SLOWLOG LEN") == 0


def test_only_what_takes_longer_is_logged_with_who_sent_it(wire: Wire) -> None:
    wire("CLIENT SETNAME somebody")
    wire("CONFIG SET slowlog-log-slower-than 50000")
    wire("PING")
    wire("DEBUG SLEEP 0.1")
    reply = wire("SLOWLOG GET")
    assert isinstance(reply, list)
    assert len(reply) == 1
    _, _, micros, args, address, name = reply[0]
    assert (args, name) == ([b"DEBUG", b"SLEEP", b"0.1"], b"somebody")
    assert micros >= 100_000
    assert address.decode() == "{}:{}".format(*wire.socket.getsockname())


def test_a_write_that_is_slow_to_apply_is_logged(wire: Wire) -> None:
    wire([b"SET", b"{t}a", b"x" * 900_000])
    wire([b"SET", b"{t}b", b"y" * 900_000])
    wire("CONFIG SET slowlog-log-slower-than 1000")
    for _ in range(20):
        wire("BITOP AND {t}c {t}a {t}b")
    assert b"BITOP AND {t}c {t}a {t}b" in commands(wire)


def test_off_nothing_is_logged(wire: Wire) -> None:
    wire("DEBUG SLEEP 0.05")
    assert wire("SLOWLOG LEN") == 0
