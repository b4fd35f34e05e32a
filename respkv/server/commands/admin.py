"""TIME, ROLE and SHUTDOWN."""

from __future__ import annotations

import time

from respkv import errors
from respkv.commands.table import command
from respkv.reply import Reply
from respkv.server.dispatch import LATER, Call, Later


@command("TIME", kind="server", arity=1, flags="fast loading stale", group="server", since="2.6.0",
         summary="Return the current server time", tips="nondeterministic_output")
def time_(call: Call) -> Reply:
    """This node's own clock; expiry goes by the clock of a shard's leader."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]


@command("ROLE", kind="server", arity=1, flags="fast loading stale noscript", group="server", since="2.8.12",
         categories="admin dangerous", summary="Return the role of the instance in the context of replication")
def role(call: Call) -> Reply:
    """Always a master without replicas: INFO raft tells what each shard's replica is."""
    return [b"master", sum(replica.group.applied for replica in call.server.replicas), []]


@command("SHUTDOWN", kind="server", arity=-1, flags="admin loading stale noscript no_multi allow_busy", group="server",
         since="1.0.0", summary="Synchronously save the dataset to disk and then shut down the server",
         complexity="O(N) when saving, where N is the total number of keys in all databases when saving data, "
                    "otherwise O(1)", syntax="[nosave_save: NOSAVE | SAVE] [NOW@7.0.0] [FORCE@7.0.0] [ABORT@7.0.0]",
         history=("7.0.0 Added the `NOW`, `FORCE` and `ABORT` modifiers.",))
def shutdown(call: Call) -> Reply | Later:
    """Stops the node in order. As nothing is ever unsaved, the options change nothing; there is nothing to abort.

    No reply, as in Redis: the connection closes when the node has stopped.
    """
    options = {option.upper() for option in call.args[1:]}
    if not options <= {b"SAVE", b"NOSAVE", b"NOW", b"FORCE", b"ABORT"} or {b"SAVE", b"NOSAVE"} <= options:
        raise errors.syntax()
    if b"ABORT" in options:
        if len(options) > 1:
            raise errors.syntax()
        raise errors.generic("No shutdown in progress.")
    call.server.stop()
    return LATER
