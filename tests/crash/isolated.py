"""A command in namespaces of its own, in which it is root: for the kernel's network and for disks that are really full.

Mounts, network and processes there are seen by nobody else and end with the command, whatever happens to it. It takes
`unshare` (util-linux) and `ip` (iproute2), and either root or a kernel that lets users make namespaces; many containers
allow neither. `why_not` says what is missing, in words for the person who runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

PROBE_S = 30
_SET_UP = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"'
_PROBE = (
    "ip netns add probe && ip link add probe0 type bridge && "
    "ip link add probe1 type veth peer name eth0 netns probe && ip link set probe1 master probe0"
)


def isolated(command: Sequence[str], *, user: bool | None = None) -> list[str]:
    """`command`, to be run in namespaces of its own."""
    user = _by_user() if user is None else user
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    if user:
        unshare += ["--user", "--map-root-user"]
    return [*unshare, "sh", "-c", _SET_UP, "sh", *command]


@cache
def why_not() -> str | None:
    """Why `isolated` cannot be had here; None if it can."""
    for tool in ("unshare", "ip", "mount"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` here"
    complaints = [_complaint(user) for user in (False, True)]
    return None if None in complaints else f"namespaces cannot be made here: {complaints[-1]}"


@cache
def _by_user() -> bool:
    """Whether it takes a user namespace."""
    return os.getuid() != 0 or _complaint(user=False) is not None


@cache
def _complaint(user: bool) -> str | None:
    done = subprocess.run(
        isolated(["sh", "-c", _PROBE], user=user), capture_output=True, text=True, timeout=PROBE_S, check=False
    )
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or f"status {done.returncode}"
