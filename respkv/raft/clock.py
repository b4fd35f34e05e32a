"""The time that elections and leases run on, and how long they last.

`CLOCK_BOOTTIME`, which goes on while the machine sleeps and which nobody sets: a lease must not survive a suspended
machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

DRIFT = 0.9  # a lease lasts this part of the minimum election timeout
NEVER = float("-inf")


class Clock:
    """The time that elections and leases run on, in seconds; tests replace `now`."""

    now: Callable[[], float] = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. The maximum election timeout is twice the minimum."""

    election_min: float = 0.5
    heartbeat: float = 0.1


DEFAULT_TIMING = Timing()
