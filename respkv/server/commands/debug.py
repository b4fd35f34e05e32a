"""DEBUG: for tests and for a closer look. Refused unless `enable-debug-command` allows it.

DEBUG DIGEST is the XOR of the digests of this node's shards (`respkv.keyspace.digest`), so it is that of all live keys
here however they are spread over shards; zeros if there are none. Two replicas of a shard that applied the same have
the same DEBUG DIGEST SHARD <n>. Writes that come while it is worked out make it the digest of no single moment.

DEBUG RELOAD and LOADAOF read all that is on the disk, as Redis's do; there is no memory to replace by it.

DEBUG SLEEP holds up the whole node, as in Redis: where there are others, they may elect new leaders meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from respkv import errors
from respkv.cluster.slots import slot_of
from respkv.commands.args import integer
from respkv.commands.introspect import string_encoding
from respkv.commands.table import command
from respkv.keyspace.digest import Digest, digest
from respkv.reply import OK, Reply, RespError, Simple
from respkv.server.commands.debug_types import protocol
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import LATER, Call, Later
from respkv.shard.machine import Machine
from respkv.shard.replica import Replica
from respkv.storage.errors import StorageError

log = structlog.get_logger()

_PAUSE_S = 0.001

_tasks: set[asyncio.Task[None]] = set()  # the loop itself does not keep them


@command("DEBUG", kind="server", arity=-2, flags="admin loading stale noscript", group="server", since="1.0.0",
         complexity="Depends on subcommand.", summary="A container for debugging commands", doc_flags="syscmd")
def debug(call: Call) -> Reply | Later:
    _check_allowed(call)
    known = _SUBCOMMANDS.get(call.args[1].upper())
    if known is None or len(call.args) not in known[0]:
        raise errors.bad_subcommand_syntax(call.args[0], call.args[1])
    return known[1](call)


def _check_allowed(call: Call) -> None:
    who = call.server.config.config.enable_debug_command
    if call.args[1].upper() == b"DIGEST":  # how an operator compares replicas; it changes nothing
        return
    if who == "yes" or (who == "local" and call.connection.is_local):
        return
    raise errors.debug_not_allowed()


def _help(call: Call) -> Reply:
    return help_reply(
        "DEBUG",
        ("DIGEST", "Output a hex signature representing the live keys of this node's shards."),
        ("DIGEST SHARD <shard>", "Output that of one shard, the same on every replica that applied the same."),
        ("ERROR <string>", ("Return a Redis protocol error with <string> as message. Useful for clients\n"
                           "unit tests to simulate Redis errors.")),
        ("LOG <message>", "Write <message> to the server log."),
        ("LOADAOF", "As RELOAD."),
        ("OBJECT <key>", "Show low level info about <key> as this node's replica has it."),
        ("PAUSE-CRON <0|1>", ("Stop what is done by the clock to keys and to what clients cache: expiry and\n"
                              "eviction. What nodes do for each other goes on.")),
        ("PROTOCOL <type>", ("Reply with a test value of the specified type. <type> can be: string,\n"
                            "integer, double, bignum, null, array, set, map, attrib, push, verbatim,\ntrue, false.")),
        ("RELOAD [option ...]", ("Read and verify every record of the data files. There is nothing else to reload:\n"
                                "what is served is what the files hold. Options are accepted and change nothing.")),
        ("SET-ACTIVE-EXPIRE <0|1>", ("Setting it to 0 disables expiring keys in background when they are not\n"
                                    "accessed (otherwise the Redis behavior). Setting it to 1 reenables back the\n"
                                    "default. Of the shards that this node leads.")),
        ("SLEEP <seconds>", "Stop the server for <seconds>. Decimals allowed."),
    )  # fmt: skip


def _sleep(call: Call) -> Reply:
    try:
        seconds = float(call.args[2])
    except ValueError:
        seconds = 0.0  # as Redis's strtod
    if seconds > 0:
        time.sleep(seconds)
    return OK


def _set_active_expire(call: Call) -> Reply:
    active = call.args[2] != b"0"
    for replica in call.server.replicas:
        replica.proposer.expires_actively = active
    return OK


def _pause_cron(call: Call) -> Reply:
    call.server.cron_paused = call.args[2] != b"0"
    return OK


def _error(call: Call) -> Reply:
    raise RespError(call.args[2].decode(errors="surrogateescape").replace("\r", " ").replace("\n", " "))


def _log(call: Call) -> Reply:
    log.warning("debug_log", message=errors.quoted(call.args[2], len(call.args[2])))
    return OK


def _digest_command(call: Call) -> Later:
    if len(call.args) == 2:
        return _start_digest(call, call.server.replicas)
    if call.args[2].upper() != b"SHARD":
        raise errors.bad_subcommand_syntax(call.args[0], call.args[1])
    return _start_digest(call, [_replica(call, integer(call.args[3]))])


def _replica(call: Call, shard: int) -> Replica:
    for replica in call.server.replicas:
        if replica.shard.id == shard:
            return replica
    raise errors.generic(f"this node holds no replica of shard {shard}")


def _start_digest(call: Call, replicas: list[Replica]) -> Later:
    task = asyncio.get_running_loop().create_task(_digest(replicas, call.alone()))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return LATER


def _reload(call: Call) -> Later:
    task = asyncio.get_running_loop().create_task(_verify(call.server.replicas, call.alone()))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return LATER


async def _verify(replicas: list[Replica], answer: Callable[[Reply], None]) -> None:
    try:
        for replica in replicas:
            await _digest_of(replica.machine)  # reads every live record, those of the newest file included
    except (StorageError, ValueError, OSError) as error:
        answer(errors.generic(f"Error trying to load the data files: {error}"))
    except asyncio.CancelledError:
        answer(errors.generic("the node stops"))
        raise
    else:
        answer(OK)


async def _digest(replicas: list[Replica], answer: Callable[[Reply], None]) -> None:
    """Answers whatever happens: damage and a state that is replaced meanwhile are errors for the client."""
    total = 0
    try:
        for replica in replicas:
            total ^= int.from_bytes((await _digest_of(replica.machine)).value, "big")
    except (StorageError, ValueError, OSError) as error:
        answer(errors.generic(f"the digest could not be worked out: {error}"))
    except asyncio.CancelledError:
        answer(errors.generic("the node stops"))
        raise
    else:
        answer(Simple(b"%040x" % total))


async def _digest_of(machine: Machine) -> Digest:
    set_clock(machine)
    slices = digest(machine.db)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            found: Digest = end.value
            return found
        await asyncio.sleep(_PAUSE_S)


def set_clock(machine: Machine) -> None:
    """Makes `machine.db` see expiry as a reader does at this moment."""
    machine.read([b"DBSIZE"])


def _object(call: Call) -> Reply:
    key = call.args[2]
    machine = call.server.proposer_of_slot[slot_of(key)].machine
    if machine is None:
        raise RespError(f"ERR this node holds no replica of the shard of this key (slot {slot_of(key)})")
    set_clock(machine)
    record = machine.db.lookup(key)
    if record is None:
        raise errors.no_such_key()
    encoding = string_encoding(machine.db, key, record.value)
    text = (
        f"Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{len(record.value)} "
        f"lru:0 lru_seconds_idle:{machine.db.idle_ms(key) // 1000} type:{record.type} expire_ms:{record.expire_ms}"
    )
    return Simple(text.encode())


# Name to the numbers of arguments that it takes, and what does it.
_SUBCOMMANDS: dict[bytes, tuple[tuple[int, ...], Callable[[Call], Reply | Later]]] = {
    b"DIGEST": ((2, 4), _digest_command),
    b"ERROR": ((3,), _error),
    b"HELP": ((2,), _help),
    b"LOG": ((3,), _log),
    b"LOADAOF": ((2,), _reload),
    b"OBJECT": ((3,), _object),
    b"PAUSE-CRON": ((3,), _pause_cron),
    b"PROTOCOL": ((3,), protocol),
    b"RELOAD": ((2, 3, 4, 5), _reload),
    b"SET-ACTIVE-EXPIRE": ((3,), _set_active_expire),
    b"SLEEP": ((3,), _sleep),
}
