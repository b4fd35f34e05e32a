"""The disk refuses any one call, or all from then on: nothing synced is lost, and nothing wrong is read.

`Faulty` fails the n-th call of a fixed story, for every n, with EIO or ENOSPC; a write fails half done. What the
process had written stays, as it does when a process ends and the machine does not; power cuts are in `tests/property`.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from respkv.cluster.slots import SLOTS, slot_of
from respkv.cluster.topology import Shard
from respkv.config import load
from respkv.contents import Contents
from respkv.disk import Disk
from respkv.raft import segment
from respkv.raft.identity import Identity
from respkv.raft.journal import SCANT_BYTES, Journal
from respkv.raft.journal import check as check_journal
from respkv.raft.log import Standing
from respkv.raft.messages import SNAPSHOT_BEGIN, SNAPSHOT_CHUNK, SNAPSHOT_END
from respkv.raft.segment import JournalDamaged
from respkv.raft.snapshot import SnapshotReceiver
from respkv.shard.repair import open_journal
from respkv.shard.replica import Replica
from respkv.storage import Bitcask, Damaged, Failed, check
from tests.property.test_bitcask import CrashDisk, PowerCutError, Story, abandon, contents, open_cask
from tests.unit.test_journal import states


class Faulty(CrashDisk):
    """Fails its `at`-th call (counted from 1; 0: none), and all later ones if `lasting`."""

    def __init__(self, root: Path, at: int, code: int, *, lasting: bool = False) -> None:
        super().__init__(root)
        self._at = at
        self._code = code
        self._lasting = lasting
        self.faults = 0

    def _call(self) -> None:
        self.calls += 1
        if self._at and (self.calls == self._at or (self._lasting and self.calls > self._at)):
            self.faults += 1
            raise OSError(self._code, os.strerror(self._code))

    def open(self, path: Path) -> int:
        self._call()
        return super().open(path)

    def allocate(self, fd: int, size_bytes: int) -> None:
        self._call()
        Disk.allocate(self, fd, size_bytes)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        try:
            super().write(fd, data, offset)
        except OSError:
            Disk.write(self, fd, data[: len(data) // 2], offset)
            raise


FAULTS = [(errno.EIO, False), (errno.ENOSPC, False), (errno.EIO, True)]


def each_call(tmp_path: Path, story: Callable[[Path, Faulty], Any], step: int = 1) -> Iterator[tuple[Path, Faulty]]:
    """A fresh directory and a disk for every call that `story` makes, and every kind of fault in turn."""
    whole = tmp_path / "whole"
    whole.mkdir()
    disk = Faulty(whole, 0, 0)
    story(whole, disk)
    shutil.rmtree(whole)
    assert disk.calls > 3
    for at in range(1, disk.calls + 1, step):
        code, lasting = FAULTS[at % len(FAULTS)]
        root = tmp_path / f"at-{at}"
        root.mkdir()
        yield root, Faulty(root, at, code, lasting=lasting)
        shutil.rmtree(root)


# --- data files ---


def test_a_call_that_fails_costs_a_bitcask_nothing_that_was_synced(tmp_path: Path) -> None:
    """Opening, roll-over, seal, hint, merge, clear, installation, close."""
    refused = 0
    for root, disk in each_call(tmp_path, lambda root, disk: Story(root, disk).tell()):
        story = Story(root, disk)
        try:
            story.tell()
        except (OSError, Failed):
            refused += 1
        assert disk.faults
        if story.cask is not None and not story.cask.closed:
            assert contents(story.cask) == story.states[story.cask.applied]  # what is in use stays right
        abandon(story.cask)
        story.states.setdefault(0, {})
        cask = open_cask(root / "log", CrashDisk(root))
        assert cask.applied >= story.synced
        assert contents(cask) == story.states[cask.applied]
        cask.put(b"more", b"1")
        cask.merge()
        cask.close()
        assert [one for one in check(root / "log") if one.kind != "leftover"] == []
    assert refused > 100


def test_a_sync_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    disk = Faulty(tmp_path, 0, errno.EIO)
    cask = open_cask(tmp_path / "log", disk)
    cask.put(b"key", b"value")
    disk._at = disk.calls + 1
    with pytest.raises(OSError, match="Input/output error"):
        cask.flush()
    with pytest.raises(Failed):
        cask.flush()
    with pytest.raises(Failed):
        cask.put(b"key", b"other")
    assert cask.synced == 0
    assert cask.get(b"key") is not None
    cask.close()


class Unreadable(Disk):
    """Whatever lies in the files of `bad` cannot be read."""

    def __init__(self) -> None:
        self.bad: set[str] = set()

    def read(self, fd: int, size_bytes: int, offset: int) -> bytes:  # type: ignore[override]
        if Path(f"/proc/self/fd/{fd}").readlink().name in self.bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(fd, size_bytes, offset)


LONG = b"long" * 5000


def unreadable_cask(path: Path) -> tuple[Bitcask, Unreadable, list[Damaged]]:
    """Two files, the first of them bad, and what `on_damage` is told."""
    disk = Unreadable()
    cask = Bitcask(path, segment_bytes=1 << 16, disk=disk)
    cask.put(b"bad", b"value")
    cask.put(b"bad-long", LONG)
    while len(cask.files) < 2:
        cask.put(b"filler", b"x" * 2000)
    told: list[Damaged] = []
    cask.put(b"good", b"value")
    cask.on_damage = told.append
    disk.bad.add("000001.0.data")
    return cask, disk, told


@pytest.mark.parametrize(
    "read",
    [
        lambda cask: cask.get_plain(cask.bucket_of(b"bad"), b"bad"),
        lambda cask: cask.get(b"bad"),
        lambda cask: cask.get(b"bad-long"),
        lambda cask: cask.fingerprint(b"bad"),
        lambda cask: cask.read_long(b"bad-long", cask.bucket_of(b"bad-long"), 10000),
        lambda cask: cask.merge(),
    ],
)
def test_what_cannot_be_read_is_damage_of_its_record_alone(tmp_path: Path, read: Callable[[Bitcask], Any]) -> None:
    cask, disk, told = unreadable_cask(tmp_path)
    with pytest.raises(Damaged, match=r"000001\.0\.data is damaged at byte \d+: .*cannot be read"):
        read(cask)
    assert [damage.file.name for damage in told] in (["000001.0.data"], [])
    assert cask.get_plain(cask.bucket_of(b"good"), b"good") == b"value"
    cask.put(b"more", b"1")
    disk.bad.clear()
    assert cask.get_plain(cask.bucket_of(b"bad"), b"bad") == b"value"
    cask.close()


def test_a_value_whose_reading_is_under_way_when_the_disk_goes_bad_is_damaged(tmp_path: Path) -> None:
    cask, disk, told = unreadable_cask(tmp_path)
    disk.bad.clear()
    reading = cask.read_long(b"bad-long", cask.bucket_of(b"bad-long"), 10000)
    assert reading is not None
    disk.bad.add("000001.0.data")
    with pytest.raises(Damaged, match="cannot be read"):
        list(reading)
    assert len(told) == 1
    cask.close()


def test_a_file_that_somebody_cuts_while_it_is_open_is_damaged(tmp_path: Path) -> None:
    """A map would end the process with SIGBUS."""
    cask, disk, told = unreadable_cask(tmp_path)
    disk.bad.clear()
    os.truncate(tmp_path / "000002.0.data", 100)
    os.truncate(tmp_path / "000001.0.data", 100)
    for key in (b"good", b"bad-long"):
        with pytest.raises(Damaged):
            cask.get(key)
    with pytest.raises(Damaged):
        cask.merge()
    assert len(told) == 2
    cask.close()
    assert any(finding.is_damage for finding in check(tmp_path))


@pytest.mark.parametrize("bad", ["000001.0.data", "000002.0.data"])
def test_opening_refuses_a_file_that_cannot_be_read(tmp_path: Path, bad: str) -> None:
    cask, disk, _ = unreadable_cask(tmp_path)
    disk.bad.clear()
    state = contents(cask)
    abandon(cask)  # nothing is sealed
    disk.bad.add(bad)
    with pytest.raises(Damaged, match=f"{bad} .*cannot be read"):
        open_cask(tmp_path, disk)
    disk.bad.clear()
    with open_cask(tmp_path, disk) as cask:
        assert contents(cask) == state


# --- journal ---


def test_a_journal_that_cannot_be_read_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path, (0,))
    journal.close()

    def fail(fd: int, size_bytes: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(segment, "Contents", partial(Contents, read=fail))
        with pytest.raises(JournalDamaged, match=r"\.journal: offset 0: it cannot be read"):
            Journal.open(tmp_path, (0,))
        assert [finding.is_damage for finding in check_journal(tmp_path)[0]] == [True]
    Journal.open(tmp_path, (0,)).close()


def tell_journal(root: Path, disk: Faulty, synced: list[Any]) -> None:
    """Opening, roll-over, trimming, reuse of segments, a loss, close; `synced` gets what may be found afterwards."""
    told: list[BaseException] = []  # the node stops at the first
    journal = Journal.open(root / "journal", (0,), segment_bytes=1024, disk=disk)
    journal.on_failure = told.append
    shard_log = journal.logs[0]
    synced.append((states(journal), shard_log.standing))
    try:
        for turn in range(14):
            shard_log.setCurrentTerm(shard_log.term + 1, "b" if turn % 2 else None)
            shard_log.add(b"\0" + b"%d" % turn * 200, shard_log.last_index + 1, shard_log.term)
            if turn % 5 == 4:
                shard_log.truncate(shard_log.last_index)
            if turn % 3 == 2:
                shard_log.trim(shard_log.last_index - 1)
            if turn == 9:
                shard_log.lose()
                shard_log.stand(Standing.LEARNER)
            synced.append((states(journal), shard_log.standing))
            journal.flush_and_wait()
            if told:
                raise told[0]
            del synced[:-1]
            journal.release()
            if told:
                raise told[0]
    finally:
        journal.close()


def only_checkpoint(old: Any, new: Any, standing: Standing) -> Any:
    """What there is if of a roll-over only the checkpoint arrived: the newest base, term, vote and standing."""
    term, vote, new_log = new
    base, old_log = new_log[0], old[2]
    known = any(entry[1:] == base[1:] for entry in old_log)
    log = [base, *(entry for entry in old_log if known and entry[1] > base[1])]
    return {0: (term, vote, log if base[1] >= old_log[0][1] else old_log)}, standing


def test_a_call_that_fails_is_told_and_costs_a_journal_nothing_that_was_synced(tmp_path: Path) -> None:
    refused = 0
    for root, disk in each_call(tmp_path, lambda root, disk: tell_journal(root, disk, [])):
        synced: list[Any] = []
        try:
            tell_journal(root, disk, synced)
        except OSError:
            refused += 1
        assert disk.faults
        journal = Journal.open(root / "journal", (0,), segment_bytes=1024)
        found = (states(journal), journal.logs[0].standing)
        assert not synced or found in [*synced, only_checkpoint(synced[0][0][0], synced[-1][0][0], synced[-1][1])]
        journal.close()
        assert check_journal(root / "journal")[0] == []
    assert refused > 40


class Small(CrashDisk):
    """Has room for files of `size` bytes in all; where one does not fit, as much of it as fits is reserved."""

    def __init__(self, root: Path, size: int = 1 << 40) -> None:
        super().__init__(root)
        self.size = size

    def allocate(self, fd: int, size_bytes: int) -> None:
        free = max(0, self.size - self.used())
        self.truncate(fd, min(size_bytes, free))
        if free < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def used(self) -> int:
        return sum(file.stat().st_size for file in self.root.rglob("*") if file.is_file())


MIB = 1 << 20


def grow(journal: Journal, count: int, size: int = 50_000) -> None:
    shard_log = journal.logs[0]
    for _ in range(count):
        index = shard_log.last_index + 1
        shard_log.add(b"\0" + b"%06d" % index * (size // 6), index, 1)
        journal.flush_and_wait()


def segment_sizes(root: Path) -> list[int]:
    return [path.stat().st_size for _, path in segment.list_segments(root)]


def test_a_journal_starts_and_lives_on_where_there_is_no_room_for_a_segment_of_the_usual_size(tmp_path: Path) -> None:
    disk = Small(tmp_path)
    start = partial(Journal.open, tmp_path, (0,), segment_bytes=4 * MIB, disk=disk)
    journal = start()
    grow(journal, 4)
    before = states(journal)
    journal.close()
    disk.size = disk.used() + MIB
    journal = start()
    assert states(journal) == before
    assert segment_sizes(tmp_path) == [journal._at + SCANT_BYTES]
    disk.size = disk.used() + MIB  # something else has taken what the old segment gave back
    grow(journal, 12)
    assert len(segment_sizes(tmp_path)) == 3
    assert max(segment_sizes(tmp_path)) < MIB
    journal.logs[0].trim(journal.logs[0].last_index - 1)
    journal.flush_and_wait()
    journal.release()
    assert len(segment_sizes(tmp_path)) == 1
    assert not list(tmp_path.glob("*.spare")), "a scant segment is not used again"
    disk.size += 4 * MIB
    grow(journal, 6)
    assert segment_sizes(tmp_path)[-1] == 4 * MIB
    before = states(journal)
    journal.close()
    journal = start()
    assert states(journal) == before
    journal.close()


def test_a_roll_over_without_any_room_is_told_and_costs_nothing_that_was_synced(tmp_path: Path) -> None:
    disk = Small(tmp_path)
    journal = Journal.open(tmp_path, (0,), segment_bytes=MIB, disk=disk)
    grow(journal, 10)
    disk.size = disk.used()
    before = states(journal)
    told: list[BaseException] = []
    journal.on_failure = told.append
    journal.logs[0].add(b"\0" * MIB, journal.logs[0].last_index + 1, 1)
    journal.flush()
    assert [getattr(error, "errno", None) for error in told] == [errno.ENOSPC]
    journal.close()
    journal = Journal.open(tmp_path, (0,), segment_bytes=MIB, disk=disk)
    assert states(journal) == before
    journal.close()


def test_a_journal_starts_where_what_it_holds_has_no_room_twice(tmp_path: Path) -> None:
    disk = Small(tmp_path)
    start = partial(Journal.open, tmp_path, (0,), segment_bytes=MIB, disk=disk)
    journal = start()
    grow(journal, 60)
    journal.close()
    before = states(journal)
    disk.size = disk.used() + MIB // 2
    sizes = segment_sizes(tmp_path)
    for life in range(5):
        if life == 3:
            tear(tmp_path)
            before[0][2].pop()
            sizes.append(SCANT_BYTES)
        journal = start()
        assert states(journal) == before
        assert journal.logs[0].durable == journal.logs[0].last_index
        assert [size // SCANT_BYTES for size in segment_sizes(tmp_path)] == [size // SCANT_BYTES for size in sizes]
        assert not list(tmp_path.glob("*.tmp"))
        grow(journal, 2, size=300)
        before = states(journal)
        journal.close()
        assert check_journal(tmp_path)[0] == []
    journal = start()
    journal.logs[0].trim(journal.logs[0].last_index - 1)
    journal.flush_and_wait()
    journal.release()
    assert len(segment_sizes(tmp_path)) == 1
    before = states(journal)
    journal.close()
    journal = start()
    assert segment_sizes(tmp_path) == [MIB]
    assert states(journal) == before
    journal.close()


def tear(root: Path) -> None:
    """Flips a bit in the newest frame, of which nothing says that it was synced."""
    newest = segment.scan(root)[0][-1]
    content = bytearray(newest.file.read_bytes())
    content[newest.offset + segment.FRAME.size] ^= 1
    newest.file.write_bytes(content)


@pytest.mark.parametrize("seed", range(6))
def test_a_journal_without_room_trusts_no_page_that_a_failed_sync_has_left_in_memory(tmp_path: Path, seed: int) -> None:
    root, after = tmp_path / "root", tmp_path / "after"
    root.mkdir()
    disk = Small(root)
    start = partial(Journal.open, root, (0,), segment_bytes=MIB, disk=disk)
    journal = start()
    grow(journal, 30)
    disk.failing_sync = disk.syncs
    with pytest.raises(OSError, match="Input/output error"):
        grow(journal, 1)
    journal.close()
    disk.size = disk.used() + MIB // 2
    journal = start()
    assert journal.logs[0].durable == journal.logs[0].last_index == 32
    before = states(journal)
    disk.power_cut(Random(seed), after)
    journal.close()
    journal = Journal.open(after, (0,), segment_bytes=MIB)
    assert states(journal) == before
    journal.close()


@pytest.mark.parametrize("torn", [False, True])
def test_a_power_cut_at_any_call_of_a_start_without_room_costs_nothing_that_was_synced(
    tmp_path: Path, torn: bool
) -> None:
    calls, started = 0, False
    while not started:
        root, after = tmp_path / f"root-{calls}", tmp_path / f"after-{calls}"
        root.mkdir()
        start = partial(Journal.open, shards=(0,), segment_bytes=1024)
        journal = start(root)
        grow(journal, 12, size=240)
        journal.close()
        before = states(journal)
        if torn:
            tear(root)
            before[0][2].pop()
        disk = Small(root)
        disk.size, disk.calls_left = disk.used() + 1200, calls
        with suppress(PowerCutError):
            start(root, disk=disk)._failed = True
            started = True
        disk.power_cut(Random(calls), after)
        journal = start(after)
        assert states(journal) == before, f"power cut at call {calls}"
        journal.close()
        calls += 1
    assert calls > 20


def test_a_call_that_fails_leaves_the_old_identity_or_the_new_one(tmp_path: Path) -> None:
    def story(root: Path, disk: Faulty) -> None:
        identity = Identity(root, disk)
        identity.meet(0, "n2", "a life")
        identity.meet(0, "n2", "another life")

    for root, disk in each_call(tmp_path, story):
        Identity(root, Disk()).meet(0, "n3", "kept")
        disk.__init__(root, disk._at, disk._code, lasting=disk._lasting)  # type: ignore[misc]  # it knows the file now
        before = Identity(root, Disk()).life
        try:
            story(root, disk)
        except OSError:
            pass
        after = Identity(root, Disk())
        assert (after.life, after.met(0, "n3")) == (before, "kept")
        assert after.met(0, "n2") in {None, "a life", "another life"}


def test_an_identity_that_does_not_check_begins_another_life(tmp_path: Path) -> None:
    first = Identity(tmp_path)
    content = (tmp_path / "identity").read_bytes()
    for at in range(len(content)):
        (tmp_path / "identity").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert Identity(tmp_path).life != first.life
    for length in range(len(content)):
        (tmp_path / "identity").write_bytes(content[:length])
        assert Identity(tmp_path).life != first.life


# --- a snapshot on its way in ---


def test_a_call_that_fails_while_a_snapshot_comes_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    with Bitcask(tmp_path / "source", segment_bytes=1024, buckets=7) as source:
        for number in range(60):
            source.put(b"key:%d" % number, b"new" * 10)
        source.merge()
        new = contents(source)
        with source.snapshot() as snapshot:
            files = [(file.name, os.pread(file.fd, file.length, 0)) for file in snapshot.files]
            index = snapshot.index

    def story(root: Path, disk: Faulty) -> None:
        def install(index: int, term: int) -> None:
            Bitcask.install(root / "log", root / "log.incoming", disk)

        receiver = SnapshotReceiver(0, root / "log.incoming", disk, lambda peer, message: True, install)
        head = [(name, len(content)) for name, content in files]
        receiver.receive("n2", (SNAPSHOT_BEGIN, 0, 1, 1, index, 0, head), 0)
        for number, (_, content) in enumerate(files):
            receiver.receive("n2", (SNAPSHOT_CHUNK, 0, 1, number, number, 0, content), 0)
        receiver.receive("n2", (SNAPSHOT_END, 0, 1, len(files)), 0)

    outcomes = set()
    for root, disk in each_call(tmp_path, story):
        with Bitcask(root / "log", segment_bytes=1024, buckets=7) as cask:
            cask.put(b"old", b"1")
            old = contents(cask)
        disk.__init__(root, disk._at, disk._code, lasting=disk._lasting)  # type: ignore[misc]  # it knows the files now
        try:
            story(root, disk)
        except OSError:
            pass
        shutil.rmtree(root / "log.incoming", ignore_errors=True)
        with Bitcask(root / "log", segment_bytes=1024, buckets=7) as cask:
            found = contents(cask)
            assert found in (old, new)
            outcomes.add(found == new)
    assert outcomes == {True, False}


# --- repair ---


def make_replica(root: Path, disk: Disk, replicas: tuple[str, ...] = ("n1", "n2", "n3")) -> Replica:
    small = {"journal-segment-bytes": "64kb", "segment-bytes": "64kb"}
    config = load(environ={}, flags={"dir": str(root), "read-cache-bytes": "0", **small})
    shard = Shard(0, (0,), replicas)
    journal = open_journal(config, [shard], disk)
    try:
        return Replica(
            shard, "n1", config, journal, send=lambda *_: True, wake=lambda _: None, worker=None,  # type: ignore[arg-type]
            fatal=lambda _: None, disk=disk, now=lambda: 0.0,
        )
    except BaseException:
        journal.close()
        raise


def lay_out(root: Path, damage: str) -> None:
    """A member's directory whose journal begins behind entry 30, with something wrong."""
    journal = Journal.open(root / "journal", [0], segment_bytes=1 << 16)
    for index in range(2, 60):
        journal.logs[0].add(b"\x01", index, 1)
    journal.logs[0].setCurrentTerm(7, "n2")
    journal.logs[0].trim(30)
    journal.close()
    Identity(root / "journal")
    with Bitcask(root / "shard-0", buckets=SLOTS, bucket_of=slot_of) as cask:
        for index in range(2, 40):
            cask.append_puts(index, 1, 1, [], [], [], b"")
    if damage == "data":
        file = next((root / "shard-0").glob("*.data"))
        content = bytearray(file.read_bytes())
        content[70] ^= 1
        file.write_bytes(content)
    elif damage == "shard":
        shutil.rmtree(root / "shard-0")
    elif damage == "journal":
        file = next((root / "journal").glob("*.journal"))
        content = bytearray(file.read_bytes())
        content[20] ^= 1
        file.write_bytes(content)
    else:
        next((root / "journal").glob("*.journal")).unlink()


@pytest.mark.parametrize("damage", ["data", "shard", "journal", "segments"])
def test_no_call_that_fails_in_a_repair_gives_a_replica_its_vote_back(tmp_path: Path, damage: str) -> None:
    def story(root: Path, disk: Faulty) -> None:
        lay_out(root, damage)
        disk.__init__(root, disk._at, disk._code, lasting=disk._lasting)  # type: ignore[misc]  # it knows the files now
        replica = make_replica(root, disk)
        assert not replica.group.votes
        replica.close()
        replica._journal.close()

    begun = 0
    for root, disk in each_call(tmp_path, story):
        try:
            story(root, disk)
        except OSError:
            begun += 1
        except Damaged:  # pragma: no cover - a member among others does not refuse
            raise AssertionError("refused") from None
        for _ in range(2):  # whatever was left: it knows that it lost something, and goes on knowing
            replica = make_replica(root, Disk())
            assert not replica.group.votes
            if damage in {"data", "shard"}:
                assert (replica.group.term, replica.group.log.voted_for) == (7, "n2")
            replica.close()
            replica._journal.close()
    assert begun > 3
