"""What must hold at every moment (Ongaro's thesis, figure 3.2, and what respkv adds), checked as things happen.

- Election safety: one leader per term.
- Commitment: what is applied first anywhere is on the disks of a majority (maybe on those of nodes that are down).
- Log matching: an entry of one index and term is the same everywhere, and so is what comes before it.
- State machine safety: all replicas apply the same entries in the same order, each once, none left out.
- Leader completeness: a new leader holds everything that was applied anywhere before.
- Lease exclusivity: while a lease is valid (in true time) there is no other one, no leader of a later term, and no
  replica that has applied what the holder has not.
- A read reflects all that had been applied anywhere when it was asked.
- A log does not end before what was applied.
- What a leader takes a follower to have, that one has on its disk, as long as it knows of no later leader.
- A leader stays as long as all that happens is that one follower has trouble with its links (in such scenarios).
- A process that a promise of the disk was kept to never fails on its own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from respkv.checksum import crc32
from respkv.raft.long import PIECE

if TYPE_CHECKING:
    from respkv.raft.log import ShardLog
    from tests.sim.node import SimNode, SimReplica
    from tests.sim.world import World


SETTLED_S = 1.0


class Broken(AssertionError):
    """Something that must hold does not."""


def _has_on_disk(log: ShardLog, index: int, term: int) -> bool:
    return index <= log.base_index or (index <= log.durable and log.term_at(index) == term)


class Watch:
    """Remembers of each shard what can never change any more."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._leaders: dict[tuple[int, int], str] = {}
        self._entries: dict[tuple[int, int, int], tuple[int | None, int]] = {}
        self._applied: dict[int, dict[int, tuple[int, int, int]]] = defaultdict(dict)
        self.applied_max: dict[int, int] = defaultdict(int)
        self._led_since: dict[int, float] = {}
        self._matches: dict[tuple[int, str], tuple[int, list[int]]] = {}

    def added(self, shard_log: ShardLog, command: bytes, index: int, term: int) -> None:
        """An entry goes into a log."""
        entry = (shard_log.term_at(index - 1), crc32(command))
        known = self._entries.setdefault((shard_log.shard, index, term), entry)
        if known != entry and not (known[1] == entry[1] and None in (known[0], entry[0])):
            raise Broken(f"shard {shard_log.shard}: entry {index} of term {term} is {entry}, elsewhere {known}")

    def applied(self, replica: SimReplica, index: int, term: int, command: bytes, before: int) -> None:
        """A replica, whose state was that of `before`, applies an entry."""
        shard = replica.shard.id
        applied = self._applied[shard]
        entry = (term, crc32(command), replica.group.term)
        if index not in applied:
            self._check_committed(replica, index, term)
        known = applied.setdefault(index, entry)
        if known[:2] != entry[:2]:
            raise Broken(f"shard {shard}: {replica.node} applies {entry[:2]} at {index}, another one {known[:2]}")
        log = replica.group.log
        for skipped in range(max(before, 1) + 1, index):  # pieces have no effect of their own
            if log[skipped - log.base_index][0][0] != PIECE:
                raise Broken(f"shard {shard}: {replica.node} applies {index} behind {before}")
        if index <= before:
            raise Broken(f"shard {shard}: {replica.node} applies {index} behind {before}")
        self.applied_max[shard] = max(self.applied_max[shard], index)
        for holder in self._lease_holders(shard):
            if holder is not replica and index > holder.group.applied:
                raise Broken(
                    f"shard {shard}: {replica.node} applies {index}, {holder.node} has a lease and only"
                    f" {holder.group.applied}"
                )

    def _check_committed(self, replica: SimReplica, index: int, term: int) -> None:
        """A leader applies an entry before anybody else does."""
        others = self._world.replicas_of(replica.shard.id)
        lacking = [other.node for other in others if not _has_on_disk(other.group.log, index, term)]
        if 2 * (len(replica.shard.replicas) - len(lacking)) <= len(replica.shard.replicas):
            raise Broken(f"shard {replica.shard.id}: {replica.node} applies {index}, not on the disks of {lacking}")

    def role_changed(self, replica: SimReplica) -> None:
        group = replica.group
        if not group.leader:
            if self._world.scenario.leader_stays and self._world.now - self._led_since[replica.shard.id] > SETTLED_S:
                raise Broken(f"shard {replica.shard.id}: {replica.node} loses the lead for no reason")
            return
        self._led_since[replica.shard.id] = self._world.now
        shard, term, log = replica.shard.id, group.term, group.log
        if self._leaders.setdefault((shard, term), replica.node) != replica.node:
            raise Broken(f"shard {shard}: {self._leaders[shard, term]} and {replica.node} both lead term {term}")
        for index in range(max(log.base_index, replica.cask.applied) + 1, self.applied_max[shard] + 1):
            known = self._applied[shard].get(index)
            if known is not None and known[2] < term and log.term_at(index) != known[0]:
                raise Broken(f"shard {shard}: {replica.node}, leader of term {term}, lacks the applied entry {index}")

    def _lease_holders(self, shard: int) -> list[SimReplica]:
        replicas = self._world.replicas_of(shard)
        return [r for r in replicas if r.group.leader and r.group.lease_until > r.host.clock()]

    def stepped(self, node: SimNode) -> None:
        """Something has happened on a node."""
        for shard, own in node.replicas.items():
            if own.group.log.last_index < own.group.applied:
                raise Broken(f"shard {shard}: the log of {node.name} ends before what it has applied")
            if own.group.leader:
                self._check_matches(own)
            holders = self._lease_holders(shard)
            if len(holders) > 1:
                raise Broken(f"shard {shard}: {[r.node for r in holders]} hold a lease at the same time")
            if holders:
                term = holders[0].group.term
                for replica in self._world.replicas_of(shard):
                    if replica.group.leader and replica.group.term > term:
                        raise Broken(f"shard {shard}: {replica.node} leads while {holders[0].node} has a lease")

    def _check_matches(self, leader: SimReplica) -> None:
        group, shard = leader.group, leader.shard.id
        now = group.term, [group.matched(name) for name in group.nodes]
        if self._matches.get((shard, leader.node)) == now:
            return
        self._matches[shard, leader.node] = now
        for other in self._world.replicas_of(shard):
            if other is leader or other.group.term > group.term:
                continue
            index = group.matched(other.node)
            term = group.log.term_at(index)
            if term is not None and not _has_on_disk(other.group.log, index, term):
                raise Broken(f"shard {shard}: {leader.node} believes that {other.node} has {index} of term {term}")

    def read_served(self, shard: int, applied: int, seen: dict[int, int]) -> None:
        """A leader answers a read that was asked when `seen` had been applied somewhere."""
        if applied < seen.get(shard, 0):
            raise Broken(f"shard {shard}: a read is answered from {applied}, asked when {seen[shard]} was applied")

    def node_failed(self, node: SimNode, error: BaseException) -> None:
        if isinstance(error, Broken):
            raise error
        raise Broken(f"{node.name} fails: {type(error).__name__}: {error}") from error

    def settled(self) -> None:
        """All faults have ended long ago: every replica holds the same, and nothing is left open anywhere."""
        world = self._world
        for shard in world.topology.shards:
            digests = {replica.node: replica.digest() for replica in world.replicas_of(shard.id)}
            if len(set(digests.values())) != 1:
                raise Broken(f"shard {shard.id}: the replicas differ: {digests}")
        for node in world.nodes.values():
            for left in node.leftovers():
                raise Broken(f"{node.name}: something is left open: {left}")
