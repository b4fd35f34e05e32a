"""Huge pages: the heap is moved to them once it has grown; a system that cannot do it is asked once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from respkv.server import hugepages
from respkv.server.hugepages import GROWTH_BYTES, PAGE_BYTES, HugePages
from tests.unit.running import Wire, eventually, respkv

HEAP = """
from pathlib import Path
import re
from respkv.server.hugepages import HugePages

def huge_kib():
    return int(re.search(r"AnonHugePages: +(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1])

pages = HugePages()
while pages.is_due():
    pages.ask()
many = [b"%050d" % number for number in range(400_000)]
while pages.is_due():
    pages.ask()
print(pages.refused, huge_kib(), len(many))
"""


SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def can_collapse() -> bool:
    """Whether this kernel has MADV_COLLAPSE and is not set to `never`; if not, nothing can be seen but that asking does
    no harm."""
    release = re.findall(r"\d+", Path("/proc/sys/kernel/osrelease").read_text())
    new = tuple(map(int, release[:2])) >= (6, 1)
    return new and SETTING.exists() and "[never]" not in SETTING.read_text()


def test_a_heap_that_has_grown_is_moved_to_huge_pages() -> None:
    run = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    refused, huge_kib, _ = run.stdout.split()
    if can_collapse():
        assert refused == "False"
        assert int(huge_kib) >= 4 * PAGE_BYTES >> 10


def test_a_node_asks_for_them_unless_it_is_told_not_to(tmp_path: Path) -> None:
    asked = {}
    for answer in ("yes", "no"):
        directory = tmp_path / answer
        directory.mkdir()
        with respkv(directory, "--huge-pages", answer) as port, Wire(port) as wire:
            for first in range(0, 200_000, 1000):
                words = [word for number in range(first, first + 1000) for word in (b"key:%012d" % number, b"value")]
                assert wire([b"MSET", *words]) == b"OK"
            pid = int((directory / "data" / "respkv.pid").read_text())
            rollup = Path(f"/proc/{pid}/smaps_rollup")
            if answer == "yes" and can_collapse():
                eventually(lambda rollup=rollup: huge_kib(rollup) >= 4 * PAGE_BYTES >> 10)  # type: ignore[misc]
            asked[answer] = huge_kib(rollup)
    assert asked["no"] == 0


def huge_kib(rollup: Path) -> int:
    found = re.search(r"AnonHugePages: +(\d+)", rollup.read_text())
    return int(found[1]) if found else 0


def test_growth_is_told_once_and_shrinking_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    used = 100 << 20
    monkeypatch.setattr(hugepages, "resident_bytes", lambda: (used + (7 << 20), 7 << 20))
    monkeypatch.setattr(hugepages, "_heap", list)
    pages = HugePages()
    assert pages.is_due()
    assert not pages.is_due()  # before that was done
    pages.ask()
    used += GROWTH_BYTES
    assert not pages.is_due()  # an eighth is more
    used = 50 << 20
    assert not pages.is_due()
    used += GROWTH_BYTES
    assert pages.is_due()


def test_what_is_left_is_due_without_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages, "resident_bytes", lambda: (1 << 30, 0))
    monkeypatch.setattr(hugepages, "_heap", lambda: [0, 0, 0])
    monkeypatch.setattr(hugepages, "SLICE_S", 0.0)
    pages = HugePages()
    for _ in range(4):  # the last finds that nothing is left
        assert pages.is_due()
        pages.ask()
    assert not pages.is_due()


def test_a_system_that_refuses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages, "resident_bytes", lambda: (1 << 30, 0))
    monkeypatch.setattr(hugepages, "_MADV_COLLAPSE", 9999)
    pages = HugePages()
    assert pages.is_due()
    pages.ask()
    assert pages.refused
    assert not pages.is_due()


def test_a_fault_of_ours_does_not_end_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[int]:
        raise ValueError("a fault")

    monkeypatch.setattr(hugepages, "resident_bytes", lambda: (1 << 30, 0))
    monkeypatch.setattr(hugepages, "_heap", fails)
    pages = HugePages()
    assert pages.is_due()
    with pytest.raises(ValueError, match="a fault"):
        pages.ask()
    monkeypatch.setattr(hugepages, "resident_bytes", lambda: (2 << 30, 0))
    assert pages.is_due()


def test_only_mappings_in_memory_that_belong_to_no_file_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mapping(head: str, resident_kib: int) -> str:
        return f"{head}\nSize: 1 kB\nKernelPageSize: 4 kB\nMMUPageSize: 4 kB\nRss: {resident_kib:15} kB\nPss: 0 kB\n"

    smaps = tmp_path / "smaps"
    smaps.write_text(
        mapping("7f0000100000-7f0000700000 rw-p 00000000 00:00 0 ", 6 << 10)
        + mapping("7f0001000000-7f0001800000 rw-p 00000000 00:00 0 ", 100)  # a stack of a thread
        + mapping("7f0002000000-7f0002800000 rw-p 00000000 fe:00 7    /some/file", 8 << 10)
        + mapping("7f0003000000-7f0003100000 rw-p 00000000 00:00 0 ", 1 << 10)
        + mapping("7f0004000000-7f0004400000 r--p 00000000 00:00 0 ", 4 << 10)
        + mapping("550000000000-550000400000 rw-p 00000000 00:00 0     [heap]", 4 << 10)
    )
    monkeypatch.setattr(hugepages, "_SMAPS", smaps)
    assert hugepages._heap() == [0x550000000000, 0x550000200000, 0x7F0000200000, 0x7F0000400000]
