"""The tail of a Bitcask log: what was written lately is read from memory, and is what the files hold."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.disk import Disk
from respkv.storage import Bitcask
from respkv.storage.keydir import locate
from respkv.storage.record import encode_puts
from respkv.storage.tail import Tail

SIZE = 4096


class CountingDisk(Disk):
    """Knows how often it was read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, fd: int, size_bytes: int, offset: int) -> bytes:  # type: ignore[override]
        self.reads += 1
        return Disk.read(fd, size_bytes, offset)


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


@pytest.fixture
def cask(tmp_path: Path, disk: CountingDisk) -> Iterator[Bitcask]:
    """One with a tail of a page, and room for few values in its cache."""
    with Bitcask(tmp_path, buckets=1, segment_bytes=20_000, disk=disk, cache_bytes=3 * SIZE) as cask:
        yield cask


def put(cask: Bitcask, *pairs: tuple[bytes, bytes]) -> None:
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    sizes, records = encode_puts(keys, values)
    cask.append_puts(cask.applied + 1, 1, 1, [0] * len(keys), keys, sizes, records)


def reads_of(cask: Bitcask, disk: CountingDisk, key: bytes, value: bytes) -> int:
    """How often the disk is read for the value of `key`, which nobody has read before."""
    cask.cache.clear()
    before = disk.reads
    assert cask.get_plain(0, key) == value
    return disk.reads - before


def test_what_was_written_last_is_read_from_memory(cask: Bitcask, disk: CountingDisk) -> None:
    put(cask, (b"a", b"1"), (b"b", b"2"))
    batch = cask.batch()
    batch.put(b"c", b"3")
    cask.commit(batch, cask.applied + 1, 1, 1)
    assert [reads_of(cask, disk, *pair) for pair in [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]] == [0, 0, 0]


def test_what_was_written_long_ago_is_read_from_the_file(cask: Bitcask, disk: CountingDisk) -> None:
    put(cask, (b"old", b"1"))
    for number in range(10):
        put(cask, (b"%d" % number, b"x" * 500))
    assert reads_of(cask, disk, b"old", b"1") == 1
    assert reads_of(cask, disk, b"0", b"x" * 500) == 1
    assert [reads_of(cask, disk, b"%d" % number, b"x" * 500) for number in (7, 8, 9)] == [0, 0, 0]


def test_a_new_file_begins_a_new_tail(cask: Bitcask, disk: CountingDisk) -> None:
    put(cask, (b"old", b"1"))
    files = len(cask.files)
    while len(cask.files) == files:
        put(cask, (b"new", b"x" * 1000))
    assert reads_of(cask, disk, b"old", b"1") == 1
    assert reads_of(cask, disk, b"new", b"x" * 1000) == 0


def test_long_batches_are_passed_over(cask: Bitcask, disk: CountingDisk) -> None:
    put(cask, (b"before", b"1"))
    put(cask, *((b"%d" % number, b"x" * 1000) for number in range(5)))
    assert [reads_of(cask, disk, *pair) for pair in [(b"before", b"1"), (b"4", b"x" * 1000)]] == [1, 1]
    put(cask, (b"between", b"2"))
    assert reads_of(cask, disk, b"between", b"2") == 0
    batch = cask.batch()
    batch.put(b"sliced", b"y" * 1000)
    for task in cask.commit_in_slices(batch, cask.applied + 1, 1, 1):
        task()
    assert [reads_of(cask, disk, *pair) for pair in [(b"between", b"2"), (b"sliced", b"y" * 1000)]] == [1, 1]
    put(cask, (b"after", b"3"))
    assert reads_of(cask, disk, b"after", b"3") == 0


def test_nothing_is_in_memory_without_a_cache_or_after_opening(tmp_path: Path, disk: CountingDisk) -> None:
    with Bitcask(tmp_path, buckets=1, disk=disk) as cask:
        put(cask, (b"a", b"1"))
        assert reads_of(cask, disk, b"a", b"1") == 1
    with Bitcask(tmp_path, buckets=1, disk=disk, cache_bytes=3 * SIZE) as cask:
        assert reads_of(cask, disk, b"a", b"1") == 1


@given(st.randoms(use_true_random=False))
def test_every_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, random: Random) -> None:
    model: dict[bytes, bytes] = {}
    directory = tmp_path_factory.mktemp("tail")
    with Bitcask(directory, buckets=1, segment_bytes=30_000, cache_bytes=3 * SIZE, merge_dead_ratio=0.2) as cask:
        for _ in range(random.randint(1, 80)):
            for key in [b"%d" % random.randrange(20) for _ in range(random.randint(1, 8))]:
                model[key] = random.randbytes(random.choice((0, 10, 300, 900)))
                put(cask, (key, model[key]))
            if random.random() < 0.1:
                cask.merge()
            cask.cache.clear()
            assert {key: cask.get_plain(0, key) for key in model} == model


def test_a_record_over_the_end_of_the_ring_comes_in_part() -> None:
    tail = Tail(SIZE)
    tail.append(3, SIZE - 10, b"a" * 4 + b"b" * 12)
    assert (tail.least, tail.end) == (locate(3, SIZE - 10, 0), locate(4, 0, 0))
    at = SIZE - 6 & tail.mask
    assert tail.ring[at : at + 12] == b"b" * 6
    assert tail.ring[:6] == b"b" * 6
