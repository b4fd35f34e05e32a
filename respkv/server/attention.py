"""What the commands of a hindered connection (`Connection.hinder`) need beside being run.

They may have to wait, be refused to a subscriber, be remembered for a client that caches, be shown to monitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from respkv import errors
from respkv.commands.table import Spec, resolve, spec_keys
from respkv.reply import RespError
from respkv.server.renaming import original
from respkv.server.session import SILENT
from respkv.shard.batch import BY_OP

if TYPE_CHECKING:
    from respkv.server.connection import Connection
    from respkv.server.session import Session

_WHILE_SUBSCRIBED: Final = frozenset(
    ("ping", "subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe", "quit", "reset")
)


def speaks(session: Session, args: Sequence[bytes]) -> bool:
    """Whether this is CLIENT REPLY ON or RESET, which are answered when nothing else is.

    As in Redis, RESET is skipped as every command is, and a subscriber that may not send CLIENT REPLY hears nothing, as
    does who has it queued.
    """
    words = [word.upper() for word in args[:3]]
    if len(args) != len(words):
        return False
    if words == [b"RESET"]:
        return session.muted == SILENT
    if words != [b"CLIENT", b"REPLY", b"ON"] or session.transaction is not None:
        return False
    return session.subscriptions is None or session.protocol == 3


def must_wait(connection: Connection, args: list[bytes]) -> bool:
    """Whether the command is put off by the pause. One that is wrong is not."""
    pause, session, renamed = connection.server.pause, connection.session, connection.server.renamed
    try:
        spec = resolve(original(renamed, args) if renamed else args)
    except RespError:
        return False
    if not session.authenticated:
        return False
    queued = session.transaction.commands if spec.name == "exec" and session.transaction is not None else ()
    return pause.holds(spec) or any(pause.holds(each) for each, _ in queued)


def check(connection: Connection, spec: Spec) -> None:
    """Raises what a subscriber is told that wants to do something else."""
    session = connection.session
    if session.subscriptions is not None and session.protocol == 2 and spec.name not in _WHILE_SUBSCRIBED:
        raise errors.while_subscribed(spec.name)


def remember(connection: Connection, spec: Spec, args: Sequence[bytes]) -> None:
    """A command is about to be sent to its shard: a client that caches is to hear of changes of what it reads."""
    tracker = connection.session.tracker
    if tracker is not None and spec.is_readonly and spec.kind == "data":
        connection.server.tracking.remember(tracker, spec_keys(spec, args))


def was_run(connection: Connection, spec: Spec, args: Sequence[bytes]) -> None:
    """A command was run or sent to its shard."""
    if connection.server.monitors:
        connection.server.monitors.show(connection, spec, args)


def use_up(connection: Connection, args: Sequence[bytes]) -> None:
    """What CLIENT CACHING said was for this command, run or refused; in a transaction it is for all that follow."""
    session = connection.session
    if session.tracker is not None and session.transaction is None and args[0].upper() != b"CLIENT":
        session.tracker.caching = False


def marked(connection: Connection, args: list[bytes]) -> list[bytes]:
    """A write as it goes into the log: with its client's mark if that does not want to hear of its own writes."""
    tracker = connection.session.tracker
    return args if tracker is None or not tracker.noloop else [BY_OP, tracker.mark, *args]
