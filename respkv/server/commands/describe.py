"""COMMAND: the command table as clients ask for it.

As in Redis, a command that `rename-command` has given another name is asked for by that, and told under its own.
"""

from __future__ import annotations

from collections.abc import Callable

from respkv import errors
from respkv.commands import describe
from respkv.commands.access import keys_and_access
from respkv.commands.glob import matches
from respkv.commands.table import Spec, command, spec_keys
from respkv.reply import Reply
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call
from respkv.server.renaming import callable_specs, named

_ORDER = "nondeterministic_output_order"


def _every(call: Call) -> list[Spec]:
    return callable_specs(call.server.renamed)


@command("COMMAND", kind="server", arity=-1, flags="loading stale", group="server", since="2.8.13",
         categories="connection", summary="Get array of Redis command details",
         complexity="O(N) where N is the total number of Redis commands", tips=_ORDER)
def command_(call: Call) -> Reply:
    return [describe.info(spec) for spec in _every(call)]


@command("COMMAND|COUNT", kind="server", arity=2, flags="loading stale", group="server", since="2.8.13",
         categories="connection", summary="Get total number of Redis commands")
def command_count(call: Call) -> Reply:
    return len(_every(call))


@command("COMMAND|INFO", kind="server", arity=-2, flags="loading stale", group="server", since="2.8.13",
         categories="connection", complexity="O(N) where N is the number of commands to look up", tips=_ORDER,
         summary="Get array of specific Redis command details, or all when no argument is given.",
         syntax="[command-name...]",
         history=("7.0.0 Allowed to be called with no argument to get info on all commands.",))
def command_info(call: Call) -> Reply:
    names = call.args[2:]
    if not names:
        return command_(call)
    specs = (named(call.server.renamed, name) for name in names)
    return [None if spec is None else describe.info(spec) for spec in specs]


@command("COMMAND|DOCS", kind="server", arity=-2, flags="loading stale", group="server", since="7.0.0",
         categories="connection", summary="Get array of specific Redis command documentation",
         complexity="O(N) where N is the number of commands to look up", tips=_ORDER, syntax="[command-name...]")
def command_docs(call: Call) -> Reply:
    names = call.args[2:]
    specs = [named(call.server.renamed, name) for name in names] if names else _every(call)
    return {spec.name.encode(): describe.docs(spec) for spec in specs if spec is not None}


@command("COMMAND|LIST", kind="server", arity=-2, flags="loading stale", group="server", since="7.0.0",
         categories="connection", summary="Get an array of Redis command names",
         complexity="O(N) where N is the total number of Redis commands", tips=_ORDER,
         syntax="[FILTERBY (filterby: MODULE module-name | ACLCAT category | PATTERN pattern)]")
def command_list(call: Call) -> Reply:
    args = call.args
    every = [each for spec in _every(call) for each in (spec, *describe.children(spec))]
    if len(args) == 2:
        return [spec.name.encode() for spec in every]
    if len(args) != 5 or args[2].upper() != b"FILTERBY":
        raise errors.syntax()
    wanted = _filter(args[3].upper(), args[4])
    return [spec.name.encode() for spec in every if wanted(spec)]


def _filter(kind: bytes, value: bytes) -> Callable[[Spec], bool]:
    if kind == b"MODULE":
        return lambda spec: False
    if kind == b"ACLCAT":
        category = value.decode(errors="replace").lower()
        return lambda spec: category in spec.categories
    if kind == b"PATTERN":
        return lambda spec: matches(value, spec.name.encode(), ignore_case=True)
    raise errors.syntax()


def _parse(call: Call, args: list[bytes]) -> Spec:
    """The command that `args` is, as far as it has keys."""
    spec = named(call.server.renamed, args[0]) if b"|" not in args[0] else None
    if spec is not None and spec.subcommands and len(args) > 1:
        spec = spec.subcommands.get(args[1].lower())
    if spec is None:
        raise errors.generic("Invalid command specified")
    if spec.keys_of is None and all("not_key" in key_spec.access for key_spec in spec.key_specs):
        raise errors.generic("The command has no key arguments")
    if not spec.arity_ok(len(args)):
        raise errors.generic("Invalid number of arguments specified for command")
    return spec


@command("COMMAND|GETKEYS", kind="server", arity=-4, flags="loading stale", group="server", since="2.8.13",
         categories="connection", summary="Extract keys given a full Redis command",
         complexity="O(N) where N is the number of arguments to the command")
def command_getkeys(call: Call) -> Reply:
    args = call.args[2:]
    return list(spec_keys(_parse(call, args), args))


@command("COMMAND|GETKEYSANDFLAGS", kind="server", arity=-4, flags="loading stale", group="server", since="7.0.0",
         categories="connection", summary="Extract keys and access flags given a full Redis command",
         complexity="O(N) where N is the number of arguments to the command")
def command_getkeysandflags(call: Call) -> Reply:
    args = call.args[2:]
    spec = _parse(call, args)
    return [[args[at], describe.words(access)] for at, access in keys_and_access(spec, args)]


@command("COMMAND|HELP", kind="server", arity=2, flags="loading stale", group="server", since="5.0.0",
         categories="connection", summary="Show helpful text about the different subcommands")
def command_help(call: Call) -> Reply:
    every = "If no command names are given, documentation details for all\ncommands are returned."
    return help_reply(
        "COMMAND",
        ("(no subcommand)", "Return details about all Redis commands."),
        ("COUNT", "Return the total number of commands in this Redis server."),
        ("LIST", "Return a list of all commands in this Redis server."),
        ("INFO [<command-name> ...]", "Return details about multiple Redis commands.\n" + every),
        ("DOCS [<command-name> ...]", "Return documentation details about multiple Redis commands.\n" + every),
        ("GETKEYS <full-command>", "Return the keys from a full Redis command."),
        ("GETKEYSANDFLAGS <full-command>", "Return the keys and the access flags from a full Redis command."),
    )
