"""A replica's start: journal and Bitcask log are made to meet, or the node does not start on them."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from respkv import errors
from respkv.cluster.slots import SLOTS, slot_of
from respkv.cluster.topology import Shard
from respkv.config import Config, load
from respkv.disk import Disk
from respkv.raft.journal import Journal
from respkv.raft.messages import APPEND, SNAPSHOT_ACK, SNAPSHOT_BEGIN, SNAPSHOT_CHUNK
from respkv.shard.repair import StartError
from respkv.shard.replica import Replica
from respkv.storage import Bitcask, Damaged


def _ignore(*_: Any) -> bool:
    return True


def _raise(error: BaseException) -> None:
    raise error


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(environ={}, flags={"dir": str(tmp_path), "journal-segment-bytes": "64kb", "segment-bytes": "64kb"})


@pytest.fixture
def make_replica(config: Config) -> Callable[..., Replica]:
    def make(journal: Journal, replicas: tuple[str, ...] = ("n1", "n2", "n3")) -> Replica:
        shard = Shard(0, (0,), replicas)
        return Replica(
            shard, "n1", config, journal, send=_ignore, wake=_ignore, worker=None,  # type: ignore[arg-type]
            fatal=_raise, disk=Disk(), now=lambda: 0.0,
        )

    return make


def _journal(config: Config, entries: list[tuple[int, int]], base: int = 1) -> None:
    """Leaves a journal with these (index, term) entries, trimmed to `base`."""
    journal = Journal.open(config.dir / "journal", [0], segment_bytes=1 << 16)
    for index, term in entries:
        journal.logs[0].add(b"\x01", index, term)
    journal.logs[0].trim(base)
    journal.close()


def _data(config: Config, applied: int, term: int) -> None:
    with Bitcask(config.dir / "shard-0", buckets=SLOTS, bucket_of=slot_of) as cask:
        cask.append_puts(applied, term, 1, [], [], [], b"")


def test_a_journal_that_lost_applied_entries_goes_on_behind_the_data(
    config: Config, make_replica: Callable[..., Replica]
) -> None:
    _journal(config, [(index, 1) for index in range(2, 10)])
    _data(config, 20, 3)
    with_data = make_replica(Journal.open(config.dir / "journal", [0]))
    assert with_data.group.log[-1][1:] == (20, 3)
    assert with_data.group.applied == 20


def test_entries_that_a_snapshot_has_replaced_do_not_survive_a_restart(
    config: Config, make_replica: Callable[..., Replica]
) -> None:
    _journal(config, [(index, 1) for index in range(2, 200)])
    _data(config, 150, 4)
    replica = make_replica(Journal.open(config.dir / "journal", [0]))
    assert replica.group.log[-1][1:] == (150, 4)
    replica.group.receive("n2", (APPEND, 0, 5, 150, 150, 4, 0.0, [(b"\x01", 151, 5)]))
    assert replica.group.log[-1][1:] == (151, 5)


def test_the_same_entries_in_both_stay(config: Config, make_replica: Callable[..., Replica]) -> None:
    _journal(config, [(index, 2) for index in range(2, 200)], base=40)
    _data(config, 150, 2)
    replica = make_replica(Journal.open(config.dir / "journal", [0]))
    assert (replica.group.log.base_index, replica.group.log.last_index, replica.group.applied) == (40, 199, 150)


def test_data_that_are_older_than_the_journal_are_refused_where_nobody_else_has_them(
    config: Config, make_replica: Callable[..., Replica]
) -> None:
    _journal(config, [(index, 2) for index in range(2, 200)], base=160)
    _data(config, 150, 2)
    with pytest.raises(StartError, match="older than the journal"):
        make_replica(Journal.open(config.dir / "journal", [0]), ("n1",))


def test_a_replica_that_begins_anew_keeps_what_was_set_and_counted(
    config: Config, make_replica: Callable[..., Replica]
) -> None:
    replica = make_replica(Journal.open(config.dir / "journal", [0]))
    damaged = replica.machine
    damaged.slow_s, damaged.hits, damaged.misses = 0.5, 3, 2
    replica._start_over()
    machine = replica.machine
    assert machine is not damaged
    assert (machine.slow_s, machine.hits, machine.misses, machine.leads) == (0.5, 3, 2, False)


def test_what_a_snapshot_that_never_ended_has_left_is_removed_at_the_start(
    config: Config, make_replica: Callable[..., Replica]
) -> None:
    left = config.dir / "shard-0.incoming"
    left.mkdir(parents=True)
    (left / "000001.0.data").write_bytes(bytes(1000))
    make_replica(Journal.open(config.dir / "journal", [0]))
    assert not left.exists()


@pytest.mark.parametrize("free_mib", [0, 299, 300, None])
def test_a_snapshot_is_refused_where_the_disk_has_no_room_for_it_and_the_headroom(
    config: Config, make_replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch, free_mib: int | None
) -> None:
    def usage(path: Path) -> Any:
        if free_mib is None:
            raise OSError(5, "nobody knows")
        return SimpleNamespace(free=free_mib << 20)

    replica: Any = make_replica(Journal.open(config.dir / "journal", [0]))
    answers: list[Any] = []
    replica.receiver._send = lambda peer, message: answers.append((peer, message))
    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert config.disk_headroom_bytes < 300 << 20
    size = (300 << 20) - config.disk_headroom_bytes
    replica.receive("n2", (SNAPSHOT_BEGIN, 0, 5, 1, 10, 1, [["000001.0.data", size]]))
    fits = free_mib == 300
    assert answers == [("n2", (SNAPSHOT_ACK, 0, 5, 0 if fits else -1))]
    assert replica._incoming_path.exists() is fits
    replica.receive("n2", (SNAPSHOT_CHUNK, 0, 5, 0, 0, 0, b"x"))
    assert answers[-1] == ("n2", (SNAPSHOT_ACK, 0, 5, 1 if fits else -1))


def test_the_upkeep_removes_a_snapshot_that_has_become_pointless(
    make_replica: Callable[..., Replica], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = make_replica(Journal.open(config.dir / "journal", [0]))
    asked: list[int] = []
    monkeypatch.setattr(replica.receiver, "outrun", asked.append)
    monkeypatch.setattr(replica.upkeep, "start", lambda: None)
    replica.start_upkeep()
    assert asked == [replica.group.applied]


class Leading:
    """The group of a leader on n1 that can hand over to n2."""

    leader = True
    transferring: str | None = None

    def __init__(self) -> None:
        self.learners: set[str] = set()
        self.connected = {"n2", "n3"}
        self.behind = {"n2": 0, "n3": 0}
        self.handed_to: list[str] = []
        self.transfer = self.handed_to.append

    def may_lead(self, name: str) -> bool:
        return name in self.connected and name not in self.learners

    def lag(self) -> dict[str, int]:
        return self.behind


@pytest.mark.parametrize(
    ("hindrance", "handed_to"),
    [
        (lambda replica, group: None, ["n2"]),
        (lambda replica, group: group.connected.remove("n2"), []),
        (lambda replica, group: group.learners.add("n2"), []),
        (lambda replica, group: group.behind.update(n2=1000), []),
        (lambda replica, group: setattr(group, "transferring", "n3"), []),
        (lambda replica, group: setattr(group, "leader", False), []),
        (lambda replica, group: setattr(replica, "damage", Damaged(Path(), 0, "bad")), []),
        (lambda replica, group: setattr(replica, "_led_since", 98.0), []),
        (lambda replica, group: replica.placement.begin("n1", "n2", 95.0), []),
    ],
    ids=["none", "no link", "learner", "lag", "transfer", "no leader", "damage", "led for long enough", "giver"],
)
def test_leadership_is_handed_to_where_it_belongs_if_nothing_speaks_against_it(
    config: Config, make_replica: Callable[..., Replica], hindrance: Callable[..., None], handed_to: list[str]
) -> None:
    replica: Any = make_replica(Journal.open(config.dir / "journal", [0]), ("n2", "n1", "n3"))
    replica.group = group = Leading()
    replica._now = lambda: 100.0
    hindrance(replica, group)
    for _ in range(2):
        replica.place_leader(follow_clients=False)
    assert group.handed_to == handed_to, "once at the most: then it has a rest"


@pytest.mark.parametrize(
    ("asked_at", "refuses", "handed_to"), [("n3", False, ["n3"]), ("n3", True, ["n2"]), ("n1", False, [])]
)
def test_leadership_goes_to_the_clients_but_a_node_that_refuses_writes_keeps_it_not(
    config: Config, make_replica: Callable[..., Replica], asked_at: str, refuses: bool, handed_to: list[str]
) -> None:
    replica: Any = make_replica(Journal.open(config.dir / "journal", [0]), ("n2", "n1", "n3"))
    replica.group = group = Leading()
    replica.proposer.refusal = errors.misconf("no disk") if refuses else None
    replica.placement.begin("n1", None, 100.0)
    for second in range(101, 104):
        replica._now = lambda second=second: float(second)
        replica.proposer.asked_by[asked_at] += 10_000
        replica.place_leader()
    assert group.handed_to == handed_to


@pytest.mark.parametrize("ends", ["close", "_start_over"])
def test_a_long_value_that_is_being_written_is_waited_for_before_its_file_is_closed(
    config: Config, make_replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    journal = Journal.open(config.dir / "journal", [0], segment_bytes=1 << 16)
    replica = make_replica(journal)
    order: list[str] = []
    started, go_on = threading.Event(), threading.Event()
    cask, close = replica.cask, replica.cask.close
    monkeypatch.setattr(cask, "close", lambda: (order.append("closed"), close()))

    def write() -> None:
        started.set()
        go_on.wait(10)
        order.append("written")

    def slices() -> Any:
        yield write
        return []

    def offload(job: Callable[[], None], _done: object) -> Callable[[], None]:
        thread = threading.Thread(target=job)
        thread.start()
        return thread.join

    monkeypatch.setattr(replica.proposer._long_apply, "_offload", offload)
    assert replica.proposer._long_apply.advance(slices) is None
    started.wait(10)
    threading.Timer(0.05, go_on.set).start()
    getattr(replica, ends)()
    assert order == ["written", "closed"]
    if ends != "close":
        replica.close()
    journal.close()


def test_a_repair_hands_leadership_over_and_only_a_stop_takes_it_no_more(
    config: Config, make_replica: Callable[..., Replica]
) -> None:
    replica: Any = make_replica(Journal.open(config.dir / "journal", [0]), ("n1", "n2", "n3"))
    replica.group = group = Leading()
    elections: Any = SimpleNamespace(stands=True)
    elections.stand_aside = lambda: setattr(elections, "stands", False)
    group.elections = elections  # type: ignore[attr-defined]
    replica._prepare_repair()
    assert (group.handed_to, elections.stands) == (["n2"], True)
    replica.step_aside()
    assert (group.handed_to, elections.stands) == (["n2", "n2"], False)
