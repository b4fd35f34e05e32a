"""DEBUG: the digest by which replicas are compared, and a look at one key.

DEBUG DIGEST is the XOR of the digests of this node's shards (`respkv.keyspace.digest`), so it is that of all live keys
here however they are spread over shards; zeros if there are none. Two replicas of a shard that applied the same have
the same DEBUG DIGEST SHARD <n>. Writes that come while it is worked out make it the digest of no single moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from respkv import errors
from respkv.cluster.slots import slot_of
from respkv.commands.args import integer
from respkv.commands.introspect import string_encoding
from respkv.commands.table import command
from respkv.keyspace.digest import Digest, digest
from respkv.reply import Reply, RespError, Simple
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import LATER, Call, Later
from respkv.shard.machine import Machine
from respkv.shard.replica import Replica
from respkv.storage.errors import StorageError

_PAUSE_S = 0.001

_tasks: set[asyncio.Task[None]] = set()  # the loop itself does not keep them


@command("DEBUG", kind="server", arity=-2, flags="admin loading stale noscript", group="server", since="1.0.0",
         complexity="Depends on subcommand.", summary="A container for debugging commands")
def debug(call: Call) -> Reply | Later:
    subcommand, count = call.args[1].upper(), len(call.args)
    if subcommand == b"HELP" and count == 2:
        return _help()
    if subcommand == b"DIGEST" and count == 2:
        return _start_digest(call, call.server.replicas)
    if subcommand == b"DIGEST" and count == 4 and call.args[2].upper() == b"SHARD":
        return _start_digest(call, [_replica(call, integer(call.args[3]))])
    if subcommand == b"OBJECT" and count == 3:
        return _object(call, call.args[2])
    if subcommand == b"SLEEP" and count == 3:
        raise errors.generic("DEBUG SLEEP is not supported: it would hold up every client and every shard of this node")
    raise errors.bad_subcommand_syntax(call.args[0], call.args[1])


def _help() -> Reply:
    return help_reply(
        "DEBUG",
        ("DIGEST", "Output a hex signature representing the live keys of this node's shards."),
        ("DIGEST SHARD <shard>", "Output that of one shard, the same on every replica that applied the same."),
        ("OBJECT <key>", "Show low level info about <key> as this node's replica has it."),
    )


def _replica(call: Call, shard: int) -> Replica:
    for replica in call.server.replicas:
        if replica.shard.id == shard:
            return replica
    raise errors.generic(f"this node holds no replica of shard {shard}")


def _start_digest(call: Call, replicas: list[Replica]) -> Later:
    task = asyncio.get_running_loop().create_task(_digest(replicas, call.later()))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return LATER


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


def _object(call: Call, key: bytes) -> Reply:
    machine = call.server.proposer_of_slot[slot_of(key)].machine
    if machine is None:
        raise RespError(f"ERR this node holds no replica of the shard of this key (slot {slot_of(key)})")
    set_clock(machine)
    record = machine.db.lookup(key)
    if record is None:
        raise errors.no_such_key()
    text = (
        f"Value at:0x0 refcount:1 encoding:{string_encoding(record.value)} serializedlength:{len(record.value)} "
        f"lru:0 lru_seconds_idle:0 type:{record.type} expire_ms:{record.expire_ms}"
    )
    return Simple(text.encode())
