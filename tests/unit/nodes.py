"""Whole nodes on the loop of a test, and a client of theirs that is none: for tests of the turn."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from respkv.config import Config, load
from respkv.node import Node
from respkv.shard.waiting import Part
from tests.unit.test_cli import free_ports
from tests.unit.test_peers import until


class Waiter(Part):
    """Keeps its replies; `ended` is set when there is nothing more to come."""

    def __init__(self, size: int = 0) -> None:
        super().__init__(size)
        self.replies: list[object] = []
        self.ended = asyncio.Event()

    def put(self, token: int, value: object) -> None:
        self.replies.append(value)

    def done(self) -> None:
        self.ended.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self.ended.wait(), 10)


def alone(directory: Path, **flags: str) -> Config:
    """The only node of a cluster of three shards."""
    own = {"dir": str(directory), "port": str(free_ports(1)), "intake": "no"}
    return load(environ={}, flags=own | flags)


@asynccontextmanager
async def serving(*configs: Config) -> AsyncIterator[list[Node]]:
    """Nodes that were started, once each shard has a leader and nothing is written any more; they stop at the end."""
    thresholds = gc.get_threshold()
    nodes = [Node(config) for config in configs]
    await asyncio.gather(*(node.start() for node in nodes))
    try:
        shards = nodes[0].topology.shards
        await until(lambda: all(any(node.proposers[shard.id].leads for node in nodes) for shard in shards), 20)
        if nodes[0].config.appendfsync == "always":
            await until(lambda: all(node.journal.synced == node.journal.sequence for node in nodes), 20)
        yield nodes
    finally:
        for node in nodes:
            node.stop()
        await asyncio.gather(*(node.run_until_stopped() for node in nodes))
        gc.unfreeze()
        gc.set_threshold(*thresholds)
