"""The latency monitor: when, and for how long, something kept the node from serving, by kind.

Off (`latency-monitor-threshold` 0) nothing is noted. A kind keeps its newest `SAMPLES_MAX` spikes, one a second at
the most, the longest of it.

| event | what took so long |
| --- | --- |
| `command`, `fast-command` | one command, or a burst of plain GETs; `fast` are those that should never be slow |
| `aof-fsync-always` | an fdatasync of the journal, for which writes wait (reads do not) |
| `expire-cycle` | removing keys that have expired |
| `eviction-cycle`, `eviction-del` | looking for keys to evict; removing them |
| `loop-stall` | anything else: the loop did not come back to its clock in time |
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final, NamedTuple

SAMPLES_MAX: Final = 160
_GRAPH_COLUMNS: Final = 80
_GRAPH_ROWS: Final = 4
_GRAPH_INKS: Final = "_o#"


class Sample(NamedTuple):
    at_s: int
    millis: int


class Event:
    """The spikes of one kind; `max_ms` is the longest ever."""

    __slots__ = ("max_ms", "samples")

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self.max_ms = 0

    def add(self, at_s: int, millis: int) -> None:
        self.max_ms = max(self.max_ms, millis)
        if self.samples and self.samples[-1].at_s == at_s:
            millis = max(millis, self.samples.pop().millis)
        self.samples.append(Sample(at_s, millis))


class LatencyMonitor:
    """All kinds. `threshold_ms` 0 is off."""

    def __init__(self) -> None:
        self.threshold_ms = 0
        self.events: dict[str, Event] = {}
        self._noted_s = 0.0

    def note(self, event: str, seconds: float) -> None:
        """Something of this kind took so long; it counts if that reaches the threshold."""
        millis = int(seconds * 1000)
        if 0 < self.threshold_ms <= millis:
            self.events.setdefault(event, Event()).add(int(time.time()), millis)
            self._noted_s += seconds

    def explains(self, seconds: float) -> bool:
        """Whether what was noted since the last call accounts for so long a time, or half of it."""
        noted, self._noted_s = self._noted_s, 0.0
        return 2 * noted >= seconds

    def reset(self, names: list[str]) -> int:
        """Forgets these kinds, or all if there is none; how many of them there were."""
        gone = [name for name in names or list(self.events) if self.events.pop(name, None) is not None]
        return len(gone)


def graph(name: str, event: Event) -> str:
    """The spikes as a picture in text, one column each, with their ages below, drawn as Redis does."""
    now = int(time.time())
    shown = list(event.samples)[-_GRAPH_COLUMNS:]
    highest, lowest = max(s.millis for s in shown), min(s.millis for s in shown)
    steps = _GRAPH_ROWS * len(_GRAPH_INKS)
    heights = [min(steps - 1, (s.millis - lowest) * steps // max(1, highest - lowest)) for s in shown]
    floors = reversed(range(0, steps, len(_GRAPH_INKS)))
    rows = ["".join(_ink(height - floor) for height in heights) for floor in floors]
    ages = [_age(now - s.at_s) for s in shown]
    rows += ["".join(age[i : i + 1] or " " for age in ages) for i in range(-1, max(map(len, ages)))]
    title = f"{name} - high {highest} ms, low {lowest} ms (all time high {event.max_ms} ms)"
    return "\n".join([title, "-" * _GRAPH_COLUMNS, *rows]) + "\n"


def _ink(height: int) -> str:
    if height < 0:
        return " "
    return _GRAPH_INKS[height] if height < len(_GRAPH_INKS) else "|"


def _age(seconds: int) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"


def report(monitor: LatencyMonitor, slower_than_us: int) -> str:
    """What LATENCY DOCTOR says."""
    if not monitor.events:
        return _DISABLED if monitor.threshold_ms == 0 else _NOTHING
    lines = [_OBSERVED, ""]
    lines += [_diagnosis(number, *each) for number, each in enumerate(monitor.events.items(), 1)]
    advices = [_ADVICE[name] for name in monitor.events if name in _ADVICE]
    if "command" in monitor.events and (slower_than_us < 0 or slower_than_us > monitor.threshold_ms * 1000):
        advices.append(f"Let the slow log have them: CONFIG SET slowlog-log-slower-than {monitor.threshold_ms * 1000}.")
    if advices:
        lines += ["", "I have a few advices for you:", "", *(f"- {advice}" for advice in advices)]
    return "\n".join(lines) + "\n"


def _diagnosis(number: int, name: str, event: Event) -> str:
    times = [sample.millis for sample in event.samples]
    average = sum(times) / len(times)
    deviation = sum(abs(millis - average) for millis in times) / len(times)
    period = (event.samples[-1].at_s - event.samples[0].at_s) / len(times)
    return (
        f"{number}. {name}: {len(times)} latency spikes (average {int(average)}ms, mean deviation {int(deviation)}ms, "
        f"period {period:.2f} sec). Worst all time event {event.max_ms}ms."
    )


_DISABLED: Final = (
    "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this respkv node. You may use "
    '"CONFIG SET latency-monitor-threshold <milliseconds>." in order to enable it.\n'
)
_NOTHING: Final = (
    "Dave, no latency spike was observed during the lifetime of this respkv node, not in the slightest bit. I honestly "
    "think you ought to sit down calmly, take a stress pill, and think things over.\n"
)
_OBSERVED: Final = (
    "Dave, I have observed latency spikes in this respkv node. You don't mind talking about it, do you Dave?"
)
_ADVICE: Final = {
    "command": "Check the slow log (SLOWLOG GET) for the commands that take long: each holds up all clients of a node.",
    "fast-command": "Commands that are fast by nature were slow: the system does not give this process its time. Lower "
    "the load, look for noisy neighbours, give the node a machine of its own.",
    "aof-fsync-always": "Writes wait for the journal's fdatasync: use a faster disk, give the journal one of its own, "
    "or, if you can afford to lose the last second's writes in a power failure, set appendfsync to everysec.",
    "expire-cycle": "Many keys expire at the same moment: spread their times to live.",
    "eviction-cycle": "Keys are evicted in masses: raise maxmemory, or lower it in small steps.",
    "loop-stall": "The node's loop was held up by something other than a command: by another process, or by its own "
    "background work. INFO persistence and the log tell what it was doing.",
}
