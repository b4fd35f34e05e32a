"""Is a node running in this directory? Answered from its pid file, without trusting it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PID_FILE: Final = "respkv.pid"


def running_pid(directory: Path) -> int | None:
    """The process id of the node that runs in `directory`, or None.

    A pid file may be left over from a crash and its number taken by another process since (always so in containers), so
    the process must also look like a node: its command line holds "respkv".
    """
    try:
        pid = int((directory / PID_FILE).read_text().split()[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError, OverflowError):
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return pid  # no /proc here: believe the file
    return pid if b"respkv" in command and pid != os.getpid() else None
