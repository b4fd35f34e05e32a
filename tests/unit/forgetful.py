"""Nodes of `raft_world` that can lose what is on their disks, and come back as the real node would."""

from __future__ import annotations

import shutil
from typing import Any

from respkv.raft.identity import Identity
from respkv.raft.journal import Journal
from respkv.raft.log import Standing
from respkv.raft.membership import Membership
from respkv.raft.messages import INTRODUCE
from tests.unit.raft_world import SEGMENT_BYTES, World, WorldNode

LOSSES = ("journal", "data", "both", "running")


class ForgetfulNode(WorldNode):
    """Loses its journal, its data, or both while it is down, or its data while it runs."""

    def start(self) -> None:
        if not hasattr(self, "standing"):
            self.standing = Standing.NEW  # what the journal says, while the node is down
            self.repairs = 0
        if not self.path.exists():
            self._open_journal(Standing.STRANGER if self.saved else Standing.NEW).close()
        elif not self.saved:
            self._find_gap()
        super().start()
        others = [name for name in self.world.names if name != self.name]
        self.membership = Membership(
            self.group, others, Identity(self.path, self.disk), send=self.send, repaired=self._repaired
        )
        connected = self.group.connected

        def connected_and_introduced(name: str) -> None:
            connected(name)
            self.membership.introduce(name)

        self.group.connected = connected_and_introduced  # type: ignore[method-assign]

    def _find_gap(self) -> None:
        """There are no data: as the real node, notices if the journal does not have all of them."""
        journal = self._open_journal(Standing.NEW)
        shard_log = journal.logs[0]
        if shard_log.base_index > 1:
            shard_log.lose()
            if shard_log.standing is Standing.VOTER:
                shard_log.stand(Standing.LEARNER)
        self.standing = shard_log.standing
        journal.close()

    def _open_journal(self, standing: Standing) -> Journal:
        return Journal.open(self.path, [0], segment_bytes=SEGMENT_BYTES, disk=self.disk, standing_if_new=standing)

    def _repaired(self) -> None:
        self.repairs += 1

    def send(self, peer: str, message: Any) -> None:
        if peer in self.world.nodes:  # while the world is being made, not all are there
            super().send(peer, message)

    def receive(self, peer: str, message: Any) -> None:
        if message[0] >= INTRODUCE:
            self.membership.receive(peer, message)
            self.wake()
        else:
            super().receive(peer, message)

    def _tick(self, life: int) -> None:
        if life == self.life and not self.stands:
            self.membership.tick()
        super()._tick(life)

    def crash(self) -> None:
        super().crash()
        journal = self._open_journal(Standing.NEW)
        self.standing = journal.logs[0].standing
        journal.close()

    def lose(self, what: str) -> None:
        """While the node is down (`running`: while it runs)."""
        if what == "running":
            self.history.clear()
            self.saved, self.synced = [], 0
            self.group.start_over()
            self.membership.lost()
            return
        if what in {"data", "both"}:
            self.saved, self.synced = [], 0
        if what == "data":
            self._find_gap()
        else:
            shutil.rmtree(self.path, ignore_errors=True)
            self.standing = Standing.STRANGER

    @property
    def impaired(self) -> bool:
        if not self.up:
            return self.standing is not Standing.VOTER
        return not (self.group.votes and self.group.log.state_durable)  # a crash now would take the vote back


class Trouble:
    """A random story: writes, crashes, partitions, and losses that never impair more than a minority."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self.losses = 0
        self.written = 0

    def tell(self, steps: int) -> None:
        world, rng = self.world, self.rng
        world.drop, world.duplicate, world.reorder = rng.choice([(0, 0, 0), (0.05, 0.05, 0.1)])
        kinds = [self.write, self.write, self.crash, self.restart, self.divide, self.heal, self.trim, self.lose]
        for _ in range(steps):
            rng.choice(kinds)()
            world.supply_snapshots()
            world.run(rng.choice([0.01, 0.05, 0.3, 1.5]))

    def write(self) -> None:
        for leader in self.world.leaders_now():
            for _ in range(self.rng.randint(1, 20)):
                self.written += 1
                self.world.write(b"%d" % self.written, on=leader)

    def crash(self) -> None:
        node = self.rng.choice(list(self.world.nodes.values()))
        if node.up:
            node.crash()

    def restart(self) -> None:
        for node in self.world.nodes.values():
            if not node.up:
                node.start()

    def divide(self) -> None:
        names = list(self.world.names)
        self.rng.shuffle(names)
        at = self.rng.randint(1, len(names) - 1)
        self.world.partition("".join(names[:at]), "".join(names[at:]), notice=self.rng.random() < 0.5)

    def heal(self) -> None:
        self.world.heal()

    def trim(self) -> None:
        for node in self.world.nodes.values():
            if node.up and self.rng.random() < 0.5:
                node.trim()

    def lose(self) -> None:
        nodes = list(self.world.nodes.values())
        node = self.rng.choice(nodes)
        if sum(other.impaired for other in nodes if other is not node) >= (len(nodes) - 1) // 2:
            return
        what = self.rng.choice(LOSSES)
        if what == "running" and (not node.up or node.group.log.standing > Standing.LEARNER):
            return
        if what != "running" and node.up:
            node.crash()
        node.lose(what)
        self.losses += 1
