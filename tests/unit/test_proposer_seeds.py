"""The proposer under any order of events: whatever breaks, clients are told the truth."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from respkv.raft.group import Clock
from respkv.reply import RespError
from tests.unit.raft_world import Broken, Client, Recorder, World, WorldNode, reads, writes
from tests.unit.test_group_faults import FAULTS, inflict, memory_directory, restart
from tests.unit.worlds import idle, outcome


class Trial:
    """One seed: clients write and read everywhere while things break; then everything they were told is checked."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        world = World(root, self.rng.choice((2, 3, 3, 5)), seed=seed, proposers=True, lease=self.rng.random() < 0.7)
        self.world = world
        self.writers: list[tuple[Client, WorldNode, int]] = []
        self.readers: list[tuple[Client, WorldNode, int, int]] = []
        self.count = 0
        if self.rng.random() < 0.4:
            world.drop, world.duplicate, world.reorder = (self.rng.random() * 0.1 for _ in range(3))
        world.sync_s = self.rng.choice(((0.0005, 0.004), (0.001, 0.05)))

    def acknowledged(self) -> int:
        """How much was applied as far as any client knows."""
        known = [v for client, _, _ in self.writers if client.ended for v in client.answers.values()]
        return max((value for value in known if isinstance(value, int)), default=0)

    def write(self, node: WorldNode) -> None:
        ids = [b"%s%d" % (node.name.encode(), self.count + n) for n in range(self.rng.randint(1, 3))]
        self.count += len(ids)
        if self.rng.random() < 0.05:
            ids = [name + b"-" * 20_000 for name in ids]
        client = writes(self.world, node, ids, plain=self.rng.random() < 0.3)
        self.writers.append((client, node, node.life))

    def step(self) -> None:
        world, rng = self.world, self.rng
        up = [node for node in world.nodes.values() if node.up]
        node = rng.choice(up)
        match rng.choice(("write",) * 5 + ("read",) * 2 + FAULTS):
            case "write":
                for writer in rng.sample(up, rng.randint(1, len(up))):
                    self.write(writer)
            case "read":
                floor = self.acknowledged()
                self.readers.append((reads(node, 2), node, node.life, floor))
            case fault:
                inflict(world, rng, fault)
        world.supply_snapshots()
        world.run(rng.choice((0, 0.001, 0.004, 0.02, 0.1, 0.6)) * rng.random() * 2)

    def end(self) -> list[bytes]:
        world = self.world
        world.drop = world.duplicate = world.reorder = 0.0
        restart(world, list(world.names))
        world.heal()
        for _ in range(10):
            world.run(0.6)
            world.supply_snapshots()
        leader = world.leader()
        world.run(0.5)
        for node in world.nodes.values():
            assert node.machine.ops == leader.machine.ops
        idle(world)
        return leader.machine.ops

    def judge(self, ops: list[bytes]) -> None:
        place = {name: position for position, name in enumerate(ops)}
        assert len(place) == len(ops), "something was applied twice"
        newest: dict[tuple[str, int], int] = {}
        for client, node, life in self.writers:
            if node.life != life and not client.ended:
                continue  # the client was connected to a process that died
            for token, name in enumerate(client.ids):
                told = outcome(client, token)
                assert told in {"applied", "CLUSTERDOWN", "TIMEOUT"}
                assert told != "applied" or name in place, f"{name!r} was lost"
                assert told != "CLUSTERDOWN" or name not in place, f"{name!r} was said not to be applied"
                if told == "applied":
                    assert not client.answers or client.answers[token] == place[name] + 1
                    assert place[name] > newest.get((node.name, life), -1), f"{name!r} overtook an earlier one"
                    newest[node.name, life] = place[name]
        for client, node, life, floor in self.readers:
            assert client.ended or node.life != life, "a read was never answered"
            for value in client.answers.values():
                assert isinstance(value, RespError) or value >= floor, f"stale: {value} after {floor}"


def one_seed(seed: int, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    trial = Trial(seed, root)
    try:
        trial.world.run(trial.rng.random() * 2)
        for _ in range(40):
            trial.step()
        trial.judge(trial.end())
    finally:
        trial.world.close()
        shutil.rmtree(root, ignore_errors=True)


SEEDS_MIN = 20


def test_whatever_breaks_every_client_is_told_the_truth_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "now", Clock.now)
    root, end = memory_directory(tmp_path), time.monotonic() + 12.0
    for seed in range(300):
        try:
            one_seed(seed, root)
        except (Exception, Broken) as error:
            raise AssertionError(f"seed {seed}") from error
        if seed >= SEEDS_MIN and time.monotonic() > end:
            break


def test_a_recorder_replays_its_history() -> None:
    assert Recorder([]).ops == []
