"""Disk errors and wall-clock jumps inside a real node: a file that both sides map says what is to fail at the moment.

The node gets inject.c by LD_PRELOAD where there is a C compiler, and hook/sitecustomize.py where there is none; both
read the same file, so that tests need not know which. `Injector.how` tells a person.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.cluster import ROOT, NodeProcess
from tests.crash.hook.sitecustomize import Faults

SOURCE = Path(__file__).with_name("inject.c")
HOOK = Path(__file__).with_name("hook")
COMPILE_S = 60


@cache
def library() -> Path | None:
    """inject.c compiled, or None where that is not possible; CRASH_INJECT=python asks for none."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None or os.environ.get("CRASH_INJECT") == "python" or sys.platform != "linux":
        return None
    binary = Path(tempfile.mkdtemp(prefix="respkv-inject-")) / "inject.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(binary), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, timeout=COMPILE_S)
    return binary if done.returncode == 0 else None


class Injector:
    """The faults of one node. Made before the node starts; lasts over its restarts, as does what is set."""

    def __init__(self, node: NodeProcess) -> None:
        path = node.directory / "faults"
        path.write_bytes(bytes(ctypes.sizeof(Faults)))
        with path.open("r+b") as file:
            self._faults = Faults.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Faults)))
        node.variables |= self._variables(path)

    @staticmethod
    def _variables(path: Path) -> Mapping[str, str]:
        preload = library()
        if preload is not None:
            return {"CRASH_FAULTS": str(path), "LD_PRELOAD": str(preload)}
        return {"CRASH_FAULTS": str(path), "PYTHONPATH": os.pathsep.join([str(HOOK), str(ROOT)])}

    @staticmethod
    def how() -> str:
        return "a preloaded library" if library() else "a Python hook (no C compiler here)"

    @property
    def hits(self) -> int:
        """Calls that were made to fail so far."""
        return int(self._faults.hits)

    def fail_syncs(self, match: str = "", number: int = errno.EIO, skip: int = 0) -> None:
        """fdatasync and fsync of files whose path contains `match` fail, after `skip` of them."""
        self._arm("sync_errno", match, number, skip)

    def fail_reads(self, match: str = "", number: int = errno.EIO, skip: int = 0) -> None:
        """Reading records of data files and frames of the journal fails, as where a sector cannot be read."""
        self._arm("read_errno", match, number, skip)

    def fail_writes(self, match: str = "", number: int = errno.EIO, skip: int = 0) -> None:
        """Writing and allocating fail; with ENOSPC as on a full disk."""
        self._arm("write_errno", match, number, skip)

    def fail_renames(self, match: str = "", number: int = errno.EIO, skip: int = 0) -> None:
        self._arm("rename_errno", match, number, skip)

    def slow_syncs(self, delay_ms: int) -> None:
        self._faults.sync_delay_ms = delay_ms

    def shift_clock(self, shift_ms: int) -> None:
        """The node's time of day is `shift_ms` away from the machine's."""
        self._faults.clock_ms = shift_ms

    def heal_disk(self) -> None:
        self._faults.sync_errno = self._faults.read_errno = 0
        self._faults.write_errno = self._faults.rename_errno = 0
        self._faults.skip = self._faults.sync_delay_ms = 0

    def _arm(self, name: str, match: str, number: int, skip: int) -> None:
        self._faults.match = match.encode()
        self._faults.skip = skip
        setattr(self._faults, name, number)
