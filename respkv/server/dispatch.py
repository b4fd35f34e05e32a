"""From a command's arguments to where it runs: the server itself, one shard, or several shards.

The standalone view routes by key and spans shards where the command's `Spread` says how; the cluster view answers
`MOVED` and `CROSSSLOT` as a Redis Cluster node does, and its keyspace-wide commands cover the shards that this node
leads. There, a client that has sent READONLY reads from this node's replicas, too, which may be behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

import structlog

from respkv import errors
from respkv.cluster.slots import slot_of
from respkv.commands.spread import Part as SpreadPart
from respkv.commands.spread import Spread
from respkv.commands.table import COMMANDS, Spec, resolve, spec_keys
from respkv.keyspace.values import KEY_BYTES_MAX
from respkv.reply import Reply, RespError
from respkv.resp.encoder import encode
from respkv.server import attention
from respkv.server.access import MULTI, TOPLEVEL
from respkv.server.burst import MutedBurst
from respkv.server.renaming import original
from respkv.server.session import HEARD, SKIPS_NEXT, command_name
from respkv.server.shares import DEAR_S
from respkv.shard.machine import InDoubt
from respkv.shard.proposer import Proposer
from respkv.shard.waiting import Part, finish
from respkv.storage.errors import Damaged

if TYPE_CHECKING:
    from respkv.server.burst import Burst
    from respkv.server.connection import Connection
    from respkv.server.server import Server
    from respkv.server.session import Session

log = structlog.get_logger()

# What a browser sends first when a web page makes it talk to us: as in Redis, the connection ends there.
_CROSS_PROTOCOL: Final = frozenset((b"post", b"host:"))

_BLOCKING: Final = frozenset((b"WAIT", b"wait"))

# All others are queued.
RUN_INSIDE_MULTI: Final = frozenset(("multi", "exec", "discard", "watch", "quit", "reset"))


class Later:
    """The type of `LATER`."""


LATER: Final = Later()


class Call:
    """One server command being run: what its function gets.

    Its function returns the reply, or takes `later()` and returns `LATER`.
    """

    __slots__ = ("args", "burst", "connection", "in_transaction", "token")

    def __init__(
        self, connection: Connection, burst: Part, token: int, args: list[bytes], *, in_transaction: bool = False
    ) -> None:
        self.connection = connection
        self.burst = burst
        self.token = token
        self.args = args
        self.in_transaction = in_transaction  # run by EXEC: it must not wait for anything

    @property
    def server(self) -> Server:
        return self.connection.server

    @property
    def session(self) -> Session:
        return self.connection.session

    @property
    def is_muted(self) -> bool:
        """Whether the reply will not be sent."""
        return type(self.burst) is MutedBurst

    def alone(self) -> Callable[[Reply], None]:
        """As `later`; until then nothing is run that the client sends behind this command (EXEC sees to that
        itself)."""
        connection, answer = self.connection, self.later()
        if self.in_transaction:
            return answer
        connection.hold()

        def go_on_and_answer(reply: Reply) -> None:
            connection.release()
            answer(reply)

        return go_on_and_answer

    def later(self) -> Callable[[Reply], None]:
        """A function to call once, with the reply."""
        burst, token = self.burst, self.token
        burst.pending += 1

        def answer(reply: Reply) -> None:
            burst.put(token, reply)
            finish(burst)

        return answer


class Spanning(Part):
    """One command that runs on several shards: collects the parts' replies and merges them."""

    __slots__ = ("_args", "_burst", "_holds", "_parts", "_spread", "_token", "_values")

    def __init__(self, burst: Burst, token: int, args: list[bytes], spread: Spread, parts: list[SpreadPart]) -> None:
        super().__init__(burst.size // max(1, len(parts)))
        self.joined = burst.joined
        self._burst = burst
        self._token = token
        self._args = args
        self._spread = spread
        self._parts = parts
        self._values: list[Reply] = [None] * len(parts)
        self._holds = False

    @property
    def client(self) -> Connection:
        return self._burst.connection

    def put(self, token: int, value: Reply) -> None:
        self._values[token] = value

    def fail(self, ok: bytes, error: RespError) -> None:
        """Nothing was answered in advance."""

    def asked(self) -> None:
        """All parts are on their way, or have been answered."""
        if self._spread.walks and self.pending > 1:
            self._holds = True
            self.client.hold()
        finish(self)

    def done(self) -> None:
        if self._holds:
            self.client.release()
        self._burst.put(self._token, self._spread.merge(self._args, self._parts, self._values, slot_of))
        finish(self._burst)


def dispatch(connection: Connection, burst: Burst, args: list[bytes]) -> bool:
    """Runs one command; its reply gets the next place in the burst, now or later.

    False: what follows needs a burst of its own, at once or when the connection is not `held` any more. Where no place
    was taken, this command is the first of that.
    """
    session = connection.session
    if len(args) == 3 and args[0] in _BLOCKING and burst.replies:
        return False  # the replies before it are not to wait with it
    if connection.hindrances:
        muted = session.muted
        if muted and attention.speaks(session, args):
            session.muted = HEARD
            return False
        if connection.server.pause.active and attention.must_wait(connection, args):
            connection.server.pause.hold(connection)
            return False
        if muted == SKIPS_NEXT:
            session.muted = HEARD
            _dispatch(connection, burst, args)
            connection.hinder_by_session()
            return False
    _dispatch(connection, burst, args)
    if connection.held or burst.protocol != session.protocol:
        return False
    return not session.muted or type(burst) is MutedBurst


def _dispatch(connection: Connection, burst: Burst, args: list[bytes]) -> None:
    token = len(burst.replies)
    burst.replies.append(b"")
    watch = connection.server.watch
    watch.running = None
    began_at = perf_counter()
    try:
        reply = _run(connection, burst, token, args)
    except RespError as error:
        if args[0].lower() in _CROSS_PROTOCOL:
            log.warning("cross_protocol_scripting", address=connection.session.address)
            connection.abort()
            return
        reply = error.with_traceback(None)
    except Exception as fault:  # noqa: BLE001 - told in `failed`
        reply = failed(connection, args, fault)
    took_s = perf_counter() - began_at
    watch.ran(connection, args, took_s, later=reply is LATER)
    if took_s >= DEAR_S:
        connection.server.shares.dear = True
    if not isinstance(reply, Later):
        if type(reply) is RespError:
            watch.failed(args, reply, ran=watch.running is not None)
        burst.replies[token] = encode(reply, connection.session.protocol)


def failed(connection: Connection, args: Sequence[bytes], fault: Exception) -> RespError:
    """One command's fault must not cost other clients their connections."""
    log.error("command_failed", command=command_name(args), client=connection.session.id, exc_info=fault)
    return errors.generic("internal error")


def permit(connection: Connection, spec: Spec, args: Sequence[bytes]) -> None:
    """Raises what forbids this client the command. Asked when it comes, inside MULTI too."""
    session = connection.session
    if not session.authenticated and "no_auth" not in spec.flags:
        raise connection.server.access.no_auth()
    if not session.user.everything:
        connection.server.access.check(connection, spec, args, TOPLEVEL if session.transaction is None else MULTI)


def permit_still(connection: Connection, spec: Spec, args: Sequence[bytes]) -> None:
    """Asked by EXEC for each command that `permit` has let into the queue."""
    if not connection.session.user.everything:
        connection.server.access.check_queued(connection, spec, args)


def _run(connection: Connection, burst: Burst, token: int, args: list[bytes]) -> Reply | Later:
    queue = connection.session.transaction
    try:
        if connection.server.renamed:
            args = original(connection.server.renamed, args)
        spec = resolve(args)
        permit(connection, spec, args)
        if connection.hindrances:
            attention.check(connection, spec)
        if queue is not None and spec.name not in RUN_INSIDE_MULTI:
            return queue.add(connection, spec, args)
    except RespError as error:
        refusal = error
        if queue is not None:
            queue.spoil()
        if args[0].upper() == b"EXEC":
            connection.session.end_transaction()
            connection.hinder_by_session()
            refusal = errors.exec_abort_because(error)
        attention.use_up(connection, args)
        raise refusal from None
    if connection.hindrances:
        return _run_hindered(connection, burst, token, spec, args)
    return _run_spec(connection, burst, token, spec, args)


def _run_spec(connection: Connection, burst: Burst, token: int, spec: Spec, args: list[bytes]) -> Reply | Later:
    if spec.kind == "server":
        return run_here(Call(connection, burst, token, args), spec)
    connection.server.watch.running = spec
    if args[0] not in COMMANDS:
        args[0] = args[0].upper()
    return _run_data(connection, burst, token, spec, args)


def _run_hindered(connection: Connection, burst: Burst, token: int, spec: Spec, args: list[bytes]) -> Reply | Later:
    shown = list(args)  # as the client wrote it
    attention.remember(connection, spec, args)
    ran = spec.kind == "server"  # of a refusal too: it was this command's own
    try:
        reply = _run_spec(connection, burst, token, spec, args)
        ran = True
    finally:
        if ran:
            attention.was_run(connection, spec, shown)
        attention.use_up(connection, args)
    return reply


def run_here(call: Call, spec: Spec) -> Reply | Later:
    """Runs a command about the server itself. Raises RespError."""
    call.server.watch.running = spec
    assert spec.fn is not None
    reply: Reply | Later = spec.fn(call)
    return reply


def attempt(call: Call, spec: Spec) -> Reply | Later:
    """The same as a part of EXEC, counted and measured by itself; an error is the reply."""
    watch = call.server.watch
    outer, began_at = watch.running, perf_counter()
    try:
        reply = run_here(call, spec)
    except RespError as error:
        reply = error.with_traceback(None)
    except Exception as fault:  # noqa: BLE001 - told in `failed`
        reply = failed(call.connection, call.args, fault)
    watch.ran(call.connection, call.args, perf_counter() - began_at, later=reply is LATER)
    if type(reply) is RespError:
        watch.failed(call.args, reply)
    watch.running = outer
    return reply


def home_of(connection: Connection, keys: Sequence[bytes], *, any_slot: bool = True) -> Proposer:
    """The one shard of all of `keys`. Raises CROSSSLOT and MOVED.

    Without `any_slot` they must be in one slot, as the cluster view always wants it, unless there is a single shard.
    """
    for key in keys:
        if len(key) > KEY_BYTES_MAX:
            raise errors.key_too_long(KEY_BYTES_MAX)
    server, session = connection.server, connection.session
    slots = {slot_of(key) for key in keys}
    proposers = {server.proposer_of_slot[slot] for slot in slots}
    any_slot = any_slot or len(server.proposers) == 1
    if len(proposers) > 1 or (len(slots) > 1 and (session.cluster_view or not any_slot)):
        raise errors.cross_slot()
    proposer = proposers.pop()
    if session.cluster_view:
        _check_leader(server, session, proposer, slots.pop())
    return proposer


def _run_data(connection: Connection, burst: Burst, token: int, spec: Spec, args: list[bytes]) -> Reply | Later:
    server = connection.server
    keys = spec_keys(spec, args)
    for key in keys:
        if len(key) > KEY_BYTES_MAX:
            raise errors.key_too_long(KEY_BYTES_MAX)
    if len(keys) == 1:
        proposer = server.proposer_of_slot[slot_of(keys[0])]
    elif keys:
        found = _one_shard(server, connection.session, spec, keys)
        if found is None:
            return _span(connection, burst, token, spec, args, server.proposers)
        proposer = found
    else:
        return _span(connection, burst, token, spec, args, server.concerned(connection.session))
    if connection.session.cluster_view:
        if connection.session.readonly and spec.is_readonly and _may_be_stale(proposer):
            assert proposer.machine is not None
            return proposer.machine.read(args, stale=True)
        _check_leader(server, connection.session, proposer, slot_of(keys[0]))
    return _run_on(connection, burst, token, spec, args, proposer)


def _one_shard(server: Server, session: Session, spec: Spec, keys: Sequence[bytes]) -> Proposer | None:
    """The shard of several keys; None if they are on several and the command may span them. Raises CROSSSLOT.

    That two slots happen to be on one shard is no reason to run a command that must not span them: it would depend on
    where the ring puts them. Only with a single shard there is no such place.
    """
    slots = {slot_of(key) for key in keys}
    if len(slots) > 1 and (session.cluster_view or (spec.spread is None and len(server.proposers) > 1)):
        raise errors.cross_slot()
    proposers = {server.proposer_of_slot[slot] for slot in slots}
    return proposers.pop() if len(proposers) == 1 else None


def _check_leader(server: Server, session: Session, proposer: Proposer, slot: int) -> None:
    owner = server.owner(server.topology.shards[proposer.shard])
    if owner != server.node:
        endpoint = server.endpoints.of(owner, session.port_shift)
        raise errors.moved(slot, endpoint.preferred or "", endpoint.port)


def _may_be_stale(proposer: Proposer) -> bool:
    """Whether a read after READONLY may be answered from this node's replica: it follows a leader, and has the whole
    state as of some moment. What it answers may be behind."""
    group = proposer.group
    return group is not None and group.votes and not group.leader and group.leader_id is not None


def _run_on(
    connection: Connection, burst: Burst, token: int, spec: Spec, args: list[bytes], proposer: Proposer
) -> Reply | Later:
    connection.server.watch.elsewhere = not proposer.leads
    proposer.asked[connection.session.cluster_view] += 1
    if spec.is_write:
        check_refusal(proposer, spec)
        proposer.write(burst, token, attention.marked(connection, args))
        return LATER
    if has_open_writes(connection, burst, proposer):
        proposer.write(burst, token, args)
        return LATER
    if proposer.serves_reads and proposer.machine is not None:
        with contextlib.suppress(Damaged, InDoubt):  # then another replica answers, or the log
            value = proposer.machine.long_value(args)
            if value is None:
                return proposer.machine.read(args)
            proposer.read_long(burst, token, args, value)
            return LATER
    proposer.read(burst, token, args)
    return LATER


def check_refusal(proposer: Proposer, spec: Spec) -> None:
    """Raises the reason for which the shard takes no such write now."""
    refusal = proposer.refusal
    if refusal is not None and spec.is_write and ("denyoom" in spec.flags or not errors.is_oom(refusal)):
        raise RespError(refusal.text)


def has_open_writes(connection: Connection, burst: Part, proposer: Proposer) -> bool:
    """Whether something of this connection is on its way into the shard's log, and it has not heard the outcome: a
    read must then wait its turn."""
    if proposer in burst.joined:
        return True
    if not connection.waiting:
        return False
    return any(proposer in earlier.joined for earlier in connection.waiting if earlier.pending)


def _span(
    connection: Connection, burst: Burst, token: int, spec: Spec, args: list[bytes], proposers: Sequence[Proposer]
) -> Reply | Later:
    server, spread = connection.server, spec.spread
    if spread is None:
        raise errors.cross_slot()
    if not spec.arity_ok(len(args)):
        raise errors.arity(spec.name)
    shards = [proposer.shard for proposer in proposers]
    parts = spread.split(args, slot_of, server.topology.slots, shards)
    if not parts:
        return spread.merge(args, parts, [], slot_of)
    targets = [server.proposers[shard] for shard, _ in parts]
    if spec.is_write:
        for proposer in targets:
            check_refusal(proposer, spec)
    server.watch.elsewhere = True
    spanning = Spanning(burst, token, args, spread, parts)
    burst.pending += 1
    spanning.pending = 1
    for position, (proposer, (_, part_args)) in enumerate(zip(targets, parts, strict=True)):
        proposer.asked[connection.session.cluster_view] += 1
        if spec.is_write or has_open_writes(connection, burst, proposer):
            proposer.write(spanning, position, attention.marked(connection, part_args) if spec.is_write else part_args)
        else:
            proposer.read(spanning, position, part_args)
    spanning.asked()
    return LATER
