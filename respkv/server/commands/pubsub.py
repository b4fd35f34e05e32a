"""SUBSCRIBE to PUBSUB: messages between clients of all nodes (`respkv.server.messaging`).

Confirmations of subscriptions come even where replies are switched off, as in Redis, and behind the messages that are
on their way to the client. In the cluster view shard channels belong to the node that leads their slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from respkv import errors
from respkv.cluster.slots import slot_of
from respkv.commands.table import KeySpec, command
from respkv.reply import Encoded, Push, Reply
from respkv.resp.encoder import encode
from respkv.server.channels import CHANNEL, PATTERN, SHARD_CHANNEL, Subscriptions
from respkv.server.commands.helping import help_reply
from respkv.server.dispatch import LATER, Call, Later

_PREFIX: Final = {CHANNEL: b"", PATTERN: b"p", SHARD_CHANNEL: b"s"}
_FLAGS: Final = "pubsub noscript loading stale"
_ASKING: Final = "pubsub loading stale"
_SHARD_CHANNELS: Final = (KeySpec(1, -1, 1, ("not_key",)),)


def _subscribe(call: Call, kind: int) -> Reply | Later:
    confirmations = []
    for name in call.args[1:]:
        call.server.channels.subscribe(call.connection, kind, name)
        confirmations.append(_confirmation(call, kind, b"subscribe", name))
    return _confirmed(call, confirmations)


def _unsubscribe(call: Call, kind: int) -> Reply | Later:
    subscriptions = call.session.subscriptions
    names: Iterable[bytes | None] = call.args[1:]
    if len(call.args) == 1:
        names = (list(subscriptions.names[kind]) if subscriptions is not None else []) or [None]
    confirmations = []
    for name in names:
        if name is not None:
            call.server.channels.unsubscribe(call.connection, kind, name)
        confirmations.append(_confirmation(call, kind, b"unsubscribe", name))
    return _confirmed(call, confirmations)


def _confirmation(call: Call, kind: int, verb: bytes, name: bytes | None) -> bytes:
    subscriptions = call.session.subscriptions or Subscriptions()
    return encode(Push([_PREFIX[kind] + verb, name, subscriptions.count(kind)]), call.session.protocol)


def _confirmed(call: Call, confirmations: list[bytes]) -> Reply | Later:
    """The reply: behind the messages that wait. With replies off, they come in the same place as a message."""
    call.connection.hinder_by_session()
    outbox = call.server.outbox
    said = b"".join(confirmations)
    if not call.in_transaction:
        said = outbox.take(call.connection) + said
    if not call.is_muted:
        return Encoded(said)
    if call.in_transaction:
        outbox.push(call.connection, said)
    else:
        call.connection.push(said)
    return LATER


@command("SUBSCRIBE", kind="server", arity=-2, flags=_FLAGS, group="pubsub", since="2.0.0",
         summary="Listen for messages published to the given channels",
         complexity="O(N) where N is the number of channels to subscribe to.", syntax="channel...")
def subscribe(call: Call) -> Reply | Later:
    return _subscribe(call, CHANNEL)


@command("PSUBSCRIBE", kind="server", arity=-2, flags=_FLAGS, group="pubsub", since="2.0.0",
         summary="Listen for messages published to channels matching the given patterns",
         complexity="O(N) where N is the number of patterns the client is already subscribed to.",
         syntax="(pattern: pattern)...")
def psubscribe(call: Call) -> Reply | Later:
    return _subscribe(call, PATTERN)


@command("SSUBSCRIBE", kind="server", arity=-2, flags=_FLAGS, keys=(1, -1, 1), key_specs=_SHARD_CHANNELS,
         group="pubsub", since="7.0.0", summary="Listen for messages published to the given shard channels",
         complexity="O(N) where N is the number of shard channels to subscribe to.", syntax="shardchannel...")
def ssubscribe(call: Call) -> Reply | Later:
    _check_slot(call, call.args[1:])
    return _subscribe(call, SHARD_CHANNEL)


@command("UNSUBSCRIBE", kind="server", arity=-1, flags=_FLAGS, group="pubsub", since="2.0.0",
         summary="Stop listening for messages posted to the given channels",
         complexity="O(N) where N is the number of clients already subscribed to a channel.", syntax="[channel...]")
def unsubscribe(call: Call) -> Reply | Later:
    return _unsubscribe(call, CHANNEL)


@command("PUNSUBSCRIBE", kind="server", arity=-1, flags=_FLAGS, group="pubsub", since="2.0.0",
         summary="Stop listening for messages posted to channels matching the given patterns",
         complexity="O(N+M) where N is the number of patterns the client is already subscribed and M is the number of "
                    "total patterns subscribed in the system (by any client).", syntax="[pattern...]")
def punsubscribe(call: Call) -> Reply | Later:
    return _unsubscribe(call, PATTERN)


@command("SUNSUBSCRIBE", kind="server", arity=-1, flags=_FLAGS, keys=(1, -1, 1), key_specs=_SHARD_CHANNELS,
         group="pubsub", since="7.0.0", summary="Stop listening for messages posted to the given shard channels",
         complexity="O(N) where N is the number of clients already subscribed to a shard channel.",
         syntax="[shardchannel...]")
def sunsubscribe(call: Call) -> Reply | Later:
    return _unsubscribe(call, SHARD_CHANNEL)


def _check_slot(call: Call, names: Sequence[bytes]) -> None:
    """In the cluster view: raises CROSSSLOT, or MOVED to the node whose clients are to use these shard channels."""
    if not call.session.cluster_view:
        return
    slots = {slot_of(name) for name in names}
    if len(slots) > 1:
        raise errors.cross_slot()
    server, slot = call.server, slots.pop()
    owner = server.owner(server.topology.shards[server.topology.slots[slot]])
    if owner != server.node:
        node = server.topology.node(owner)
        raise errors.moved(slot, node.host, node.cluster_port)


# --- publishing ---


def _publish(call: Call, *, sharded: bool) -> Reply | Later:
    _, channel, message = call.args
    messaging = call.server.messaging
    here = messaging.publish(channel, message, sharded=sharded)
    messages, protocol = _own_messages(call), call.session.protocol
    if messaging.alone:
        return Encoded(messages + encode(here, protocol)) if messages else here
    answer = call.later()
    messaging.publish_elsewhere(
        channel, message, sharded=sharded, done=lambda count: answer(Encoded(messages + encode(here + count, protocol)))
    )
    return LATER


def _own_messages(call: Call) -> bytes:
    """What a publisher has itself subscribed to comes before the reply; of a transaction, behind all replies."""
    if call.session.subscriptions is None or call.in_transaction or call.is_muted:
        return b""
    return call.server.outbox.take(call.connection)


@command("PUBLISH", kind="server", arity=3, flags="pubsub loading stale fast", group="pubsub", since="2.0.0",
         summary="Post a message to a channel",
         complexity="O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total "
                    "number of subscribed patterns (by any client).", syntax="channel message")
def publish(call: Call) -> Reply | Later:
    return _publish(call, sharded=False)


@command("SPUBLISH", kind="server", arity=3, flags="pubsub loading stale fast", keys=(1, 1, 1), access="not_key",
         group="pubsub", since="7.0.0", summary="Post a message to a shard channel",
         complexity="O(N) where N is the number of clients subscribed to the receiving shard channel.",
         syntax="shardchannel message")
def spublish(call: Call) -> Reply | Later:
    _check_slot(call, [call.args[1]])
    return _publish(call, sharded=True)


# --- questions ---


@command("PUBSUB", kind="server", arity=-2, group="pubsub", group_category=False, since="2.8.0",
         complexity="Depends on subcommand.", summary="A container for Pub/Sub commands")
def pubsub(call: Call) -> Reply:
    raise errors.unknown_subcommand(call.args[0], call.args[1])


def _names(call: Call, kind: int) -> Reply | Later:
    if len(call.args) > 3:
        raise errors.bad_subcommand_syntax(call.args[0], call.args[1])
    pattern = call.args[2] if len(call.args) == 3 else None
    messaging = call.server.messaging
    here = messaging.names(kind, pattern)
    if messaging.alone or call.session.cluster_view:
        return list(here)
    answer = call.later()
    messaging.names_elsewhere(kind, pattern, lambda names: answer(list(here | names)))
    return LATER


def _counts(call: Call, kind: int) -> Reply | Later:
    names = call.args[2:]
    messaging = call.server.messaging
    here = messaging.counts(kind, names)
    if messaging.alone or call.session.cluster_view:
        return _pairs(names, here)
    answer = call.later()
    messaging.counts_elsewhere(
        kind, names, lambda counts: answer(_pairs(names, [a + b for a, b in zip(here, counts, strict=True)]))
    )
    return LATER


def _pairs(names: Sequence[bytes], counts: Sequence[int]) -> Reply:
    return [each for pair in zip(names, counts, strict=True) for each in pair]


@command("PUBSUB|CHANNELS", kind="server", arity=-2, flags=_ASKING, group="pubsub", since="2.8.0",
         summary="List active channels",
         complexity="O(N) where N is the number of active channels, and assuming constant time pattern matching "
                    "(relatively short channels and patterns)", syntax="[pattern]")
def pubsub_channels(call: Call) -> Reply | Later:
    return _names(call, CHANNEL)


@command("PUBSUB|NUMPAT", kind="server", arity=2, flags=_ASKING, group="pubsub", since="2.8.0",
         summary="Get the count of unique patterns pattern subscriptions")
def pubsub_numpat(call: Call) -> Reply | Later:
    messaging = call.server.messaging
    here = messaging.names(PATTERN)
    if messaging.alone or call.session.cluster_view:
        return len(here)
    answer = call.later()
    messaging.names_elsewhere(PATTERN, None, lambda names: answer(len(here | names)))
    return LATER


@command("PUBSUB|NUMSUB", kind="server", arity=-2, flags=_ASKING, group="pubsub", since="2.8.0",
         summary="Get the count of subscribers for channels",
         complexity="O(N) for the NUMSUB subcommand, where N is the number of requested channels",
         syntax="[channel...]")
def pubsub_numsub(call: Call) -> Reply | Later:
    return _counts(call, CHANNEL)


@command("PUBSUB|SHARDCHANNELS", kind="server", arity=-2, flags=_ASKING, group="pubsub", since="7.0.0",
         summary="List active shard channels",
         complexity="O(N) where N is the number of active shard channels, and assuming constant time pattern matching "
                    "(relatively short shard channels).", syntax="[pattern]")
def pubsub_shardchannels(call: Call) -> Reply | Later:
    return _names(call, SHARD_CHANNEL)


@command("PUBSUB|SHARDNUMSUB", kind="server", arity=-2, flags=_ASKING, group="pubsub", since="7.0.0",
         summary="Get the count of subscribers for shard channels",
         complexity="O(N) for the SHARDNUMSUB subcommand, where N is the number of requested shard channels",
         syntax="[shardchannel...]")
def pubsub_shardnumsub(call: Call) -> Reply | Later:
    return _counts(call, SHARD_CHANNEL)


@command("PUBSUB|HELP", kind="server", arity=2, flags="loading stale", group="pubsub", group_category=False,
         since="6.2.0", summary="Show helpful text about the different subcommands")
def pubsub_help(call: Call) -> Reply:
    return help_reply(
        "PUBSUB",
        ("CHANNELS [<pattern>]", "Return the currently active channels matching a <pattern> (default: '*')."),
        ("NUMPAT", "Return number of subscriptions to patterns."),
        ("NUMSUB [<channel> ...]", ("Return the number of subscribers for the specified channels, excluding\n"
                                   "pattern subscriptions(default: no channels).")),
        ("SHARDCHANNELS [<pattern>]",
         "Return the currently active shard level channels matching a <pattern> (default: '*')."),
        ("SHARDNUMSUB [<shardchannel> ...]",
         "Return the number of subscribers for the specified shard level channel(s)"),
    )  # fmt: skip
