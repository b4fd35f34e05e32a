"""WAIT tells how many followers hold what was written, through every node, also while a node does not answer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster import TestCluster, running_cluster, wait_until
from tests.unit.running import Wire

pytestmark = pytest.mark.slow


def waits(cluster: TestCluster, name: str, command: str) -> tuple[object, float]:
    """The reply to `command` on node `name` after a write by the same connection, and how long it took."""
    with Wire(cluster[name].port) as wire:
        assert wire("SET key value") == b"OK"
        start = time.monotonic()
        return wire(command), time.monotonic() - start


def test_wait_counts_followers_and_goes_on_when_there_are_enough(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=3, shards=2) as cluster:
        wait_until(lambda: set(cluster.leaders().values()) == {"n1", "n2"}, "n1 and n2 lead, n3 does not")
        for name in ("n1", "n2", "n3"):
            for wanted, timeout_ms in ((0, 0), (1, 0), (2, 10_000)):
                reply, _ = waits(cluster, name, f"WAIT {wanted} {timeout_ms}")
                assert wanted <= reply <= 2  # type: ignore[operator]
        assert waits(cluster, "n1", "WAIT 3 50")[0] == 2
        frozen = cluster["n3"]
        frozen.freeze()
        try:
            for name in ("n1", "n2"):
                assert waits(cluster, name, "WAIT 1 0")[0] == 1
                reply, took_s = waits(cluster, name, "WAIT 2 300")
                assert (reply, took_s >= 0.3) == (1, True)
            with Wire(cluster["n1"].port) as wire:
                assert wire("SET key again") == b"OK"
                wire.send("WAIT 2 0")
                with Wire(cluster["n1"].port) as other:
                    wait_until(lambda: b"blocked_clients:1" in other.raw("INFO clients"), "the client waits")
                frozen.thaw()
                assert wire.rest_of_line() == b":2\r\n"
        finally:
            frozen.thaw()
        cluster.wait_settled()


def test_wait_comes_after_the_writes_of_its_pipeline(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=3, shards=2) as cluster:
        wait_until(lambda: set(cluster.leaders().values()) == {"n1", "n2"}, "n1 and n2 lead, n3 does not")
        with Wire(cluster["n3"].port) as wire:  # both shards are led by others
            wire.send(*(f"INCR key:{number}" for number in range(50)), "WAIT 2 10000", "WAIT 2 10000", "GET key:7")
            lines = [wire.rest_of_line() for _ in range(52)]
            assert lines == [b":1\r\n"] * 50 + [b":2\r\n"] * 2
            assert wire.rest_of_line() + wire.rest_of_line() == b"$1\r\n1\r\n"
        cluster["n3"].freeze()
        try:
            with Wire(cluster["n1"].port) as wire, Wire(cluster["n1"].port) as other:
                assert [wire(f"SET key:{number} new") for number in range(50)] == [b"OK"] * 50
                wire.send("WAIT 2 0")
                wait_until(lambda: b"blocked_clients:1" in other.raw("INFO clients"), "the client waits")
                wire.socket.close()
                wait_until(lambda: b"blocked_clients:0" in other.raw("INFO clients"), "nobody waits for a client gone")
                wait_until(lambda: other.raw("CLIENT LIST").count(b"id=") == 1, "the client is gone")
        finally:
            cluster["n3"].thaw()
