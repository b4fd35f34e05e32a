"""What Redis has and respkv has not: answered as Redis answers where there is none of it, or refused with a word on
what to do instead. Tools that only ask (MODULE LIST, FUNCTION LIST, REPLICAOF NO ONE) are content with that.
"""

from __future__ import annotations

from respkv import errors
from respkv.commands.args import integer_else
from respkv.commands.table import command
from respkv.reply import OK, Reply, RespError, Verbatim
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call
from respkv.server.sections import REDIS_VERSION

_RAFT = "respkv replicates each shard by Raft to the nodes that its configuration names (cluster.replicas)"
_ADMIN = "admin noscript stale"


# --- replication of Redis's kind ---


_PRIMARY = "(args: (host-port: host port:integer) | (no-one: NO ONE))"


def _replicaof(call: Call) -> Reply:
    if call.session.cluster_view:
        raise errors.generic("REPLICAOF not allowed in cluster mode.")
    if (call.args[1].lower(), call.args[2].lower()) == (b"no", b"one"):
        return OK
    raise errors.generic(f"{call.args[0].decode(errors='replace').upper()} is not supported: {_RAFT}")


@command("REPLICAOF", kind="server", arity=3, flags="admin noscript stale no_async_loading", group="server",
         since="5.0.0", summary="Make the server a replica of another instance, or promote it as master.",
         syntax=_PRIMARY)
def replicaof(call: Call) -> Reply:
    """NO ONE is what every node is already."""
    return _replicaof(call)


@command("SLAVEOF", kind="server", arity=3, flags="admin noscript stale no_async_loading", group="server",
         since="1.0.0", summary="Make the server a replica of another instance, or promote it as master.",
         syntax=_PRIMARY, deprecated="5.0.0 `REPLICAOF`")
def slaveof(call: Call) -> Reply:
    return _replicaof(call)


@command("FAILOVER", kind="server", arity=-1, flags=_ADMIN, group="server", since="6.2.0",
         summary="Start a coordinated failover between this server and one of its replicas.",
         syntax="[TO (target: host port:integer [FORCE])] [ABORT] [TIMEOUT milliseconds:integer]")
def failover(call: Call) -> Reply:
    raise errors.generic(
        "FAILOVER is not supported: each shard elects its leader itself; stop a node (SIGTERM, SHUTDOWN) to have what "
        "it leads handed over"
    )


@command("SYNC", kind="server", arity=1, flags="admin noscript no_async_loading no_multi", group="server",
         since="1.0.0", summary="Internal command used for replication", complexity="")
def sync(call: Call) -> Reply:
    raise errors.generic(f"SYNC is not supported: {_RAFT}")


@command("PSYNC", kind="server", arity=-3, flags="admin noscript no_async_loading no_multi", group="server",
         since="2.8.0", summary="Internal command used for replication", complexity="",
         syntax="replicationid offset:integer")
def psync(call: Call) -> Reply:
    raise errors.generic(f"PSYNC is not supported: {_RAFT}")


# --- several databases ---


@command("SWAPDB", kind="server", arity=3, flags="write fast", group="server", since="4.0.0", categories="keyspace "
         "dangerous", summary="Swaps two Redis databases",
         complexity="O(N) where N is the count of clients watching or blocking on keys from both databases.",
         syntax="index1:integer index2:integer")
def swapdb(call: Call) -> Reply:
    """There is one database, so it can be swapped with itself alone."""
    if call.session.cluster_view:
        raise errors.generic("SWAPDB is not allowed in cluster mode")
    numbers = [
        integer_else(call.args[1], "invalid first DB index"),
        integer_else(call.args[2], "invalid second DB index"),
    ]
    if any(numbers):
        raise errors.db_out_of_range()
    return OK


# --- modules ---


@command("MODULE", kind="server", arity=-2, group="server", since="4.0.0", complexity="Depends on subcommand.",
         summary="A container for module commands")
def module(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("MODULE|LIST", kind="server", arity=2, flags="admin noscript", group="server", since="4.0.0",
         tips="nondeterministic_output_order", summary="List all modules loaded by the server",
         complexity="O(N) where N is the number of loaded modules.")
def module_list(call: Call) -> Reply:
    return []


def _no_modules(call: Call) -> RespError:
    name = call.args[1].decode(errors="replace").upper()
    return errors.generic(f"MODULE {name} is not supported: modules are programs for Redis's own memory")


@command("MODULE|LOAD", kind="server", arity=-3, flags="admin noscript no_async_loading", group="server",
         since="4.0.0", summary="Load a module", syntax="path [arg...]")
def module_load(call: Call) -> Reply:
    raise _no_modules(call)


@command("MODULE|LOADEX", kind="server", arity=-3, flags="admin noscript no_async_loading", group="server",
         since="7.0.0", summary="Load a module with extended parameters",
         syntax="path [CONFIG (configs: name value)]... [ARGS (args: arg)...]")
def module_loadex(call: Call) -> Reply:
    raise _no_modules(call)


@command("MODULE|UNLOAD", kind="server", arity=3, flags="admin noscript no_async_loading", group="server",
         since="4.0.0", summary="Unload a module", syntax="name")
def module_unload(call: Call) -> Reply:
    raise _no_modules(call)


@command("MODULE|HELP", kind="server", arity=2, flags="loading stale", group="server", since="5.0.0",
         summary="Show helpful text about the different subcommands")
def module_help(call: Call) -> Reply:
    return help_reply("MODULE", ("LIST", "Return a list of loaded modules."))


# --- functions ---


@command("FUNCTION", kind="server", arity=-2, group="scripting", group_category=False, since="7.0.0",
         complexity="Depends on subcommand.", summary="A container for function commands")
def function(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("FUNCTION|LIST", kind="server", arity=-2, flags="noscript", group="scripting", since="7.0.0",
         tips="nondeterministic_output_order", summary="List information about all the functions",
         complexity="O(N) where N is the number of functions", syntax="[LIBRARYNAME library-name-pattern] [WITHCODE]")
def function_list(call: Call) -> Reply:
    options = iter(call.args[2:])
    for option in options:
        if option.upper() == b"LIBRARYNAME":
            if next(options, None) is None:
                raise errors.generic("library name argument was not given")
        elif option.upper() != b"WITHCODE":
            raise errors.generic(f"Unknown argument {errors.quoted(option)}")
    return []


@command("FUNCTION|STATS", kind="server", arity=2, flags="noscript allow_busy", group="scripting", since="7.0.0",
         tips="nondeterministic_output request_policy:all_shards response_policy:special",
         summary="Return information about the function currently running (name, description, duration)")
def function_stats(call: Call) -> Reply:
    return {b"running_script": None, b"engines": {}}


@command("FUNCTION|FLUSH", kind="server", arity=-2, flags="write noscript", group="scripting", since="7.0.0",
         tips="request_policy:all_shards response_policy:all_succeeded", summary="Deleting all functions",
         complexity="O(N) where N is the number of functions deleted", syntax="[async: ASYNC | SYNC]")
def function_flush(call: Call) -> Reply:
    """There is none to delete."""
    if len(call.args) > 3 or (len(call.args) == 3 and call.args[2].upper() not in (b"SYNC", b"ASYNC")):
        raise errors.generic("FUNCTION FLUSH only supports SYNC|ASYNC option")
    return OK


# --- LOLWUT ---

_COLUMNS = 64
_MARKS = "░▒▓█"


@command("LOLWUT", kind="server", arity=-1, flags="readonly fast", group="server", since="5.0.0",
         summary="Display some computer art and the Redis version", complexity="",
         syntax="[VERSION version:integer]")
def lolwut(call: Call) -> Reply:
    """The ring: 16384 slots from left to right and top to bottom, shaded by their shards."""
    slots = call.server.topology.slots
    step = len(slots) // (_COLUMNS * 16)
    shades = [_MARKS[shard % len(_MARKS)] for shard in slots[::step]]
    rows = ["".join(shades[at : at + _COLUMNS]) for at in range(0, len(shades), _COLUMNS)]
    return Verbatim(("\n".join(rows) + f"\n\nRedis ver. {REDIS_VERSION}\n").encode())
