"""What inject.c does, for machines without a C compiler.

Put in front of a node's PYTHONPATH, it replaces the calls by which Python reaches the disk and the wall clock. All
that matter come from Python, so the faults are the same.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Faults(ctypes.Structure):
    """`struct faults` of inject.c."""

    _fields_ = (
        ("clock_ms", ctypes.c_int64),
        ("sync_errno", ctypes.c_int32),
        ("read_errno", ctypes.c_int32),
        ("write_errno", ctypes.c_int32),
        ("rename_errno", ctypes.c_int32),
        ("skip", ctypes.c_int32),
        ("hits", ctypes.c_int32),
        ("sync_delay_ms", ctypes.c_int32),
        ("match", ctypes.c_char * 256),
    )


def _attach(path: str) -> Faults:
    with Path(path).open("r+b") as file:
        return Faults.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Faults)))


def _install(faults: Faults) -> None:
    def fail(where: Any, number: int) -> None:
        path = str(where) if not isinstance(where, int) else str(Path(f"/proc/self/fd/{where}").readlink())
        if faults.match.decode() not in path:
            return
        if faults.skip > 0:
            faults.skip -= 1
            return
        faults.hits += 1
        raise OSError(number, os.strerror(number), path)

    def replace(name: str, error: str, position: int = 0) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*args: Any) -> Any:
            if error == "sync_errno" and faults.sync_delay_ms:
                time.sleep(faults.sync_delay_ms / 1000)
            if getattr(faults, error):
                fail(args[position], getattr(faults, error))
            return real(*args)

        setattr(os, name, call)

    replace("fdatasync", "sync_errno")
    replace("fsync", "sync_errno")
    replace("pread", "read_errno")
    replace("pwrite", "write_errno")
    replace("posix_fallocate", "write_errno")
    replace("replace", "rename_errno", 1)
    time_ns, seconds = time.time_ns, time.time
    time.time_ns = lambda: time_ns() + faults.clock_ms * 1_000_000
    time.time = lambda: seconds() + faults.clock_ms / 1000


if "CRASH_FAULTS" in os.environ:
    _install(_attach(os.environ["CRASH_FAULTS"]))
