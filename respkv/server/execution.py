"""EXEC: asks the shards, runs what is to be run here, puts the replies in order."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any

from respkv.cluster.slots import slot_of
from respkv.reply import Reply, RespError
from respkv.resp.encoder import encode
from respkv.server.attention import marked
from respkv.server.dispatch import Call, Later, attempt, has_open_writes
from respkv.server.plan import Plan
from respkv.server.steps import Steps
from respkv.shard.transaction import exec_args

if TYPE_CHECKING:
    from respkv.server.burst import Burst


class Execution(Steps):
    """One EXEC. A transaction of reads and nothing else needs no entry in the log.

    Replies of shards come with the token `~shard`, those of commands about the server with their position. `replies`
    takes, as that of a burst does, what such a command has encoded itself.
    """

    __slots__ = ("_plan", "_protocols", "_replies", "_results", "replies")

    def __init__(self, call: Call, burst: Burst, plan: Plan, size: int) -> None:
        super().__init__(call, burst, size)
        self.holding = bool(plan.here or plan.others)
        self._plan = plan
        self._replies: list[Reply] = [None] * len(plan.commands)
        self._results: dict[int, Any] = {}
        self._protocols: dict[int, int] = {}
        self.replies: dict[int, bytes] = {}

    def put(self, token: int, value: Reply) -> None:
        if token < 0:
            self._results[~token] = value
        else:
            self._replies[token] = value

    def run(self) -> Generator[None, None, Reply]:
        plan = self._plan
        self._ask(plan.first)
        if self.pending:
            yield
        for shard in plan.first:
            if type(self._results[shard]) is not list:
                reply: Reply = self._results[shard]
                return reply
        if others := plan.others:
            self._ask(others)
            if self.pending:
                yield
        self._collect()
        for position in plan.here:
            if self._run_here(position):
                yield
        tracker = self.call.session.tracker
        if plan.here and tracker is not None:  # else the client's next commands may be run already
            tracker.caching = False
        return self._replies

    def _ask(self, shards: Iterable[int]) -> None:
        call, burst = self.call, self._burst
        self.pending += 1  # not done before all are asked
        for shard in shards:
            errand, proposer = self._plan.errands[shard], call.server.proposers[shard]
            args = exec_args(errand.watched, errand.commands)
            proposer.asked[call.session.cluster_view] += 1
            if errand.watched:
                proposer.write_guarded(self, ~shard, args)
            elif errand.is_write or has_open_writes(call.connection, burst, proposer):
                proposer.write(self, ~shard, marked(call.connection, args))
            else:
                began_at = perf_counter()
                proposer.read(self, ~shard, args)
                if shard in self._results or not proposer.leads:  # else the log answers, and it is measured there
                    call.server.watch.read_transaction(call.connection, perf_counter() - began_at)
        self.pending -= 1

    def _collect(self) -> None:
        """The replies of commands that shards have run."""
        plan, replies = self._plan, self._replies
        for position, shard, place in plan.places:
            replies[position] = self._results[shard][place]
        for position, parts, places in plan.spread:
            spec, args = plan.commands[position]
            assert spec.spread is not None
            found = [self._result(shard, place) for (shard, _), place in zip(parts, places, strict=True)]
            replies[position] = spec.spread.merge(args, parts, found, slot_of)
        for position, error in plan.refused:
            replies[position] = error
        watch = self.call.server.watch
        for position, *_ in chain(plan.places, plan.spread):
            spec, args = plan.commands[position]
            watch.stats.by_command[spec].calls += 1
            reply = replies[position]
            if isinstance(reply, RespError):
                watch.failed(args, reply)

    def _result(self, shard: int, place: int) -> Reply:
        result: Any = self._results[shard]
        if isinstance(result, RespError):
            return result
        reply: Reply = result[place]
        return reply

    def _run_here(self, position: int) -> bool:
        """Runs a command about the server; whether its reply is still to come."""
        spec, args = self._plan.commands[position]
        connection = self.call.connection
        self.pending += 1
        reply = attempt(Call(connection, self, position, args, in_transaction=True), spec)
        if not isinstance(reply, Later):
            self._replies[position] = reply
        self._protocols[position] = connection.session.protocol
        self.pending -= 1
        return self.pending > 0

    def wire(self, reply: Reply) -> bytes:
        """Each element in the protocol that was spoken when its command was run: HELLO may be one of them."""
        if reply is not self._replies or not self._protocols:
            return super().wire(reply)
        protocol, parts = self._burst.protocol, [b"*%d\r\n" % len(self._replies)]
        for position, element in enumerate(self._replies):
            protocol = self._protocols.get(position, protocol)
            parts.append(self.replies[position] if position in self.replies else encode(element, protocol))
        return b"".join(parts)
