"""Bitcask against a dictionary, through power cuts: then the state is that of some commit, at least the last synced.

`CrashDisk` keeps, beside the real files, what would be on the disk: synced content, and the writes and names still on
their way. A power cut keeps any part of those: writes in any combination and torn, truncations and names in order. A
sync that fails drops the writes: they can be read as before, but no later sync takes them to the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from respkv.disk import Disk
from respkv.storage import Bitcask, Record, check, encode_puts

State = dict[bytes, Record]
SEGMENT_BYTES = 2048
CACHE_BYTES = 3 * 4096  # a third for the tail: a page, of two data files
BUCKETS = 7


class PowerCutError(Exception):
    """The machine is off."""


class CrashFile:
    """One file: what is on the disk for sure, and what is on its way: writes (at, data), truncations (size, None)."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = content
        self.pending: list[tuple[int, bytes | None]] = []

    def after(self, keep: list[bool], torn: Callable[[int], tuple[int, int]]) -> bytes:
        content = bytearray(self.durable)
        for (at, data), kept in zip(self.pending, keep, strict=True):
            if not kept:
                continue
            if data is None:
                del content[at:]
                content.extend(bytes(at - len(content)))
            else:
                start, stop = torn(len(data))  # what is not written stays as it was
                at, data = at + start, data[start:stop]
                content.extend(bytes(max(0, at + len(data) - len(content))))
                content[at : at + len(data)] = data
        return bytes(content)


class CrashDisk(Disk):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, CrashFile] = {}
        self.durable_names: dict[str, CrashFile] = {}
        self.name_changes: list[tuple[str, str, CrashFile | None]] = []  # (from, to, file); to is "" when removed
        self.open_files: dict[int, CrashFile] = {}
        self.calls_left = -1  # the power goes after so many calls; never when negative
        self.calls = 0
        self.failing_sync = -1  # this sync fails, counted from 0
        self.syncs = 0
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != "lock":
                self.adopt(path)

    def adopt(self, path: Path) -> None:
        """Takes a file that is on the disk for sure."""
        self.files[self._name(path)] = self.durable_names[self._name(path)] = CrashFile(path.read_bytes())

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _call(self) -> None:
        self.calls += 1
        if self.calls_left == 0:
            raise PowerCutError
        self.calls_left -= 1

    def create(self, path: Path, size_bytes: int = 0) -> int:
        self._call()
        fd = super().create(path, size_bytes)
        file = CrashFile()
        if size_bytes:
            file.pending.append((size_bytes, None))
        self.files[self._name(path)] = self.open_files[fd] = file
        self.name_changes.append(("", self._name(path), file))
        return fd

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self.open_files[fd] = self.files[self._name(path)]
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._call()
        self.open_files[fd].pending.append((offset, bytes(data)))
        super().write(fd, data, offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._call()
        self.open_files[fd].pending.append((size_bytes, None))
        super().truncate(fd, size_bytes)

    def sync(self, fd: int) -> None:
        self._call()
        file = self.open_files[fd]
        self.syncs += 1
        if self.syncs - 1 == self.failing_sync:
            file.pending = [(at, data) for at, data in file.pending if data is None]
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        file.durable = file.after([True] * len(file.pending), _whole)
        file.pending = []

    def sync_dir(self, path: Path) -> None:
        self._call()
        self.durable_names = _renamed(self.durable_names, self.name_changes)
        self.name_changes = []

    def rename(self, old: Path, new: Path) -> None:
        self._call()
        super().rename(old, new)
        self.name_changes.append((self._name(old), self._name(new), None))
        self.files = _renamed(self.files, self.name_changes[-1:])

    def unlink(self, path: Path) -> None:
        self._call()
        super().unlink(path)
        self.name_changes.append((self._name(path), "", None))
        self.files.pop(self._name(path), None)

    def remove_dir(self, path: Path) -> None:
        self._call()
        super().remove_dir(path)

    def close(self, fd: int) -> None:
        self.open_files.pop(fd, None)
        super().close(fd)

    def power_cut(self, rng: random.Random, target: Path) -> None:
        """Writes what is on the disk after a power cut at this moment to `target`."""
        mode = rng.choice(["nothing more", "everything", "some"])
        share = {"nothing more": 0.0, "everything": 1.0, "some": rng.random()}[mode]
        changes = round(len(self.name_changes) * share)
        for name, file in _renamed(self.durable_names, self.name_changes[:changes]).items():
            truncations = rng.randint(0, len(file.pending)) if mode == "some" else len(file.pending)
            keep = [
                rng.random() < share if data is not None else share > 0 and position < truncations
                for position, (_at, data) in enumerate(file.pending)
            ]
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.after(keep, (lambda size: _torn(size, rng)) if mode == "some" else _whole))
        target.mkdir(exist_ok=True)


def _whole(size: int) -> tuple[int, int]:
    return 0, size


def _torn(size: int, rng: random.Random) -> tuple[int, int]:
    """Which part of a write arrives."""
    cut = rng.randint(0, size)
    return rng.choice([(0, size), (0, size), (0, cut), (cut, size)])


def _renamed(names: dict[str, CrashFile], changes: list[tuple[str, str, CrashFile | None]]) -> dict[str, CrashFile]:
    names = dict(names)
    for old, new, file in changes:
        if file is not None:
            names[new] = file
        elif old in names:
            moved = names.pop(old)
            if new:
                names[new] = moved
        elif new:  # a directory
            for name in [name for name in names if name.startswith(old + "/")]:
                names[new + name[len(old) :]] = names.pop(name)
    return names


def open_cask(path: Path, disk: Disk) -> Bitcask:
    return Bitcask(path, buckets=BUCKETS, segment_bytes=SEGMENT_BYTES, disk=disk, cache_bytes=CACHE_BYTES)


def contents(cask: Bitcask) -> State:
    found = {key: cask.get(key) for key in cask}
    assert cask.expires == {key: one.expire_ms for key, one in found.items() if one and one.expire_ms}
    return {key: one for key, one in found.items() if one}


def abandon(cask: Bitcask | None) -> None:
    """As if the process had ended."""
    if cask is not None and not cask.closed:
        for file in cask.files:
            file.close()
        os.close(cask._lock_fd)


# ---------------------------------------------------------------------- the power goes at every call of a fixed story


class Story:
    """Writes, roll-overs, seals, merges, a clear and an installation, noting what must hold after a power cut."""

    def __init__(self, root: Path, disk: CrashDisk) -> None:
        self.path = root / "log"
        self.disk = disk
        self.states: dict[int, State] = {0: {}}
        self.synced = 0
        self.cask: Bitcask | None = None

    def tell(self) -> None:
        cask = self.cask = open_cask(self.path, self.disk)
        for number in range(30):
            self._write(cask, number)
        self._merge(cask)
        batch = cask.batch()
        batch.clear()
        batch.put(b"after", b"clear")
        cask.commit(batch, cask.applied + 1, 1, 1)
        self._note(cask)
        for number in range(30, 60):
            self._write(cask, number)
        self._merge(cask)
        for number in range(60, 80):
            self._write(cask, number)
        with cask.snapshot() as snapshot:
            incoming = self.disk.root / "incoming"
            incoming.mkdir()
            for file in snapshot.files:
                (incoming / file.name).write_bytes(os.pread(file.fd, file.length, 0))
                self.disk.adopt(incoming / file.name)
        snapshot_state, snapshot_index = contents(cask), cask.applied
        self._write(cask, 80)
        cask.flush()
        cask.close()
        self.cask = None
        self.synced = snapshot_index
        Bitcask.install(self.path, incoming, self.disk)
        cask = self.cask = open_cask(self.path, self.disk)
        assert contents(cask) == snapshot_state
        self.states = {snapshot_index: snapshot_state}
        for number in range(81, 100):
            self._write(cask, number)
        cask.close()
        self.cask = None
        self.synced = cask.applied

    def _write(self, cask: Bitcask, number: int) -> None:
        batch = cask.batch()
        batch.put(b"key:%d" % (number % 11), b"%d" % number * 40, expire_ms=number % 3)
        batch.delete(b"key:%d" % ((number + 5) % 11))
        before = dict(self.states[max(self.states)])
        after = before | {key: one for key in batch.changes if (one := batch.get(key))}
        self.states[cask.applied + 1] = {key: one for key, one in after.items() if batch.has(key)}
        cask.commit(batch, cask.applied + 1, 1, number)
        if number % 4 == 0:
            cask.flush()
            self.synced = cask.synced

    def _note(self, cask: Bitcask) -> None:
        self.states[cask.applied] = contents(cask)

    def _merge(self, cask: Bitcask) -> None:
        cask.merge()
        self.synced = max(self.synced, cask.synced)


def _survives(image: Path, story: Story, rng: random.Random) -> None:
    """The directory opens, even if the power goes again meanwhile, to a state that was, and works."""
    for _ in range(2):
        disk = CrashDisk(image)
        disk.calls_left = rng.randint(0, 6)
        try:
            abandon(open_cask(image / "log", disk))
        except PowerCutError:
            again = image.with_name("again")
            disk.power_cut(rng, again)
            shutil.rmtree(image)
            again.rename(image)
    cask = open_cask(image / "log", CrashDisk(image))
    assert cask.applied >= story.synced
    assert contents(cask) == story.states[cask.applied]
    cask.put(b"more", b"1")
    cask.merge()
    assert contents(cask) == story.states[cask.applied - 1] | {b"more": Record(1, 0, b"1")}
    cask.close()
    assert [one for one in check(image / "log") if one.kind != "leftover"] == []


def _begin(tmp_path: Path, name: str) -> Story:
    root = tmp_path / name
    root.mkdir()
    return Story(root, CrashDisk(root))


def _cut_the_power(story: Story, rng: random.Random, tmp_path: Path) -> None:
    """The process has ended; what is then left of the log is as good as the story wants."""
    abandon(story.cask)
    image = tmp_path / "image"
    story.disk.power_cut(rng, image)
    _survives(image, story, rng)
    shutil.rmtree(image)
    shutil.rmtree(story.disk.root)


@pytest.mark.parametrize("part", range(4))
def test_a_power_cut_at_any_call_leaves_a_state_that_was(tmp_path: Path, part: int) -> None:
    whole = _begin(tmp_path, "whole")
    whole.tell()
    calls = whole.disk.calls
    assert calls > 150
    for at in range(part, calls, 4):
        story = _begin(tmp_path, str(at))
        story.disk.calls_left = at
        with pytest.raises(PowerCutError):
            story.tell()
        _cut_the_power(story, random.Random(at), tmp_path)


@pytest.mark.parametrize("part", range(4))
def test_what_a_failed_sync_has_dropped_is_on_the_disk_once_the_log_is_open_again(tmp_path: Path, part: int) -> None:
    whole = _begin(tmp_path, "whole")
    whole.tell()
    syncs = whole.disk.syncs
    assert syncs > 40
    for at in range(part, syncs, 4):
        rng = random.Random(at)
        story = _begin(tmp_path, str(at))
        story.disk.failing_sync = at
        with pytest.raises(OSError, match="Input/output error"):
            story.tell()
        abandon(story.cask)
        cask = story.cask = open_cask(story.path, story.disk)
        assert contents(cask) == story.states[cask.applied]
        assert story.synced <= cask.applied == cask.synced
        story.synced = cask.synced
        story.disk.calls_left = rng.randint(0, 12)
        with contextlib.suppress(PowerCutError):
            cask.merge()
        _cut_the_power(story, rng, tmp_path)


# ---------------------------------------------------------------------- any story


KEYS = st.sampled_from([b"", b"a", b"b", b"key:1", b"key:2", b"key:3", b"long" * 20])
VALUES = st.one_of(st.binary(max_size=40), st.integers(0, 5000).map(lambda size: b"v" * size))
EXPIRIES = st.sampled_from([0, 0, 0, 1, 1 << 40])


class BitcaskMachine(RuleBasedStateMachine):
    """Any order of commits, slices of maintenance, power cuts, reopenings and snapshots."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="bitcask-"))
        self.generation = 0
        self.model: State = {}
        self.states: dict[int, State] = {0: {}}
        self._open(self.root / "0")

    def _open(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.here = root
        self.disk = CrashDisk(root)
        self.cask = open_cask(root / "log", self.disk)

    def _committed(self) -> None:
        self.states[self.cask.applied] = dict(self.model)

    @initialize(number=st.integers(0, 40))
    def start_with_some_keys(self, number: int) -> None:
        for one in range(number):
            self.cask.put(b"start:%d" % one, b"x" * one)
            self.model[b"start:%d" % one] = Record(1, 0, b"x" * one)
            self._committed()

    @rule(
        changes=st.lists(st.tuples(KEYS, st.none() | VALUES, EXPIRIES, st.sampled_from([1, 2])), max_size=6),
        clear_at=st.none() | st.integers(0, 30),
        step=st.integers(1, 3),
    )
    def commit_a_batch(
        self, changes: list[tuple[bytes, bytes | None, int, int]], clear_at: int | None, step: int
    ) -> None:
        batch = self.cask.batch()
        for position, (key, value, expire_ms, kind) in enumerate(changes):
            if position == clear_at:
                batch.clear()
                self.model.clear()
            if value is None:
                assert batch.delete(key) == (self.model.pop(key, None) is not None)
            else:
                batch.put(key, value, type=kind, expire_ms=expire_ms)
                self.model[key] = Record(kind, expire_ms, value)
            assert batch.get(key) == self.model.get(key)
            assert batch.expire_of(key) == (self.model[key].expire_ms if key in self.model else 0)
        assert batch.key_count() == len(self.model)
        assert set(batch) == set(self.model)
        index = self.cask.applied + step
        self.cask.commit(batch, index, index // 10, index * 7)
        self._committed()

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=8))
    def append_plain_puts(self, pairs: list[tuple[bytes, bytes]]) -> None:
        keys, values = [key for key, _value in pairs], [value for _key, value in pairs]
        sizes, records = encode_puts(keys, values)
        index = self.cask.applied + 1
        slots = [self.cask.bucket_of(key) for key in keys]
        self.cask.append_puts(index, index // 10, index * 7, slots, keys, sizes, records)
        self.model |= {key: Record(1, 0, value) for key, value in pairs}
        self._committed()

    @rule(steps=st.integers(1, 60), count=st.booleans())
    def maintain(self, steps: int, count: bool) -> None:
        if count:
            self.cask._maintenance.expect_dead()
        work = self.cask.maintain()
        for _ in range(steps):
            task = next(work, None)
            if task is not None:
                task()

    @rule()
    def merge(self) -> None:
        self.cask.merge()
        assert all(file.sealed and file.hinted for file in self.cask.files[:-1])

    @rule()
    def flush(self) -> None:
        self.cask.flush()
        assert self.cask.synced == self.cask.applied

    @rule(rng=st.randoms(use_true_random=False), calls=st.integers(0, 8))
    def lose_power(self, rng: random.Random, calls: int) -> None:
        synced = self.cask.synced
        self.disk.calls_left = calls
        try:
            self.cask.merge()
        except PowerCutError:
            pass
        synced = max(synced, self.cask.synced)
        abandon(self.cask)
        self.generation += 1
        image = self.root / str(self.generation)
        self.disk.power_cut(rng, image)
        shutil.rmtree(self.here)
        self._open(image)
        assert synced <= self.cask.applied
        self.model = dict(self.states[self.cask.applied])
        self.states = {index: state for index, state in self.states.items() if index <= self.cask.applied}
        assert self.cask.synced == self.cask.applied

    @rule()
    def reopen(self) -> None:
        before = self.cask.applied, self.cask.applied_term, self.cask.clock_ms
        self.cask.close()
        assert [one for one in check(self.here / "log") if one.kind != "leftover"] == []
        self._open(self.here)
        assert (self.cask.applied, self.cask.applied_term, self.cask.clock_ms) == before

    @precondition(lambda self: self.cask.applied > 0)
    @rule(later=st.integers(0, 3))
    def move_to_another_directory(self, later: int) -> None:
        with self.cask.snapshot() as snapshot:
            for number in range(later):
                self.cask.put(b"later:%d" % number, b"x" * 900)
            self.cask.merge()
            self.cask.close()
            self.generation += 1
            root = self.root / str(self.generation)
            (root / "incoming").mkdir(parents=True)
            for file in snapshot.files:
                (root / "incoming" / file.name).write_bytes(os.pread(file.fd, file.length, 0))
        shutil.rmtree(self.here)
        open_cask(root / "log", CrashDisk(root)).close()
        Bitcask.install(root / "log", root / "incoming", CrashDisk(root))
        self._open(root)
        self.states = {index: state for index, state in self.states.items() if index <= self.cask.applied}

    @invariant()
    def it_is_the_model(self) -> None:
        assert contents(self.cask) == self.model
        assert len(self.cask) == len(self.model)
        assert sorted(self.cask.keys_in(3)) == sorted(key for key in self.model if self.cask.bucket_of(key) == 3)
        for key, one in self.model.items():
            plain = one.type == 1 and not one.expire_ms and len(one.value) + len(key) + 21 < 4095
            assert self.cask.get_plain(self.cask.bucket_of(key), key) == (one.value if plain else False)

    def teardown(self) -> None:
        abandon(self.cask)
        shutil.rmtree(self.root)


BitcaskMachine.TestCase.settings = settings(
    max_examples=60 if settings.default.max_examples == 100 else settings.default.max_examples,
    stateful_step_count=25,
    deadline=None,
)
test_bitcask_is_a_dictionary_that_survives = BitcaskMachine.TestCase
