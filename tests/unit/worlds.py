"""What tests of groups and proposers share: worlds to make, and what is looked at in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.raft.group import Clock
from respkv.raft.messages import ACK, APPEND
from respkv.reply import RespError
from respkv.shard.transaction import Watched
from tests.unit.raft_world import Client, World, WorldNode


def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **defaults: Any) -> Iterator[Callable[..., World]]:
    """Yields what makes worlds, to be closed when the test is over."""
    monkeypatch.setattr(Clock, "now", Clock.now)
    made: list[World] = []

    def build(size: int = 3, **options: Any) -> World:
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(World(root, size, **{**defaults, **options}))
        return made[-1]

    yield build
    for world in made:
        world.close()


def applied(node: WorldNode) -> list[bytes]:
    return [command[1:] for _, _, command in node.history if command[0] == 0]


def last_ack(world: World, source: str) -> Any:
    return [message for sender, _, message in world.sent if sender == source and message[0] == ACK][-1]


def append(world: World, leader: WorldNode, prev: tuple[int, int], entries: list[Any], commit: int = 0) -> Any:
    return (APPEND, 0, leader.group.term, commit, *prev, world.now, entries)


def outcome(client: Client, token: int = 0) -> str:
    """ "applied", or the first word of the error, of a command (of a plain put: of the whole batch)."""
    assert client.ended == 1
    value = client.answers.get(token) if client.answers else client.ok_failed
    return str(value).split()[0] if isinstance(value, RespError) else "applied"


def idle(world: World) -> None:
    """Nothing is open anywhere."""
    for node in world.nodes.values():
        proposer = node.proposer
        assert proposer is not None
        assert proposer.pending_bytes == 0
        open_writes = (proposer._queue, proposer._parts, proposer._forwards, proposer._proposals)
        open_reads = (proposer._reads, proposer._reads.asked, proposer._entries_by_index)
        assert not any(open_writes)
        assert not any(open_reads)


class AllAbsent:
    """A database without keys."""

    def __init__(self) -> None:
        self.changes: dict[bytes, Any] = {}

    def fingerprint(self, key: bytes) -> bytes:
        return b""


def watch(node: WorldNode, key: bytes) -> Watched:
    fingerprint, stamp = node.machine.watches.issue(AllAbsent(), [key])  # type: ignore[arg-type]
    return Watched(key, fingerprint, stamp)
