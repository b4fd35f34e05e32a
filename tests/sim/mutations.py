"""Mistakes planted on purpose, one for each hardening: the simulation is worth what it finds of them.

Each `Mutation` takes one rule of `respkv` away by replacing a function, and names a scenario in which breaking it can
matter. `find` runs seeds until one fails. `python -m tests.sim mutations` searches from seed 0; the test starts where
a seed is known to find it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from respkv.raft import group as group_module
from respkv.raft import lease as lease_module
from respkv.raft import segment
from respkv.raft.clock import Clock
from respkv.raft.core import Core
from respkv.raft.elections import Elections
from respkv.raft.group import Group
from respkv.raft.journal import Journal
from respkv.raft.lease import Lease
from respkv.raft.log import ShardLog
from respkv.raft.messages import ACK
from respkv.raft.receiving import Receiving
from respkv.raft.sending import Sending
from respkv.server import dispatch, plain
from respkv.server.answers import Answers
from respkv.shard import border
from respkv.shard import replica as replica_module
from respkv.shard.machine import Machine
from respkv.shard.proposer import Proposer
from respkv.shard.reads import Reads
from respkv.shard.transaction import exec_args, transaction_of
from respkv.shard.upkeep import Upkeep
from respkv.shard.waiting import Read
from respkv.shard.watches import Watches
from respkv.storage.bitcask import Bitcask
from respkv.storage.recovery import Recovery
from tests.sim.scenario import FAULTS, LONG_VALUES, Scenario
from tests.sim.simulation import Result, run

SEEDS_MAX = 500
Plant = Callable[[Callable[[Any, str, Any], None]], None]


@dataclass(frozen=True)
class Mutation:
    """`plant(replace)` makes the mistake with `replace(place, name, value)`; `bias` is for `scenario.choose`."""

    about: str
    plant: Plant
    bias: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def planted(self) -> Iterator[None]:
        undo: list[tuple[Any, str, Any]] = []

        def replace(place: Any, name: str, value: Any) -> None:
            if isinstance(place, dict):
                undo.append((place, name, place[name]))
                place[name] = value
            else:
                undo.append((place, name, place.__dict__.get(name)))
                setattr(place, name, value)

        try:
            self.plant(replace)
            yield
        finally:
            for place, name, value in reversed(undo):
                if isinstance(place, dict):
                    place[name] = value
                elif value is None:
                    delattr(place, name)
                else:
                    setattr(place, name, value)


MUTATIONS: dict[str, Mutation] = {}

# The first seed that found each, so that a test need not begin from 0.
FOUND_BY: dict[str, int] = {
    "acks_of_any_term": 0,
    "ack_before_sync": 0,
    "own_vote_before_sync": 1,
    "state_not_synced": 3,
    "truncates_a_matching_tail": 1,
    "commit_by_unverified_append": 0,
    "acks_of_unverified_entries": 2,
    "refusals_of_any_time": 0,
    "no_prevote": 1,
    "no_stickiness": 45,
    "votes_count_twice": 0,
    "lease_too_long": 2,
    "lease_without_margin": 12,
    "lease_from_receive_time": 0,
    "lease_kept_in_transfer": 11,
    "reads_before_first_entry": 4,
    "reads_before_puts_are_applied": 1,
    "reads_without_majority": 12,
    "log_not_reset": 0,
    "own_writes_unseen": 1,
    "known_without_lease": 1,
    "known_for_ever": 1,
    "reads_left_behind": 2,
    "proposes_twice": 2,
    "forwards_of_any_term": 2,
    "expiry_by_one_clock": 6,
    "own_clock": 0,
    "index_behind_data": 1,
    "trimmed_too_far": 22,
    "torn_tail_accepted": 5,
    "judges_what_will_be_refused": 3,
    "sync_error_ignored": 1,
    "tail_not_written_again": 65,
    "watched_keys_ignored": 0,
}


def mutation(about: str, **bias: Any) -> Callable[[Plant], Plant]:
    def note(plant: Plant) -> Plant:
        MUTATIONS[plant.__name__] = Mutation(about, plant, bias)
        return plant

    return note


_FAULT_OF = {"half_deaf_leader": "half-deaf leader", "one_way_cut": "one-way cut"}


def _only(**weights: float) -> dict[str, float]:
    """Nothing but these faults."""
    named = {_FAULT_OF.get(name, name.replace("_", " ")): weight for name, weight in weights.items()}
    return dict.fromkeys(FAULTS, 0.0) | named


# Shapes of the world in which rules matter more than usual.
_SMALL: dict[str, Any] = {"nodes": 3, "replicas": 3, "shards": 1}
_LOSSY: dict[str, Any] = {"drop": 0.1, "duplicate": 0.1, "reorder": 0.2}
_SLOW_DISK: dict[str, Any] = {"sync_s": (0.01, 0.3)}
_POWER: dict[str, Any] = {
    **_SMALL, "steps": 30,
    "faults": _only(power=5.0, power_everywhere=2.0, silent_cut=3.0, lonely_leader=2.0, kill=1.0, start=8.0, heal=4.0),
}  # fmt: skip
_CONTESTS: dict[str, Any] = {
    "nodes": 5, "replicas": 5, "shards": 1, "clients": 1, "think_s": 1.0, "steps": 40, "step_s": 2.0,
    "sync_s": Scenario.sync_s, "latency_s": (0.05, 0.2), "duplicate": 0.7, "drop": 0.0, "reorder": 0.0,
    "faults": _only(lonely_leader=10.0, heal=8.0),
}  # fmt: skip
_DEAF: dict[str, Any] = {
    **_SMALL, "clients": 1, "think_s": 1.0, "steps": 30, "step_s": 2.0, "drop": 0.0, "reorder": 0.0,
    "faults": _only(deaf_follower=8.0, heal=8.0),
}  # fmt: skip
_HALF_DEAF: dict[str, Any] = {
    **_SMALL, "clients": 1, "think_s": 1.0, "keys": 1, "kinds": ("string",), "steps": 30, "step_s": 2.0,
    "reorder": 0.5, "late_s": 1.5, "drop": 0.0, "duplicate": 0.0, "latency_s": Scenario.latency_s,
    "faults": _only(half_deaf_leader=12.0, heal=10.0),
}  # fmt: skip
_PROMPT: dict[str, Any] = {
    **_HALF_DEAF, "reorder": 0.0, "latency_s": (0.0001, 0.0005), "sync_s": (0.0001, 0.0005), "return_after_s": 0.5,
}  # fmt: skip
_LONELY: dict[str, Any] = {
    **_SMALL, "clients": 6, "think_s": 0.01, "steps": 30, "step_s": 1.5, "keys": 1, "kinds": ("string", "counter"),
    "faults": _only(lonely_leader=20.0, heal=14.0, nothing=1.0),
}  # fmt: skip
_PAUSES: dict[str, Any] = {**_SMALL, "steps": 30, "step_s": 1.5, "faults": _only(pause=10.0, nothing=1.0)}
_FORGETFUL: dict[str, Any] = {
    **_SMALL, "clients": 1, "think_s": 0.1, "sync_s": (0.3, 1.5), "steps": 40, "step_s": 1.5, "drop": 0.0,
    "faults": _only(power_everywhere=5.0, start=12.0, nothing=1.0),
}  # fmt: skip
_UNEVEN_DISKS: dict[str, Any] = {
    **_SMALL, "steps": 40, "step_s": 0.6, "read_mode": "lease", "sync_s": Scenario.sync_s,
    "faults": _only(slow_disk=5.0, power=4.0, power_everywhere=4.0, start=9.0, silent_cut=1.0, heal=2.0),
}  # fmt: skip
_LEFT_BEHIND: dict[str, Any] = {
    **_LONELY, "clients": 8, "burst_max": 4, "step_s": 4.0, "steps": 16, "value_bytes": (1, 100, 1500),
    "journal_keep_bytes": 0, "journal_segment_bytes": 4096, "return_after_s": 1e9,
    "faults": _only(lonely_leader=10.0, heal=6.0),
}  # fmt: skip
_SHORT_REIGNS: dict[str, Any] = {
    "nodes": 5, "replicas": 5, "shards": 1, "clients": 4, "think_s": 0.1, "steps": 30, "step_s": 1.5,
    "sync_s": (0.001, 0.08), "latency_s": (0.001, 0.04), "return_after_s": 1e9, "window_bytes": 1000,
    "message_bytes": 1, "again": 4.0, "drop": 0.0, "reorder": 0.0, "duplicate": 0.0,
    "faults": _only(short_reigns=6.0, heal=3.0, nothing=3.0),
}  # fmt: skip
_LEADERS: dict[str, Any] = {
    **_SMALL, "steps": 30, "faults": _only(transfer=6.0, kill=3.0, flaky_link=3.0, start=8.0, pause=3.0, heal=2.0),
}  # fmt: skip
_FAILING_DISKS: dict[str, Any] = {
    **_SMALL, "clients": 4, "think_s": 0.02, "steps": 40, "step_s": 1.0, "sync_s": Scenario.sync_s,
    "journal_keep_bytes": 0, "journal_segment_bytes": 4096, "segment_bytes": 1 << 16,
    "faults": _only(disk_error=8.0, power=6.0, power_everywhere=2.0, start=14.0),
}  # fmt: skip
_EXPIRING: dict[str, Any] = {
    **_SMALL, "clients": 8, "think_s": 0.005, "keys": 2, "kinds": ("expiring",), "burst_max": 1, "steps": 8,
    "step_s": 0.5, "read_mode": "lease", "sync_s": (0.005, 0.03), "faults": _only(nothing=1.0),
}  # fmt: skip
_BEHEADED: dict[str, Any] = {
    **_SMALL, **LONG_VALUES, "value_bytes": (1500, 4000), "steps": 30,
    "faults": _only(kill=6.0, power=3.0, flaky_link=3.0, start=8.0, nothing=1.0),
}  # fmt: skip
_BUSY: dict[str, Any] = {"clients": 8, "think_s": 0.005}


# --- Raft ---


@mutation("an acknowledgement of an earlier term counts", **_SHORT_REIGNS)
def acks_of_any_term(replace: Callable[..., None]) -> None:
    original = group_module._RECEIVERS[ACK]

    def on_ack(self: Group, name: str, message: Any) -> None:
        kind, shard, term, *rest = message
        original(self, name, (kind, shard, max(term, self.term), *rest))

    replace(group_module._RECEIVERS, ACK, on_ack)


@mutation("a follower acknowledges before its fdatasync", **_POWER, **_SLOW_DISK)
def ack_before_sync(replace: Callable[..., None]) -> None:
    original = Receiving.acknowledge

    def acknowledge(self: Receiving, name: str, next_index: int) -> None:
        if self._reject is not None:
            original(self, name, next_index)
            return
        next_index = min(next_index, self.verified + 1)
        self._send(name, (ACK, self._shard, self._core.term, next_index, True, False, self._echo))

    replace(Receiving, "acknowledge", acknowledge)


@mutation("the leader counts itself before its fdatasync", **_UNEVEN_DISKS)
def own_vote_before_sync(replace: Callable[..., None]) -> None:
    original = Core.move_commit

    def move_commit(self: Core) -> None:
        durable, self.log.durable = self.log.durable, self.log.last_index
        original(self)
        self.log.durable = durable

    replace(Core, "move_commit", move_commit)


@mutation("term and vote are answered before they are on the disk", **_FORGETFUL)
def state_not_synced(replace: Callable[..., None]) -> None:
    original = ShardLog.setCurrentTerm

    def set_current_term(self: ShardLog, term: int, voted_for: str | None) -> None:
        original(self, term, voted_for)
        self.state_durable = True

    replace(ShardLog, "setCurrentTerm", set_current_term)


@mutation("an APPEND that matches truncates what is behind it", **_LOSSY, **_BUSY)
def truncates_a_matching_tail(replace: Callable[..., None]) -> None:
    replace(Receiving, "_new_entries", lambda self, entries: entries)


@mutation("an APPEND that does not match moves the commit index", **_LONELY)
def commit_by_unverified_append(replace: Callable[..., None]) -> None:
    take, on_append = Core.take, Receiving.on_append

    def remember(self: Receiving, name: str, message: Any) -> None:
        self._core.told_commit = message[3]
        on_append(self, name, message)

    def pass_on(self: Core, name: str, message: dict[str, Any]) -> None:
        if message["type"] == "append_entries":
            message["commit_index"] = self.told_commit
        take(self, name, message)

    replace(Receiving, "on_append", remember)
    replace(Core, "take", pass_on)


@mutation("what was not compared with the leader's log is acknowledged", **_SHORT_REIGNS)
def acks_of_unverified_entries(replace: Callable[..., None]) -> None:
    replace(Receiving, "verified", property(lambda self: 1 << 60, lambda self, value: None))


@mutation("a refusal of what was sent before others were heeded counts", **_SHORT_REIGNS)
def refusals_of_any_time(replace: Callable[..., None]) -> None:
    original = Sending.acknowledged

    def acknowledged(self: Sending, name: str, next_index: int, sent: float, **answer: bool) -> None:
        original(self, name, next_index, float("inf"), **answer)

    replace(Sending, "acknowledged", acknowledged)


@mutation("elections start without a PreVote", leader_stays=True)
def no_prevote(replace: Callable[..., None]) -> None:
    def tick(self: Elections, now: float) -> None:
        if self._core.election_deadline <= now:
            self._campaign()

    replace(Elections, "tick", tick)


@mutation("votes are given while a leader is heard", **_DEAF, read_mode="lease")
def no_stickiness(replace: Callable[..., None]) -> None:
    replace(Elections, "_sticky", property(lambda self: False))


@mutation("a vote that comes twice counts twice", **_CONTESTS)
def votes_count_twice(replace: Callable[..., None]) -> None:
    original = Elections.on_voted

    def on_voted(self: Elections, name: str, message: Any) -> None:
        self._votes.discard(name)
        original(self, name, message)

    replace(Elections, "on_voted", on_voted)


@mutation("a lease lasts longer than the others keep still", **_HALF_DEAF, read_mode="lease")
def lease_too_long(replace: Callable[..., None]) -> None:
    replace(lease_module, "DRIFT", 2.0)


@mutation("a lease leaves no margin for clocks of different speeds", **_PROMPT, read_mode="lease", drift=0.04)
def lease_without_margin(replace: Callable[..., None]) -> None:
    replace(lease_module, "DRIFT", 1.0)


@mutation("a lease counts from when the answer came", **_PAUSES, read_mode="lease")
def lease_from_receive_time(replace: Callable[..., None]) -> None:
    original = Lease.answered
    replace(Lease, "answered", lambda self, name, sent: original(self, name, Clock.now()))


@mutation("a leader that hands over keeps its lease", **_LEADERS, read_mode="lease")
def lease_kept_in_transfer(replace: Callable[..., None]) -> None:
    replace(Group, "_give_up_lease", lambda self: None)


@mutation("a new leader serves reads before its first entry is applied", **_LEADERS, **_SLOW_DISK)
def reads_before_first_entry(replace: Callable[..., None]) -> None:
    replace(Core, "readable", property(lambda self: self.leader))


@mutation("what was answered is applied in some later turn, and the lease does not rest", **_SMALL)
def reads_before_puts_are_applied(replace: Callable[..., None]) -> None:
    def promise(group: Group, index: int) -> None:
        group.sending.promised = index

    def catch_up(proposer: Proposer) -> None:
        if proposer.group is not None and not proposer.group.leader:
            proposer.group.apply_committed()

    replace(Group, "promise", promise)
    replace(Proposer, "catch_up", catch_up)


@mutation("reads in readindex mode ask nobody", **{**_HALF_DEAF, "clients": 6, "think_s": 0.02}, read_mode="readindex")
def reads_without_majority(replace: Callable[..., None]) -> None:
    original = Read.__init__

    def init(self: Read, part: Any, token: int, args: list[bytes], asked_at: float, deadline: float) -> None:
        original(self, part, token, args, float("-inf"), deadline)

    replace(Read, "__init__", init)


@mutation("a snapshot is installed and the log left as it was", **_LEFT_BEHIND)
def log_not_reset(replace: Callable[..., None]) -> None:
    def installed(self: Group, index: int, term: int) -> None:
        self.jump_to(index)
        self._wake()

    replace(Group, "installed", installed)


# --- proposer and server ---


@mutation("a read does not wait for the writes before it in its pipeline", burst_max=8)
def own_writes_unseen(replace: Callable[..., None]) -> None:
    for module in (dispatch, plain):
        replace(module, "has_open_writes", lambda connection, burst, proposer: False)


@mutation("a reply that is known is given without a lease", **_LONELY, burst_max=1, read_mode="lease")
def known_without_lease(replace: Callable[..., None]) -> None:
    replace(Answers, "known_at", lambda self, now: self._find)


@mutation("a reply stays known when its value has changed", **_SMALL, **_BUSY, burst_max=1, kinds=("string",), keys=1)
def known_for_ever(replace: Callable[..., None]) -> None:
    replace(Answers, "_forget", lambda self, key: 0)


@mutation("a read without an answer stays behind when its client's writes go", **_LEADERS, **_BUSY, burst_max=8)
def reads_left_behind(replace: Callable[..., None]) -> None:
    replace(Reads, "join_those_of", lambda self, batch: None)


@mutation("what a lost leader was sent is proposed again", **_LEADERS, **_BUSY, kinds=("counter", "append"))
def proposes_twice(replace: Callable[..., None]) -> None:
    original = Proposer.link_lost

    def link_lost(self: Proposer, peer: str) -> None:
        original(self, peer)
        for request in [request for request, batch in self._forwards.items() if batch.target == peer]:
            self._requeue([self._forwards.pop(request)])

    replace(Proposer, "link_lost", link_lost)


@mutation("a forwarded batch is accepted in any term", **_LEADERS, **_BUSY, latency_s=(0.001, 0.2))
def forwards_of_any_term(replace: Callable[..., None]) -> None:
    replace(Proposer, "_leads_in", lambda self, term: self.group is not None and self.group.leader)
    replace(Proposer, "_give_back", lambda self, leads_in: None)


@mutation("a read finds keys expired by a clock that no entry has", **_EXPIRING)
def expiry_by_one_clock(replace: Callable[..., None]) -> None:
    replace(Machine, "_require_certainty", lambda self, args: None)


@mutation("expiry counts from each replica's own clock", kinds=("expiring",), wall_skew_s=1000.0)
def own_clock(replace: Callable[..., None]) -> None:
    original = Machine.apply

    def apply(self: Machine, index: int, term: int, entry: Any) -> Any:
        entry.now_ms = self._wall_ms()
        return original(self, index, term, entry)

    replace(Machine, "apply", apply)


# --- the two logs ---


@mutation("the applied index is behind the data after a restart", kinds=("counter", "append"), **_POWER)
def index_behind_data(replace: Callable[..., None]) -> None:
    original = Bitcask._start

    def start(self: Bitcask, recovery: Any) -> None:
        original(self, recovery)
        if self.applied > 2:
            self.applied -= 1

    replace(Bitcask, "_start", start)


@mutation("the journal is trimmed above the data", **_POWER, journal_keep_bytes=0, segment_bytes=1 << 16)
def trimmed_too_far(replace: Callable[..., None]) -> None:
    original = Upkeep._trim

    def trim(self: Upkeep) -> None:
        synced, self.cask.synced = self.cask.synced, self.group.applied
        original(self)
        self.cask.synced = synced

    replace(Upkeep, "_trim", trim)


@mutation("a torn tail of the journal is taken for whole", **_POWER, **_BUSY, value_bytes=(1, 1, 100, 1500))
def torn_tail_accepted(replace: Callable[..., None]) -> None:
    def read_frame(path: Any, data: Any, stamp: segment.Stamp, at: int) -> segment.Frame | None:
        header = data[at : at + segment.FRAME.size]
        if len(header) < segment.FRAME.size or header[:4] != stamp[0]:
            return None
        _, _, body_bytes, sequence, synced = segment.FRAME.unpack(header)
        start = at + segment.FRAME.size
        return segment.Frame(path, at, sequence, synced, data[start : start + body_bytes])

    replace(segment, "_read_frame", read_frame)


@mutation("ends of long commands are judged by entries that their leader does not have", **_BEHEADED)
def judges_what_will_be_refused(replace: Callable[..., None]) -> None:
    original = border.check_append

    def check(log: ShardLog, message: list[Any], *rest: Any) -> None:
        *head, _, _, sent, entries = message
        original(log, [*head, log.base_index, log.term_at(log.base_index), sent, entries], *rest)

    replace(replica_module, "check_append", check)


@mutation("an fdatasync that failed counts as done", **_SMALL, faults=_only(disk_error=8.0, power=5.0, start=9.0))
def sync_error_ignored(replace: Callable[..., None]) -> None:
    original = Journal.sync_done
    replace(Journal, "sync_done", lambda self, sequence, error=None: original(self, sequence))


@mutation("after a failed fdatasync the pages in memory are believed", **_FAILING_DISKS)
def tail_not_written_again(replace: Callable[..., None]) -> None:
    replace(Recovery, "_write_again", lambda self, file: None)


@mutation("EXEC does not look at the watched keys", **_SMALL, **_BUSY, kinds=("transaction",), keys=2)
def watched_keys_ignored(replace: Callable[..., None]) -> None:
    original = Machine._exec

    def execute(self: Machine, args: list[bytes], context: Any) -> Any:
        transaction = transaction_of(args)
        return original(self, exec_args([], transaction.commands) if transaction else args, context)

    replace(Machine, "_exec", execute)
    replace(Watches, "judge", lambda self, runs, under_way: True)


def find(name: str, seeds: Iterable[int]) -> tuple[int, Result | None]:
    """Runs seeds with the mistake in place until one fails that does not without it.

    Returns how many were run, and the one that failed. Raises AssertionError for a seed that fails either way, and for
    a mistake that does not fit the code any more: that would be found by whoever calls it.
    """
    chosen = MUTATIONS[name]
    count = 0
    for seed in seeds:
        count += 1
        with chosen.planted():
            result = run(seed, chosen.bias, events=60)
        if result.failure:
            if any(f"fails: {error.__name__}" in result.failure for error in (TypeError, AttributeError, NameError)):
                raise AssertionError(f"{name} does not fit the code: {result.failure}")
            sane = run(seed, chosen.bias)
            if sane.failure:
                raise AssertionError(f"not the mistake's doing: {sane}")
            return count, result
    return count, None


def search(names: list[str], starts: dict[str, int] | None = None, seeds_max: int = SEEDS_MAX) -> int:
    """Prints for each mistake how many seeds it takes, from `starts` on. Returns 1 if one is not found."""
    missed = 0
    for name in names or MUTATIONS:
        started, start = time.monotonic(), (starts or {}).get(name, 0)
        count, result = find(name, range(start, start + seeds_max))
        took = f"{time.monotonic() - started:6.1f} s"
        if result is None:
            missed += 1
            print(f"{name:30} NOT FOUND in {count} seeds {took}", flush=True)
        else:
            print(f"{name:30} seed {result.seed:4} {took}  {result.failure.splitlines()[0][:150]}", flush=True)
    return int(missed > 0)


def search_known() -> int:
    """The same from where each was found before: quick, as long as the code has not changed much."""
    return search([], FOUND_BY)
