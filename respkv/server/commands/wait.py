"""WAIT: how many replicas, beside the leaders, hold what this connection has written.

An acknowledged write is on a majority of its shard's replicas already, so on three replicas `WAIT 1` answers at once;
`WAIT 2` waits for the last one. Which shards a connection has written to is not kept: the answer is the least of all
shards (in the cluster view: of those that this node leads), and counts what others have written meanwhile. So it is
never too high. A replica holds a write when its journal has it as durably as `appendfsync` asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from respkv import errors
from respkv.commands.args import integer, integer_else
from respkv.commands.table import command
from respkv.raft.group import Clock
from respkv.reply import Reply, RespError
from respkv.server.dispatch import LATER, Call, Later, has_open_writes
from respkv.shard.proposer import Proposer
from respkv.shard.waiting import Part

_FOREVER = float("inf")


class _Barrier(Part):
    """Stands behind the writes that have no outcome yet; `passed` is done when all of them have."""

    __slots__ = ("passed",)

    def __init__(self, proposers: list[Proposer]) -> None:
        super().__init__()
        self.passed = asyncio.get_running_loop().create_future()
        for token, proposer in enumerate(proposers):
            proposer.write(self, token, [b"DBSIZE"])

    def put(self, token: int, value: Reply) -> None:
        """Whatever it is: only its place counts."""

    def fail(self, ok: bytes, error: RespError) -> None:
        """Then the writes before it have failed, too."""

    def done(self) -> None:
        if not self.passed.done():
            self.passed.set_result(None)


@command("WAIT", kind="server", arity=3, flags="noscript", group="generic", group_category=False, since="3.0.0",
         categories="connection", tips="request_policy:all_shards response_policy:agg_min",
         summary="Wait for the synchronous replication of all the write commands sent in the context of the current "
                 "connection", syntax="numreplicas:integer timeout:integer")
def wait(call: Call) -> Later:
    wanted = integer(call.args[1])
    timeout_ms = integer_else(call.args[2], "timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise errors.generic("timeout is negative")
    proposers = [each for each in call.server.proposers if each.leads or not call.session.cluster_view]
    behind = [each for each in proposers if has_open_writes(call.connection, call.burst, each)]
    barrier = _Barrier(behind) if behind else None
    deadline = Clock.now() + timeout_ms / 1000 if timeout_ms else _FOREVER
    if call.in_transaction:
        deadline = Clock.now()
    shards = [proposer.shard for proposer in proposers]
    waiting = _Waiting(call, deadline)
    call.server.holders.start(_wait(waiting, barrier, shards, wanted, call.later()))
    return LATER


class _Waiting:
    """One client that waits. CLIENT UNBLOCK ends it."""

    __slots__ = ("_call", "_unblocked", "deadline", "error")

    def __init__(self, call: Call, deadline: float) -> None:
        self.deadline = deadline
        self.error = False
        self._call = call
        self._unblocked = asyncio.Event()
        call.session.blocked.append(self._unblock)

    def _unblock(self, error: bool) -> None:
        self.error = error
        self._unblocked.set()
        self.end()

    async def unblocked(self) -> None:
        await self._unblocked.wait()

    def given_up(self) -> bool:
        """Whether the time is over, the client gone, or told to go on."""
        gone = self._call.session.id not in self._call.server.clients or self._call.connection.half_closed
        return gone or self._unblocked.is_set() or Clock.now() >= self.deadline

    def end(self) -> None:
        if self._unblock in self._call.session.blocked:
            self._call.session.blocked.remove(self._unblock)

    async def followers(self, shards: list[int], wanted: int) -> int:
        return await self._call.server.holders.followers(shards, wanted, self.given_up)


async def _wait(
    waiting: _Waiting, barrier: _Barrier | None, shards: list[int], wanted: int, answer: Callable[[Reply], None]
) -> None:
    if barrier is not None:
        left_s = None if waiting.deadline == _FOREVER else max(0.0, waiting.deadline - Clock.now())
        unblocked = asyncio.ensure_future(waiting.unblocked())
        await asyncio.wait([barrier.passed, unblocked], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        unblocked.cancel()
    count = await waiting.followers(shards, wanted)
    waiting.end()
    answer(errors.unblocked() if waiting.error else count)
