"""The commands with which a client says who it is and how it wants to be spoken to: HELLO, AUTH, SELECT and their like.

Who they may be is said by ACL (`respkv.server.access`).
"""

from __future__ import annotations

from respkv import errors
from respkv.acl.user import DEFAULT
from respkv.commands.args import database, integer
from respkv.commands.table import command
from respkv.reply import OK, PONG, Encoded, Reply, RespError, Simple
from respkv.resp.encoder import encode
from respkv.server.dispatch import Call
from respkv.server.session import Session

# What HELLO says: client libraries cache only with a server that calls itself 7.4 or later in its greeting (redis-py,
# Jedis), though nothing that they then use is newer than 7.0. INFO tells the version above.
GREETING_VERSION = "7.4.0"


@command("PING", kind="server", arity=-1, flags="fast", group="connection", since="1.0.0", summary="Ping the server",
         tips="request_policy:all_shards response_policy:all_succeeded", syntax="[message]")
def ping(call: Call) -> Reply:
    args = call.args
    if len(args) > 2:
        raise errors.arity("ping")
    if call.session.subscriptions is not None and call.session.protocol == 2:
        return [b"pong", args[1] if len(args) == 2 else b""]
    return args[1] if len(args) == 2 else PONG


@command("ECHO", kind="server", arity=2, flags="fast loading stale", group="connection", since="1.0.0",
         summary="Echo the given string", syntax="message")
def echo(call: Call) -> Reply:
    return call.args[1]


@command("HELLO", kind="server", arity=-1, flags="fast loading stale noscript no_auth allow_busy", group="connection",
         since="6.0.0", summary="Handshake with Redis",
         syntax="[arguments: protover:integer [AUTH (username_password: username password)] [SETNAME clientname]]",
         history=(("6.2.0 `protover` made optional; when called without arguments the command reports the current "
                   "connection's context."),))
def hello(call: Call) -> Reply:
    args, session = call.args, call.session
    protocol = _protocol(args[1]) if len(args) > 1 else session.protocol
    at = 2
    while at < len(args):
        option, left = args[at].upper(), len(args) - at - 1
        if option == b"AUTH" and left >= 2:
            call.server.access.log_in(call.connection, args[at + 1], args[at + 2], args[0])
            at += 3
        elif option == b"SETNAME" and left:
            set_name(call, args[at + 1])
            at += 2
        else:
            raise errors.hello_syntax(args[at])
    if not session.authenticated:
        raise call.server.access.no_auth(hello=True)
    messages = b"" if call.in_transaction else call.server.outbox.take(call.connection)  # in the protocol that was
    session.protocol = protocol
    call.connection.hinder_by_session()
    return Encoded(messages + encode(_greeting(session), protocol))


def _greeting(session: Session) -> Reply:
    return {
        b"server": b"redis",  # clients look for this word
        b"version": GREETING_VERSION.encode(),
        b"proto": session.protocol,
        b"id": session.id,
        b"mode": b"cluster" if session.cluster_view else b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def _protocol(text: bytes) -> int:
    try:
        protocol = integer(text)
    except RespError:
        raise errors.proto_not_integer() from None
    if protocol not in (2, 3):
        raise errors.no_proto()
    return protocol


@command("AUTH", kind="server", arity=-2, flags="fast loading stale noscript no_auth allow_busy", group="connection",
         since="1.0.0", summary="Authenticate to the server",
         complexity="O(N) where N is the number of passwords defined for the user", syntax="[username@6.0.0] password",
         history=("6.0.0 Added ACL style (username and password).",))
def auth(call: Call) -> Reply:
    args = call.args
    if len(args) > 3:
        raise errors.syntax()
    access = call.server.access
    if len(args) == 2 and access.without_password:
        raise errors.auth_without_password()
    access.log_in(call.connection, DEFAULT if len(args) == 2 else args[1], args[-1], args[0])
    return OK


def set_name(call: Call, name: bytes) -> None:
    """Raises an error for a name with spaces or control characters; an empty name is none."""
    if not is_printable(name):
        raise errors.client_name()
    call.session.name = name


def is_printable(text: bytes) -> bool:
    """Only visible ASCII characters: what can stand in a line of CLIENT LIST."""
    return all(0x21 <= byte <= 0x7E for byte in text)


@command("SELECT", kind="server", arity=2, flags="fast loading stale", group="connection", since="1.0.0",
         summary="Change the selected database for the current connection", syntax="index:integer")
def select(call: Call) -> Reply:
    try:
        database(call.args[1])
    except RespError as refusal:
        if call.session.cluster_view and refusal == errors.db_out_of_range():
            raise errors.select_in_cluster() from None
        raise
    return OK


@command("QUIT", kind="server", arity=-1, flags="fast loading stale noscript no_auth allow_busy", group="connection",
         since="1.0.0", summary="Close the connection")
def quit_(call: Call) -> Reply:
    call.connection.close_after_replies()
    return OK


@command("RESET", kind="server", arity=1, flags="fast loading stale noscript no_auth allow_busy", group="connection",
         since="6.2.0", summary="Reset the connection")
def reset(call: Call) -> Reply:
    messages = call.server.outbox.take(call.connection)
    call.connection.deauthenticated()
    return Encoded(messages + encode(Simple(b"RESET"), 2))


# --- what clients of a Redis Cluster say first ---


@command("READONLY", kind="server", arity=1, flags="fast loading stale", group="cluster", since="3.0.0",
         categories="connection", summary="Enables read queries for a connection to a cluster replica node")
def readonly(call: Call) -> Reply:
    _only_in_cluster_view(call)
    call.session.readonly = True
    return OK


@command("READWRITE", kind="server", arity=1, flags="fast loading stale", group="cluster", since="3.0.0",
         categories="connection", summary="Disables read queries for a connection to a cluster replica node")
def readwrite(call: Call) -> Reply:
    _only_in_cluster_view(call)
    call.session.readonly = False
    return OK


@command("ASKING", kind="server", arity=1, flags="fast", group="cluster", since="3.0.0", categories="connection",
         summary="Sent by cluster clients after an -ASK redirect")
def asking(call: Call) -> Reply:
    """Nothing to do: no `-ASK` is ever answered."""
    _only_in_cluster_view(call)
    return OK


def _only_in_cluster_view(call: Call) -> None:
    if not call.session.cluster_view:
        raise errors.generic("This instance has cluster support disabled")
