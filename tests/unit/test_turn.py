"""The turn of a node: what its disk has by its end, and what leaves before what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from respkv.cli.cluster import Wanted
from respkv.cli.cluster import run as write_cluster
from respkv.cluster.topology import Shard
from respkv.config import Config, load
from respkv.node import SYNC_BYTES_AT_ONCE, Node
from respkv.raft.clock import Clock
from respkv.raft.messages import ACK
from respkv.shard import border, proposer
from respkv.shard.batch import Entry, Ops, decode_entry, encode_entry
from respkv.shard.proposer import FORESEEN_MAX, Proposer
from tests.unit.nodes import Waiter, alone, serving
from tests.unit.test_cli import free_ports
from tests.unit.test_peers import until


def cluster(tmp_path: Path) -> list[Config]:
    wanted = Wanted(nodes=3, shards=1, replicas=3, port=free_ports(3), hosts=None)
    assert write_cluster(tmp_path, wanted, init_only=True) == 0
    return [load(tmp_path / f"node-{i}" / "respkv.toml", environ={}, flags={"intake": "no"}) for i in (1, 2, 3)]


def incr(node: Node, key: bytes) -> Waiter:
    """Writes to the first shard."""
    part = Waiter()
    node.proposers[0].write(part, 0, [b"INCR", key])
    return part


@pytest.mark.parametrize(("key_bytes", "at_once"), [(1, True), (SYNC_BYTES_AT_ONCE, False)])
def test_a_quick_disk_has_short_writes_at_the_end_of_the_turn(tmp_path: Path, key_bytes: int, at_once: bool) -> None:
    async def scenario() -> None:
        async with serving(alone(tmp_path)) as (node,):
            node._syncer._quick = True
            part = incr(node, b"k" * key_bytes)
            node._turn()
            assert (node.journal.synced == node.journal.sequence) is at_once
            assert part.ended.is_set() is at_once  # and so is what has to wait for nobody else
            assert not (at_once and node._dirty)
            await part.wait()
            assert part.replies == [1]

    asyncio.run(scenario())


def test_a_put_is_answered_when_the_disk_has_it_and_applied_behind_that(tmp_path: Path) -> None:
    story: list[str] = []

    class Put(Waiter):
        def done(self) -> None:
            story.append("answered")
            super().done()

    async def scenario() -> None:
        async with serving(alone(tmp_path)) as (node,):
            group = node.replicas[0].group
            await until(lambda: group.applied == group.log[-1][1])
            node._syncer._quick = True
            sync_all, send, apply = node._syncer._sync_all, node.server.send_posted, node.replicas[0].proposer.apply

            def noted(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
                def told(*args: Any) -> Any:
                    story.append(what)
                    return call(*args)

                return told

            node._syncer._sync_all = noted("synced", sync_all)  # type: ignore[method-assign]
            node.server.send_posted = noted("sent", send)  # type: ignore[method-assign]
            node.replicas[0].proposer.apply = noted("applied", apply)  # type: ignore[method-assign]
            part = Put()
            node.proposers[0].join(part)
            node.proposers[0].put(0, b"key", b"value")
            node._turn()
            assert story == ["sent", "synced", "answered", "sent", "applied", "sent"]
            assert part.ended.is_set()
            assert node.proposers[0].get_plain(0, b"key") == b"value"
            assert group.lease_until > Clock.now()  # rested in between

    asyncio.run(scenario())


def test_a_long_write_goes_on_turn_by_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(alone(tmp_path)) as (node,):
            node._syncer._judge = lambda seconds: None  # type: ignore[method-assign]  # quick for good
            node._syncer._quick = True
            for value_bytes in (1 << 10, 9 << 20, 1 << 10):
                part = Waiter()
                node.proposers[0].join(part)
                node.proposers[0].put(0, b"key", b"v" * value_bytes)
                await part.wait()
                record = node.replicas[0].cask.get(b"key", 0)
                assert record is not None
                assert len(record.value) == value_bytes

    asyncio.run(scenario())


def test_what_has_gathered_meanwhile_has_its_own_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(alone(tmp_path)) as (node,):
            node._syncer._quick = True
            first, second = incr(node, b"a"), Waiter()
            sync_all = node._syncer._sync_all

            def come_in_between(descriptors: tuple[int, ...]) -> Any:
                node.proposers[0].write(second, 0, [b"INCR", b"a"])
                return sync_all(descriptors)

            node._syncer._sync_all = come_in_between  # type: ignore[method-assign]
            node._turn()
            assert first.replies == [1]
            assert not second.ended.is_set()
            node._syncer._sync_all = sync_all  # type: ignore[method-assign]
            await second.wait()
            assert second.replies == [2]

    asyncio.run(scenario())


def test_what_is_written_without_waiting_for_the_disk_is_not_synced_in_the_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(alone(tmp_path, appendfsync="no")) as (node,):
            node._syncer._quick = True
            synced = node.journal.synced
            await incr(node, b"key").wait()
            assert node.journal.synced == synced < node.journal.sequence

    asyncio.run(scenario())


def test_a_follower_with_a_quick_disk_acknowledges_in_the_turn_that_brought_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story: list[tuple[Any, ...]] = []

    def follow(follower: Node, leader: str) -> None:
        """Notes the turns of `follower`, its syncs and what it acknowledges."""
        turn, sync_all, link = follower._turn, follower._syncer._sync_all, follower.peers.links[leader]
        send_now = link.send_now

        def noted_turn() -> None:
            story.append(("turn",))
            turn()
            story.append(("end",))

        def noted_sync(descriptors: tuple[int, ...]) -> Any:
            story.append(("sync",))
            return sync_all(descriptors)

        def noted_send(messages: list[Any]) -> None:
            story.extend(("ack", message[3]) for message in messages if message[0] == ACK)
            send_now(messages)

        monkeypatch.setattr(follower, "_turn", noted_turn)
        monkeypatch.setattr(follower._syncer, "_sync_all", noted_sync)
        monkeypatch.setattr(link, "send_now", noted_send)

    async def scenario() -> None:
        async with serving(*cluster(tmp_path)) as nodes:
            (leader,) = [node for node in nodes if node.proposers[0].leads]
            follower = nodes[nodes.index(leader) - 1]
            follower._syncer._quick = True
            follow(follower, leader.config.node)
            part = incr(leader, b"k" * (64 << 10))
            index = leader.replicas[0].group.log[-1][1] + 1
            await part.wait()
            await until(lambda: ("ack", index + 1) in story)
            at = story.index(("ack", index + 1))
            began = len(story[:at]) - story[:at][::-1].index(("turn",))
            assert ("sync",) in story[began:at]
            assert ("end",) not in story[began:at]

    asyncio.run(scenario())


def test_a_follower_decodes_an_entry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[str, bytes]] = []
    for module in border, proposer:

        def noted(command: bytes, name: str = module.__name__) -> Entry:
            decoded.append((name, command))
            return decode_entry(command)

        monkeypatch.setattr(module, "decode_entry", noted)

    async def scenario() -> None:
        async with serving(*cluster(tmp_path)) as nodes:
            (leader,) = [node for node in nodes if node.proposers[0].leads]
            part = incr(leader, b"key")
            index = leader.replicas[0].group.log[-1][1] + 1
            await part.wait()
            await until(lambda: all(node.replicas[0].group.applied >= index for node in nodes))
            command = leader.replicas[0].group.log[index - leader.replicas[0].group.log[0][1]][0]
            assert [name for name, each in decoded if each == command] == [border.__name__] * 2

    asyncio.run(scenario())


def test_only_the_very_command_that_was_decoded_is_not_decoded_again() -> None:
    machine = MagicMock(slow=[])
    machine.apply.return_value = []
    shard = Shard(0, (), ("a", "b", "c"))
    applying = Proposer(shard, "b", None, machine, send=MagicMock(), wake=MagicMock(), now=lambda: 0.0)
    first, second = (Entry(1, seed, [], [Ops([[b"INCR", b"key"]])]) for seed in (1, 2))
    command = encode_entry(first)
    foreseen = decode_entry(command)
    applying.foresee(5, command, foreseen)
    applying.foresee(6, command, foreseen)
    applying.apply(5, 1, command)
    assert machine.apply.call_args.args[2] is foreseen
    applying.apply(6, 1, encode_entry(second))  # another leader's
    assert machine.apply.call_args.args[2] == second
    assert not applying._foreseen
    for index in range(7, 8 + FORESEEN_MAX):
        applying.foresee(index, command, foreseen)
        assert len(applying._foreseen) <= FORESEEN_MAX
    applying.apply(7, 1, command)
    assert machine.apply.call_args.args[2] == first
