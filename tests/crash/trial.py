"""A trial: a cluster of real nodes with clients of every command on it, faults, and what must hold afterwards.

    with Trial(directory, seed=1) as trial:
        trial.cycle("kill the leader")      # begins, lasts, ends; then the cluster must be whole again by itself
        trial.verify()                      # stops the clients and checks everything

After each fault every node that stopped for it (killed by us, or by itself for a disk that failed) is started again
once and must come back. Clients of nodes that a fault spares may wait but must see no error. `verify` reads every key
through every node, compares the replicas, and has the history checked for linearizability by tests.sim.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import hiredis

from tests.cluster import NodeProcess, TestCluster, wait_until
from tests.crash import nemesis
from tests.crash.clients import Client, Connection, Groups, Watcher, staying_keys
from tests.crash.inject import Injector
from tests.crash.network import Mesh, Namespaces, Network
from tests.sim.linearizable import History, check

WHOLE_S = 90.0
GO_ON_REPLIES = 5
READ_KEYS = 200


class Trial:
    """See the module. `network`: "mesh" (proxies), "namespaces" (only inside `tests.crash.isolated`) or "plain"."""

    def __init__(
        self,
        directory: Path,
        *,
        seed: int = 1,
        nodes: int = 3,
        shards: int = 3,
        replicas: int = 5,
        network: str = "mesh",
        clients_per_node: int = 2,
        think_s: float = 0.01,
        watchers: bool = True,
        **options: str,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        hosts = Namespaces.hosts(nodes) if network == "namespaces" else ()
        self.cluster = TestCluster(directory, nodes, shards, replicas, hosts, **options)
        self.replicas = min(nodes, replicas)
        self.unreadable: set[NodeProcess] = set()  # their disks could not be read for a while
        self.injectors = {node.name: Injector(node) for node in self.cluster.nodes}
        self.network: Network | None = None
        if network != "plain":
            self.network = (Mesh if network == "mesh" else Namespaces)(self.cluster.nodes)
        self.history = History()
        self.groups = Groups(seed, width=3 * nodes)
        self.clients = self._make_clients(clients_per_node, think_s)
        self.watchers = [Watcher(node, f"w.{node.name}") for node in self.cluster.nodes] if watchers else []
        self.story: list[str] = []
        self.cycles = 0
        self._began = time.monotonic()

    def _make_clients(self, per_node: int, think_s: float) -> list[Client]:
        """On each node: one without a pipeline, one with one; every third of the latter uses the cluster view."""
        made = []
        for number, node in enumerate(self.cluster.nodes):
            for place in range(per_node):
                pipelined = place % 2 == 1
                name = f"{self.seed}.{node.name}.{place}"
                view = pipelined and number % 3 == 2
                pipeline = 8 if pipelined else 1
                client = Client(node, name, self.history, self.groups, pipeline=pipeline, cluster_view=view)
                client.think_s = think_s
                made.append(client)
        return made

    @property
    def connections(self) -> list[Connection]:
        return [*self.clients, *self.watchers]

    # -- life

    def __enter__(self) -> Self:
        try:
            self.cluster.start()
            with self.cluster.nodes[0].client() as client:
                client.mset(staying_keys())
            for connection in self.connections:
                connection.start()
            self.go_on()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            error.add_note("\n".join(["what happened:", *self.story]))

    def close(self) -> None:
        for connection in self.connections:
            connection.stop()
        for node in self.cluster.running:
            node.kill()
        if self.network is not None:
            self.network.close()

    def say(self, text: str) -> None:
        self.story.append(f"{time.monotonic() - self._began:8.2f} s  {text}")

    # -- faults

    def cycle(self, kind: str, seconds: float | None = None) -> None:
        """One fault from its beginning to the cluster being whole again."""
        self.cycles += 1
        fault = nemesis.FAULTS[kind]
        lasts_s = seconds if seconds is not None else self.random.uniform(*fault.lasts_s)
        self.say(f"{kind}, for {lasts_s:.1f} s")
        since = time.monotonic()
        with fault.run(self) as spared:
            time.sleep(lasts_s)
        self.make_whole()
        self.go_on()
        self._check_spared(kind, spared, since)

    def make_whole(self) -> None:
        """Takes every fault away, starts what stopped, and waits until the cluster serves."""
        if self.network is not None:
            self.network.heal()
        for injector in self.injectors.values():
            injector.heal_disk()
            injector.shift_clock(0)
        for node in self.cluster.nodes:
            if not node.running:
                self.say(f"{node.name} is started again")
                node.start()
        self.cluster.wait_ready(WHOLE_S)

    def go_on(self, connections: Sequence[Connection] | None = None, replies: int = GO_ON_REPLIES) -> None:
        """Waits until every client (or each of these) has been answered a few times more."""
        wanted = [(one, one.replies + replies) for one in connections or self.connections]
        wait_until(lambda: all(one.replies >= count or one.fault for one, count in wanted), "clients go on", WHOLE_S)

    def clients_of(self, nodes: Sequence[NodeProcess]) -> list[Client]:
        """Those that use the standalone view of one of these nodes."""
        return [client for client in self.clients if client.node in nodes and not client.cluster_view]

    def _check_spared(self, kind: str, spared: Sequence[NodeProcess], since: float) -> None:
        """A node without a replica cannot learn what became of a write whose leader died: there, errors are honest."""
        if self.replicas < len(self.cluster.nodes):
            return
        for client in self.clients_of(spared):
            errors = [text for at, text in client.errors if at >= since]
            if client.node in self.unreadable:
                errors = [text for text in errors if "this replica's data are damaged" not in text]
            assert not errors, f"{kind}: client {client.name} of {client.node.name}, which was spared, saw {errors[:3]}"

    # -- afterwards

    def verify(self) -> str:
        """Raises AssertionError for what must not be; returns a line about what was checked."""
        self.say("verifying")
        self.stop_clients()
        for connection in self.connections:
            assert connection.fault is None, f"{connection.name}: {connection.fault}"
        for node in self.cluster.nodes:
            self._read_all(node)
        verdict = check(self.history.operations, expiry=False)  # all expiries are far away
        assert verdict.fine, str(verdict)
        self.cluster.assert_replicas_equal()
        outcomes = [operation.outcome for operation in self.history.operations]
        return (
            f"{self.cycles} faults, {len(outcomes)} operations ({outcomes.count('unknown')} of unknown outcome, "
            f"{outcomes.count('not applied')} not applied): linearizable, replicas equal"
        )

    def stop_clients(self) -> None:
        for connection in self.connections:
            connection.stop()
        for connection in self.connections:
            connection.join(30)
            assert not connection.is_alive(), f"{connection.name} hangs"

    def _read_all(self, node: NodeProcess) -> None:
        """Reads each key once more, as part of the history: no order explains an acknowledged write that is gone."""
        keys = sorted({key for operation in self.history.operations for key in _keys(operation.args)})
        reader = hiredis.Reader()
        with node.connect(30) as connection:
            for start in range(0, len(keys), READ_KEYS):
                part, now = keys[start : start + READ_KEYS], time.monotonic()
                asked = [self.history.invoke(f"end.{node.name}", (b"GET", key), now) for key in part]
                connection.sendall(b"".join(hiredis.pack_command(operation.args) for operation in asked))
                for operation in asked:
                    while (reply := reader.gets()) is False:
                        reader.feed(connection.recv(1 << 16))
                    assert not isinstance(reply, Exception), f"{operation.args}: {reply}"
                    operation.complete(time.monotonic(), reply)


def _keys(args: tuple[bytes, ...]) -> list[bytes]:
    return [arg for arg in args[1:] if arg[1:2] == b"{"]
