"""What of the commands about keys needs no shard: MOVE, which has nowhere to move to, and OBJECT HELP."""

from __future__ import annotations

from respkv import errors
from respkv.commands.args import database
from respkv.commands.table import command
from respkv.reply import Reply
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import Call


@command("MOVE", kind="server", arity=3, flags="write fast", keys=(1, 1, 1), access="RW access update",
         group="generic", since="1.0.0", summary="Move a key to another database", syntax="key db:integer")
def move(call: Call) -> Reply:
    """There is one database: every other one is out of range, and a key is in this one already."""
    if call.session.cluster_view:
        raise errors.generic("MOVE is not allowed in cluster mode")
    database(call.args[2])
    raise errors.same_object()


@command("OBJECT|HELP", kind="server", arity=2, flags="loading stale", group="generic", since="6.2.0",
         summary="Show helpful text about the different subcommands")
def object_help(call: Call) -> Reply:
    return help_reply(
        "OBJECT",
        ("ENCODING <key>", ("Return the kind of internal representation used in order to store the value\n"
                           "associated with a <key>.")),
        ("FREQ <key>", ("Return the access frequency index of the <key>. The returned integer is\n"
                       "proportional to the logarithm of the recent access frequency of the key.")),
        ("IDLETIME <key>", ("Return the idle time of the <key>, that is the approximated number of\n"
                           "seconds elapsed since the last access to the key.")),
        ("REFCOUNT <key>", "Return the number of references of the value associated with the specified\n<key>."),
    )  # fmt: skip
