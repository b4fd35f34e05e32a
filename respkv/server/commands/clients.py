"""What of CLIENT acts on connections: PAUSE, UNPAUSE, REPLY, UNBLOCK, NO-TOUCH; and MONITOR."""

from __future__ import annotations

from respkv import errors
from respkv.commands.args import INT_MAX, integer, integer_else
from respkv.commands.table import command
from respkv.reply import OK, Reply
from respkv.server.dispatch import LATER, Call, Later
from respkv.server.session import HEARD, SILENT, SKIPS_NEXT

_ADMIN = "admin loading stale noscript"


@command("CLIENT|PAUSE", kind="server", arity=-3, flags=_ADMIN, group="connection", since="2.9.50",
         summary="Stop processing commands from clients for some time",
         syntax="timeout:integer [mode: WRITE | ALL]@6.2.0",
         history=("6.2.0 `CLIENT PAUSE WRITE` mode added along with the `mode` option.",))
def client_pause(call: Call) -> Reply | Later:
    """In the standalone view for all nodes, as it looks like one server; in the cluster view for this node."""
    args, pause = call.args, call.server.pause
    if len(args) > 4:
        raise errors.bad_subcommand_syntax(args[0], args[1])
    mode = args[3].upper() if len(args) == 4 else b"ALL"
    if mode not in (b"WRITE", b"ALL"):
        raise errors.generic("CLIENT PAUSE mode must be WRITE or ALL")
    milliseconds = integer_else(args[2], "timeout is not an integer or out of range")
    if milliseconds < 0:
        raise errors.generic("timeout is negative")
    milliseconds = min(milliseconds, INT_MAX >> 2)
    pause.begin(milliseconds / 1000, everything=mode == b"ALL")
    return _tell_all(call, milliseconds or 1, everything=mode == b"ALL")


@command("CLIENT|UNPAUSE", kind="server", arity=2, flags=_ADMIN, group="connection", since="6.2.0",
         summary="Resume processing of clients that were paused",
         complexity="O(N) Where N is the number of paused clients")
def client_unpause(call: Call) -> Reply | Later:
    call.server.pause.end()
    return _tell_all(call, 0, everything=False)


def _tell_all(call: Call, milliseconds: int, *, everything: bool) -> Reply | Later:
    if call.session.cluster_view or call.server.messaging.alone:
        return OK
    answer = call.later()
    call.server.pause.tell(milliseconds, everything=everything, done=lambda _: answer(OK))
    return LATER


@command("CLIENT|REPLY", kind="server", arity=3, flags="loading stale noscript", group="connection", since="3.2.0",
         summary="Instruct the server whether to reply to commands", syntax="(on_off_skip: ON | OFF | SKIP)")
def client_reply(call: Call) -> Reply | Later:
    mode, session = call.args[2].upper(), call.session
    if mode == b"ON":
        session.muted = HEARD
    elif mode == b"OFF":
        session.muted = SILENT
    elif mode == b"SKIP":
        session.muted = session.muted or SKIPS_NEXT
    else:
        raise errors.syntax()
    call.connection.hinder_by_session()
    return OK if mode == b"ON" else LATER


@command("CLIENT|UNBLOCK", kind="server", arity=-3, flags=_ADMIN, group="connection", since="5.0.0",
         summary="Unblock a client blocked in a blocking command from a different connection",
         complexity="O(log N) where N is the number of client connections",
         syntax="client-id:integer [timeout_error: TIMEOUT | ERROR]")
def client_unblock(call: Call) -> Reply:
    args = call.args
    if len(args) > 4:
        raise errors.bad_subcommand_syntax(args[0], args[1])
    reason = args[3].upper() if len(args) == 4 else b"TIMEOUT"
    if reason not in (b"TIMEOUT", b"ERROR"):
        raise errors.generic("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    client = call.server.clients.get(integer(args[2]))
    if client is None or not client.session.blocked:
        return 0
    client.session.blocked[0](reason == b"ERROR")
    return 1


@command("CLIENT|NO-TOUCH", kind="server", arity=3, flags="loading stale noscript", group="connection", since="7.2.0",
         summary="Controls whether commands sent by the client affect the LRU/LFU of accessed keys.",
         syntax="(enabled: ON | OFF)")
def client_no_touch(call: Call) -> Reply:
    """As Redis 7.2 has it. Reads never change how idle a key is here, so there is nothing to refrain from."""
    if call.args[2].upper() not in (b"ON", b"OFF"):
        raise errors.syntax()
    call.session.no_touch = call.args[2].upper() == b"ON"
    return OK


@command("MONITOR", kind="server", arity=1, flags=_ADMIN, group="server", since="1.0.0",
         summary="Listen for all requests received by the server in real time", complexity="")
def monitor(call: Call) -> Reply | Later:
    """Shows what the clients of this node run, in both views. As in Redis, who monitors already gets no reply."""
    if call.in_transaction:
        raise errors.generic("MONITOR isn't allowed for DENY BLOCKING client")
    if call.session.monitors:
        return LATER
    call.server.monitors.add(call.connection)
    return OK
