"""SLOWLOG: what `respkv.server.slowlog` has kept."""

from __future__ import annotations

from respkv import errors
from respkv.commands.args import integer_else
from respkv.commands.table import command
from respkv.reply import OK, Reply
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call

_FLAGS = "admin loading stale"
_TIPS = "request_policy:all_nodes nondeterministic_output"
_DEFAULT_COUNT = 10


@command("SLOWLOG", kind="server", arity=-2, group="server", since="2.2.12", complexity="Depends on subcommand.",
         summary="A container for slow log commands")
def slowlog(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("SLOWLOG|GET", kind="server", arity=-2, flags=_FLAGS, group="server", since="2.2.12", tips=_TIPS,
         complexity="O(N) where N is the number of entries returned", summary="Get the slow log's entries",
         syntax="[count:integer]", history=("4.0.0 Added client IP address, port and name to the reply.",))
def slowlog_get(call: Call) -> Reply:
    if len(call.args) > 3:
        raise errors.bad_subcommand_syntax(call.args[0], call.args[1])
    count = _DEFAULT_COUNT
    if len(call.args) == 3:
        wrong = "count should be greater than or equal to -1"
        count = integer_else(call.args[2], wrong)
        if count < -1:
            raise errors.generic(wrong)
    entries = call.server.watch.slowlog.newest(count)
    return [[e.id, e.at_s, e.micros, e.args, e.address, e.name] for e in entries]


@command("SLOWLOG|LEN", kind="server", arity=2, flags=_FLAGS, group="server", since="2.2.12",
         tips="request_policy:all_nodes response_policy:agg_sum nondeterministic_output",
         summary="Get the slow log's length")
def slowlog_len(call: Call) -> Reply:
    return len(call.server.watch.slowlog)


@command("SLOWLOG|RESET", kind="server", arity=2, flags=_FLAGS, group="server", since="2.2.12",
         complexity="O(N) where N is the number of entries in the slowlog",
         tips="request_policy:all_nodes response_policy:all_succeeded", summary="Clear all entries from the slow log")
def slowlog_reset(call: Call) -> Reply:
    call.server.watch.slowlog.clear()
    return OK


@command("SLOWLOG|HELP", kind="server", arity=2, flags="loading stale", group="server", since="6.2.0",
         summary="Show helpful text about the different subcommands")
def slowlog_help(call: Call) -> Reply:
    return help_reply(
        "SLOWLOG",
        ("GET [<count>]", ("Return top <count> entries from the slowlog (default: 10, -1 mean all).\n"
                          "Entries are made of:\n"
                          "id, timestamp, time in microseconds, arguments array, client IP and port,\nclient name")),
        ("LEN", "Return the length of the slowlog."),
        ("RESET", "Reset the slowlog."),
    )  # fmt: skip
