"""What a figure must be read with: the machine, the disk, and whether its fdatasync is real."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

MEMORY_FILESYSTEMS = {"tmpfs", "ramfs"}
PROBE_S = 1.0


def describe(directory: Path) -> dict[str, str]:
    """Facts for the report; takes PROBE_S for the disk."""
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": filesystem(directory),
        "fdatasync_per_s": f"{fdatasync_rate(directory):.0f}",
        "load_average_before": f"{os.getloadavg()[0]:.2f}",
    }


def filesystem(directory: Path) -> str:
    """The type of the file system that holds `directory`, from /proc/mounts; "unknown" where there is none."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    place = directory.resolve()
    holding = [(len(where), kind) for where, kind in mounts if place.is_relative_to(where)]
    return max(holding)[1] if holding else "unknown"


def fdatasync_rate(directory: Path) -> float:
    """fdatasyncs per second of a file that grows by 512 bytes each time: the best that one client at a time can get."""
    path = directory / "fdatasync-probe"
    count, began = 0, time.monotonic()
    with path.open("wb", buffering=0) as file:
        while time.monotonic() - began < PROBE_S:
            file.write(b"x" * 512)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / (time.monotonic() - began)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
