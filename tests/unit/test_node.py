"""What a node takes of the machine before it serves."""

from __future__ import annotations

import asyncio
import math
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock

import pytest

from respkv.disk import Disk
from respkv.node import Node

LIMITS = """
import resource, sys
from respkv import node
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
node._allow_descriptors(wanted)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "wanted", "warned"), [(100, 150, False), (100, 5000, True), (300, 300, False)])
def test_as_many_files_are_allowed_as_can_be_because_data_files_need_them_too(
    soft: int, wanted: int, warned: bool
) -> None:
    hard = min(300, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    command = [sys.executable, "-c", LIMITS, str(soft), str(hard), str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(hard)
    assert ("few_file_descriptors" in done.stdout + done.stderr) == warned


def test_a_node_that_waits_for_its_end_gives_away_what_comes_back_to_it() -> None:
    stopping: Any = MagicMock()
    conditions = [True, True, False]
    asyncio.run(Node._wait_while(stopping, lambda: conditions.pop(0), math.inf))
    assert stopping._step_aside.call_count == 3


def test_a_node_hands_over_then_answers_its_clients_then_the_other_nodes() -> None:
    story: list[Any] = []
    stopping: Any = MagicMock()
    stopping._wait_while = AsyncMock(side_effect=lambda condition, _end: story.append(condition))
    stopping.peers.leave = AsyncMock(side_effect=lambda: story.append("leave"))
    stopping.peers.stop = AsyncMock()
    client = MagicMock()
    client.close_when_answered.side_effect = lambda: story.append("close")
    stopping.server.clients = {1: client}
    asyncio.run(Node._shut_down(stopping))
    assert story == [stopping._is_wanted, "close", stopping._busy, "leave", stopping._owes]


@pytest.mark.parametrize(
    ("leads", "owes", "waits", "busy"),
    [(0, 0, 0, False), (1, 0, 0, True), (0, 1, 0, True), (0, 0, 1, True)],
)
def test_a_node_stops_when_nobody_waits_for_it(leads: int, owes: int, waits: int, busy: bool) -> None:
    group = SimpleNamespace(leader=bool(leads), transferring="n2")
    replica = SimpleNamespace(group=group, proposer=SimpleNamespace(owes=bool(owes)))
    client = SimpleNamespace(waiting=[object()] * waits)
    node = Node.__new__(Node)
    node.replicas, node.server = cast("Any", ({0: replica}, SimpleNamespace(clients={1: client})))
    assert node._busy() is busy


def test_a_disk_that_does_not_tell_its_room_for_a_moment_ends_nothing_and_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proposer = SimpleNamespace(refusal="as it was")
    replicas = {0: SimpleNamespace(proposer=proposer)}
    node = Node.__new__(Node)
    node.config, node.replicas = cast("Any", (SimpleNamespace(dir=tmp_path / "moved"), replicas))
    node._disk, node._knows_room = Disk(), True
    for _ in range(3):
        node._watch_disk()
    assert proposer.refusal == "as it was"
    assert capsys.readouterr().out.count("disk_usage_unknown") == 1


@pytest.mark.parametrize("fails", [False, True])
def test_what_must_not_end_ends_the_node(fails: bool) -> None:
    """A tick that is not there any more would not be missed at once, but everything that waits for a deadline would."""

    async def work() -> None:
        await asyncio.sleep(0)
        if fails:
            raise OSError("no")

    async def scenario() -> None:
        node: Any = SimpleNamespace(_loop=asyncio.get_running_loop(), _tasks=[], fatal=failures.append)
        Node._keep_running(node, work())
        await asyncio.wait(node._tasks)
        await asyncio.sleep(0)
        if not fails:
            Node._keep_running(node, asyncio.sleep(60))
            node._tasks[-1].cancel()
            await asyncio.wait(node._tasks)

    failures: list[BaseException] = []
    asyncio.run(scenario())
    assert [str(error) for error in failures] == ["no"] * fails


def test_a_peer_that_cannot_be_told_to_all_ends_the_node() -> None:
    failures: list[BaseException] = []
    node: Any = SimpleNamespace(fatal=failures.append)
    told: dict[str, str] = {"n1": ""}
    for peer in ("n1", "n2"):
        Node._or_fatal(node, told.__delitem__, peer)
    assert [type(error) for error in failures] == [KeyError]
