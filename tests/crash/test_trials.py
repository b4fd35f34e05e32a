"""All kinds of faults, one after the other, under clients of every command; and that a trial would notice.

Short trials with fixed seeds; `make crash` goes on for as long as wanted.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.crash import nemesis
from tests.crash.clients import FAR_S
from tests.crash.trial import Trial

SHORT_S = 1.2  # longer than it takes to elect a leader, most of the time

PROCESSES = (
    "kill one node", "kill the leader", "kill a minority", "kill a majority", "kill all nodes at once",
    "kill the leader again and again", "pause one node", "pause the leader", "pause a majority",
    "pause all nodes at once", "restart all nodes one by one", "a node is killed while it starts",
)  # fmt: skip
FIVE = (
    "kill a minority", "kill a majority", "split the cluster", "two nodes do not see each other",
    "a leader dies while another node is cut off", "restart all nodes one by one",
)  # fmt: skip
NETWORK = tuple(name for name, fault in nemesis.FAULTS.items() if fault.needs_network)
THE_REST = tuple(name for name in nemesis.FAULTS if name not in PROCESSES and name not in NETWORK)


@pytest.mark.parametrize(
    ("kinds", "nodes"),
    [(PROCESSES, 3), (NETWORK, 3), (THE_REST, 3), (FIVE, 5)],
    ids=["processes", "network", "disks and clocks", "five nodes"],
)
def test_no_fault_loses_or_confuses_anything(tmp_path: Path, kinds: tuple[str, ...], nodes: int) -> None:
    with Trial(tmp_path / "cluster", seed=11 + nodes, nodes=nodes) as trial:
        for kind in kinds:
            trial.cycle(kind, SHORT_S)
        trial.verify()


def test_a_trial_notices_that_an_acknowledged_write_is_gone(tmp_path: Path) -> None:
    with Trial(tmp_path / "cluster") as trial:
        trial.go_on(replies=50)
        trial.stop_clients()
        write = trial.history.invoke("last", (b"SET", b"a{last}", b"v", b"EX", b"%d" % FAR_S), time.monotonic())
        with trial.cluster.nodes[0].client() as client:
            assert client.set("a{last}", "v", ex=FAR_S)
            write.complete(time.monotonic(), "OK")
            assert client.delete("a{last}")
        with pytest.raises(AssertionError, match="not linearizable"):
            trial.verify()


def test_a_trial_notices_an_error_at_a_client_that_a_fault_spares(tmp_path: Path) -> None:
    with Trial(tmp_path / "cluster") as trial:
        for node in trial.cluster.nodes:
            node.call("CONFIG", "SET", "cluster-timeout-ms", "100")  # less than an election takes
        with pytest.raises(AssertionError, match="which was spared, saw"):
            trial.cycle("kill the leader", 1.0)
