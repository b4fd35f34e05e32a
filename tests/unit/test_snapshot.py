"""Snapshots on their way from a leader to a follower: all of it, or nothing of it."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.disk import Disk
from respkv.raft.messages import SNAPSHOT_ACK, SNAPSHOT_BEGIN, SNAPSHOT_CHUNK, SNAPSHOT_END
from respkv.raft.snapshot import (
    CHUNK_BYTES,
    STALLED_S,
    WINDOW,
    SnapshotReceiver,
    SnapshotSender,
    remove_leftovers,
)
from respkv.shard.snapshots import CATCH_UP_S, RETRY_MAX_S, RETRY_S, Snapshots


@dataclass
class File:
    name: str
    fd: int
    length: int


@dataclass
class FakeSource:
    index: int
    term: int
    files: list[File] = field(default_factory=list)
    closed: int = 0

    def close(self) -> None:
        self.closed += 1
        for file in self.files:
            os.close(file.fd)


class Transfer:
    """A sender and a receiver with a wire between them that the test moves."""

    def __init__(self, path: Path, contents: dict[str, bytes], index: int = 100, applied: int = 50) -> None:
        path.mkdir(exist_ok=True)
        files = []
        for name, content in contents.items():
            (path / name).write_bytes(content + b"what is written behind the fixed prefix")
            files.append(File(name, os.open(path / name, os.O_RDONLY), len(content)))
        self.source = FakeSource(index, 7, files)
        self.incoming = path / "incoming"
        self.applied = applied
        self.installed: list[tuple[int, int]] = []
        self.to_follower: deque[Any] = deque()
        self.to_leader: deque[Any] = deque()
        self.room = 1 << 40
        self.receiver = SnapshotReceiver(3, self.incoming, Disk(), self._answer, self._install, lambda: self.room)
        self.sender = SnapshotSender(3, 11, 8, self.source, self._send, 0.0)

    def _send(self, message: Any) -> bool:
        self.to_follower.append(message)
        return True

    def _answer(self, peer: str, message: Any) -> bool:
        assert peer == "leader"
        self.to_leader.append(message)
        return True

    def _install(self, index: int, term: int) -> None:
        self.installed.append((index, term))
        self.contents = {path.name: path.read_bytes() for path in self.incoming.iterdir()}

    def receive(self, peer: str = "leader") -> Any:
        message = self.to_follower.popleft()
        self.receiver.receive(peer, message, self.applied)
        return message

    def acknowledge(self, now: float = 0.0) -> None:
        kind, shard, transfer, chunks = self.to_leader.popleft()
        assert (kind, shard) == (SNAPSHOT_ACK, 3)
        self.sender.acknowledged(transfer, chunks, now)

    def run(self) -> None:
        while self.to_follower or self.to_leader:
            while self.to_follower:
                self.receive()
            while self.to_leader:
                self.acknowledge()


CONTENTS = {"1.data": os.urandom(3 * CHUNK_BYTES + 17), "2.data": b"", "3.data": b"x", "4.data": bytes(CHUNK_BYTES)}


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    made = Transfer(tmp_path, CONTENTS)
    yield made
    made.sender.stop()


def test_all_files_arrive_whole_and_are_handed_over_once(transfer: Transfer) -> None:
    transfer.run()
    assert transfer.installed == [(100, 7)]
    assert transfer.contents == CONTENTS
    assert transfer.sender.finished
    assert transfer.sender.delivered
    assert transfer.source.closed == 1
    assert not transfer.receiver.busy


def test_a_large_snapshot_is_synced_bit_by_bit_while_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respkv.raft.snapshot.SYNC_BYTES", 3 * CHUNK_BYTES)
    transfer = Transfer(tmp_path / "t", {"a": bytes(10 * CHUNK_BYTES), "b": bytes(CHUNK_BYTES)})
    written: dict[int, int] = {}
    most = 0

    class Counting(Disk):
        def write(self, fd: int, data: Any, offset: int) -> None:
            nonlocal most
            super().write(fd, data, offset)
            written[fd] = written.get(fd, 0) + len(data)
            most = max(most, sum(written.values()))

        def sync(self, fd: int) -> None:
            super().sync(fd)
            written.pop(fd, None)

    transfer.receiver._disk = Counting()
    transfer.run()
    assert transfer.installed
    assert 0 < most <= 3 * CHUNK_BYTES
    assert not written


def test_a_snapshot_without_files_or_with_empty_ones_arrives(tmp_path: Path) -> None:
    for number, contents in enumerate(({}, {"1": b""}, {"1": b"", "2": b"", "3": b"x"})):
        transfer = Transfer(tmp_path / str(number), contents)
        transfer.run()
        assert transfer.installed == [(100, 7)]
        assert transfer.contents == contents
        assert transfer.sender.finished


def test_nothing_is_handed_over_before_the_last_byte(transfer: Transfer) -> None:
    while not transfer.installed:
        assert transfer.receiver.busy or transfer.to_follower[0][0] == SNAPSHOT_BEGIN
        message = transfer.receive()
        while transfer.to_leader:
            transfer.acknowledge()
    assert message[0] == SNAPSHOT_END


def test_no_more_than_the_window_is_under_way(tmp_path: Path) -> None:
    transfer = Transfer(tmp_path, {"big": bytes(30 * CHUNK_BYTES)})
    transfer.receive()
    transfer.acknowledge()
    assert len(transfer.to_follower) == WINDOW
    for received in range(1, 20):
        transfer.receive()
        transfer.acknowledge()
        assert len(transfer.to_follower) == WINDOW, received
    transfer.sender.stop()


def test_a_transfer_that_does_not_move_is_given_up(transfer: Transfer) -> None:
    transfer.receive()
    transfer.acknowledge(now=1.0)
    transfer.sender.tick(1.0 + STALLED_S)
    assert not transfer.sender.finished
    transfer.sender.tick(1.1 + STALLED_S)
    assert transfer.sender.finished
    assert transfer.source.closed == 1
    transfer.run()
    assert transfer.installed == [] or transfer.contents == CONTENTS


def test_a_file_that_cannot_be_read_ends_the_transfer(tmp_path: Path) -> None:
    transfer = Transfer(tmp_path, CONTENTS)
    os.close(transfer.source.files[0].fd)
    transfer.source.files[0].fd = os.open(tmp_path, os.O_RDONLY)  # reading a directory is an error of the system's
    transfer.run()
    assert transfer.sender.finished
    assert transfer.source.closed == 1
    assert transfer.installed == []


def test_a_refusal_ends_the_transfer(transfer: Transfer) -> None:
    transfer.sender.acknowledged(99, -1, 0.0)
    assert not transfer.sender.finished, "of another transfer"
    transfer.sender.acknowledged(11, -1, 0.0)
    assert transfer.sender.finished
    transfer.sender.acknowledged(11, 3, 0.0)
    transfer.sender.stop()
    assert transfer.source.closed == 1


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_chunk_that_is_missing_ends_the_transfer_and_leaves_nothing(transfer: Transfer, lost: int) -> None:
    transfer.receive()
    transfer.acknowledge()
    for _ in range(lost):
        transfer.receive()
    transfer.to_follower.popleft()
    transfer.run()
    assert transfer.installed == []
    assert transfer.sender.finished
    assert not transfer.incoming.exists()


def test_a_chunk_beyond_the_end_of_its_file_ends_the_transfer(transfer: Transfer) -> None:
    transfer.receive()
    transfer.receiver.receive("leader", (SNAPSHOT_CHUNK, 3, 11, 0, 2, 0, b"xy"), 50)
    assert transfer.to_leader[-1][3] == -1
    assert not transfer.incoming.exists()


def test_an_end_that_counts_other_chunks_ends_the_transfer(transfer: Transfer) -> None:
    transfer.receive()
    transfer.receiver.receive("leader", (SNAPSHOT_END, 3, 11, 2), 50)
    assert transfer.to_leader[-1][3] == -1
    assert transfer.installed == []


def test_a_snapshot_that_is_not_ahead_is_refused(tmp_path: Path) -> None:
    for number, applied in enumerate((100, 101)):
        transfer = Transfer(tmp_path / str(number), CONTENTS, applied=applied)
        transfer.run()
        assert transfer.installed == []
        assert transfer.sender.finished
        assert not transfer.incoming.exists()


def test_a_snapshot_that_another_leader_has_overtaken_never_moves_the_replica_back(transfer: Transfer) -> None:
    while transfer.to_follower[0][0] != SNAPSHOT_END:
        transfer.receive()
        while transfer.to_leader:
            transfer.acknowledge()
    transfer.applied = 200
    transfer.run()
    assert transfer.installed == []
    assert transfer.sender.finished
    assert not transfer.incoming.exists()


def test_a_snapshot_whose_leader_is_none_any_more_leaves_nothing_behind(transfer: Transfer) -> None:
    """Its sender says nothing more; another leader has sent the entries."""
    transfer.receive()
    transfer.acknowledge()
    transfer.receive()
    transfer.receiver.outrun(99)
    assert transfer.receiver.busy
    assert transfer.incoming.exists()
    transfer.receiver.outrun(100)
    assert not transfer.receiver.busy
    assert not transfer.incoming.exists()


def test_a_new_transfer_replaces_the_one_under_way_and_the_old_ones_chunks_are_refused(transfer: Transfer) -> None:
    transfer.receive()
    transfer.acknowledge()
    answers: list[Any] = []
    transfer.receiver._send = lambda peer, message: answers.append((peer, message[3])) is None
    transfer.receiver.receive("other", (SNAPSHOT_BEGIN, 3, 12, 9, 300, 9, [["f", 1]]), 50)
    transfer.receiver.receive("leader", transfer.to_follower.popleft(), 50)
    transfer.receiver.receive("other", (SNAPSHOT_CHUNK, 3, 12, 0, 0, 0, b"y"), 50)
    transfer.receiver.receive("other", (SNAPSHOT_END, 3, 12, 1), 50)
    assert answers == [("other", 0), ("leader", -1), ("other", 1), ("other", 2)]
    assert transfer.installed == [(300, 9)]
    assert transfer.contents == {"f": b"y"}


def test_a_lost_link_drops_what_came_over_it_and_nothing_else(transfer: Transfer) -> None:
    transfer.receive()
    transfer.receiver.drop("other")
    assert transfer.receiver.busy
    transfer.receiver.drop("leader")
    assert not transfer.receiver.busy
    assert not transfer.incoming.exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "a/b", "..", "."])
def test_file_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    transfer = Transfer(tmp_path, {})
    with pytest.raises(ValueError, match="may not contain"):
        transfer.receiver.receive("leader", (SNAPSHOT_BEGIN, 3, 11, 8, 100, 7, [[name, 1]]), 50)
    transfer.receiver.drop()
    assert not (tmp_path / "evil").exists()


# -- disks without room


class Failing(Disk):
    """Its calls of one `kind` fail from the `after`-th on."""

    def __init__(self, kind: str, code: int, after: int = 0) -> None:
        self.opened: set[int] = set()
        self._kind, self._code, self._left = kind, code, after

    def _step(self, kind: str) -> None:
        if kind == self._kind:
            self._left -= 1
            if self._left < 0:
                raise OSError(self._code, os.strerror(self._code))

    def create(self, path: Path, size_bytes: int = 0) -> int:
        self._step("create")
        fd = super().create(path, size_bytes)
        self.opened.add(fd)
        return fd

    def write(self, fd: int, data: Any, offset: int) -> None:
        self._step("write")
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._step("sync")
        super().sync(fd)

    def close(self, fd: int) -> None:
        super().close(fd)
        self.opened.remove(fd)


def assert_refused(transfer: Transfer) -> None:
    assert transfer.installed == []
    assert not transfer.receiver.busy
    assert not transfer.incoming.exists()
    assert transfer.sender.finished
    assert not transfer.sender.delivered


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize(("kind", "after"), [("create", 0), ("create", 2), ("write", 0), ("write", 3)])
def test_a_disk_that_is_full_refuses_the_snapshot_and_goes_on(
    transfer: Transfer, kind: str, after: int, code: int
) -> None:
    transfer.receiver._disk = disk = Failing(kind, code, after)
    transfer.run()
    assert_refused(transfer)
    assert not disk.opened


def test_the_disk_has_room_again_and_the_next_snapshot_arrives(tmp_path: Path) -> None:
    transfer = Transfer(tmp_path, CONTENTS)
    transfer.room = 0
    transfer.run()
    assert_refused(transfer)
    transfer.room = 1 << 40
    transfer.source.files = [
        File(name, os.open(tmp_path / name, os.O_RDONLY), len(content)) for name, content in CONTENTS.items()
    ]
    transfer.sender = SnapshotSender(3, 12, 8, transfer.source, transfer._send, 0.0)
    transfer.run()
    assert transfer.installed
    assert transfer.contents == CONTENTS


@pytest.mark.parametrize(("kind", "code"), [("create", errno.EIO), ("write", errno.EIO), ("sync", errno.ENOSPC)])
def test_a_disk_that_fails_is_not_taken_for_a_full_one(transfer: Transfer, kind: str, code: int) -> None:
    """After a failed sync nobody knows what the disk has, whatever the reason."""
    transfer.receiver._disk = Failing(kind, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        transfer.run()


@pytest.mark.parametrize("short_by", [0, 1])
def test_a_snapshot_begins_only_if_there_is_room_for_all_of_it(transfer: Transfer, short_by: int) -> None:
    transfer.room = sum(map(len, CONTENTS.values())) - short_by
    transfer.receive()
    assert transfer.incoming.exists() is not bool(short_by)
    transfer.run()
    if short_by:
        assert_refused(transfer)
    else:
        assert transfer.contents == CONTENTS


def test_a_snapshot_leaves_the_room_that_others_need_though_they_write_meanwhile(
    transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("respkv.raft.snapshot.SYNC_BYTES", CHUNK_BYTES)
    transfer.receive()
    transfer.acknowledge()
    transfer.receive()
    assert transfer.receiver.busy
    transfer.room = -1
    transfer.receive()
    assert not transfer.incoming.exists()
    transfer.run()
    assert_refused(transfer)


def test_what_transfers_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("journal", "shard-0", "shard-0.incoming", "shard-1", "shard-1.damaged-17", "shard-12.incoming"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000001.0.data").write_bytes(b"x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "shard-0", "shard-1", "shard-1.damaged-17"]


# -- the leader's side: when a transfer begins, and how much of the log it needs


class FakeGroup:
    shard, term, leader = 3, 8, True

    def __init__(self) -> None:
        self.snapshot_wanted = {"n2"}
        self.connected = {"n2", "n3"}
        self.acknowledged = {"n2": 0, "n3": 0}

    def is_connected(self, name: str) -> bool:
        return name in self.connected

    def matched(self, name: str) -> int:
        return self.acknowledged[name]


class Leader:
    """The transfers of a leader at `time`; `answer` is a follower's to the newest message of a transfer."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.group: Any = FakeGroup()
        self.transfers: dict[str, int] = {}
        self.snapshots = Snapshots(self.group, send=self._send, now=lambda: self.time)

    def _send(self, peer: str, message: Any) -> bool:
        self.transfers[peer] = message[2]
        return True

    def begin(self, index: int = 100) -> set[str]:
        wanted = self.snapshots.supervise()
        cask: Any = SimpleNamespace(snapshot=lambda: FakeSource(index, 7))
        self.snapshots.begin(wanted, cask)
        return wanted

    def answer(self, peer: str, chunks: int) -> None:
        self.snapshots.acknowledged(peer, (SNAPSHOT_ACK, 3, self.transfers[peer], chunks))

    def deliver(self, peer: str) -> None:
        self.answer(peer, 0)
        self.answer(peer, 1)

    def waits(self) -> float:
        """How long it takes until the next transfer may begin."""
        begun = self.time
        while not self.snapshots.supervise():
            self.time += 0.5
        return self.time - begun


@pytest.fixture
def leader() -> Leader:
    return Leader()


def test_a_snapshot_for_which_there_are_no_descriptors_is_begun_later(leader: Leader) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    leader.snapshots.begin({"n2"}, SimpleNamespace(snapshot=refuse))  # type: ignore[arg-type]
    assert leader.snapshots.senders == {}
    assert leader.begin() == {"n2"}
    assert leader.snapshots.senders.keys() == {"n2"}


def test_a_follower_that_refuses_is_left_alone_longer_each_time(leader: Leader) -> None:
    waits = []
    for _ in range(8):
        assert leader.begin() == {"n2"}
        leader.answer("n2", -1)
        waits.append(leader.waits())
    assert waits == [min(RETRY_S * 2**n, RETRY_MAX_S) for n in range(8)]


def test_a_follower_that_was_left_alone_is_no_hindrance_to_others(leader: Leader) -> None:
    leader.begin()
    leader.answer("n2", -1)
    leader.group.snapshot_wanted.add("n3")
    assert leader.begin() == {"n3"}


@pytest.mark.parametrize("event", ["delivered", "link", "lead"])
def test_patience_begins_anew_with_success_a_new_link_and_a_new_lead(leader: Leader, event: str) -> None:
    for _ in range(2):
        leader.begin()
        leader.answer("n2", -1)
        leader.waits()
    leader.begin()
    if event == "delivered":
        leader.deliver("n2")
    else:
        leader.answer("n2", -1)
        assert leader.begin() == set()
        leader.snapshots.drop("n2") if event == "link" else leader.snapshots.stop()
    assert leader.begin() == {"n2"}
    leader.answer("n2", -1)
    assert leader.waits() == RETRY_S


def test_a_transfer_that_stalls_is_followed_by_a_rest(leader: Leader) -> None:
    leader.begin()
    leader.time += STALLED_S + 1
    assert leader.snapshots.supervise() == set()
    assert leader.waits() == RETRY_S


def test_nothing_is_sent_to_a_follower_without_a_link(leader: Leader) -> None:
    leader.group.connected.remove("n2")
    assert leader.begin() == set()
    leader.group.connected.add("n2")
    assert leader.begin() == {"n2"}


def test_the_log_is_kept_behind_the_oldest_snapshot_under_way(leader: Leader) -> None:
    assert leader.snapshots.trimmable(500) == 500
    leader.begin(300)
    leader.group.snapshot_wanted.add("n3")
    leader.begin(400)
    assert leader.snapshots.trimmable(500) == 300
    assert leader.snapshots.trimmable(200) == 200
    leader.answer("n2", -1)
    leader.snapshots.supervise()
    assert leader.snapshots.trimmable(500) == 400
    leader.snapshots.stop()
    assert leader.snapshots.trimmable(500) == 500


def test_the_log_is_kept_until_a_follower_with_a_new_snapshot_has_caught_up_but_not_for_ever(leader: Leader) -> None:
    leader.begin(300)
    leader.deliver("n2")
    assert leader.snapshots.trimmable(500) == 300
    leader.group.snapshot_wanted.clear()
    leader.snapshots.supervise()
    assert leader.snapshots.trimmable(500) == 300
    leader.group.acknowledged["n2"] = 450
    assert leader.snapshots.trimmable(500) == 450
    leader.group.acknowledged["n2"] = 600
    assert leader.snapshots.trimmable(500) == 500
    leader.group.acknowledged["n2"] = 450
    leader.time += CATCH_UP_S
    assert leader.snapshots.trimmable(500) == 500
