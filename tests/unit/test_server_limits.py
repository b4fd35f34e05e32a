"""maxmemory, clients' buffers, DEBUG's permission and CONFIG REWRITE, on running nodes."""

from __future__ import annotations

import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from respkv.client import parse_info
from respkv.config import Config, ConfigError, load
from respkv.config.limits import Limit
from respkv.config.rewrite import rewrite
from respkv.keyspace.rdb import dump_string
from tests.unit.running import Wire, eventually, respkv, respkv_cluster


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        wire("FLUSHALL")
        yield wire
        wire("CONFIG SET maxmemory 0 maxmemory-policy noeviction maxmemory-clients 0")
        wire([b"CONFIG", b"SET", b"client-output-buffer-limit", b"normal 0 0 0"])


def info(wire: Wire, section: str) -> dict[str, str]:
    return parse_info(bytes(wire(f"INFO {section}")).decode())  # type: ignore[call-overload]


def fill(wire: Wire, count: int, first: int = 0, *options: bytes) -> list[object]:
    return [wire([b"SET", b"key:%d" % number, b"v", *options]) for number in range(first, first + count)]


OOM = "OOM command not allowed when used memory > 'maxmemory'."


def test_without_eviction_what_may_grow_is_refused_and_the_rest_goes_on(wire: Wire) -> None:
    fill(wire, 100)
    assert wire("CONFIG SET maxmemory 1000") == b"OK"
    for line in ("SET a 1", "INCR n", "APPEND key:1 x", "MSET a 1 b 2", "SETRANGE key:1 5 x"):
        assert str(wire(line)) == OOM, line
    assert wire("ACL SETUSER late on") == b"OK"
    assert wire("ACL DELUSER late") == 1
    assert wire("GET key:1") == b"v"
    assert wire("EXPIRE key:1 100") == 1
    assert wire("DEL key:1") == 1
    assert wire("MGET key:1 key:2") == [None, b"v"]
    stats = info(wire, "commandstats")["cmdstat_incr"]
    assert "calls=0," in stats
    assert "rejected_calls=1,failed_calls=0" in stats
    wire("FLUSHALL")
    eventually(lambda: wire("SET a 1") == b"OK")


def test_info_tells_for_how_long_keys_took_more_than_the_limit(wire: Wire) -> None:
    def exceeded_ms() -> tuple[int, int]:
        stats = info(wire, "stats")
        return int(stats["total_eviction_exceeded_time"]), int(stats["current_eviction_exceeded_time"])

    wire("CONFIG RESETSTAT")
    fill(wire, 10)
    assert exceeded_ms() == (0, 0)
    wire("CONFIG SET maxmemory 1")
    eventually(lambda: exceeded_ms()[1] > 0)
    wire("CONFIG SET maxmemory 0")
    total_ms, current_ms = exceeded_ms()
    assert total_ms > 0
    assert current_ms == 0
    wire("CONFIG RESETSTAT")
    assert exceeded_ms() == (0, 0)


def test_raising_the_limit_lets_writes_in_again(wire: Wire) -> None:
    fill(wire, 10)
    wire("CONFIG SET maxmemory 1")
    assert str(wire("SET a 1")) == OOM
    wire("CONFIG SET maxmemory 100mb")
    assert wire("SET a 1") == b"OK"


def test_eviction_brings_memory_below_the_limit_and_keeps_what_is_used(wire: Wire) -> None:
    fill(wire, 400)
    time.sleep(1.1)  # writes are told apart by the second
    fill(wire, 100, 400)
    limit = int(info(wire, "memory")["used_memory_keys"]) * 3 // 4
    wire(f"CONFIG SET maxmemory {limit} maxmemory-policy allkeys-lru maxmemory-samples 64")
    eventually(lambda: int(info(wire, "memory")["used_memory_keys"]) <= limit)
    left = {number for number in range(500) if wire(f"EXISTS key:{number}")}
    assert left >= set(range(400, 500))
    assert 300 <= len(left) < 400
    assert int(info(wire, "stats")["evicted_keys"]) == 500 - len(left)
    assert wire("SET one-more 1") == b"OK"


def test_volatile_policies_evict_nothing_else_and_refuse_when_that_is_gone(wire: Wire) -> None:
    fill(wire, 100)
    fill(wire, 100, 100, b"EX", b"1000")
    wire("CONFIG SET maxmemory 1000 maxmemory-policy volatile-random")
    eventually(lambda: wire("DBSIZE") == 100)
    assert all(wire(f"EXISTS key:{number}") for number in range(100))
    eventually(lambda: str(wire("SET a 1")) == OOM)


def test_object_freq_and_idletime_follow_the_policy(wire: Wire) -> None:
    wire("SET k v")
    assert "LFU maxmemory policy is not selected" in str(wire("OBJECT FREQ k"))
    wire("CONFIG SET maxmemory-policy allkeys-lfu")
    wire([b"RESTORE", b"old", b"0", dump_string(b"v"), b"FREQ", b"100"])
    assert wire("OBJECT FREQ old") == 100
    for _ in range(100):
        wire("GET k")
    assert int(wire("OBJECT FREQ k")) > 5  # type: ignore[call-overload]
    assert "LFU maxmemory policy is selected" in str(wire("OBJECT IDLETIME k"))


def test_how_uses_are_counted_can_be_set(wire: Wire) -> None:
    wire("CONFIG SET maxmemory-policy allkeys-lfu lfu-log-factor 0 lfu-decay-time 0")
    wire("SET k v")
    for _ in range(300):
        wire("GET k")
    assert wire("OBJECT FREQ k") == 255
    wire("CONFIG SET lfu-log-factor 2147483647")
    wire("SET other v")
    for _ in range(300):
        wire("GET other")
    assert wire("OBJECT FREQ other") == 6  # the first use above that of a new key always counts
    wire("CONFIG SET maxmemory-policy noeviction lfu-log-factor 10 lfu-decay-time 1")


def test_more_clients_than_the_system_has_files_for_are_refused(wire: Wire) -> None:
    refused = str(wire("CONFIG SET timeout 9 maxclients 4294967295"))
    assert "operating system is not able to handle the specified number of clients, try with " in refused
    most = int(refused.rpartition(" ")[2])
    assert wire("CONFIG GET maxclients timeout") == [b"maxclients", b"10000", b"timeout", b"0"]
    assert wire(f"CONFIG SET maxclients {most + 1}") != b"OK"
    assert wire(f"CONFIG SET maxclients {most}") == b"OK"
    wire("CONFIG SET maxclients 10000")


def test_the_longest_keepalive_that_the_system_has_is_taken_for_longer_ones(wire: Wire, port: int) -> None:
    wire("CONFIG SET tcp-keepalive 2147483647")
    with Wire(port) as other:
        assert other("PING") == b"PONG"
    wire("CONFIG SET tcp-keepalive 300")


def test_replicas_agree_after_evictions_and_every_node_refuses_for_a_full_shard(tmp_path: Path) -> None:
    with respkv_cluster(tmp_path, 3, shards=3, replicas=2) as ports:
        wires = [Wire(port) for port in ports]
        fill(wires[0], 600)
        for wire in wires:
            wire("CONFIG SET maxmemory 20000 maxmemory-policy allkeys-random")
        eventually(lambda: all(int(info(wire, "memory")["used_memory_keys"]) <= 20_000 for wire in wires))

        def agree(shard: int) -> bool:
            digests = {str(wire(f"DEBUG DIGEST SHARD {shard}")) for wire in wires}
            return sum("holds no replica" not in digest for digest in digests) == 1

        for shard in range(3):
            eventually(lambda shard=shard: agree(shard))  # type: ignore[misc]
        for wire in wires:
            wire("CONFIG SET maxmemory 1 maxmemory-policy noeviction")

        def all_refuse() -> bool:
            return all(str(wire(f"SET key:{number} v")) == OOM for wire in wires for number in range(20))

        eventually(all_refuse)
        assert wires[1]("DEL key:1") in (0, 1)
        for wire in wires:
            wire.socket.close()


# --- clients ---


def test_a_client_above_the_soft_limit_is_closed_after_its_time(wire: Wire, port: int) -> None:
    wire([b"SET", b"k", b"x" * 1_000_000])
    wire([b"CONFIG", b"SET", b"client-output-buffer-limit", b"normal 0 1mb 1"])  # whoever has as much gets no more
    assert wire("CONFIG GET client-output-buffer-limit") == [
        b"client-output-buffer-limit",
        b"normal 0 1048576 1 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ]
    with Wire(port) as slow:
        slow("CLIENT SETNAME slow")
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # so that the system takes little of it
        slow.send(*["GET k"] * 40)
        eventually(lambda: b"name=slow" not in bytes(wire("CLIENT LIST")))  # type: ignore[call-overload]


def test_the_largest_clients_go_when_all_together_take_too_much(wire: Wire, port: int) -> None:
    wire([b"SET", b"k", b"x" * 1_000_000])
    with Wire(port) as spared, Wire(port) as large, Wire(port) as small:
        for client, name in ((spared, "spared"), (large, "large"), (small, "small")):
            client(f"CLIENT SETNAME {name}")
        spared("CLIENT NO-EVICT on")
        for client, count in ((spared, 40), (large, 40)):
            client.send(*["GET k"] * count)
        wire("CONFIG SET maxmemory-clients 100kb")
        eventually(lambda: b"name=large" not in bytes(wire("CLIENT LIST")))  # type: ignore[call-overload]
        listed = bytes(wire("CLIENT LIST"))  # type: ignore[call-overload]
        assert b"name=spared" in listed
        assert b"name=small" in listed
    assert int(info(wire, "stats")["evicted_clients"]) >= 1


def test_what_a_client_has_queued_counts_for_it(wire: Wire, port: int) -> None:
    with Wire(port) as large:
        large("CLIENT SETNAME large")
        large("MULTI")
        large([b"SET", b"k", b"x" * 1_000_000])
        wire("CONFIG SET maxmemory-clients 100kb")
        eventually(lambda: b"name=large" not in bytes(wire("CLIENT LIST")))  # type: ignore[call-overload]


# --- DEBUG ---


def test_debug_is_refused_unless_it_is_enabled(tmp_path: Path) -> None:
    for option, allowed in (("no", False), ("local", True)):
        directory = tmp_path / option
        directory.mkdir()
        with respkv(directory, "--enable-debug-command", option) as port, Wire(port) as wire:
            assert len(str(wire("DEBUG DIGEST"))) > 40  # this one always
            reply = wire("DEBUG SLEEP 0")
            assert (reply == b"OK") is allowed
            if not allowed:
                assert isinstance(reply, hiredis.ReplyError)
                assert str(reply).startswith("ERR DEBUG command not allowed.")


def test_debug_set_active_expire_leaves_expired_keys_until_it_is_on_again(wire: Wire) -> None:
    wire("DEBUG SET-ACTIVE-EXPIRE 0")
    before = info(wire, "stats")["expired_keys"]
    wire("SET k v PX 1")
    time.sleep(0.4)
    assert wire("EXISTS k") == 0
    assert info(wire, "stats")["expired_keys"] == before
    wire("DEBUG SET-ACTIVE-EXPIRE 1")
    eventually(lambda: int(info(wire, "stats")["expired_keys"]) == int(before) + 1)


def test_debug_pause_cron_leaves_to_commands_what_else_is_done_by_the_clock(wire: Wire) -> None:
    wire("DEBUG PAUSE-CRON 1")
    before = info(wire, "stats")["expired_keys"]
    wire("SET k v PX 1")
    time.sleep(0.4)
    assert info(wire, "stats")["expired_keys"] == before
    wire("DEBUG PAUSE-CRON 0")
    eventually(lambda: int(info(wire, "stats")["expired_keys"]) == int(before) + 1)


# --- CONFIG REWRITE ---


def test_config_rewrite_keeps_what_was_set_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "respkv.toml"
    file.write_text("# ours\ntimeout = 10  # seconds\n\n[cluster]\nid = 'x'  # stays\n")
    file.chmod(0o600)
    with respkv(tmp_path, "--config", str(file)) as port, Wire(port) as wire:
        wire([b"CONFIG", b"SET", b"timeout", b"20", b"maxmemory", b"1mb", b"maxmemory-policy", b"allkeys-lru",
              b"client-output-buffer-limit", b"pubsub 1mb 0 0", b"latency-tracking", b"no"])  # fmt: skip
        assert wire("CONFIG REWRITE") == b"OK"
    text = file.read_text()
    assert text.startswith("# ours\ntimeout = 20  # seconds\n")
    assert "[cluster]\nid = 'x'  # stays\n" in text
    assert file.stat().st_mode & 0o777 == 0o600
    config = load(file, {})
    assert (config.timeout_s, config.maxmemory_bytes, config.maxmemory_policy) == (20, 1 << 20, "allkeys-lru")
    assert (config.latency_tracking, config.cluster.id) == (False, "x")
    assert config.client_output_buffer.pubsub == Limit(1 << 20, 0, 0)
    assert set(tomllib.loads(text)) == {
        "timeout", "maxmemory", "maxmemory-policy", "client-output-buffer-limit", "latency-tracking", "cluster"
    }  # fmt: skip


def test_config_rewrite_without_a_file_or_with_one_that_is_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="running without a config file"):
        rewrite(Config(), set())
    file = tmp_path / "respkv.toml"
    file.write_text("timeout = 10\n")
    config = load(file, {})
    file.write_text("timeout = \n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        rewrite(config, {"timeout_s"})
    assert file.read_text() == "timeout = \n"
