"""Who refuses, who repairs itself, and what becomes of the damaged files."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from respkv.cluster.topology import Shard
from respkv.config import Config, load
from respkv.disk import Disk
from respkv.raft.journal import ForeignJournal, Journal, JournalInUse
from respkv.raft.log import Standing
from respkv.raft.segment import JournalDamaged
from respkv.shard.repair import StartError, open_journal, put_aside
from respkv.shard.waiting import Part
from tests.unit.test_disk_faults import lay_out, make_replica

ALONE = Shard(0, (0,), ("n1",))
MEMBER = Shard(0, (0,), ("n1", "n2", "n3"))


def config_of(root: Path) -> Config:
    return load(environ={}, flags={"dir": str(root)})


def test_an_empty_directory_begins_new_among_others_and_as_a_voter_alone(tmp_path: Path) -> None:
    for name, shard, standing in (("a", ALONE, Standing.VOTER), ("b", MEMBER, Standing.NEW)):
        for _ in range(2):
            journal = open_journal(config_of(tmp_path / name), [shard], Disk())
            assert journal.logs[0].standing is standing
            journal.close()


def test_a_node_alone_refuses_a_damaged_or_missing_journal_and_names_file_and_offset(tmp_path: Path) -> None:
    lay_out(tmp_path / "damaged", "journal")
    file = next((tmp_path / "damaged" / "journal").glob("*.journal"))
    before = file.read_bytes()
    with pytest.raises(JournalDamaged, match=f"{file}: offset 0"):
        open_journal(config_of(tmp_path / "damaged"), [ALONE], Disk())
    assert file.read_bytes() == before
    lay_out(tmp_path / "missing", "segments")
    with pytest.raises(StartError, match=f"{tmp_path}/missing/journal: offset 0: the segments are missing"):
        open_journal(config_of(tmp_path / "missing"), [ALONE], Disk())


def test_a_journal_of_another_node_is_refused_and_not_put_aside(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal", [5])
    journal.logs[5].add(b"\0", 2, 1)
    journal.close()
    with pytest.raises(ForeignJournal):
        open_journal(config_of(tmp_path), [MEMBER], Disk())
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_what_a_transfer_has_left_is_gone_before_anything_is_allocated_but_not_that_of_a_running_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "shard-0.incoming"
    seen: list[bool] = []

    class Watching(Disk):
        def allocate(self, fd: int, size_bytes: int) -> None:
            seen.append(left.exists())
            super().allocate(fd, size_bytes)

    left.mkdir()
    open_journal(config_of(tmp_path), [MEMBER], Watching()).close()
    assert seen == [False]
    left.mkdir()
    monkeypatch.setattr(fcntl, "lockf", MagicMock(side_effect=BlockingIOError))
    with pytest.raises(JournalInUse):
        open_journal(config_of(tmp_path), [MEMBER], Watching())
    assert left.exists()


def test_a_lost_shard_is_no_loss_while_the_journal_has_all_of_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal", [0], segment_bytes=1 << 16)
    for index in range(2, 20):
        journal.logs[0].add(b"\x01", index, 1)
    journal.close()
    replica = make_replica(tmp_path, Disk())
    assert replica.group.votes
    assert replica.group.log.last_index == 19


def test_the_newest_damaged_copy_is_kept_and_none_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in ("first", "second"):
        (tmp_path / "shard-0").mkdir()
        (tmp_path / "shard-0" / "file").write_text(content)
        put_aside(tmp_path / "shard-0", 0, Disk())
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("shard-0.damaged-")
    assert (kept / "file").read_text() == "second"
    (tmp_path / "shard-0").mkdir()
    (tmp_path / "shard-0" / "file").write_text("third")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    put_aside(tmp_path / "shard-0", 0, Disk())
    assert list(tmp_path.iterdir()) == []


class _Waiter(Part):
    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Any] = []

    def put(self, token: int, value: Any) -> None:
        self.answers.append(value)

    def done(self) -> None: ...


@pytest.mark.parametrize("replicas", [("n1",), ("n1", "n2", "n3")])
def test_a_damaged_value_is_an_error_alone_and_waits_for_another_replica_among_others(
    tmp_path: Path, replicas: tuple[str, ...]
) -> None:
    replica = make_replica(tmp_path, Disk(), replicas)
    replica.cask.put(b"key", b"value")
    file = replica.cask.files[-1].path
    content = file.read_bytes()
    with file.open("r+b") as opened:
        opened.seek(content.index(b"value"))
        opened.write(b"wrong")
    replica.group.lease_until = float("inf")
    waiter = _Waiter()
    replica.proposer.read(waiter, 0, [b"GET", b"key"])
    if len(replicas) == 1:
        assert [str(file) in answer.text for answer in waiter.answers] == [True]
        assert replica.repairs == 0
    else:
        assert waiter.answers == []
        assert (replica.repairs, waiter.pending) == (1, 1)
    assert replica.damage is not None
    assert replica.proposer.get_plain(0, b"key") is False
