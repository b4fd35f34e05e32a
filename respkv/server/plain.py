"""Plain GET and SET in bursts: the few functions that the speed of pipelines hangs on.

They run for clients that nothing hinders, and only where the answer is at hand, the write can join its batch at once,
or it is known what a GET waits for; in every other case they do nothing, and the commands go the long way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from respkv.cluster.slots import slot_of
from respkv.intake import PIPELINE_MIN
from respkv.keyspace.values import KEY_BYTES_MAX
from respkv.raft.group import Clock
from respkv.resp.encoder import BULK_HEADERS, CRLF, NIL2, NIL3
from respkv.server.burst import Burst, PutBurst
from respkv.server.dispatch import has_open_writes
from respkv.server.session import Session
from respkv.storage.errors import Damaged

if TYPE_CHECKING:
    from respkv.server.server import Server
    from respkv.shard.proposer import Proposer

_HEADERS = len(BULK_HEADERS)
_GET, _SET = frozenset((b"GET", b"get")), frozenset((b"SET", b"set"))
ALIKE = _GET | _SET
_NILS = {2: NIL2, 3: NIL3}


class PlainCommands(asyncio.Protocol):
    """The base of `Connection` that runs them."""

    __slots__ = ()

    server: Server
    session: Session
    waiting: deque[Any]
    transport: asyncio.Transport | None

    def _write(self, data: bytes) -> None:
        raise NotImplementedError

    def _line_up(self, burst: PutBurst) -> None:
        raise NotImplementedError

    def _run_alike(self, commands: list[list[bytes]], size: int) -> bool:
        """Runs commands that are nothing but plain GETs, or nothing but plain SETs, column by column: without what
        others need, at a third of the cost. False: they are not, or cannot be run so now; then nothing was done."""
        try:
            names, keys, *values = zip(*commands, strict=True)
        except ValueError:  # of different lengths, or nothing but names
            return False
        if names.count(names[0]) != len(names):
            return False
        if not values:
            return names[0] in _GET and self._answer(keys)
        return len(values) == 1 and names[0] in _SET and self._put(keys, values[0], size)

    def _answer(self, keys: Sequence[bytes]) -> bool:
        """GET of each of `keys`, if all can be answered now."""
        if self.waiting or self.transport is None:
            return False
        server, session, now = self.server, self.session, Clock.now()
        slots = list(map(slot_of, keys))
        shards = bytes(map(server.shard_of_slot.__getitem__, slots))
        proposers = server.proposers
        concerned = set(shards)
        for shard in concerned:
            if proposers[shard].lease.lease_until <= now:
                return False
        nil, misses, replies = _NILS[session.protocol], 0, []
        try:
            for shard, slot, key in zip(shards, slots, keys, strict=True):
                value = proposers[shard].get_plain(slot, key)
                if value is None:
                    misses += 1
                    replies.append(nil)
                elif value is False or len(value) >= _HEADERS:
                    return False
                else:
                    replies.append(BULK_HEADERS[len(value)] + value + CRLF)
        except Damaged:
            return False
        for shard in concerned:
            proposers[shard].asked[session.cluster_view] += shards.count(shard)
        stats, watch = server.stats, server.watch
        stats.misses += misses
        stats.hits += len(replies) - misses
        session.last_at, session.last_words = now, (b"GET", keys[-1])
        self._write(replies[0] if len(replies) == 1 else b"".join(replies))
        if (took_s := Clock.now() - now) >= watch.notable_s:
            watch.plain_gets(self, keys, took_s)  # type: ignore[arg-type]
        return True

    def _reply(self, proposer: Proposer, slot: int, key: bytes) -> bytes | None:
        """The reply to GET of a plain and short value, or of none; None if it has to be found the long way. `proposer`
        serves reads."""
        try:
            value = proposer.get_plain(slot, key)
        except Damaged:  # dispatch leaves it to another replica
            return None
        if value is None:
            self.server.stats.misses += 1
            return _NILS[self.session.protocol]
        if value is False or len(value) >= _HEADERS:
            return None
        self.server.stats.hits += 1
        return BULK_HEADERS[len(value)] + value + CRLF

    def _get_in_turn(self, burst: Burst, args: list[bytes]) -> bool:
        """A GET among others: its reply takes the next place in the burst, at once or when what it has to wait for is
        there. False: it has to go the long way, and nothing was done."""
        now, key, server, replies = Clock.now(), args[1], self.server, burst.replies
        slot = slot_of(key)
        proposer: Proposer = server.proposer_of_slot[slot]
        if len(key) > KEY_BYTES_MAX or (self.session.cluster_view and not proposer.leads):
            return False
        reply = b""
        if has_open_writes(self, burst, proposer):  # type: ignore[arg-type]  # a Connection
            proposer.write(burst, len(replies), args)
            server.stats.later_gets += 1
        elif not proposer.serves_reads_at(now):
            proposer.read_later(burst, len(replies), args)
            server.stats.later_gets += 1
        elif (found := self._reply(proposer, slot, key)) is not None:
            reply = found
        else:
            return False
        proposer.asked[self.session.cluster_view] += 1
        replies.append(reply)
        watch = server.watch
        if (took_s := Clock.now() - now) >= watch.notable_s:
            watch.plain_gets(self, (key,), took_s)  # type: ignore[arg-type]
        return True

    def _put(self, keys: Sequence[bytes], values: Sequence[bytes], size: int) -> bool:
        """SET of each of `keys` to the value beside it, if nothing speaks against one of them."""
        server = self.server
        sampled_at = Clock.now() if server.watch.sample_puts else 0.0
        slots = list(map(slot_of, keys))
        shards = bytes(map(server.shard_of_slot.__getitem__, slots))
        cluster_view = self.session.cluster_view
        concerned = {shard: server.proposers[shard] for shard in set(shards)}
        proposers = concerned.values()
        if max(map(len, keys)) > KEY_BYTES_MAX:
            return False
        for proposer in proposers:
            if proposer.refusal is not None or (cluster_view and not proposer.leads):
                return False
        for shard, proposer in concerned.items():
            proposer.asked[cluster_view] += shards.count(shard)
        burst = PutBurst(self, size, shards)  # type: ignore[arg-type]
        for proposer in proposers:
            proposer.join(burst)
        if len(proposers) == 1:
            proposer.slots += slots
            proposer.keys += keys
            proposer.values += values
        else:
            of_shard = server.proposers
            for shard, slot, key, value in zip(shards, slots, keys, values, strict=True):
                proposer = of_shard[shard]
                proposer.slots.append(slot)
                proposer.keys.append(key)
                proposer.values.append(value)
        server.stats.plain_sets += len(slots)
        session = self.session
        session.last_at, session.last_words = Clock.now(), (b"SET", keys[-1])
        self._line_up(burst)
        if sampled_at:
            server.watch.plain_puts(Clock.now() - sampled_at, len(slots))
        if len(slots) >= PIPELINE_MIN and server.lending is not None:
            server.lending.pipelined(self)  # type: ignore[arg-type]
        return True
