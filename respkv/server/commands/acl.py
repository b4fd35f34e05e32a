"""ACL: who may log in, and what they may do.

A change is a change of the cluster's (`respkv.server.roll`): its reply comes when all nodes that can be reached enforce
it, and nothing that the client sends behind it runs before. What is asked (LIST, GETUSER, ...) is answered from what
this node enforces. LOAD and SAVE read and write the `aclfile` of this node; what LOAD finds there becomes the users of
all nodes. The log is that of this node.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from respkv import errors
from respkv.acl.catalog import known_specs
from respkv.acl.selector import COMMAND, KEY, Selector
from respkv.acl.user import DEFAULT
from respkv.acl.users import Users, UsersError
from respkv.commands.args import integer
from respkv.commands.table import CATEGORIES, command, resolve
from respkv.reply import OK, OrderedSet, Reply, RespError
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import LATER, Call, Later
from respkv.server.renaming import original

log = structlog.get_logger()

_BITS_MAX = 4096
_SHOWN_ENTRIES = 10
_FOR_ADMINS = "admin noscript loading stale"


@command("ACL", kind="server", arity=-2, group="server", since="6.0.0", complexity="Depends on subcommand.",
         summary="A container for Access List Control commands ")
def acl(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("ACL|WHOAMI", kind="server", arity=2, flags="noscript loading stale", group="server", since="6.0.0",
         summary="Return the name of the user associated to the current connection")
def acl_whoami(call: Call) -> Reply:
    return call.session.user.name


@command("ACL|CAT", kind="server", arity=-2, flags="noscript loading stale", group="server", since="6.0.0",
         summary="List the ACL categories or the commands inside a category",
         complexity="O(1) since the categories and commands are a fixed set.", syntax="[categoryname]")
def acl_cat(call: Call) -> Reply:
    """The commands that respkv has."""
    _at_most(call, 3)
    if len(call.args) == 2:
        return [category.encode() for category in CATEGORIES]
    category = call.args[2].lower().decode(errors="replace")
    if category not in CATEGORIES:
        raise errors.generic(f"Unknown category '{errors.quoted(call.args[2])}'")
    return [spec.name.encode() for spec in known_specs() if category in spec.categories]


def _at_most(call: Call, count: int) -> None:
    if len(call.args) > count:
        raise errors.bad_subcommand_syntax(call.args[0], call.args[1])


@command("ACL|GENPASS", kind="server", arity=-2, flags="noscript loading stale", group="server", since="6.0.0",
         summary="Generate a pseudorandom secure password to use for ACL users", syntax="[bits:integer]")
def acl_genpass(call: Call) -> Reply:
    _at_most(call, 3)
    bits = integer(call.args[2]) if len(call.args) == 3 else 256
    if not 0 < bits <= _BITS_MAX:
        raise errors.generic("ACL GENPASS argument must be the number of bits for the output password, a positive "
                             f"number up to {_BITS_MAX}")
    digits = (bits + 3) // 4
    return secrets.token_hex((digits + 1) // 2)[:digits].encode()


# --- what there is ---


@command("ACL|USERS", kind="server", arity=2, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="List the username of all the configured ACL rules",
         complexity="O(N). Where N is the number of configured users.")
def acl_users(call: Call) -> Reply:
    return list(call.server.access.users)


@command("ACL|LIST", kind="server", arity=2, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="List the current ACL rules in ACL config file format",
         complexity="O(N). Where N is the number of configured users.")
def acl_list(call: Call) -> Reply:
    return list(call.server.access.users.lines())


@command("ACL|GETUSER", kind="server", arity=3, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="Get the rules for a specific ACL user",
         complexity="O(N). Where N is the number of password, command and pattern rules that the user has.",
         syntax="username",
         history=("6.2.0 Added Pub/Sub channel patterns.",
                  ("7.0.0 Added selectors and changed the format of key and channel patterns from a list to their "
                   "rule representation.")))
def acl_getuser(call: Call) -> Reply:
    user = call.server.access.users.get(call.args[2])
    if user is None:
        return None
    own, *others = user.selectors
    found: dict[bytes, Reply] = {b"flags": OrderedSet(user.flags), b"passwords": list(user.passwords)}
    return found | _described(own) | {b"selectors": [_described(selector) for selector in others]}


def _described(selector: Selector) -> dict[bytes, Reply]:
    return {
        b"commands": selector.describe_commands(),
        b"keys": selector.describe_keys(),
        b"channels": selector.describe_channels(),
    }


@command("ACL|DRYRUN", kind="server", arity=-4, flags=_FOR_ADMINS, group="server", since="7.0.0",
         summary="Returns whether the user can execute the given command without executing the command.",
         complexity="O(1).", syntax="username command [arg...]")
def acl_dryrun(call: Call) -> Reply:
    name, args = call.args[2], call.args[3:]
    user = call.server.access.users.get(name)
    if user is None:
        raise errors.generic(f"User '{errors.quoted(name, len(name))}' not found")
    try:
        spec = resolve(original(call.server.renamed, args))
    except RespError as error:
        if "unknown" not in error.text:
            raise
        raise errors.generic(f"Command '{errors.quoted(args[0], len(args[0]))}' not found") from None
    denial = user.check(spec, args)
    if denial is None:
        return OK
    if denial.reason == COMMAND:
        return f"This user has no permissions to run the '{spec.name}' command".encode()
    kind = b"key" if denial.reason == KEY else b"channel"
    return b"This user has no permissions to access the '%b' %b" % (args[denial.position], kind)


# --- changes ---


@command("ACL|SETUSER", kind="server", arity=-3, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="Modify or create the rules for a specific ACL user",
         complexity="O(N). Where N is the number of rules provided.", syntax="username [rule...]",
         history=("6.2.0 Added Pub/Sub channel patterns.", "7.0.0 Added selectors and key based permissions."))
def acl_setuser(call: Call) -> Later:
    name, rules = call.args[2], call.args[3:]
    every_channel = call.server.access.every_channel

    def edit(users: Users) -> tuple[Users, Reply]:
        return users.with_rules(name, rules, every_channel), OK

    call.server.roll.change(edit, call.alone())
    return LATER


@command("ACL|DELUSER", kind="server", arity=-3, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="Remove the specified ACL users and the associated rules",
         complexity="O(1) amortized time considering the typical user.", syntax="username...")
def acl_deluser(call: Call) -> Later:
    names = call.args[2:]

    def edit(users: Users) -> tuple[Users, Reply]:
        left = users.without(names)
        return (left, len(users) - len(left)) if len(left) < len(users) else (users, 0)

    call.server.roll.change(edit, call.alone())
    return LATER


def _file(call: Call) -> Path:
    file = call.server.config.config.aclfile
    if file is None:
        raise errors.generic(
            "This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL "
            "SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in "
            "order to store users in the Redis configuration."
        )
    return file


@command("ACL|LOAD", kind="server", arity=2, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="Reload the ACLs from the configured ACL file",
         complexity="O(N). Where N is the number of configured users.")
def acl_load(call: Call) -> Later:
    """As in Redis, the clients of all users that there were (but `default`) are disconnected."""
    access = call.server.access
    try:
        loaded = access.read_file(_file(call))
    except UsersError as error:
        raise errors.generic(str(error)) from None
    answer, before = call.alone(), access.users

    def loaded_everywhere(reply: Reply) -> None:
        if reply is OK:
            access.end_clients(name for name in before if name != DEFAULT)
        answer(reply)

    call.server.roll.change(lambda _users: (loaded, OK), loaded_everywhere)
    return LATER


@command("ACL|SAVE", kind="server", arity=2, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="Save the current ACL rules in the configured ACL file",
         complexity="O(N). Where N is the number of configured users.")
def acl_save(call: Call) -> Reply:
    file = _file(call)
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(call.server.access.users.to_text())
        temporary.replace(file)
    except OSError as error:
        log.warning("acl_file_not_saved", file=str(file), error=str(error))
        temporary.unlink(missing_ok=True)
        raise errors.generic(
            "There was an error trying to save the ACLs. Please check the server logs for more information"
        ) from None
    return OK


# --- what was refused ---


@command("ACL|LOG", kind="server", arity=-2, flags=_FOR_ADMINS, group="server", since="6.0.0",
         summary="List latest events denied because of ACLs in place",
         complexity="O(N) with N being the number of entries shown.", syntax="[operation: count:integer | RESET]")
def acl_log(call: Call) -> Reply:
    _at_most(call, 3)
    denials, count = call.server.access.denials, _SHOWN_ENTRIES
    if len(call.args) == 3:
        if call.args[2].lower() == b"reset":
            denials.clear()
            return OK
        count = integer(call.args[2])
    return list(denials.tell(count, time.time()))


@command("ACL|HELP", kind="server", arity=2, flags="loading stale", group="server", since="6.0.0",
         summary="Show helpful text about the different subcommands")
def acl_help(call: Call) -> Reply:
    return help_reply("ACL", *_HELP)


_HELP: Sequence[tuple[str, str]] = (
    ("CAT [<category>]", ("List all commands that belong to <category>, or all command categories\n"
                          "when no category is specified.")),
    ("DELUSER <username> [<username> ...]", "Delete a list of users."),
    ("DRYRUN <username> <command> [<arg> ...]",
     "Returns whether the user can execute the given command without executing the command."),
    ("GETUSER <username>", "Get the user's details."),
    ("GENPASS [<bits>]", ("Generate a secure 256-bit user password. The optional `bits` argument can\n"
                          "be used to specify a different size.")),
    ("LIST", "Show users details in config file format."),
    ("LOAD", "Reload users from the ACL file."),
    ("LOG [<count> | RESET]", "Show the ACL log entries."),
    ("SAVE", "Save the current config to the ACL file."),
    ("SETUSER <username> <attribute> [<attribute> ...]", "Create or modify a user with the specified attributes."),
    ("USERS", "List all the registered usernames."),
    ("WHOAMI", "Return the current connection username."),
)  # fmt: skip
