"""CLIENT: who is connected, what they call themselves, and how to get rid of them."""

from __future__ import annotations

from collections.abc import Iterable

from respkv import errors
from respkv.acl.users import Users
from respkv.cluster.slots import slot_of
from respkv.commands.args import integer
from respkv.commands.table import command
from respkv.raft.group import Clock
from respkv.reply import OK, Reply, RespError, Verbatim
from respkv.server.buffers import Buffers, buffers, reply_bytes
from respkv.server.channels import CHANNEL, PATTERN, SHARD_CHANNEL
from respkv.server.commands.connection import is_printable, set_name
from respkv.server.commands.helping import help_reply
from respkv.server.connection import Connection
from respkv.server.dispatch import Call
from respkv.server.session import command_name

_TYPES = {b"normal": "normal", b"master": "master", b"replica": "replica", b"slave": "replica", b"pubsub": "pubsub"}


@command("CLIENT", kind="server", arity=-2, group="connection", group_category=False, since="2.4.0",
         complexity="Depends on subcommand.",
         summary="A container for client connection commands")
def client(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


@command("CLIENT|ID", kind="server", arity=2, flags="loading stale noscript", group="connection", since="5.0.0",
         summary="Returns the client ID for the current connection")
def client_id(call: Call) -> Reply:
    return call.session.id


@command("CLIENT|GETNAME", kind="server", arity=2, flags="loading stale noscript", group="connection", since="2.6.9",
         summary="Get the current connection name")
def client_getname(call: Call) -> Reply:
    return call.session.name or None


@command("CLIENT|SETNAME", kind="server", arity=3, flags="loading stale noscript", group="connection", since="2.6.9",
         summary="Set the current connection name", syntax="connection-name")
def client_setname(call: Call) -> Reply:
    set_name(call, call.args[2])
    return OK


@command("CLIENT|SETINFO", kind="server", arity=4, flags="loading stale noscript", group="connection", since="7.2.0",
         summary="Set client or connection specific info", syntax="(attr: LIB-NAME libname | LIB-VER libver)")
def client_setinfo(call: Call) -> Reply:
    """As Redis 7.2 has it: clients send it when they connect."""
    _, _, option, value = call.args
    attribute = {b"LIB-NAME": "lib_name", b"LIB-VER": "lib_version"}.get(option.upper())
    if attribute is None:
        raise errors.generic(f"Unrecognized option '{errors.quoted(option)}'")
    if not is_printable(value):
        name = option.decode().lower()
        raise errors.generic(f"{name} cannot contain spaces, newlines or special characters.")
    setattr(call.session, attribute, value)
    return OK


@command("CLIENT|NO-EVICT", kind="server", arity=3, flags="admin loading stale noscript", group="connection",
         since="7.0.0", summary="Set client eviction mode for the current connection", syntax="(enabled: ON | OFF)")
def client_no_evict(call: Call) -> Reply:
    call.session.no_evict = _choice(call.args[2], b"ON", b"OFF")
    return OK


def _choice(word: bytes, yes: bytes, no: bytes) -> bool:
    if word.upper() not in (yes, no):
        raise errors.syntax()
    return word.upper() == yes


@command("CLIENT|INFO", kind="server", arity=2, flags="loading stale noscript", group="connection", since="6.2.0",
         summary="Returns information about the current client connection.", tips="nondeterministic_output")
def client_info(call: Call) -> Reply:
    return _listing(call, [call.connection])


@command("CLIENT|LIST", kind="server", arity=-2, flags="admin loading stale noscript", group="connection",
         since="2.4.0", summary="Get the list of client connections", tips="nondeterministic_output",
         complexity="O(N) where N is the number of client connections",
         syntax="[TYPE (normal_master_replica_pubsub: NORMAL | MASTER | REPLICA | PUBSUB)@5.0.0] "
                "[ID (id: client-id:integer...)@6.2.0]",
         history=("2.8.12 Added unique client `id` field.",
                  "5.0.0 Added optional `TYPE` filter.",
                  "6.0.0 Added `user` field.",
                  "6.2.0 Added `argv-mem`, `tot-mem`, `laddr` and `redir` fields and the optional `ID` filter.",
                  "7.0.0 Added `resp`, `multi-mem`, `rbs` and `rbp` fields.",
                  "7.0.3 Added `ssub` field."))
def client_list(call: Call) -> Reply:
    args, clients = call.args, call.server.clients
    if len(args) == 4 and args[2].upper() == b"TYPE":
        return _listing(call, _of_type(clients.values(), args[3]))
    if len(args) > 3 and args[2].upper() == b"ID":
        wanted = [_integer(text, "Invalid client ID") for text in args[3:]]
        return _listing(call, [clients[number] for number in wanted if number in clients])
    if len(args) > 2:
        raise errors.syntax()
    return _listing(call, clients.values())


def _of_type(connections: Iterable[Connection], type: bytes) -> list[Connection]:
    """Subscribers are `pubsub`, all others `normal`; there are no others."""
    if type.lower() not in _TYPES:
        raise errors.generic(f"Unknown client type '{errors.quoted(type)}'")
    wanted = _TYPES[type.lower()]
    return [c for c in connections if wanted == ("normal" if c.session.subscriptions is None else "pubsub")]


def _integer(text: bytes, otherwise: str, least: int | None = None) -> int:
    try:
        value = integer(text)
    except RespError:
        raise errors.generic(otherwise) from None
    if least is not None and value < least:
        raise errors.generic(otherwise)
    return value


def _listing(call: Call, connections: Iterable[Connection]) -> Verbatim:
    now, listed = Clock.now(), list(connections)
    lines = [
        _line(c, now, command_name(call.args), _with_running(call, held))
        if c is call.connection
        else _line(c, now, c.session.last_command, held)
        for c, held in zip(listed, buffers(call.server, listed), strict=True)
    ]
    return Verbatim(b"".join(line + b"\n" for line in lines))


def _with_running(call: Call, held: Buffers) -> Buffers:
    """With what was read together with the command that is being run, of which Redis's buffer is not rid until it is
    over, and the replies to what was before it."""
    return held._replace(
        query=held.query + call.burst.size,
        arguments=held.arguments + sum(map(len, call.args)),
        replies=held.replies + reply_bytes(call.burst),
    )


def client_line(connection: Connection, command: str) -> bytes:
    """What CLIENT LIST tells of a client that runs `command`, without the end of the line."""
    [held] = buffers(connection.server, [connection])
    return _line(connection, Clock.now(), command, held)


def _line(connection: Connection, now: float, last_command: str, held: Buffers) -> bytes:
    """One client as Redis 7.0 shows it, with the library's name and version as 7.2 adds them.

    No buffer here is larger than what is in it: nothing of `qbuf` is free, and `rbs` and `rbp` are what `obl` is.
    `tot-mem` is what is buffered, without the few KiB that a client takes anyhow.
    """
    session = connection.session
    names = session.subscriptions.names if session.subscriptions is not None else ((), (), ())
    tracker = session.tracker
    queue = session.transaction
    fields = {
        "id": session.id,
        "addr": session.address,
        "laddr": session.local_address,
        "fd": connection.fd,
        "name": session.name.decode(),
        "age": int(now - session.created_at),
        "idle": int(now - session.last_at),
        "flags": _flags(connection) or "N",
        "db": 0,
        "sub": len(names[CHANNEL]),
        "psub": len(names[PATTERN]),
        "ssub": len(names[SHARD_CHANNEL]),
        "multi": -1 if queue is None else queue.count,
        "qbuf": held.query,
        "qbuf-free": 0,
        "argv-mem": held.arguments,
        "multi-mem": held.queued,
        "rbs": held.replies,
        "rbp": held.replies,
        "obl": held.replies,
        "oll": held.parts,
        "omem": held.output,
        "tot-mem": held.total,
        "events": "rw" if connection.output_bytes else "r",
        "cmd": last_command,
        "user": session.user.name.decode("utf-8", "surrogateescape"),
        "redir": -1 if tracker is None else tracker.redirect,
        "resp": session.protocol,
        "lib-name": session.lib_name.decode(),
        "lib-ver": session.lib_version.decode(),
        "watch": len(session.watched),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode("utf-8", "surrogateescape")


def _flags(connection: Connection) -> str:
    """In Redis's letters and order."""
    session, tracker = connection.session, connection.session.tracker
    holds = {
        "O": session.monitors,
        "P": session.subscriptions is not None,
        "x": session.transaction is not None,
        "b": connection.held or session.blocked,
        "t": tracker is not None,
        "R": tracker is not None and tracker.broken,
        "B": tracker is not None and tracker.bcast,
        "d": _is_dirty(connection),
        "c": connection.closing,
        "r": session.readonly,
        "U": session.is_unix,
        "e": session.no_evict,
        "T": session.no_touch,
    }
    return "".join(letter for letter, on in holds.items() if on)


def _is_dirty(connection: Connection) -> bool:
    """Whether a watched key is known here to have changed: where this node holds no replica, that is never."""
    for key, watched in connection.session.watched.items():
        proposer = connection.server.proposer_of_slot[slot_of(key)]
        machine = proposer.machine
        if machine is not None and not machine.is_as_watched(watched, vouch=proposer.leads):
            return True
    return False


@command("CLIENT|KILL", kind="server", arity=-3, flags="admin loading stale noscript", group="connection",
         since="2.4.0", summary="Kill the connection of a client",
         complexity="O(N) where N is the number of client connections",
         syntax="(filter: ip:port@-2.8.12 | "
                "(new-format: [ID client-id:integer@2.8.12] | "
                "[TYPE (normal_master_slave_pubsub: NORMAL | MASTER@3.2.0 | SLAVE | REPLICA@5.0.0 | PUBSUB)@2.8.12] | "
                "[USER username] | [ADDR ip:port] | [LADDR ip:port@6.2.0] | [SKIPME yes/no])...)",
         history=("2.8.12 Added new filter format.",
                  "2.8.12 `ID` option.",
                  "3.2.0 Added `master` type in for `TYPE` option.",
                  "5.0.0 Replaced `slave` `TYPE` with `replica`. `slave` still supported for backward compatibility.",
                  "6.2.0 `LADDR` option."))
def client_kill(call: Call) -> Reply:
    args, connections = call.args, list(call.server.clients.values())
    if len(args) == 3:
        for connection in connections:
            if connection.session.address.encode() == args[2]:
                _kill(call, connection)
                return OK
        raise errors.no_such_client()
    skip_me = True
    chosen: dict[bytes, set[Connection]] = {}  # by each filter, of which the last of a kind counts
    words = iter(args[2:])
    for option in words:
        value = next(words, None)
        if value is None:
            raise errors.syntax()
        if option.upper() == b"SKIPME":
            skip_me = _choice(value, b"YES", b"NO")
        else:
            chosen[option.upper()] = set(_filtered(connections, option.upper(), value, call.server.access.users))
    killed = 0
    for connection in connections:
        if all(connection in each for each in chosen.values()) and not (skip_me and connection is call.connection):
            _kill(call, connection)
            killed += 1
    return killed


def _filtered(connections: list[Connection], option: bytes, value: bytes, users: Users) -> list[Connection]:
    if option == b"ID":
        wanted = _integer(value, "client-id should be greater than 0", least=1)
        return [c for c in connections if c.session.id == wanted]
    if option == b"TYPE":
        return _of_type(connections, value)
    if option == b"ADDR":
        return [c for c in connections if c.session.address.encode() == value]
    if option == b"LADDR":
        return [c for c in connections if c.session.local_address.encode() == value]
    if option == b"USER":
        if value not in users:
            raise errors.generic(f"No such user '{errors.quoted(value)}'")
        return [c for c in connections if c.session.user.name == value]
    raise errors.syntax()


def _kill(call: Call, connection: Connection) -> None:
    """The client that asks still gets its reply."""
    if connection is call.connection:
        connection.close_after_replies()
    else:
        connection.abort()


@command("CLIENT|HELP", kind="server", arity=2, flags="loading stale", group="connection", since="5.0.0",
         summary="Show helpful text about the different subcommands")
def client_help(call: Call) -> Reply:
    kill = (
        "Kill connections. Options are:\n"
        "* ADDR <ip:port>\n  Kill connections made from the specified address\n"
        "* ID <client-id>\n  Kill the connection of this ID\n"
        "* LADDR <ip:port>\n  Kill connections made to specified local address\n"
        "* TYPE (NORMAL|MASTER|REPLICA|PUBSUB)\n  Kill connections by type.\n"
        "* USER <username>\n  Kill connections authenticated by <username>.\n"
        "* SKIPME (YES|NO)\n  Skip killing current connection (default: yes)."
    )
    list_ = (
        "Return information about client connections. Options:\n"
        "* TYPE (NORMAL|MASTER|REPLICA|PUBSUB)\n  Return clients of specified type.\n"
        "* ID <client-id> [<client-id> ...]\n  Return clients of these IDs."
    )
    tracking = "Control server assisted client side caching."
    return help_reply(
        "CLIENT",
        ("CACHING (YES|NO)", "Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes."),
        ("GETREDIR", "Return the client ID we are redirecting to when tracking is enabled."),
        ("GETNAME", "Return the name of the current connection."),
        ("ID", "Return the ID of the current connection."),
        ("INFO", "Return information about the current client connection."),
        ("KILL <ip:port>", "Kill connection made from <ip:port>."),
        ("KILL <option> <value> [<option> <value> [...]]", kill),
        ("LIST [options ...]", list_),
        ("UNPAUSE", "Stop the current client pause, resuming traffic."),
        ("PAUSE <timeout> [WRITE|ALL]", "Suspend all, or just write, clients for <timeout> milliseconds."),
        ("REPLY (ON|OFF|SKIP)", "Control the replies sent to the current connection."),
        ("UNBLOCK <clientid> [TIMEOUT|ERROR]", "Unblock the specified blocked client."),
        ("TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]\n         [OPTIN] [OPTOUT] [NOLOOP]",
         tracking),
        ("TRACKINGINFO", "Report tracking status for the current connection."),
        ("NO-TOUCH (ON|OFF)", "Will not touch LRU/LFU stats when this mode is on."),
        ("NO-EVICT (ON|OFF)", "Protect current client connection from eviction."),
        ("SETINFO (LIB-NAME|LIB-VER) <value>", "Tell the name or version of the client library."),
        ("SETNAME <name>", "Assign the name <name> to the current connection."),
    )
