"""Files read as buffers: what comes is what a `bytes` of the same content would give, or an error that says where."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from respkv.contents import AHEAD_BYTES, Contents

SIZE = 3 * AHEAD_BYTES + 17


class BadPlace(Exception):
    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(f"{path.name} {offset} {reason}")


@pytest.fixture
def data() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def fd(tmp_path: Path, data: bytes) -> Iterator[int]:
    (tmp_path / "file").write_bytes(data)
    fd = os.open(tmp_path / "file", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("ahead_bytes", [0, 100, AHEAD_BYTES])
@pytest.mark.parametrize("at_most", [1 << 30, AHEAD_BYTES - 1])
def test_slices_and_places_are_those_of_the_bytes(
    tmp_path: Path, fd: int, data: bytes, ahead_bytes: int, at_most: int
) -> None:
    def read(fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, min(size, at_most), offset)

    contents = Contents(tmp_path / "file", fd, SIZE, BadPlace, ahead_bytes=ahead_bytes, read=read)
    rng = random.Random(2)
    assert len(contents) == SIZE
    assert contents[0 : SIZE + 5] == data
    assert contents[SIZE : SIZE + 5] == b""
    at = 0
    while at < SIZE:  # in order, as those do who look for records
        size = rng.choice((0, 1, 17, 300, 5000, AHEAD_BYTES + 1))
        assert contents[at : at + size] == data[at : at + size]
        at += max(1, size)
    for _ in range(200):
        start, size = rng.randrange(SIZE), rng.choice((0, 1, 30, AHEAD_BYTES, SIZE))
        assert contents[start : start + size] == data[start : start + size]
        pattern = data[start : start + 4]
        begin, end = rng.randrange(SIZE), rng.choice((None, rng.randrange(SIZE)))
        assert contents.find(pattern, begin, end) == data.find(pattern, begin, end)


def test_a_pattern_is_found_where_two_reads_meet(tmp_path: Path, fd: int) -> None:
    for at in range(AHEAD_BYTES - 5, AHEAD_BYTES + 2):
        os.pwrite(fd, bytes(SIZE), 0)
        os.pwrite(fd, b"here", at)
        contents = Contents(tmp_path / "file", fd, SIZE, BadPlace)
        assert contents.find(b"here", 0) == at
        assert contents.find(b"here", at + 1) == -1
        assert contents.find(b"here", 0, at + 3) == -1


def test_what_the_file_does_not_have_and_what_the_disk_does_not_give_is_told_with_its_place(
    tmp_path: Path, fd: int
) -> None:
    contents = Contents(tmp_path / "file", fd, SIZE, BadPlace, ahead_bytes=0)
    os.ftruncate(fd, 1000)
    assert len(contents[0:1000]) == 1000
    with pytest.raises(BadPlace, match=f"file 1000 it ends here, not at {SIZE}"):
        contents[900:1100]


def test_an_error_of_the_system_names_the_reason(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BadPlace, match=f"{tmp_path.name} 3 it cannot be read: Is a directory"):
        Contents(tmp_path, fd, 10, BadPlace)[3:5]
    os.close(fd)
