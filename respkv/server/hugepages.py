"""Huge pages for the heap.

A keydir is looked up all over the place, so that much of what a write costs is waiting for memory; and where each page
of 4 KiB has to be found first, twice over in a virtual machine, that takes longer still. Linux can put the heap into
pages of 2 MiB: by itself where `transparent_hugepage/enabled` is `always`, elsewhere if it is asked.

It is asked here each time that the process has grown, about the parts that are in use nearly whole: what is not in
memory would be afterwards. Moving one takes milliseconds under load, which is when memory grows: so they are moved few
at a time. This needs Linux 6.1 (`MADV_COLLAPSE`); an older one refuses, and is left alone.
"""

from __future__ import annotations

import ctypes
import errno
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from respkv.server.memory import resident_bytes

PAGE_BYTES: Final = 2 << 20
GROWTH_BYTES: Final = 8 << 20
SLICE_S: Final = 0.005
_MADV_COLLAPSE: Final = 25
_PR_SET_THP_DISABLE: Final = 41
_SMAPS = Path("/proc/self/smaps")
_PASSING: Final = frozenset((errno.EAGAIN, errno.EBUSY, errno.ENOMEM))  # not now, or not there
_USED_MIN: Final = 0.9  # of a mapping, to be worth it
_find_mappings = re.compile(
    rb"^(\w+)-(\w+) rw-p 0+ 00:00 0 *(?:\[heap\])?\n(?:\w+: .*\n){1,4}?Rss: +(\d+) kB", re.MULTILINE
).findall


def refuse_huge_pages() -> None:
    """Has the kernel give this process none, even where it does so by itself. Processes that it starts inherit that."""
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


class HugePages:
    """Asks again and again for what has come since. `refused`: this system does not do it."""

    def __init__(self) -> None:
        self.refused = False
        self._moved = False  # one at least
        self._known_bytes = 0
        self._left: Iterator[int] = iter(())
        self._more = False
        self._asking = False

    def is_due(self) -> bool:
        """Whether to `ask`, which is then to be done once: there is some left, or the heap has grown by enough."""
        if self.refused or self._asking:
            return False
        self._asking = self._more or self._has_grown()
        return self._asking

    def _has_grown(self) -> bool:
        resident, mapped = resident_bytes()
        used_bytes, known_bytes = resident - mapped, self._known_bytes
        has_grown = used_bytes - known_bytes >= max(GROWTH_BYTES, known_bytes // 8)
        self._known_bytes = used_bytes if has_grown else min(used_bytes, known_bytes)
        return has_grown

    def ask(self) -> None:
        """Has the kernel move the next part of the heap: to be done on a thread.

        Whoever needs a new page meanwhile waits for one huge page at most.
        """
        try:
            self._ask()
        except (OSError, AttributeError):  # not Linux
            self.refused = True
        finally:
            self._asking = False

    def _ask(self) -> None:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if not self._more:
            self._left = iter(_heap())
        self._more = True
        end = time.monotonic() + SLICE_S
        for address in self._left:
            if not madvise(address, PAGE_BYTES, _MADV_COLLAPSE):
                self._moved = True
            elif not (self._moved or ctypes.get_errno() in _PASSING):
                self.refused = True
                return
            if time.monotonic() >= end:
                return
        self._more = False


def _heap() -> list[int]:
    """Where the whole huge pages of the mappings that belong to no file and are in memory begin.

    Python's own come first, as small objects are what is found in many places; then what the C library has (`[heap]`).
    """
    pages: list[int] = []
    for start, end, resident_kib in reversed(_find_mappings(_SMAPS.read_bytes())):
        first, last = int(start, 16), int(end, 16)
        if int(resident_kib) * 1024 >= (last - first) * _USED_MIN:
            pages += range(-(-first // PAGE_BYTES) * PAGE_BYTES, last // PAGE_BYTES * PAGE_BYTES, PAGE_BYTES)
    return pages
