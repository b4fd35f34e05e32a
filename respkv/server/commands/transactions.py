"""MULTI and EXEC, WATCH and UNWATCH, DISCARD.

Commands are queued by `respkv.server.queue`; `respkv.server.plan` says what of a transaction is atomic, and
`respkv.shard.watches` what makes EXEC answer null.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from respkv import errors
from respkv.commands.table import command
from respkv.reply import OK, Reply, RespError
from respkv.server import attention
from respkv.server.dispatch import Call, Later, has_open_writes, home_of
from respkv.server.execution import Execution
from respkv.server.plan import Plan
from respkv.server.queue import Queue
from respkv.server.steps import Steps
from respkv.shard.proposer import Proposer
from respkv.shard.transaction import WATCH_OP, Watched

if TYPE_CHECKING:
    from respkv.server.burst import Burst

WATCHED_MAX: Final = 16_384
_FLAGS: Final = "noscript loading stale fast allow_busy"


@command("MULTI", kind="server", arity=1, flags=_FLAGS, group="transactions", since="1.2.0",
         summary="Mark the start of a transaction block")
def multi(call: Call) -> Reply:
    if call.session.transaction is not None:
        raise errors.multi_nested()
    call.session.transaction = Queue()
    call.connection.hinder_by_session()
    return OK


@command("DISCARD", kind="server", arity=1, flags=_FLAGS, group="transactions", since="2.0.0",
         summary="Discard all commands issued after MULTI", complexity="O(N), when N is the number of queued commands")
def discard(call: Call) -> Reply:
    if call.session.transaction is None:
        raise errors.discard_without_multi()
    _end(call)
    return OK


@command("EXEC", kind="server", arity=1, flags="noscript loading stale skip_slowlog", group="transactions",
         since="1.2.0", summary="Execute all commands issued after MULTI",
         complexity="Depends on commands in the transaction")
def exec_(call: Call) -> Reply | Later:
    queue, watched = call.session.transaction, call.session.watched
    if queue is None:
        raise errors.exec_without_multi()
    _end(call)
    if queue.broken:
        raise errors.exec_abort()
    plan = Plan(call.connection, queue.commands, watched.values())
    if call.connection.hindrances:
        tracker = call.session.tracker
        for spec, args in queue.commands:
            if tracker is not None and spec.name == "client|caching" and tracker.may_cache(args[2].upper()):
                tracker.caching = True
            attention.remember(call.connection, spec, args)
            if call.server.monitors:
                call.server.monitors.show(call.connection, spec, args)
        if tracker is not None:
            tracker.caching = False  # until the commands are run
    return Execution(call, _burst(call), plan, queue.bytes).start()


def _end(call: Call) -> None:
    call.session.end_transaction()
    call.connection.hinder_by_session()


def _burst(call: Call) -> Burst:
    """EXEC and WATCH are never run by EXEC: what they belong to is a burst."""
    return cast("Burst", call.burst)


@command("WATCH", kind="server", arity=-2, flags=_FLAGS, keys=(1, -1, 1), access="RO", group="transactions",
         since="2.2.0", complexity="O(1) for every key.",
         summary="Watch the given keys to determine execution of the MULTI/EXEC block", syntax="key...")
def watch(call: Call) -> Reply | Later:
    session = call.session
    if session.transaction is not None:
        raise errors.watch_inside_multi()
    keys = [key for key in dict.fromkeys(call.args[1:]) if key not in session.watched]
    if len(session.watched) + len(keys) > WATCHED_MAX:
        raise errors.too_many_watched(WATCHED_MAX)
    return Watching(call, _burst(call), _by_shard(call, keys)).start()


def _by_shard(call: Call, keys: Sequence[bytes]) -> dict[Proposer, list[bytes]]:
    """Raises CROSSSLOT and MOVED, in the cluster view."""
    if call.session.cluster_view and keys:
        return {home_of(call.connection, keys): list(keys)}
    found: dict[Proposer, list[bytes]] = {}
    for key in keys:
        found.setdefault(home_of(call.connection, [key]), []).append(key)
    return found


class Watching(Steps):
    """One WATCH: asks each shard's leader what its keys are now."""

    __slots__ = ("_keys", "_results")

    def __init__(self, call: Call, burst: Burst, keys: dict[Proposer, list[bytes]]) -> None:
        super().__init__(call, burst)
        self._keys = keys
        self._results: list[Any] = [None] * len(keys)

    def put(self, token: int, value: Reply) -> None:
        self._results[token] = value

    def run(self) -> Generator[None, None, Reply]:
        call = self.call
        self.pending += 1
        for token, (proposer, keys) in enumerate(self._keys.items()):
            operation = [WATCH_OP, *keys]
            if has_open_writes(call.connection, self._burst, proposer):
                proposer.write(self, token, operation)  # behind what this client wrote before
            else:
                proposer.read(self, token, operation)
        self.pending -= 1
        if self.pending:
            yield
        for result in self._results:
            if isinstance(result, RespError):
                return result
        for keys, result in zip(self._keys.values(), self._results, strict=True):
            for key, fingerprint, stamp in zip(keys, result[::2], result[1::2], strict=True):
                call.session.watched[key] = Watched(key, fingerprint, stamp)
        return OK


@command("UNWATCH", kind="server", arity=1, flags=_FLAGS, group="transactions", since="2.2.0",
         summary="Forget about all watched keys")
def unwatch(call: Call) -> Reply:
    call.session.watched = {}
    return OK
