"""A shard's replica on this node: Bitcask, machine, Raft group and proposer, put together.

The parts that see to its files are `respkv.shard.upkeep` (the log and the journal behind it) and
`respkv.shard.snapshots` (copies for followers that lag). A replica whose files are damaged begins anew and is refilled
by the others: see `respkv.shard.repair`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from respkv.cluster.topology import Shard
from respkv.config import Config
from respkv.disk import Disk
from respkv.keyspace.system import BUCKETS, SystemRecord, bucket_of
from respkv.offload import Done, Job, Wait, Worker
from respkv.raft.border import check
from respkv.raft.group import Group, Timing
from respkv.raft.identity import Identity
from respkv.raft.journal import Journal
from respkv.raft.log import Standing
from respkv.raft.membership import Membership
from respkv.raft.messages import APPEND, INTRODUCE, SNAPSHOT_ACK, SNAPSHOT_BEGIN, Message
from respkv.raft.snapshot import INCOMING, SnapshotReceiver
from respkv.shard.border import check_append
from respkv.shard.leadership import LeaderNews
from respkv.shard.machine import Machine
from respkv.shard.pace import Pace
from respkv.shard.placement import Placement
from respkv.shard.proposer import Proposer
from respkv.shard.repair import StartError, put_aside
from respkv.shard.snapshots import Snapshots
from respkv.shard.upkeep import Upkeep
from respkv.storage import Bitcask, Damaged

log = structlog.get_logger()

HAND_OVER_EVERY_S = 1.0


class Replica:
    """One shard on one node that holds it. Owns everything of the shard but the journal."""

    def __init__(
        self,
        shard: Shard,
        node: str,
        config: Config,
        journal: Journal,
        *,
        send: Callable[[str, Any], bool],
        wake: Callable[[Replica], None],
        worker: Worker,
        fatal: Callable[[BaseException], None],
        disk: Disk,
        now: Callable[[], float],
        identity: Identity | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.shard = shard
        self.node = node
        self.path = config.dir / f"shard-{shard.id}"
        self.dirty = False
        self._config = config
        self._journal = journal
        self._send = send
        self._worker = worker
        self._fatal = fatal
        self._disk = disk
        self._now = now
        self._led_since = now()
        self._leader_news = LeaderNews(node, config.cluster_timeout_ms / 1000, now())
        self.repairs = 0
        self.damage: Damaged | None = None
        self._hand_over_at = now()
        self._system_watchers: dict[bytes, Callable[[SystemRecord], None]] = {}
        shard_log = journal.logs[shard.id]
        self.cask = self._open()
        self.machine = Machine(self.cask)
        others = [name for name in shard.replicas if name != node]
        timing = Timing(config.election_timeout_ms / 1000, config.heartbeat_ms / 1000)
        self.group = Group(
            shard.id,
            node,
            others,
            shard_log,
            self.cask.applied,
            apply=self._apply,
            apply_long=self._apply_long,
            send=self._send_raft,
            wake=lambda: wake(self),
            role_changed=self._role_changed,
            timing=timing,
            eager=shard.replicas[0] == node,
            lease=config.read_mode == "lease",
        )
        self.snapshots = Snapshots(self.group, send=send, now=now)
        self.upkeep = Upkeep(
            self.cask,
            self.group,
            config,
            journal,
            worker=worker,
            now=now,
            damaged=self._damaged,
            fatal=fatal,
            trimmable=self.snapshots.trimmable,
        )
        self.proposer = Proposer(
            shard,
            node,
            self.group,
            self.machine,
            send=send,
            wake=lambda: wake(self),
            now=now,
            offload=self._offload,
            fatal=fatal,
            pace=pace,
        )
        self.placement = Placement(shard.replicas)
        self.receiver = SnapshotReceiver(shard.id, self._incoming_path, disk, send, self._install, self._room_bytes)
        self.receiver.drop()  # what an earlier process has left
        self.membership = Membership(self.group, others, identity or Identity(), send=send, repaired=self._repaired)

    @property
    def _incoming_path(self) -> Path:
        return self.path.with_name(self.path.name + INCOMING)

    def _room_bytes(self) -> int:
        """How much a snapshot may write: nodes refuse writes, and journals may not grow, where less is free."""
        try:
            free = self._disk.free_bytes(self._config.dir)
        except OSError as error:
            log.warning("disk_usage_unknown", reason=str(error))
            return 0
        return free - self._config.disk_headroom_bytes

    @property
    def _alone(self) -> bool:
        return len(self.shard.replicas) == 1

    def _open(self) -> Bitcask:
        """The log in the replica's directory, or an empty one in the place of one that cannot be used."""
        there = self.path.exists()
        try:
            cask = self._open_cask()
            reason = self._reconcile(cask)
            if reason is None:
                return cask
            cask.close()
            damage = Damaged(self.path, 0, reason if there else "it is missing")
            if self._alone:
                raise StartError(str(damage))
        except Damaged as damaged:
            if self._alone:
                raise
            damage = damaged
        self._tell_damage(damage)
        shard_log = self._journal.logs[self.shard.id]
        shard_log.lose()
        if shard_log.standing is Standing.VOTER:
            shard_log.stand(Standing.LEARNER)
        self._journal.flush_and_wait()  # before the files that show it go: no crash may make it forget
        if there:
            put_aside(self.path, self._config.disk_headroom_bytes, self._disk)
        return self._open_cask()

    def _open_cask(self) -> Bitcask:
        cask = Bitcask(
            self.path,
            buckets=BUCKETS,
            bucket_of=bucket_of,
            hidden=1,
            segment_bytes=self._config.segment_bytes,
            disk=self._disk,
            merge_dead_ratio=self._config.merge_dead_ratio,
            cache_bytes=self._config.read_cache_bytes // max(1, len(self._journal.logs)),
        )
        cask.on_damage = self._damaged
        return cask

    def _reconcile(self, cask: Bitcask) -> str | None:
        """Makes journal and Bitcask log meet; says why they cannot, if entries between them are missing."""
        shard_log = self._journal.logs[self.shard.id]
        term = shard_log.term_at(cask.applied)
        if cask.applied > shard_log.last_index or (term is not None and cask.applied > 1 and term != cask.applied_term):
            # Applied entries are committed. Those that the journal lost in a power cut are in the Bitcask log; and
            # entries of another term there are what a snapshot has replaced.
            log.warning("journal_behind_data", shard=self.shard.id, journal=shard_log.last_index, data=cask.applied)
            shard_log.reset(cask.applied, cask.applied_term)
        elif max(1, cask.applied) < shard_log.base_index:
            return (
                f"it holds entries up to {cask.applied}, the journal begins behind {shard_log.base_index}: "
                "the data are older than the journal"
            )
        return None

    # -- called by the group

    def _apply(self, index: int, term: int, command: bytes) -> None:
        self.proposer.apply(index, term, command)

    def _apply_long(self, index: int, term: int, head: bytes, body: list[memoryview]) -> bool:
        return self.proposer.apply_long(index, term, head, body)

    def _offload(self, job: Job, done: Done) -> Wait:
        return self._worker.submit(job, done)

    def _role_changed(self) -> None:
        group = self.group
        self._led_since = self._now()
        if group.leader:
            self.proposer.take_demand()
            self.placement.begin(self.node, group.elections.giver, self._led_since)
        self.machine.leads = group.leader
        self.snapshots.stop()
        log.info("leader_elected" if group.leader else "leader_lost", shard=self.shard.id, term=group.term)

    def _send_raft(self, peer: str, message: Message) -> None:
        self._send(peer, message)

    # -- called by the node

    def pump(self) -> None:
        self.dirty = False
        self._run(self.proposer.pump)

    def conclude(self) -> None:
        """Behind `pump` in the same turn, once the disk has what that has brought: what is committed by that is
        answered."""
        self._run(self.proposer.conclude)

    def rests(self) -> bool:
        """Whether nothing is left for the next turn by `conclude`: then it is not dirty any more."""
        self.dirty = not self.proposer.is_through
        return not self.dirty

    def catch_up(self) -> None:
        """Behind `pump` in the same turn, once what it has brought has left."""
        self._run(self.proposer.catch_up)

    def _run(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Damaged:  # an entry cannot be applied here; `_damaged` was told
            if self._alone:
                raise
            self._start_over()

    def tick(self) -> None:
        self.group.tick()
        self.membership.tick()
        if self.damage is not None and not self._alone:
            self._prepare_repair()

    def receive(self, peer: str, message: Message) -> None:
        """A Raft or snapshot message from the replica on `peer`.

        Raises:
            BadMessage: nothing has changed; the link to `peer` is to be broken.
            LogDivergence: the node must stop.
        """
        check(message)
        kind = message[0]
        if kind == APPEND and message[7]:
            check_append(self.group.log, message, self.machine.can_apply, self.proposer.foresee)
        if kind >= INTRODUCE:
            self.membership.receive(peer, message)
        elif kind < SNAPSHOT_BEGIN:
            self.group.receive(peer, message)
        elif kind == SNAPSHOT_ACK:
            self.snapshots.acknowledged(peer, message)
        elif self.membership.standing <= Standing.LEARNER:
            try:
                self.receiver.receive(peer, message, self.group.applied)
            except OSError as error:
                self._fatal(error)

    def link_up(self, peer: str) -> None:
        if peer in self.shard.replicas:
            self.group.connected(peer)
            self.membership.introduce(peer)

    def link_down(self, peer: str) -> None:
        self.proposer.link_lost(peer)
        if peer in self.shard.replicas:
            self.group.disconnected(peer)
            self.receiver.drop(peer)
            self.snapshots.drop(peer)

    # -- the system's own records

    def watch_system(self, name: bytes, changed: Callable[[SystemRecord], None]) -> None:
        """Calls `changed` with the record of this name now, and whenever it may be another one."""
        self._system_watchers[name] = changed
        self.machine.on_system = self._on_system
        self._tell_system()

    def _on_system(self, name: bytes, record: SystemRecord) -> None:
        if name in self._system_watchers:
            self._system_watchers[name](record)

    def _tell_system(self) -> None:
        with contextlib.suppress(Damaged):  # `_damaged` was told; it is told anew when this replica is refilled
            for name in self._system_watchers:
                self._on_system(name, self.machine.db.system_record(name))

    # -- damage

    def _tell_damage(self, damage: Damaged) -> None:
        log.error(
            "replica_damaged", shard=self.shard.id, file=str(damage.file), offset=damage.offset, reason=damage.reason
        )
        if not self._alone:
            self.repairs += 1
            log.warning("replica_repairing", shard=self.shard.id)

    def _damaged(self, damage: Damaged) -> None:
        """Called by the log when a record that is in use is not intact."""
        if self.damage is None:
            self.damage = damage
            self._tell_damage(damage)
            self.proposer.avoid_plain_reads()

    def _prepare_repair(self) -> None:
        """Begins anew once another replica leads: until then this one may be needed, and has its log and its voice."""
        group, now = self.group, self._now()
        if group.leader:
            if now >= self._hand_over_at and group.transferring is None:
                self._hand_over_at = now + HAND_OVER_EVERY_S
                self._hand_over()
        elif group.leader_id is not None and group.is_connected(group.leader_id):
            self._start_over()

    def _start_over(self) -> None:
        """Puts the files aside and goes on with an empty replica that the leader will fill."""
        try:
            self._close_files(worthless=True)
            self.group.start_over()
            self.membership.lost()
            put_aside(self.path, self._config.disk_headroom_bytes, self._disk)
            self._use(self._open_cask())
        except Exception as error:  # noqa: BLE001 - the node must not go on with half a state
            self._fatal(error)
            return
        self.damage = None

    def _repaired(self) -> None:
        self.proposer.wake()

    def _close_files(self, *, worthless: bool = False) -> None:
        """Ends all use of the log's files; what is `worthless` is not synced before."""
        self.upkeep.stop()
        self.snapshots.stop()
        self.receiver.drop()
        self._close_cask(worthless=worthless)

    def _close_cask(self, *, worthless: bool = False) -> None:
        self.proposer.let_go()  # no descriptor may be closed, and used for something else, while it is written to
        with self.upkeep.files:
            self.cask.failed = self.cask.failed or worthless
            self.cask.close()

    def _use(self, cask: Bitcask) -> None:
        self.cask = cask
        self.upkeep.use(cask)
        earlier, self.machine = self.machine, Machine(cask)
        self.machine.take_over(earlier)
        self.proposer.use(self.machine)
        self.proposer.installed()
        self._tell_system()

    # -- snapshots

    def send_snapshots(self) -> None:
        """Starts and supervises the transfers that followers need."""
        wanted = self.snapshots.supervise()
        if not wanted:
            return
        if self._may_be_copied():
            self.snapshots.begin(wanted, self.cask)
        else:
            self.upkeep.verify_wanted = True

    def _may_be_copied(self) -> bool:
        """Damage must not spread: files are verified before others get them, and damaged ones are not sent, unless
        nobody else is left to lead."""
        if self.damage is not None:
            return not any(self._may_lead(name) for name in self.shard.replicas)
        return self.upkeep.verified_lately

    def _install(self, index: int, term: int) -> None:
        """Replaces the state by the files received."""
        try:
            self.upkeep.stop()
            self._close_cask()
            Bitcask.install(self.path, self._incoming_path, self._disk)
            cask = self._open_cask()
            if (cask.applied, cask.applied_term) != (index, term):
                raise StartError(f"{self.path}: a snapshot up to {index} turned out to reach {cask.applied}")
            self._use(cask)
            self.group.installed(index, term)
        except Exception as error:  # noqa: BLE001 - the node must not go on with half a state
            self._fatal(error)
            return
        log.info("snapshot_installed", shard=self.shard.id, index=index)

    # -- upkeep

    def start_upkeep(self) -> None:
        """Runs the upkeep of disk and journal if the last round is over. To be called about once a second."""
        self._leader_news.look(self.group, self._now())
        self.machine.db.idle.observe()
        self.receiver.outrun(self.group.applied)
        self.upkeep.start()

    def place_leader(self, settled_s: float = 3.0, *, follow_clients: bool = True) -> None:
        """Hands leadership to where it belongs (`Placement`) once the replica there has caught up and this one has led
        for `settled_s`. To be called about once a second or more often."""
        group, placement, now = self.group, self.placement, self._now()
        if not group.leader or self.damage is not None or group.transferring is not None:
            return
        if not follow_clients or self.proposer.refusal is not None:  # other nodes' clients may still write elsewhere
            placement.settle()
        elif placement.is_due(now):
            placement.look(self.proposer.take_demand(), now)
        home = placement.home
        if home == self.node or now - self._led_since < settled_s or placement.rests(now):
            return
        if self._may_lead(home) and group.lag()[home] < 1000:
            returns = home == self.shard.replicas[0]
            log.info("leadership_returned" if returns else "leadership_follows_clients", shard=self.shard.id, to=home)
            placement.tried(now)
            group.transfer(home)

    def step_aside(self) -> None:
        """Before a stop, as often as leadership is here: hands it over, and takes it no more."""
        if self.group.elections.stands:
            self.group.elections.stand_aside()
        self._hand_over()

    def _hand_over(self) -> None:
        """To the follower that has most of the log."""
        lag = {name: lag for name, lag in self.group.lag().items() if self._may_lead(name)}
        if lag:
            self.group.transfer(min(lag, key=lag.__getitem__))

    def _may_lead(self, name: str) -> bool:
        return name != self.node and self.group.may_lead(name)

    def close(self) -> None:
        self._close_files()
