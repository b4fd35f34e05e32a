"""Transactions from every node while nodes are killed: each happens once or not at all, and no update is lost.

Clients count with WATCH, GET, MULTI, SET, APPEND, EXEC on keys that all of them share, and remember what they were
told. The APPEND notes in the same transaction who has counted, so that what happened can be read afterwards.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hiredis

from tests.cluster import POLL_S, NodeProcess, TestCluster, running_cluster, wait_until
from tests.unit.running import Wire

_numbers = itertools.count(1)


class Teller(threading.Thread):
    """One client of `node`, that counts in turn on each of the keys `n{tag}` and notes it in `log{tag}`."""

    def __init__(self, node: NodeProcess, tags: Sequence[str]) -> None:
        super().__init__(name=f"{node.name}.{next(_numbers)}", daemon=True)
        self.node = node
        self.tags = tags
        self.done: dict[str, set[str]] = {tag: set() for tag in tags}
        self.not_done: dict[str, set[str]] = {tag: set() for tag in tags}
        self.acks = 0
        self.called_off = 0
        self.fault: str | None = None
        self._stop_asked = threading.Event()

    def run(self) -> None:
        mark = ""
        try:
            for number in itertools.count():
                if self._stop_asked.is_set():
                    return
                mark = f"{self.name}#{number}"
                try:
                    with Wire(self.node.port) as wire:
                        for step in itertools.count():
                            if self._stop_asked.is_set():
                                return
                            self._count(wire, self.tags[(number + step) % len(self.tags)], f"{mark}.{step}")
                except (OSError, EOFError):
                    self._stop_asked.wait(POLL_S)
        except Exception as error:  # noqa: BLE001 - told by `check`
            self.fault = f"{mark}: {type(error).__name__}: {error}"

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(30)
        assert not self.is_alive(), f"{self.name} hangs"

    def _count(self, wire: Wire, tag: str, mark: str) -> None:
        counter, log = f"n{{{tag}}}", f"log{{{tag}}}"
        for command in (f"WATCH {counter}", f"GET {counter}"):
            value = wire(command)
            if isinstance(value, hiredis.ReplyError):
                assert "not applied" in str(value), value
                return
        following = int(value or 0) + 1  # type: ignore[call-overload]
        for command in ("MULTI", f"SET {counter} {following}", f"APPEND {log} {mark};"):
            reply = wire(command)
            assert reply in (b"OK", b"QUEUED"), reply
        reply = wire("EXEC")
        if isinstance(reply, list):
            assert reply[0] == b"OK", reply
            self.done[tag].add(mark)
            self.acks += 1
        elif reply is None:
            self.not_done[tag].add(mark)
            self.called_off += 1
            self._stop_asked.wait(random.random() * 0.1)  # or clients near the leader leave no room for the others
        elif "may have been applied" not in str(reply):
            assert "not applied" in str(reply), reply
            self.not_done[tag].add(mark)


@contextmanager
def counting(cluster: TestCluster, tags: Sequence[str]) -> Iterator[list[Teller]]:
    tellers = [Teller(node, tags) for node in cluster.nodes for _ in range(2)]
    for teller in tellers:
        teller.start()
    try:
        go_on(tellers)
        yield tellers
    finally:
        for teller in tellers:
            teller.stop()


def go_on(tellers: Sequence[Teller], acks: int = 5) -> None:
    """Waits until each has counted `acks` times more."""
    wanted = [teller.acks + acks for teller in tellers]
    wait_until(
        lambda: all(teller.acks >= count or teller.fault for teller, count in zip(tellers, wanted, strict=True)),
        "the clients go on",
        40.0,
    )


def check(cluster: TestCluster, tags: Sequence[str], tellers: Sequence[Teller]) -> None:
    """Every transaction is there as a whole, once, if its client was told so, and not if it was told the contrary."""
    for teller in tellers:
        assert teller.fault is None, f"{teller.name}: {teller.fault}"
    for node in cluster.running:
        for tag in tags:
            with node.client() as client:
                value, log = client.mget(f"n{{{tag}}}", f"log{{{tag}}}")
            marks = Counter(log.decode().split(";")[:-1])
            assert int(value) == marks.total(), f"{node.name}: {marks.total()} transactions counted {value}"
            assert set(marks.values()) == {1}, f"{node.name}: something was applied twice"
            for teller in tellers:
                assert teller.done[tag] <= marks.keys(), f"{node.name}: acknowledged and lost"
                assert not teller.not_done[tag] & marks.keys(), f"{node.name}: refused and applied"
    cluster.assert_replicas_equal()


def test_counting_through_kills_of_each_leader_loses_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        cluster.wait_home()
        tags = [cluster.keys_of_shard(shard, 1)[0].split("{")[1].split("}")[0] for shard in range(3)]
        with counting(cluster, tags) as tellers:
            for shard in range(3):
                leader = cluster.leader(shard)
                leader.kill()
                go_on([teller for teller in tellers if teller.node is not leader])
                leader.start()
                cluster.wait_ready()
                go_on(tellers)
        assert sum(teller.called_off for teller in tellers), "the clients never met"
        check(cluster, tags, tellers)


def test_counting_through_the_loss_of_all_nodes_loses_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        tags = [cluster.keys_of_shard(0, 1)[0].split("{")[1].split("}")[0]]
        with counting(cluster, tags) as tellers:
            for _ in range(2):
                cluster.kill_all()
                cluster.start()
                go_on(tellers)
        check(cluster, tags, tellers)
