"""SAVE, BGSAVE, BGREWRITEAOF and LASTSAVE. There is nothing to save: with `appendfsync always` every write that was
answered is on the disks of a majority. Otherwise SAVE has this node's journal synced before it answers, and BGSAVE has
it synced soon; data files are merged without being asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from respkv import errors
from respkv.commands.table import command
from respkv.raft.journal import Journal
from respkv.reply import OK, Reply, Simple
from respkv.server.dispatch import LATER, Call, Later

_POLL_S: Final = 0.005

_tasks: set[asyncio.Task[None]] = set()  # the loop itself does not keep them


@command("SAVE", kind="server", arity=1, flags="admin noscript no_async_loading no_multi", group="server",
         since="1.0.0", summary="Synchronously save the dataset to disk",
         complexity="O(N) where N is the total number of keys in all databases")
def save(call: Call) -> Reply | Later:
    journal = call.server.journal
    call.server.sync_journal()
    if call.server.config.config.appendfsync == "always" or journal.synced >= journal.sequence:
        return OK
    task = asyncio.get_running_loop().create_task(_answer_when_synced(journal, journal.sequence, call.later()))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return LATER


async def _answer_when_synced(journal: Journal, sequence: int, answer: Callable[[Reply], None]) -> None:
    try:
        while journal.synced < sequence:  # noqa: ASYNC110 - the journal tells its shards, and nobody else
            await asyncio.sleep(_POLL_S)
    except asyncio.CancelledError:
        answer(errors.generic("the node stops"))
        raise
    answer(OK)


@command("BGSAVE", kind="server", arity=-1, flags="admin noscript no_async_loading", group="server", since="1.0.0",
         summary="Asynchronously save the dataset to disk", syntax="[SCHEDULE@3.2.2]",
         history=("3.2.2 Added the `SCHEDULE` option.",))
def bgsave(call: Call) -> Reply:
    if len(call.args) > 2 or (len(call.args) == 2 and call.args[1].upper() != b"SCHEDULE"):
        raise errors.syntax()
    call.server.sync_journal()
    return Simple(b"Background saving started")


@command("BGREWRITEAOF", kind="server", arity=1, flags="admin noscript no_async_loading", group="server",
         since="1.0.0", summary="Asynchronously rewrite the append-only file")
def bgrewriteaof(call: Call) -> Reply:
    call.server.sync_journal()
    return Simple(b"Background append only file rewriting started")


@command("LASTSAVE", kind="server", arity=1, flags="fast loading stale", group="server", since="1.0.0",
         categories="admin dangerous", summary="Get the UNIX time stamp of the last successful save to disk",
         tips="nondeterministic_output")
def lastsave(call: Call) -> Reply:
    """Now, as nothing is unsaved."""
    return int(time.time())
