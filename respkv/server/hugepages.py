"""Huge pages for the heap.

A keydir is looked up all over the place, so that much of what a write costs is waiting for memory; and where each page
of 4 KiB has to be found first, twice over in a virtual machine, that takes longer still. Linux can put the heap into
pages of 2 MiB: by itself where `transparent_hugepage/enabled` is `always`, elsewhere if it is asked.

It is asked here each time that the process has grown, about the parts that are in use nearly whole: what is not in
memory would be afterwards. This needs Linux 6.1 (`MADV_COLLAPSE`); an older one refuses, and is left alone.
"""

from __future__ import annotations

import ctypes
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from respkv.server.memory import resident_bytes

PAGE_BYTES: Final = 2 << 20
GROWTH_BYTES: Final = 8 << 20
_MADV_COLLAPSE: Final = 25
_SMAPS = Path("/proc/self/smaps")
_PASSING: Final = frozenset((errno.EAGAIN, errno.EBUSY, errno.ENOMEM))  # not now, or not there
_USED_MIN: Final = 0.9  # of a mapping, to be worth it
_find_mappings = re.compile(
    rb"^(\w+)-(\w+) rw-p 0+ 00:00 0 *(?:\[heap\])?\n(?:\w+: .*\n){1,4}?Rss: +(\d+) kB", re.MULTILINE
).findall


class HugePages:
    """Asks again and again for what has come since. `refused`: this system does not do it."""

    def __init__(self) -> None:
        self.refused = False
        self._known_bytes = 0

    def has_grown(self) -> bool:
        """Whether to `ask` again: the heap has grown by enough since this was true last."""
        if self.refused:
            return False
        resident, mapped = resident_bytes()
        used_bytes, known_bytes = resident - mapped, self._known_bytes
        has_grown = used_bytes - known_bytes >= max(GROWTH_BYTES, known_bytes // 8)
        self._known_bytes = used_bytes if has_grown else min(used_bytes, known_bytes)
        return has_grown

    def ask(self) -> None:
        """Has the kernel move the heap, which takes about a millisecond for each huge page: to be done on a thread.

        Whoever needs a new page meanwhile waits for one huge page at most.
        """
        try:
            madvise = ctypes.CDLL(None, use_errno=True).madvise
            madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            for start, end in _heap():
                if madvise(start, end - start, _MADV_COLLAPSE) and ctypes.get_errno() not in _PASSING:
                    self.refused = True
                    return
        except (OSError, AttributeError):  # not Linux
            self.refused = True


def _heap() -> Iterator[tuple[int, int]]:
    """The whole huge pages, `(start, end)`, of the mappings that belong to no file and are in memory."""
    for start, end, resident_kib in _find_mappings(_SMAPS.read_bytes()):
        first, last = int(start, 16), int(end, 16)
        from_page, to_page = -(-first // PAGE_BYTES), last // PAGE_BYTES
        if from_page < to_page and int(resident_kib) * 1024 >= (last - first) * _USED_MIN:
            yield from_page * PAGE_BYTES, to_page * PAGE_BYTES
