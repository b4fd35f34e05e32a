"""Which replicas hold a shard's log: what WAIT is answered from.

Only the leader knows how far its followers are, so a node asks the leaders of the shards that others lead:

| kind           | fields after (kind, shard)                                                        |
| -------------- | --------------------------------------------------------------------------------- |
| `HOLDERS_ASK`  | request, index (0: the newest entry that the leader has)                            |
| `HOLDERS_TELL` | request, index, followers that have it on their disks (as `appendfsync` says)       |
| `HOLDERS_HINT` | request, (leader, term) or None: the sender does not lead                           |

A question that is not answered in `ASK_S` counts as "none", and is asked again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from respkv.border import Count, Shape, require
from respkv.shard.border import Hint
from respkv.shard.proposer import Proposer

HOLDERS_ASK = 30
HOLDERS_TELL = 31
HOLDERS_HINT = 32

ASK_S = 0.5
POLL_S = 0.01

Answer = tuple[int, int]


class Ask(Shape):
    request: Count
    index: Count


class Tell(Shape):
    request: Count
    index: Count
    followers: Count


class Elsewhere(Shape):
    request: Count
    leader: Hint


SHAPES: Final[dict[int, type[Shape]]] = {HOLDERS_ASK: Ask, HOLDERS_TELL: Tell, HOLDERS_HINT: Elsewhere}


class Holders:
    """One node's questions and answers. `waiting` counts the clients that wait."""

    def __init__(self, node: str, proposers: Sequence[Proposer], send: Callable[[str, Any], bool]) -> None:
        self.waiting = 0
        self._node = node
        self._proposers = proposers
        self._send = send
        self._requests = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Answer | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs what waits for answers, and counts it."""
        self.waiting += 1
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.waiting -= 1

    def stop(self) -> None:
        """The node stops: who waits is answered at the next look."""
        self._stopping = True

    async def followers(self, shards: Sequence[int], wanted: int, given_up: Callable[[], bool]) -> int:
        """How many followers of each of `shards` hold all that is in its leader's log now.

        Returns as soon as `wanted` do everywhere, or with what there is when `given_up()`.
        """
        index = dict.fromkeys(shards, 0)
        held = dict.fromkeys(shards, 0)
        while True:
            open_shards = [shard for shard in shards if not index[shard] or held[shard] < wanted]
            answers = await asyncio.gather(*(self._ask(shard, index[shard]) for shard in open_shards))
            for shard, (known, count) in zip(open_shards, answers, strict=True):
                index[shard], held[shard] = known, count
            least = min(held.values(), default=0)
            if least >= wanted or self._stopping or given_up():
                return least
            await asyncio.sleep(POLL_S)

    async def _ask(self, shard: int, index: int) -> Answer:
        """(index, followers that have it); (`index`, 0) if no leader can be asked."""
        proposer = self._proposers[shard]
        leader = proposer.leader()
        if leader is None:
            return index, 0
        if leader[0] == self._node:
            return self._count(shard, index) or (index, 0)
        request = next(self._requests)
        if not self._send(leader[0], (HOLDERS_ASK, shard, request, index)):
            proposer.no_leader_at(leader[0])
            return index, 0
        answer = self._asked[request] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(answer, ASK_S) or (index, 0)
        except TimeoutError:
            proposer.no_leader_at(leader[0])
            return index, 0
        finally:
            del self._asked[request]

    def _count(self, shard: int, index: int) -> Answer | None:
        """What the leader knows; None if this node does not lead the shard."""
        group = self._proposers[shard].group
        if group is None or not group.readable:
            return None
        last = group.log.last_index
        index = min(index or last, last)
        return index, sum(last - lag >= index for lag in group.lag().values())

    def receive(self, peer: str, message: Any) -> None:
        """A question or an answer of node `peer`. Raises BadMessage: the link is to be broken."""
        require(message, SHAPES)
        kind, shard, request, *rest = message
        proposer = self._proposers[shard]
        if kind == HOLDERS_ASK:
            answer = self._count(shard, *rest)
            hint = (HOLDERS_HINT, shard, request, proposer.leader())
            self._send(peer, hint if answer is None else (HOLDERS_TELL, shard, request, *answer))
            return
        asked = self._asked.get(request)
        if asked is None or asked.done():
            return
        if kind == HOLDERS_HINT:
            proposer.refused(peer, *rest)
            asked.set_result(None)
        else:
            index, followers = rest
            asked.set_result((index, followers))
