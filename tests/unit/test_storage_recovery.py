"""Opening what a crash, a bad disk or a stranger left: a torn end is cut, damage is refused, nothing wrong is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from respkv.disk import Disk
from respkv.storage import Bitcask, Damaged, Record, check
from respkv.storage.frame import FILE_HEAD_BYTES, FRAME_HEAD_BYTES, frames

State = dict[bytes, Record | None]


class QuickDisk(Disk):
    """Does not wait for the disk."""

    def sync(self, fd: int) -> None: ...

    def sync_dir(self, path: Path) -> None: ...


def contents(cask: Bitcask) -> State:
    return {key: cask.get(key) for key in cask}


def abandon(cask: Bitcask) -> None:
    """As if the process had ended."""
    for file in cask.files:
        file.close()
    os.close(cask._lock_fd)


def opened(path: Path, segment_bytes: int = 8192) -> Bitcask:
    return Bitcask(path, segment_bytes=segment_bytes, disk=QuickDisk(), buckets=8, merge_dead_ratio=1.0)


def write_log(path: Path, batches: int = 6) -> tuple[dict[int, State], dict[int, int]]:
    """Some batches of several kinds. Returns the states by index, and where in the file each index ends."""
    cask = opened(path)
    states, ends = {0: contents(cask)}, {0: FILE_HEAD_BYTES}
    for number in range(1, batches + 1):
        batch = cask.batch()
        if number == 4:
            batch.clear()
        if number != 5:
            batch.put(b"key:%d" % (number % 3), b"v" * number, expire_ms=number % 2 * 1000)
            batch.put(b"same", b"%d" % number, type=1 + number % 2)
            batch.delete(b"key:%d" % ((number + 1) % 3))
        cask.commit(batch, number * 10, number, number * 100)
        states[number * 10], ends[number * 10] = contents(cask), cask.files[-1].length
    abandon(cask)
    return states, ends


@pytest.mark.parametrize("zeros", [False, True], ids=["short", "zero tail"])
def test_a_log_cut_at_any_byte_is_the_state_after_its_last_whole_batch(tmp_path: Path, zeros: bool) -> None:
    states, ends = write_log(tmp_path / "log")
    file = tmp_path / "log" / "000001.0.data"
    data = file.read_bytes()[: ends[60]]
    for cut in range(len(data) + 1):
        file.write_bytes(data[:cut].ljust(8192 if zeros else 0, b"\0"))
        # zeros at the end of a frame may be what was there anyway
        whole = [index for index, end in ends.items() if end <= cut or (zeros and not data[cut:end].strip(b"\0"))]
        expected = max(whole, default=0)
        if zeros and cut > 0 and not whole:
            with pytest.raises(Damaged):  # a head is written and synced before anything else
                opened(tmp_path / "log")
            continue
        cask = opened(tmp_path / "log")
        assert (cask.applied, contents(cask)) == (expected, states[expected])
        assert cask.expires == {key: one.expire_ms for key, one in states[expected].items() if one and one.expire_ms}
        cask.commit(cask.batch(), expected + 1, 1, 1)
        cask.close()
        cask = opened(tmp_path / "log")
        assert (cask.applied, contents(cask)) == (expected + 1, states[expected])
        cask.close()


def test_old_frames_behind_a_cut_never_come_back(tmp_path: Path) -> None:
    states, ends = write_log(tmp_path)
    file = tmp_path / "000001.0.data"
    data = bytearray(file.read_bytes())
    data[ends[20] : ends[20] + 8] = bytes(8)  # the frame of index 30 did not arrive, the later ones did
    file.write_bytes(data)
    cask = opened(tmp_path)
    assert (cask.applied, contents(cask)) == (20, states[20])
    batch = cask.batch()
    batch.put(b"key:0", b"vvv", expire_ms=1000)
    batch.put(b"same", b"3", type=2)
    batch.delete(b"key:1")
    cask.commit(batch, 25, 3, 300)
    assert cask.files[-1].length == ends[30]  # just where the frame of index 40 used to start
    state = contents(cask)
    abandon(cask)
    cask = opened(tmp_path)
    assert (cask.applied, contents(cask)) == (25, state)
    cask.close()


def test_any_flipped_bit_that_a_later_sync_covers_is_refused(tmp_path: Path) -> None:
    cask = opened(tmp_path)
    cask.put(b"a", b"1" * 20)
    cask.put(b"b", b"2" * 20)
    synced_end = cask.files[-1].length
    cask.flush()
    cask.put(b"c", b"3")
    abandon(cask)
    file = tmp_path / "000001.0.data"
    data = file.read_bytes()
    for bit in range(0, synced_end * 8, 3):  # 3 and 8 have no common factor: all bits of all fields in turn
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bad)
        with pytest.raises(Damaged) as caught:
            opened(tmp_path)
        assert caught.value.file == file
        assert caught.value.offset <= bit // 8
        assert file.read_bytes() == bad
        assert [(one.file, one.kind == "damage") for one in check(tmp_path)] == [(file, True)]
    file.write_bytes(data)
    cask = opened(tmp_path)
    assert len(cask) == 3
    cask.close()


def test_the_offset_of_damage_is_that_of_the_record(tmp_path: Path) -> None:
    cask = opened(tmp_path)
    batch = cask.batch()
    batch.put(b"a", b"1")
    batch.put(b"b", b"2")
    cask.commit(batch, 1, 1, 1)
    cask.flush()
    cask.put(b"c", b"3")
    abandon(cask)
    file = tmp_path / "000001.0.data"
    data = bytearray(file.read_bytes())
    second = FILE_HEAD_BYTES + FRAME_HEAD_BYTES + 23
    data[second + 18] ^= 1
    file.write_bytes(data)
    with pytest.raises(Damaged) as caught:
        opened(tmp_path)
    assert caught.value.offset == second
    assert [(one.offset, one.kind) for one in check(tmp_path)] == [(second, "damage")]


def sealed_log(path: Path) -> State:
    """Three files: two sealed, with hints, and the active one."""
    cask = opened(path, segment_bytes=1024)
    number = 0
    while len(cask.files) < 3:
        number += 1
        cask.put(b"key:%d" % (number % 20), b"%d" % number, expire_ms=number % 5)
        if number % 9 == 0:
            cask.delete(b"key:%d" % (number % 4))
    cask.merge()
    state = contents(cask)
    abandon(cask)
    return state


@pytest.mark.parametrize("with_hints", [True, False])
def test_a_flipped_bit_in_a_sealed_file_is_refused_or_never_answered(tmp_path: Path, with_hints: bool) -> None:
    state = sealed_log(tmp_path)
    if not with_hints:
        for hint in tmp_path.glob("*.hint"):
            hint.unlink()
    file = tmp_path / "000001.0.data"
    data = file.read_bytes()
    refused = healed = 0
    for at in range(0, len(data), 1 + with_hints):
        bad = data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :]
        file.write_bytes(bad)
        assert any(one.file == file for one in check(tmp_path)), at
        try:
            cask = opened(tmp_path, segment_bytes=1024)
        except Damaged as damaged:
            refused += damaged.file == file
            continue
        if with_hints:
            assert set(cask) == set(state)
            for key in cask:
                try:
                    assert cask.get(key) == state[key]
                except Damaged as damaged:
                    refused += damaged.file == file
        else:
            assert at >= len(data) - FRAME_HEAD_BYTES  # only the seal: nothing is lost, and it is made again
            assert contents(cask) == state
            healed += 1
        abandon(cask)
        file.write_bytes(data)
    assert refused > (10 if with_hints else len(data) - FRAME_HEAD_BYTES - 1)
    assert healed <= FRAME_HEAD_BYTES


def test_a_changed_hint_is_made_again_from_its_data(tmp_path: Path) -> None:
    state = sealed_log(tmp_path)
    hint = tmp_path / "000001.0.hint"
    data = hint.read_bytes()
    for at in range(len(data)):
        hint.write_bytes(data[:at] + bytes([data[at] ^ 32]) + data[at + 1 :])
        cask = opened(tmp_path, segment_bytes=1024)
        assert contents(cask) == state
        if at % 40 == 0:
            cask.merge()
            assert hint.read_bytes() == data
        abandon(cask)


def test_a_hint_without_its_data_or_of_another_file_is_not_used(tmp_path: Path) -> None:
    state = sealed_log(tmp_path)
    shutil.copy(tmp_path / "000002.0.hint", tmp_path / "000001.0.hint")
    shutil.copy(tmp_path / "000002.0.hint", tmp_path / "000009.0.hint")
    assert sorted(one.kind for one in check(tmp_path)) == ["hint", "leftover"]
    cask = opened(tmp_path, segment_bytes=1024)
    assert contents(cask) == state
    assert not (tmp_path / "000009.0.hint").exists()
    cask.close()


@pytest.mark.parametrize("hints", [True, False])
def test_a_missing_or_foreign_or_shortened_file_is_refused(tmp_path: Path, hints: bool) -> None:
    sealed_log(tmp_path / "a")
    sealed_log(tmp_path / "b")
    if not hints:
        for hint in tmp_path.glob("*/*.hint"):
            hint.unlink()
    copy = tmp_path / "copy"
    for case in range(4):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "a", copy)
        if case == 0:
            (copy / "000002.0.data").unlink()
        elif case == 1:
            (copy / "000001.0.data").unlink()
        elif case == 2:
            shutil.copy(tmp_path / "b" / "000002.0.data", copy / "000002.0.data")
        else:
            os.truncate(copy / "000001.0.data", 500)
        assert check(copy)
        with pytest.raises(Damaged):
            opened(copy, segment_bytes=1024)


@pytest.mark.parametrize("persisted", [0, 30, 64])
def test_a_new_file_that_hardly_arrived_is_cut_with_what_is_behind_it(tmp_path: Path, persisted: int) -> None:
    cask = opened(tmp_path, segment_bytes=1024)
    while len(cask.files) < 2:
        before = contents(cask), cask.applied
        cask.put(b"key:%d" % cask.applied, b"x" * 50)
    abandon(cask)
    file = tmp_path / "000002.0.data"
    data = bytearray(file.read_bytes())
    data[persisted:FILE_HEAD_BYTES] = bytes(FILE_HEAD_BYTES - persisted)
    file.write_bytes(bytes(data[:persisted]) if persisted < 64 else data)
    cask = opened(tmp_path, segment_bytes=1024)
    if persisted < 64:
        assert (contents(cask), cask.applied) == before
    cask.put(b"more", b"1")
    cask.close()
    assert check(tmp_path) == []


def test_an_unsynced_end_of_an_older_file_takes_the_newer_ones_with_it(tmp_path: Path) -> None:
    cask = opened(tmp_path, segment_bytes=1024)
    states = {0: contents(cask)}
    while len(cask.files) < 4:
        cask.put(b"key:%d" % (cask.applied % 7), b"x" * (50 + cask.applied))
        states[cask.applied] = contents(cask)
    seed, starts = cask.files[1].seed, cask.files[1].head.base_index
    abandon(cask)
    file = tmp_path / "000002.0.data"
    data = file.read_bytes()
    last = list(frames(data, seed, FILE_HEAD_BYTES, len(data)))[-1]
    file.write_bytes(data[: last.offset] + bytes(len(data) - last.offset))
    cask = opened(tmp_path, segment_bytes=1024)
    assert starts < cask.applied == last.index - 1
    assert contents(cask) == states[cask.applied]
    assert [one.path.name for one in cask.files] == ["000001.0.data", "000002.0.data"]
    cask.close()


def test_values_that_look_like_frames_are_values(tmp_path: Path) -> None:
    cask = opened(tmp_path)
    cask.put(b"a", b"1")
    stolen = (tmp_path / "000001.0.data").read_bytes()[FILE_HEAD_BYTES : FILE_HEAD_BYTES + 200]
    end = cask.files[-1].length
    cask.put(b"b", stolen + b"RKVBRKVSRKV" + stolen)
    abandon(cask)
    with (tmp_path / "000001.0.data").open("r+b") as file:
        file.seek(end)
        file.write(bytes(4))
    cask = opened(tmp_path)
    assert (set(cask), cask.applied) == ({b"a"}, 1)
    cask.close()


def test_what_was_not_known_to_be_synced_is_written_again(tmp_path: Path) -> None:
    write_log(tmp_path)
    written: list[tuple[int, int]] = []
    synced: list[int] = []

    class Recorder(QuickDisk):
        def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
            written.append((offset, len(data)))
            super().write(fd, data, offset)

        def sync(self, fd: int) -> None:
            synced.append(len(written))

    cask = Bitcask(tmp_path, disk=Recorder())
    assert written == [(0, cask.files[-1].length)]
    assert synced == [1]
    assert cask.synced == 60
    cask.close()
    written.clear()
    Bitcask(tmp_path, disk=Recorder()).close()
    assert written == []


def test_a_seal_is_written_again_if_no_hint_shows_that_it_reached_the_disk(tmp_path: Path) -> None:
    """The fdatasync behind it may have failed, and then it may be in the page cache alone."""
    cask = opened(tmp_path, segment_bytes=1024)
    for number in range(40):
        cask.put(b"key:%d" % number, bytes(100))
    for task in cask.maintain():
        if task is not None:
            task()
    sealed = next(file for file in cask.files if file.sealed)
    expected, path, hint, length = contents(cask), sealed.path, sealed.hint_path, sealed.length
    abandon(cask)
    hint.unlink()
    done: list[str] = []

    class Watching(QuickDisk):
        def write(self, fd: int, data: Any, offset: int) -> None:
            if os.path.samestat(os.fstat(fd), path.stat()):
                done.append(f"write {len(data)} at {offset}")
            super().write(fd, data, offset)

        def sync(self, fd: int) -> None:
            if os.path.samestat(os.fstat(fd), path.stat()):
                done.append("sync")

    cask = Bitcask(tmp_path, segment_bytes=1024, disk=Watching(), buckets=8, merge_dead_ratio=1.0)
    assert done == [f"write {FRAME_HEAD_BYTES} at {length - FRAME_HEAD_BYTES}", "sync"]
    assert contents(cask) == expected
    abandon(cask)
