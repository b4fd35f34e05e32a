"""`maxmemory`: what keys take in memory is kept below it, by refusing writes or by evicting keys.

What counts is the memory of the keys of all replicas on this node: the key itself, its place and its expiry
(`respkv.keyspace.victims.keys_bytes`). Values lie on the disk and count nowhere; the read cache, the log kept for
followers and clients' buffers have limits of their own. The figure is looked at ten times a second, so it may be passed
by what is written in that time.

Above the limit, with `noeviction`, or if a policy finds nothing in the shards led here, commands that may need more
memory (those with the flag `denyoom`) are answered `-OOM`; reads and removals go on. Otherwise each leader chooses
victims in its own shards, for its share of the excess and of what may come until the next look, and proposes their
removal, which all replicas apply alike. A leader tells the other nodes that its shard is full, so that they refuse
before they forward:

| kind         | fields after (kind, shard)                          |
| ------------ | --------------------------------------------------- |
| `SHARD_FULL` | whether it is; told again every `TELL_S` while so   |
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from respkv import errors
from respkv.border import Shape, require
from respkv.config import Config
from respkv.keyspace.usage import NEVER, Frequency, Recency, Usage
from respkv.keyspace.victims import KEY_BYTES, enough, keys_bytes, victims
from respkv.raft.group import Clock
from respkv.shard.machine import EVICT_OP, wall_ms
from respkv.shard.proposer import Proposer
from respkv.shard.replica import Replica
from respkv.shard.waiting import Part

SHARD_FULL: Final = 60
TELL_S: Final = 1.0
VICTIMS_MAX: Final = 5000  # in one entry

NOTHING: Final = "noeviction"


class ShardFull(Shape):
    full: bool


SHAPES: Final[dict[int, type[Shape]]] = {SHARD_FULL: ShardFull}


class Evictor:
    """One node's. `evicted` counts keys whose removal this node has proposed; `exceeded_s` tells for how long keys took
    more than the limit, all in all and now."""

    def __init__(
        self,
        node: str,
        proposers: Sequence[Proposer],
        replicas: Sequence[Replica],
        broadcast: Callable[[Any], None],
        note: Callable[[str, float], None],
    ) -> None:
        self.evicted = 0
        self._node = node
        self._proposers = proposers
        self._replicas = replicas
        self._broadcast = broadcast
        self._note = note
        self._rng = random.Random()
        self._limit, self._policy, self._samples = 0, NOTHING, 5
        self._usage: type[Recency | Frequency] | None = None
        self._log_factor, self._decay_minutes = 10, 1
        self._evicting: set[int] = set()  # shards with a removal under way
        self._full = False
        self._used_before: int | None = None  # at the last look; growth is expected to go on
        self._told_full: dict[int, float] = {}  # shard to when its leader last said so
        self._tell_at = 0.0
        self._over_since: float | None = None
        self._was_over_s = 0.0

    def configure(self, config: Config) -> None:
        self._limit, self._policy, self._samples = (
            config.maxmemory_bytes, config.maxmemory_policy, config.maxmemory_samples
        )  # fmt: skip
        self._log_factor, self._decay_minutes = config.lfu_log_factor, config.lfu_decay_minutes or NEVER
        self._used_before = None
        how = self._policy.rpartition("-")[2]
        # Frequencies are there for OBJECT FREQ, too, whatever the limit; idle times are known without a note.
        self._usage = Frequency if how == "lfu" else Recency if how == "lru" and self._limit else None
        self.look()

    def key_bytes(self) -> int:
        return sum(keys_bytes(replica.machine.db, self._rng) for replica in self._replicas)

    def look(self) -> None:
        """To be called ten times a second, and when a limit was changed."""
        self._watch_usage()
        full = over = False
        if self._limit:
            by_shard = {replica.shard.id: keys_bytes(replica.machine.db, self._rng) for replica in self._replicas}
            used = sum(by_shard.values())
            growth = 0 if self._used_before is None else max(0, used - self._used_before)
            self._used_before = used
            over = used > self._limit
            full = over and not self._make_room(by_shard, used - self._limit + growth)
        self._note_over(over)
        self._set_full(full)
        self._forget_told()

    def _note_over(self, over: bool) -> None:
        if over and self._over_since is None:
            self._over_since = Clock.now()
        elif not over:
            self._was_over_s, self._over_since = self.exceeded_s[0], None

    @property
    def exceeded_s(self) -> tuple[float, float]:
        current_s = 0.0 if self._over_since is None else Clock.now() - self._over_since
        return self._was_over_s + current_s, current_s

    def reset_stats(self) -> None:
        self.evicted, self._was_over_s, self._over_since = 0, 0.0, None

    def _watch_usage(self) -> None:
        """Has reads noted if the policy needs that; a replica that began anew has a new machine."""
        for replica in self._replicas:
            machine, proposer = replica.machine, replica.proposer
            if self._usage is None:
                if machine.db.usage is not None:
                    machine.db.usage = None
                    proposer.use(machine)
            elif type(machine.db.usage) is not self._usage or proposer.get_plain == machine.get_plain:
                if type(machine.db.usage) is not self._usage:
                    machine.db.usage = self._usage()
                usage: Usage = machine.db.usage
                proposer.read_by(usage.watching(machine.get_plain))
            if machine.db.usage is not None:
                machine.db.usage.now_ms = wall_ms()
            if isinstance(machine.db.usage, Frequency):
                machine.db.usage.log_factor, machine.db.usage.decay_minutes = self._log_factor, self._decay_minutes

    # -- evicting

    def _make_room(self, by_shard: dict[int, int], excess: int) -> bool:
        """Starts what is to be done; False if nothing can be."""
        if self._policy == NOTHING:
            return False
        began_at = time.perf_counter()
        led = [replica for replica in self._replicas if replica.group.readable and replica.group.leader]
        total = sum(by_shard.values())
        found = not led
        for replica in led:
            shard = replica.shard.id
            found = self._evict(replica, by_shard[shard], excess * by_shard[shard] // total + 1) or found
        self._note("eviction-cycle", time.perf_counter() - began_at)
        return found

    def _evict(self, replica: Replica, held_bytes: int, excess: int) -> bool:
        """Proposes the removal of keys that take about `excess` bytes; False if there is none."""
        shard, db = replica.shard.id, replica.machine.db
        if shard in self._evicting or replica.proposer.group is None:
            return True
        each = max(KEY_BYTES, held_bytes // max(1, len(db.cask)))
        keys = victims(db, self._policy, min(VICTIMS_MAX, -(-excess // each)), self._samples, self._rng)
        keys = enough(db, keys, excess)
        if keys:
            self._evicting.add(shard)
            replica.proposer.write(_Eviction(self, shard), 0, [EVICT_OP, *keys])
        return bool(keys)

    def evicted_from(self, shard: int, count: int) -> None:
        """A removal has its outcome. If that was not enough, the next look goes on: others may evict, too."""
        self.evicted += count
        self._evicting.discard(shard)

    # -- refusing

    def _set_full(self, full: bool) -> None:
        now = Clock.now()
        led = [replica.shard.id for replica in self._replicas if replica.group.leader]
        if full != self._full or (full and now >= self._tell_at):
            self._tell_at = now + TELL_S
            for shard in led:
                self._broadcast((SHARD_FULL, shard, full))
        self._full = full
        own = {replica.shard.id for replica in self._replicas} if full else set()
        for proposer in self._proposers:
            refuse = proposer.shard in own or proposer.shard in self._told_full
            if refuse and proposer.refusal is None:
                proposer.refusal = errors.oom()
            elif not refuse and errors.is_oom(proposer.refusal):
                proposer.refusal = None

    def _forget_told(self) -> None:
        """A leader that says no more that its shard is full is gone, or its shard is not."""
        oldest = Clock.now() - 3 * TELL_S
        self._told_full = {shard: at for shard, at in self._told_full.items() if at >= oldest}

    def receive(self, peer: str, message: Any) -> None:
        """What the leader of a shard says. Raises BadMessage: the link is to be broken."""
        require(message, SHAPES)
        _, shard, full = message
        if full:
            self._told_full[shard] = Clock.now()
        else:
            self._told_full.pop(shard, None)
        self._set_full(self._full)


class _Eviction(Part):
    """Waits for the removal of keys."""

    __slots__ = ("_count", "_evictor", "_shard")

    def __init__(self, evictor: Evictor, shard: int) -> None:
        super().__init__()
        self._evictor = evictor
        self._shard = shard
        self._count = 0

    def put(self, token: int, value: Any) -> None:
        if isinstance(value, int):
            self._count = value

    def fail(self, ok: bytes, error: Exception) -> None:
        """Then others are chosen."""

    def done(self) -> None:
        self._evictor.evicted_from(self._shard, self._count)
