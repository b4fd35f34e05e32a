"""Leaders go to the node that nearly all clients ask, and return when those have gone elsewhere; nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from respkv.shard.placement import BUSY_PER_S
from tests.cluster import TestCluster, running_cluster, wait_until

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
CLIENTS = 4


class Counting:
    """Clients that add to counters of their own through nodes, in pipelines; `sums` is what they were told."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self.errors: list[Exception] = []
        self._over = threading.Event()
        self._since = 0.0

    def is_busy(self) -> bool:
        """Whether there was more to do than what a leader minds."""
        return sum(self.sums.values()) > 3 * BUSY_PER_S * (time.monotonic() - self._since)

    def run(self, number: int, port: int, cluster_view: bool) -> None:
        keys = [f"count:{number}:{position}" for position in range(48)]
        try:
            client: Any = redis.RedisCluster(HOST, port) if cluster_view else redis.Redis(HOST, port)
            while not self._over.is_set():
                pipeline = client.pipeline(transaction=False)
                for key in keys:
                    pipeline.incr(key)
                    pipeline.get(key)
                for key, value in zip(keys, pipeline.execute()[::2], strict=True):
                    assert value == self.sums.get(key, 0) + 1
                    self.sums[key] = value
            client.close()
        except Exception as error:  # noqa: BLE001 - for the test to tell
            self.errors.append(error)

    @contextmanager
    def going(self, ports: list[int], *, cluster_view: bool = False) -> Iterator[None]:
        self._over.clear()
        self._since = time.monotonic()
        threads = [
            threading.Thread(target=self.run, args=(number, ports[number % len(ports)], cluster_view))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


def leaders(cluster: TestCluster) -> set[str]:
    return set(cluster.leaders().values())


def test_leaders_follow_the_clients_and_return(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=3, shards=3) as cluster:
        spread = {"n1", "n2", "n3"}
        wait_until(lambda: leaders(cluster) == spread, "each node leads a shard")
        ports = [cluster[name].port for name in ("n1", "n2", "n3")]
        counting = Counting()
        with counting.going(ports[1:2]):
            wait_until(lambda: leaders(cluster) == {"n2"}, "all leaders are where all clients are")
        with counting.going(ports):
            wait_until(lambda: leaders(cluster) == spread, "leaders are where they were")
        assert counting.errors == []
        n3 = cluster["n3"]
        assert {key: int(n3.call("GET", key)) for key in counting.sums} == counting.sums


def test_clients_that_ask_the_leaders_move_none(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=3, shards=2) as cluster:
        wait_until(lambda: leaders(cluster) == {"n1", "n2"}, "n1 and n2 lead")
        ports = [cluster[name].cluster_port for name in ("n1", "n2", "n3")]
        n1, counting = cluster["n1"], Counting()
        n1.kill()
        wait_until(lambda: "n1" not in leaders(cluster) and None not in leaders(cluster), "others lead")
        with counting.going(ports[1:2], cluster_view=True):
            n1.start()
            wait_until(lambda: leaders(cluster) == {"n1", "n2"}, "n1 has its shard again, whoever asks the others")
            assert counting.is_busy(), "the machine is too slow to say anything"
        assert counting.errors == []


def test_leaders_stay_where_they_are_if_that_is_wanted(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=3, shards=3, CLUSTER_FOLLOW_CLIENTS="no") as cluster:
        spread = {"n1", "n2", "n3"}
        wait_until(lambda: leaders(cluster) == spread, "each node leads a shard")
        port = cluster["n2"].port
        counting = Counting()
        with counting.going([port]):
            time.sleep(6)
            assert leaders(cluster) == spread
            for name in spread:
                assert cluster[name].call("CONFIG", "SET", "cluster-follow-clients", "yes") == b"OK"
            wait_until(lambda: leaders(cluster) == {"n2"}, "all leaders are where all clients are")
        assert counting.errors == []
