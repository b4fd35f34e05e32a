"""How many commands clients ask of each shard: counted whichever way they run, for `respkv.shard.placement`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import hiredis
import pytest
import uvloop

from respkv.config.load import load
from respkv.intake import Frame
from respkv.node import Node
from respkv.server.lending import Lending
from tests.cluster import free_ports

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
KEYS = [f"key:{number}" for number in range(64)]
SETS = [f"SET {key} value" for key in KEYS]
GETS = [f"GET {key}" for key in KEYS]


async def ask(client: Client, commands: list[str]) -> None:
    """Sends them at once, and takes all their replies."""
    reader, writer = client
    writer.write(b"".join(hiredis.pack_command(tuple(command.encode().split())) for command in commands))
    parser, left = hiredis.Reader(), len(commands)
    while left:
        parser.feed(await reader.read(1 << 16))
        while (reply := parser.gets()) is not False:
            assert not isinstance(reply, hiredis.ReplyError), reply
            left -= 1


async def _lead(node: Node) -> None:
    while not all(proposer.serves_reads for proposer in node.proposers):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


class Asking:
    """A node that runs here, with three shards, and clients of it."""

    def __init__(self, directory: Path, **options: str) -> None:
        self._port = free_ports(1)
        self._settings = {
            "dir": str(directory), "port": str(self._port), "cluster-shards": "3",
            "cluster-follow-clients": "no",  # so that nobody takes the counts away
            **options,
        }  # fmt: skip

    def __call__(self, act: Callable[[Client], Coroutine[Any, Any, None]], *, cluster_view: bool = False) -> list[int]:
        """What each shard was asked while a client has done `act`."""
        return uvloop.run(self._run(act, cluster_view))

    async def _run(self, act: Callable[[Client], Coroutine[Any, Any, None]], cluster_view: bool) -> list[int]:
        node = Node(load(None, {}, self._settings))
        await node.start()
        try:
            client = await asyncio.open_connection("127.0.0.1", self._port + 1000 * cluster_view)
            await asyncio.wait_for(_lead(node), 30)
            await act(client)
            client[1].close()
            assert all(proposer.asked[not cluster_view] == 0 for proposer in node.proposers)
            return [proposer.asked[cluster_view] for proposer in node.proposers]
        finally:
            node.stop()
            await node.run_until_stopped()


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    return Asking(tmp_path, intake="no")


WAYS: list[Any] = [
    pytest.param([[command] for command in SETS], 64, id="SETs one by one"),
    pytest.param([SETS], 64, id="a pipeline of SETs"),
    pytest.param([[command] for command in GETS], 64, id="GETs one by one"),
    pytest.param([GETS], 64, id="a pipeline of GETs"),
    pytest.param([[command for two in zip(SETS, GETS, strict=True) for command in two]], 128, id="GETs behind SETs"),
    pytest.param([["INCR a", "STRLEN b", "PING", "INCR a", "APPEND b b"]], 4, id="other commands"),
    pytest.param([["MULTI", "INCR a", "STRLEN a", "INCR a", "EXEC"]], 1, id="a transaction"),
]


@pytest.mark.parametrize("cluster_view", [False, True])
@pytest.mark.parametrize(("bursts", "count"), WAYS)
def test_each_way_of_running_commands_counts_them(
    asking: Asking, bursts: list[list[str]], count: int, cluster_view: bool
) -> None:
    async def act(client: Client) -> None:
        for burst in bursts:
            await ask(client, burst)

    asked = asking(act, cluster_view=cluster_view)
    assert sum(asked) == count
    assert count < 64 or all(asked), "each for its shard"


def test_a_command_over_several_shards_counts_once_for_each(asking: Asking) -> None:
    async def act(client: Client) -> None:
        await ask(client, ["MGET " + " ".join(KEYS), "MSET " + " 1 ".join(KEYS) + " 1"])

    assert asking(act) == [2, 2, 2]


@pytest.mark.parametrize("cluster_view", [False, True])
def test_what_the_intake_has_read_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster_view: bool
) -> None:
    sent = taken = 0
    take_puts = Lending._take_puts

    def count(lending: Lending, frame: Frame) -> None:
        nonlocal taken
        taken += 1
        take_puts(lending, frame)

    async def act(client: Client) -> None:
        nonlocal sent
        while taken < 3:
            await ask(client, SETS)
            sent += len(SETS)

    monkeypatch.setattr(Lending, "_take_puts", count)
    assert sum(Asking(tmp_path, intake="yes")(act, cluster_view=cluster_view)) == sent
