"""The journal as its shards use it: what is durable is found again, whatever the disk did."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from respkv.checksum import crc32
from respkv.disk import Disk
from respkv.raft.journal import Journal, JournalInUse, check
from respkv.raft.log import NO_OP, ShardLog
from respkv.raft.segment import MAGIC, JournalDamaged, head_of, list_segments, scan

SEGMENT_BYTES = 4096
State = tuple[int, str | None, list[tuple[bytes, int, int]]]


class Quick(Disk):
    """Files that outlive nothing: no test here cuts the power under it."""

    def sync(self, fd: int) -> None: ...

    def sync_dir(self, path: Path) -> None: ...


def opened(path: Path, shards: tuple[int, ...] = (0,), disk: Disk | None = None) -> Journal:
    return Journal.open(path, shards, segment_bytes=SEGMENT_BYTES, disk=disk or Quick())


def sync(journal: Journal) -> None:
    journal.flush()
    for descriptor in journal.ask_sync():
        journal._disk.sync(descriptor)
    journal.sync_done(journal.sequence)


def state(shard_log: ShardLog) -> State:
    return shard_log.term, shard_log.voted_for, list(shard_log)


def states(journal: Journal) -> dict[int, State]:
    return {shard: state(shard_log) for shard, shard_log in journal.logs.items()}


def fill(journal: Journal, shard: int = 0, segments: int = 2, size: int = 300) -> None:
    shard_log = journal.logs[shard]
    while len(journal._segments) < segments:
        index = shard_log.last_index + 1
        shard_log.add(b"\0" + b"%d" % index * (size // 4), index, max(1, shard_log.term))
        sync(journal)


def reopened(journal: Journal, path: Path) -> Journal:
    shards = tuple(journal.logs)
    journal.close()
    return opened(path, shards)


# --- what survives ---


def test_a_new_journal_has_empty_logs_with_entry_one_of_term_zero(tmp_path: Path) -> None:
    journal = opened(tmp_path, (0, 3))
    assert states(journal) == {shard: (0, None, [(NO_OP, 1, 0)]) for shard in (0, 3)}
    journal.close()


def test_entries_term_and_vote_of_all_shards_survive(tmp_path: Path) -> None:
    journal = opened(tmp_path, (0, 1))
    journal.logs[0].setCurrentTerm(4, "n2")
    journal.logs[1].setCurrentTerm(9, None)
    for index in range(2, 6):
        journal.logs[0].add(b"\0a%d" % index, index, 4)
        journal.logs[1].add(b"\0" * index, index, 9)
    sync(journal)
    before = states(journal)
    journal = reopened(journal, tmp_path)
    assert states(journal) == before
    assert journal.logs[0].getVotedForNodeId() == "n2"
    journal.close()


def test_the_newest_of_several_votes_survives_many_roll_overs(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.logs[0].setCurrentTerm(7, "b")
    sync(journal)
    fill(journal, segments=4)
    for index in range(3):
        journal.logs[0].trim(journal.logs[0].last_index - 2 + index)
        sync(journal)
    journal.release()
    journal = reopened(journal, tmp_path)
    assert (journal.logs[0].term, journal.logs[0].voted_for) == (7, "b")
    journal.close()


def test_one_frame_holds_the_turn_of_all_shards_and_one_request_asks_for_its_sync(tmp_path: Path) -> None:
    journal = opened(tmp_path, (0, 1))
    asked: list[Any] = []
    journal.sync_request = lambda descriptors, sequence: asked.append((len(descriptors), sequence))
    for shard_log in journal.logs.values():
        shard_log.add(b"\0x", 2, 1)
        shard_log.add(b"\0y", 3, 1)
    journal.flush()
    journal.flush()
    assert asked == [(1, journal.sequence)]
    assert len(scan(tmp_path)[0]) == 2
    journal.close()


def test_truncation_survives_and_so_does_what_was_written_in_its_place(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    for index in range(2, 10):
        shard_log.add(b"\0old", index, 1)
    sync(journal)
    shard_log.truncate(5)
    shard_log.add(b"\0new", 5, 2)
    sync(journal)
    journal = reopened(journal, tmp_path)
    assert [(index, term) for _, index, term in journal.logs[0]] == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2)]
    journal.close()


def test_bytes_counts_the_commands_held(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    for index in range(2, 10):
        shard_log.add(b"\0" * index, index, 1)
    assert shard_log.bytes == sum(range(2, 10))
    shard_log.truncate(8)
    shard_log.trim(4)
    assert shard_log.bytes == 5 + 6 + 7
    sync(journal)
    journal = reopened(journal, tmp_path)
    assert journal.logs[0].bytes == 5 + 6 + 7
    journal.close()


@pytest.mark.parametrize("beyond", range(-3, 4))
def test_trimming_around_the_top_of_the_oldest_segment_and_releasing_it_leaves_a_journal_that_opens(
    tmp_path: Path, beyond: int
) -> None:
    journal = opened(tmp_path)
    fill(journal)
    shard_log = journal.logs[0]
    for index in range(shard_log.last_index + 1, shard_log.last_index + 6):
        shard_log.add(b"\0tail", index, 1)
    sync(journal)
    shard_log.trim(journal.pinned()[0] + beyond)
    sync(journal)
    journal.release()
    assert len(journal._segments) == (2 if beyond < 0 else 1)
    before = states(journal)
    journal = reopened(journal, tmp_path)
    assert states(journal) == before
    journal.close()


def test_a_truncation_that_reaches_back_over_a_roll_over_survives_the_release_of_the_older_segment(
    tmp_path: Path,
) -> None:
    journal = opened(tmp_path)
    fill(journal)
    shard_log = journal.logs[0]
    last = shard_log.last_index
    shard_log.truncate(last - 2)
    for index in range(last - 2, last + 4):
        shard_log.add(b"\0new", index, 2)
    sync(journal)
    shard_log.trim(last)
    sync(journal)
    journal.release()
    assert len(journal._segments) == 1
    before = states(journal)
    journal = reopened(journal, tmp_path)
    assert states(journal) == before
    journal.close()


def test_a_roll_over_in_the_turn_of_a_reset_leaves_a_journal_that_opens(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    while journal._at < 3500:
        shard_log.add(b"\0" + b"x" * 300, shard_log.last_index + 1, 1)
        sync(journal)
    shard_log.add(b"\0" + b"x" * 900, shard_log.last_index + 1, 1)
    shard_log.reset(40, 3)
    shard_log.add(b"\0after", 41, 3)
    sync(journal)
    assert len(journal._segments) == 2
    journal = reopened(journal, tmp_path)
    assert list(journal.logs[0]) == [(NO_OP, 40, 3), (b"\0after", 41, 3)]
    journal.close()


def test_a_reset_survives_whatever_the_log_held(tmp_path: Path) -> None:
    for held, index in ((0, 5), (8, 5), (8, 9), (8, 30)):
        shutil.rmtree(tmp_path)
        journal = opened(tmp_path)
        for position in range(2, 2 + held):
            journal.logs[0].add(b"\0x", position, 1)
        sync(journal)
        journal.logs[0].reset(index, 6)
        sync(journal)
        journal = reopened(journal, tmp_path)
        assert list(journal.logs[0]) == [(NO_OP, index, 6)]
        assert journal.logs[0].durable == index
        journal.close()


def test_a_segment_is_kept_until_the_base_itself_is_durable_and_every_shard_has_passed_it(tmp_path: Path) -> None:
    journal = opened(tmp_path, (0, 1))
    journal.logs[1].add(b"\0other", 2, 1)
    sync(journal)
    fill(journal, shard=0)
    shard_log = journal.logs[0]
    shard_log.trim(shard_log.last_index)
    journal.flush()
    journal.release()
    assert len(journal._segments) == 2, "the base is not durable"
    sync(journal)
    journal.release()
    assert len(journal._segments) == 2, "shard 1 has an entry there"
    assert journal.pinned() == {1: 2}
    journal.logs[1].trim(2)
    sync(journal)
    journal.release()
    assert len(journal._segments) == 1
    journal.close()


def test_a_segment_is_kept_while_its_entries_are_below_a_base_that_a_crash_could_lose(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    fill(journal)
    shard_log = journal.logs[0]
    shard_log.trim(shard_log.last_index)
    journal.flush()
    journal.release()
    assert len(journal._segments) == 2
    sync(journal)
    journal.release()
    assert len(journal._segments) == 1
    journal.close()


def test_a_segment_stays_open_while_a_sync_that_names_it_is_under_way(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    asked: list[int] = []
    shard_log = journal.logs[0]
    while journal._at < 3500:
        shard_log.add(b"\0" + bytes(300), shard_log.last_index + 1, 1)
        sync(journal)
    journal.sync_request = lambda descriptors, sequence: asked.append(sequence)
    shard_log.trim(shard_log.last_index)
    journal.flush()
    shard_log.add(b"\0" + bytes(900), shard_log.last_index + 1, 1)
    journal.flush()
    assert len(journal._segments) == 2
    journal.sync_done(asked[0])
    journal.release()
    assert len(journal._segments) == 2, "the second request names the first segment, too"
    journal.sync_done(asked[1])
    journal.release()
    assert len(journal._segments) == 1
    journal.close()


def test_a_life_of_the_journal_has_a_salt_of_its_own_and_all_its_segments_have_it(tmp_path: Path) -> None:
    seen: set[bytes] = set()
    for life in range(3):
        journal = opened(tmp_path)
        fill(journal, segments=3)
        heads = [head_of(number, path) for number, path in list_segments(tmp_path)]
        assert [head is not None and head.fresh for head in heads] == [True, False, False]
        seen |= {head.salt for head in heads if head is not None}
        assert len(seen) == life + 1
        journal.close()


def test_values_made_of_forged_frames_are_never_taken_for_frames(tmp_path: Path) -> None:
    """They lie behind the end of the log, in segments that are used again."""
    rest = struct.pack("<QQQ", 0, 1 << 60, 1 << 60)
    forged = b"".join(mark + struct.pack("<I", crc32(rest)) + rest for mark in (b"RJF1", MAGIC[:4], MAGIC[4:]))
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    for _ in range(60):
        shard_log.add(b"\0" + forged * 4, shard_log.last_index + 1, 1)
        shard_log.trim(max(1, shard_log.last_index - 3))
        sync(journal)
        journal.release()
        assert check(tmp_path)[0] == []
    assert journal._segments[-1].number > 6
    assert forged in journal._segments[-1].path.read_bytes()[journal._at :]
    before = states(journal)
    journal = reopened(journal, tmp_path)
    assert states(journal) == before
    journal.close()


def test_a_released_segment_is_used_again_and_its_old_frames_stay_dead(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for _ in range(6):
        fill(journal, segments=len(journal._segments) + 1)
        journal.logs[0].trim(journal.logs[0].last_index - 1)
        sync(journal)
        journal.release()
        assert len(list(tmp_path.glob("*.journal"))) <= 2
        before = states(journal)
        copy = tmp_path.with_name("copy")
        shutil.copytree(tmp_path, copy)
        seen = opened(copy)
        assert states(seen) == before
        seen.close()
        shutil.rmtree(copy)
    journal.close()


def test_an_entry_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.logs[0].add(b"\0" + bytes(50_000), 2, 1)
    journal.logs[0].add(b"\0small", 3, 1)
    sync(journal)
    journal.logs[0].add(b"\0next", 4, 1)
    sync(journal)
    before = states(journal)
    journal = reopened(journal, tmp_path)
    assert states(journal) == before
    journal.close()


# --- durability ---


def test_nothing_is_durable_before_its_sync(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    shard_log.setCurrentTerm(2, "b")
    shard_log.add(b"\0x", 2, 2)
    assert (shard_log.durable, shard_log.state_durable) == (1, False)
    journal.flush()
    assert (shard_log.durable, shard_log.state_durable) == (1, False)
    assert journal.sync_done(journal.sequence - 1) == []
    assert (shard_log.durable, shard_log.state_durable) == (1, False)
    assert journal.sync_done(journal.sequence) == [shard_log]
    assert (shard_log.durable, shard_log.state_durable) == (2, True)
    journal.close()


def test_a_sync_under_way_does_not_bless_what_was_rewritten_after_a_truncation(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    for index in range(2, 8):
        shard_log.add(b"\0old", index, 1)
    journal.flush()
    under_way = journal.sequence
    shard_log.truncate(4)
    for index in range(4, 10):
        shard_log.add(b"\0new", index, 2)
    journal.sync_done(under_way)
    assert shard_log.durable == 3
    journal.flush()
    journal.sync_done(under_way)
    assert shard_log.durable == 3
    journal.sync_done(journal.sequence)
    assert shard_log.durable == 9
    journal.close()


def test_a_truncation_takes_back_what_was_durable(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    for index in range(2, 8):
        shard_log.add(b"\0old", index, 1)
    sync(journal)
    shard_log.truncate(5)
    shard_log.add(b"\0new", 5, 2)
    assert shard_log.durable == 4
    journal.close()


def test_a_sync_under_way_does_not_bless_a_later_vote(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    shard_log.setCurrentTerm(2, None)
    journal.flush()
    under_way = journal.sequence
    shard_log.setCurrentTerm(2, "b")
    journal.sync_done(under_way)
    assert not shard_log.state_durable
    journal.flush()
    journal.sync_done(journal.sequence)
    assert shard_log.state_durable
    journal.close()


def test_the_sync_request_names_every_file_that_has_unsynced_frames(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    asked: list[tuple[tuple[int, ...], int]] = []
    journal.sync_request = lambda descriptors, sequence: asked.append((descriptors, sequence))
    shard_log = journal.logs[0]
    while len(journal._segments) < 3:
        shard_log.add(b"\0" + bytes(900), shard_log.last_index + 1, 1)
        journal.flush()
    assert asked[-1][0] == tuple(segment.fd for segment in journal._segments)
    journal.sync_done(asked[0][1])
    assert len(journal._unsynced) == 3
    journal.sync_done(asked[-1][1])
    assert len(journal._unsynced) == 1
    journal.close()


def test_what_counts_without_a_sync_is_not_called_synced_so_that_a_power_cut_is_no_damage(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    offsets = []
    for index in (2, 3, 4):
        offsets.append(journal._at)
        shard_log.add(b"\0x", index, 1)
        journal.flush()
        assert journal.count_written() == [shard_log]
        assert shard_log.durable == index
    path = list_segments(tmp_path)[-1][1]
    with path.open("r+b") as file:  # the middle frame never reached the disk, the last one did
        file.seek(offsets[1])
        file.write(bytes(offsets[2] - offsets[1]))
    journal._failed = True
    journal.close()
    journal = opened(tmp_path)
    assert journal.logs[0].last_index == 2
    journal.close()


def test_a_segment_rolled_off_before_its_sync_is_named_by_the_next_one_and_stays_open(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    shard_log = journal.logs[0]
    while len(journal._segments) < 2:
        shard_log.add(b"\0" + bytes(900), shard_log.last_index + 1, 1)
        journal.flush()
        journal.count_written()
    assert journal.rolled
    asked = journal.ask_sync()
    assert asked == tuple(segment.fd for segment in journal._segments)
    shard_log.trim(shard_log.last_index)
    journal.flush()
    journal.count_written()
    journal.release()
    assert len(journal._segments) == 2, "a sync that names its descriptor is under way"
    journal.sync_done(journal.sequence)
    assert not journal.rolled
    journal.release()
    assert len(journal._segments) == 1
    journal.close()


def test_a_failed_sync_is_told_once_and_nothing_counts_or_is_written_afterwards(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    told: list[BaseException] = []
    journal.on_failure = told.append
    shard_log = journal.logs[0]
    shard_log.add(b"\0x", 2, 1)
    journal.flush()
    error = OSError(5, "Input/output error")
    assert journal.sync_done(journal.sequence, error) == []
    assert journal.sync_done(journal.sequence) == []
    shard_log.add(b"\0y", 3, 1)
    journal.flush()
    assert told == [error]
    assert shard_log.durable == 1
    journal.close()


def test_a_failed_write_is_told(tmp_path: Path) -> None:
    class Full(Quick):
        def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            if offset:
                raise OSError(28, "No space left on device")
            super().write(fd, data, offset)

    journal = opened(tmp_path, disk=Full())
    told: list[BaseException] = []
    journal.on_failure = told.append
    journal.logs[0].add(b"\0x", 2, 1)
    journal.flush()
    assert len(told) == 1
    assert journal.sync_done(journal.sequence) == []
    journal.close()


# --- recovery ---


def history(path: Path) -> list[tuple[int, dict[int, State]]]:
    """Writes a journal of two segments whose newest holds several frames; returns (offset behind, states) of those."""
    journal = opened(path, (0, 1))
    fill(journal)
    seen = [(journal._at, states(journal))]

    def turn(action: Callable[[], None]) -> None:
        action()
        sync(journal)
        seen.append((journal._at, states(journal)))

    first, second = journal.logs[0], journal.logs[1]
    last = first.last_index
    turn(lambda: second.add(b"\0second", 2, 1))
    turn(lambda: first.setCurrentTerm(3, "c"))
    turn(lambda: first.truncate(last))
    turn(lambda: first.add(b"\0again", last, 3))
    turn(lambda: first.trim(last - 1))
    turn(lambda: second.reset(30, 2))
    journal._failed = True
    journal.close()
    return seen


def test_the_newest_segment_cut_at_every_byte_gives_the_state_after_the_last_whole_frame(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    seen = history(source)
    newest = list_segments(source)[-1][1]
    whole = newest.read_bytes()
    for cut in range(seen[0][0], seen[-1][0] + 1):
        for padded in (False, True):
            shutil.copytree(source, copy)
            (copy / newest.name).write_bytes(whole[:cut].ljust(SEGMENT_BYTES if padded else cut, b"\0"))
            journal = opened(copy, (0, 1))
            expected = [after for end, after in seen if end <= cut]
            later = seen[len(expected)][1] if padded and len(expected) < len(seen) else expected[-1]
            assert states(journal) in (expected[-1], later), f"cut at {cut}"
            journal.close()
            shutil.rmtree(copy)


def test_what_is_appended_after_a_cut_survives_and_the_torn_frame_does_not(tmp_path: Path) -> None:
    seen = history(tmp_path)
    newest = list_segments(tmp_path)[-1][1]
    with newest.open("r+b") as file:
        file.truncate(seen[-1][0] - 1)
    journal = opened(tmp_path, (0, 1))
    assert states(journal) == seen[-2][1]
    journal.logs[1].add(b"\0later", 3, 5)
    sync(journal)
    before = states(journal)
    journal = reopened(journal, tmp_path)
    assert states(journal) == before
    journal.close()


def test_a_flipped_bit_in_synced_frames_is_refused_and_found_by_check(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    seen = history(source)
    newest = list_segments(source)[-1][1]
    whole = newest.read_bytes()
    for offset in range(0, seen[-2][0], 13):
        shutil.copytree(source, copy)
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        (copy / newest.name).write_bytes(damaged)
        found, _ = check(copy)
        with pytest.raises(JournalDamaged) as caught:
            opened(copy, (0, 1))
        assert [(finding.file, finding.offset) for finding in found] == [(caught.value.file, caught.value.offset)]
        assert (copy / newest.name).read_bytes() == damaged, "a damaged journal is left as it is"
        shutil.rmtree(copy)


def test_a_flipped_bit_in_an_older_segment_is_refused_wherever_it_is(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    history(source)
    oldest = list_segments(source)[0][1]
    used = max(frame.offset + 40 + len(frame.body) for frame in scan(source)[0] if frame.file == oldest)
    whole = oldest.read_bytes()
    for offset in range(0, used, 101):
        shutil.copytree(source, copy)
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        (copy / oldest.name).write_bytes(damaged)
        with pytest.raises(JournalDamaged) as caught:
            opened(copy, (0, 1))
        assert caught.value.file == copy / oldest.name
        shutil.rmtree(copy)


def test_check_finds_nothing_in_a_sound_or_torn_journal_and_says_if_there_is_none(tmp_path: Path) -> None:
    assert [finding.kind for finding in check(tmp_path)[0]] == ["damage"]
    seen = history(tmp_path)
    assert check(tmp_path)[0] == []
    newest = list_segments(tmp_path)[-1][1]
    with newest.open("r+b") as file:
        file.truncate(seen[-1][0] - 1)
    assert [(finding.file, finding.offset, finding.kind) for finding in check(tmp_path)[0]] == [
        (newest, seen[-2][0], "torn")
    ]


def test_records_of_a_shard_that_is_not_held_here_are_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path, (0, 1))
    journal.close()
    with pytest.raises(JournalDamaged, match="shard 1"):
        opened(tmp_path, (0,))


def test_a_second_process_is_refused_and_a_closed_journal_is_free(tmp_path: Path) -> None:
    import subprocess
    import sys

    journal = opened(tmp_path)
    program = (
        "import sys; from pathlib import Path; from respkv.raft.journal import Journal, JournalInUse\n"
        "try: Journal.open(Path(sys.argv[1]), [0])\n"
        "except JournalInUse: print('refused')"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert ran.stdout.strip() == "refused", ran.stderr
    journal.close()
    opened(tmp_path).close()
    assert issubclass(JournalInUse, Exception)


# --- a crash at every call ---


class Crash(BaseException):
    """The process ends here. No Exception, so that nothing handles it."""


class Mortal(Disk):
    """Dies before its n-th change; what is written stays in memory until it is synced."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.pending: dict[int, list[tuple[int, bytes]]] = {}
        self.descriptors: set[int] = set()

    def _count(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1

    def create(self, path: Path, size_bytes: int = 0) -> int:
        self._count()
        fd = super().create(path, size_bytes)
        self.descriptors.add(fd)
        return fd

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self.descriptors.add(fd)
        return fd

    def allocate(self, fd: int, size_bytes: int) -> None:
        self._count()
        super().allocate(fd, size_bytes)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._count()
        self.pending.setdefault(fd, []).append((offset, bytes(data)))

    def sync(self, fd: int) -> None:
        self._count()
        for offset, data in self.pending.pop(fd, ()):
            super().write(fd, data, offset)

    def sync_dir(self, path: Path) -> None:
        self._count()

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)

    def close(self, fd: int) -> None:
        self.descriptors.discard(fd)
        super().close(fd)


def _live_on(path: Path, disk: Mortal, synced: list[dict[int, State]]) -> None:
    """Opens, rolls over, trims and releases; appends to `synced` what is known to be on the disk."""
    journal = Journal.open(path, (0,), segment_bytes=1024, disk=disk)
    try:
        shard_log = journal.logs[0]
        synced.append(states(journal))
        for turn in range(12):
            shard_log.setCurrentTerm(shard_log.term + 1, "b" if turn % 2 else None)
            shard_log.add(b"\0" + b"%d" % turn * 200, shard_log.last_index + 1, shard_log.term)
            if turn % 5 == 4:
                shard_log.truncate(shard_log.last_index)
            synced.append(states(journal))  # may be there, even if the crash comes before it is known
            sync(journal)
            synced[:] = synced[-1:]
            if turn % 3 == 2:
                shard_log.trim(shard_log.last_index - 1)
                synced.append(states(journal))
                sync(journal)
                synced[:] = synced[-1:]
                journal.release()
    finally:
        journal._failed = True
        for segment in journal._segments:
            disk.pending.pop(segment.fd, None)
        journal.close()


def test_a_crash_before_any_disk_call_loses_nothing_that_was_synced(tmp_path: Path) -> None:
    calls, ended = 0, False
    while not ended:
        path = tmp_path / f"at-{calls}"
        disk, synced = Mortal(calls), []
        for _ in range(2):  # the second life begins by recovering from the first
            try:
                _live_on(path, disk, synced)
                ended = True
            except Crash:
                ended = False
                for fd in list(disk.descriptors):
                    disk.close(fd)
                disk = Mortal(calls)
                journal = Journal.open(path, (0,), segment_bytes=1024, disk=Quick())
                if synced:
                    assert states(journal) in (synced[0], synced[-1]), f"crash at call {calls}"
                journal.close()
        shutil.rmtree(path)
        calls += 1
    assert calls > 60


def test_check_sees_that_a_whole_segment_is_missing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, [0], segment_bytes=1 << 16)
    for index in range(2, 100):
        journal.logs[0].add(b"x" * 1000, index, 1)
        journal.flush()
    journal.close()
    first, *rest = sorted(tmp_path.glob("*.journal"))
    assert rest
    assert check(tmp_path)[0] == []
    first.unlink()
    assert [finding.kind for finding in check(tmp_path)[0]] == ["damage"]
