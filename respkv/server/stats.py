"""What a node counts of its clients' commands since its start, or since CONFIG RESETSTAT.

The time of a command is that for which it kept the node's loop busy, as in Redis: what it waited for the disk, for
other nodes, or for its turn, is not in it. Each command that goes through `respkv.server.dispatch` is measured. Plain
GETs and SETs are counted, and a burst of them now and then is measured as a sample (`respkv.server.watch`). What
a write takes when it is applied counts if it is slow.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Final

from respkv.commands.table import COMMANDS, Spec
from respkv.reply import RespError
from respkv.server.times import Times

RATE_S: Final = 0.9  # shortest time over which a rate is taken

# What is refused before it is run: it was rejected, and did not fail.
_REJECTIONS: Final = frozenset(("CLUSTERDOWN", "CROSSSLOT", "EXECABORT", "MISCONF", "MOVED", "NOAUTH", "NOPERM", "OOM"))


class CommandStats:
    """Of one command: `calls` that were run, the time they took, and how many were refused or ended in an error."""

    __slots__ = ("calls", "failed", "rejected", "seconds", "times")

    def __init__(self) -> None:
        self.calls = self.rejected = self.failed = 0
        self.seconds = 0.0
        self.times = Times()


class Stats:
    """Plain counters."""

    def __init__(self) -> None:
        self.tracking = True  # `latency-tracking`: whether distributions are kept
        self.reset()

    def reset(self) -> None:
        self.lone = 0  # plain commands that came alone, each with one read
        self.burst_commands = 0  # the others,
        self.burst_reads = 0  # and the reads from clients' sockets that brought them
        self.writes = 0  # to them
        self.expire_s = 0.0  # to find what has expired and to propose its removal
        self.hits = 0
        self.misses = 0
        self.errors = 0
        self.connections = 0
        self.rejected = 0
        self.plain_sets = 0
        self.later_gets = 0  # plain GETs whose replies came later
        self.error_codes: Counter[str] = Counter()
        self.by_command: defaultdict[Spec, CommandStats] = defaultdict(CommandStats)
        self.plain = {b"GET": CommandStats(), b"SET": CommandStats()}
        self.commands_per_s = 0
        self._sample = (time.monotonic(), 0)

    @property
    def commands(self) -> int:
        return self.burst_commands + self.lone

    @property
    def reads(self) -> int:
        """From clients' sockets."""
        return self.burst_reads + self.lone

    def sample(self) -> None:
        """Works out the rate since the last call; to be called about once a second."""
        now, (then, commands) = time.monotonic(), self._sample
        if now - then >= RATE_S:
            self.commands_per_s = round((self.commands - commands) / (now - then))
            self._sample = (now, self.commands)

    def ran(self, spec: Spec, seconds: float) -> None:
        """A command was run as far as it could be at once."""
        stats = self.by_command[spec]
        stats.calls += 1
        stats.seconds += seconds
        if self.tracking:
            stats.times.add(seconds)

    def error(self, spec: Spec | None, error: RespError, *, ran: bool = True) -> None:
        """A client is answered `error`; `ran` says whether `ran` was told of its command."""
        code = error.text.partition(" ")[0]
        self.errors += 1
        self.error_codes[code] += 1
        if spec is None:
            return
        stats = self.by_command[spec]
        if not ran or code in _REJECTIONS:
            stats.rejected += 1
            stats.calls -= ran
        else:
            stats.failed += 1

    def plain_ran(self, name: bytes, seconds: float, count: int) -> None:
        """One of many bursts of plain commands: `count` of them took so long together."""
        sample = self.plain[name]
        sample.calls += count
        sample.seconds += seconds
        if self.tracking:
            sample.times.add(seconds / count, count)

    def commands_called(self) -> dict[Spec, CommandStats]:
        """What there is to tell of each command, by name, plain GETs and SETs with the others of their name."""
        found = dict(self.by_command)
        for name, count in ((b"GET", self.hits + self.misses + self.later_gets), (b"SET", self.plain_sets)):
            if count:
                spec = COMMANDS[name]
                found[spec] = _with_plain(found.get(spec) or CommandStats(), self.plain[name], count)
        return {spec: found[spec] for spec in sorted(found, key=lambda spec: spec.name)}


def _with_plain(stats: CommandStats, sample: CommandStats, count: int) -> CommandStats:
    """`stats` and `count` calls more, of which `sample` holds some."""
    found = CommandStats()
    found.rejected, found.failed = stats.rejected, stats.failed
    found.calls = stats.calls + count
    found.seconds = stats.seconds + sample.seconds * count / max(1, sample.calls)
    found.times = stats.times.with_sample(sample.times, count) if sample.times.count else stats.times
    return found
