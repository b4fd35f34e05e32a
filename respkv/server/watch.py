"""Finds what is slow: hands times to the counters, the slow log and the latency monitor.

What goes through `respkv.server.dispatch` is measured command by command. Plain GETs and SETs cost too little for that:
a burst of GETs reads the clock once more when it is done, and tells of itself if it took `notable_s` or longer.
`notable_s` is the shortest time that anybody wants to know of; once every `SAMPLE_S` it is 0, so that one burst becomes
a sample. SETs only join a batch and cannot be slow: they are measured only as a sample. Of what clients send one by one
all that comes in a turn becomes a sample; among its GETs only one whose value has to be read can be slow. Who wants to
know of commands that take less than `EXACT_BELOW_US` gets all of them through dispatch (`exact`).

A write is run when its entry is applied. Applying is measured (`Machine.slow_s`), and the leader of the shard, which
proposed it, adds a slow one to its slow log. What another node leads is measured here as far as this node works for it.
A transaction is measured as a whole.

What takes `TOLD_S` or longer, and enters the slow log, is told in the node's log too (`slow_command`): by its name
only, since arguments may be secrets, and at most once per `TELL_EVERY_S`, with how many were not told since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from respkv.commands.table import COMMANDS, Spec, find
from respkv.config import Config
from respkv.raft.clock import Clock
from respkv.reply import RespError
from respkv.server.latency import LatencyMonitor
from respkv.server.session import command_name
from respkv.server.slowlog import Slowlog
from respkv.server.stats import Stats
from respkv.shard.machine import EVICT_OP, EXPIRE_OP
from respkv.shard.transaction import EXEC_OP

if TYPE_CHECKING:
    from respkv.server.connection import Connection

EXACT_BELOW_US: Final = 1000
SAMPLE_S: Final = 0.025
TOLD_S: Final = 0.1
TELL_EVERY_S: Final = 1.0
_NEVER: Final = float("inf")
_TRANSACTION: Final = (b"EXEC", b"... (a transaction as a whole)")
_REMOVALS: Final = {EXPIRE_OP: "expire-cycle", EVICT_OP: "eviction-del"}

log = structlog.get_logger()


class Watch:
    """One for a node. Times are in seconds unless they say otherwise."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self.slowlog = Slowlog(0)
        self.latency = LatencyMonitor()
        self.exact = False
        self.slow_s = self.notable_s = 0.0
        self.sample_puts = True
        self.running: Spec | None = None  # what dispatch runs, once it has found that it may
        self.elsewhere = False  # and whether, as a command about data, not or not only on a shard that is led here
        self._slowlog_s = _NEVER
        self._latency_s = _NEVER
        self._told_at = -_NEVER
        self._untold = 0

    def configure(self, config: Config) -> None:
        slower_than_us = config.slowlog_slower_than_us
        self.exact = 0 <= slower_than_us < EXACT_BELOW_US
        self._slowlog_s = slower_than_us / 1e6 if slower_than_us >= 0 else _NEVER
        self._latency_s = config.latency_monitor_threshold_ms / 1000 or _NEVER
        self.slow_s = min(self._slowlog_s, self._latency_s)
        self.slowlog.length_max = config.slowlog_length_max
        self.latency.threshold_ms = config.latency_monitor_threshold_ms
        self.stats.tracking = config.latency_tracking

    def tick(self, late_s: float) -> None:
        """To be called every `SAMPLE_S`; `late_s` later than it should have been."""
        self.want_samples()
        explained = self.latency.explains(late_s)
        if late_s >= self._latency_s and not explained:
            self.latency.note("loop-stall", late_s)

    def want_samples(self) -> None:
        """The next burst of each kind is one."""
        self.notable_s = 0.0
        self.sample_puts = True

    # -- commands

    def ran(self, connection: Connection, args: Sequence[bytes], seconds: float, *, later: bool) -> None:
        """Dispatch has done for a command what can be done at once; `later`: its shard does the rest, or all."""
        spec = self.running
        if spec is None:
            return
        elsewhere, self.elsewhere = self.elsewhere, False
        self.stats.ran(spec, seconds)
        if seconds >= self.slow_s and (elsewhere or not (later and spec.kind == "data")):
            self._slow(connection, spec, args, seconds)

    def failed(self, args: Sequence[bytes], error: RespError, *, ran: bool = True) -> None:
        """A client is answered with an error; `ran` says whether `ran` was told of the command."""
        spec = find(args[0])
        if spec is not None and spec.subcommands and len(args) > 1:
            spec = spec.subcommands.get(args[1].lower(), spec)
        self.stats.error(spec, error, ran=ran)

    def plain_gets(self, connection: Connection, keys: Sequence[bytes], seconds: float) -> None:
        if self.notable_s == 0.0:
            self.stats.plain_ran(b"GET", seconds, len(keys))
            self.notable_s = self.slow_s
        if seconds >= self.slow_s:
            more = [b"... (%d more GETs)" % (len(keys) - 1)] if len(keys) > 1 else []
            self._slow(connection, COMMANDS[b"GET"], [b"GET", keys[0], *more], seconds)

    def lone(self, gets: int, sets: int, seconds: float) -> None:
        """So many came one by one, and took so long together."""
        each_s = seconds / (gets + sets)
        if gets and self.notable_s == 0.0:
            self.stats.plain_ran(b"GET", each_s * gets, gets)
            self.notable_s = self.slow_s
        if sets and self.sample_puts:
            self.plain_puts(each_s * sets, sets)

    def slow_get(self, connection: Connection, key: bytes, seconds: float) -> None:
        """One of them took longer than `slow_s`."""
        self._slow(connection, COMMANDS[b"GET"], [b"GET", key], seconds)

    def plain_puts(self, seconds: float, count: int) -> None:
        self.sample_puts = False
        self.stats.plain_ran(b"SET", seconds, count)

    def applied_slowly(self, part: Any, args: Sequence[bytes], seconds: float) -> None:
        """A write took so long when it was applied; `part` is who waits for it."""
        spec = COMMANDS.get(args[0])
        if spec is None:
            self._own_applied_slowly(part, args, seconds)
            return
        self.stats.by_command[spec].seconds += seconds
        self._slow(part.client, spec, args, seconds)

    def _own_applied_slowly(self, part: Any, args: Sequence[bytes], seconds: float) -> None:
        """The same for what no client can name: removals of keys, and a transaction as a whole."""
        if args[0] == EXEC_OP:
            self._log(part.client, _TRANSACTION, seconds)
            self._slow(part.client, COMMANDS[b"EXEC"], _TRANSACTION, seconds)
        elif args[0] in _REMOVALS:
            self.latency.note(_REMOVALS[args[0]], seconds)

    def read_transaction(self, connection: Connection, seconds: float) -> None:
        """The reads of a transaction took so long on one shard. The latency monitor hears of its EXEC."""
        self._log(connection, _TRANSACTION, seconds)

    def _slow(self, client: Any, spec: Spec, args: Sequence[bytes], seconds: float) -> None:
        if "skip_slowlog" not in spec.flags:
            self._log(client, args, seconds)
        if seconds >= self._latency_s:
            self.latency.note("fast-command" if "fast" in spec.flags else "command", seconds)

    def _log(self, client: Any, args: Sequence[bytes], seconds: float) -> None:
        if seconds >= self._slowlog_s:
            session = getattr(client, "session", None)
            address = session.address if session is not None else f"node {client}"
            self.slowlog.add(args, seconds, address, session.name if session is not None else b"")
            if seconds >= TOLD_S:
                self._tell(args, seconds, address)

    def _tell(self, args: Sequence[bytes], seconds: float, address: str) -> None:
        now = Clock.now()
        if now - self._told_at < TELL_EVERY_S:
            self._untold += 1
            return
        command, ms = command_name(args), round(seconds * 1000)
        log.warning("slow_command", command=command, took_ms=ms, address=address, untold_before=self._untold)
        self._told_at, self._untold = now, 0
