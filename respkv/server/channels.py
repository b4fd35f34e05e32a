"""Who of this node's clients listens to what: channels, patterns and shard channels.

A message is delivered to each subscription that it matches, in the order in which they were made, encoded once for each
protocol. Which node a message comes from is none of this module's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from respkv.commands.glob import Matcher, matcher
from respkv.reply import Push
from respkv.resp.encoder import encode

if TYPE_CHECKING:
    from respkv.server.connection import Connection

CHANNEL: Final = 0
PATTERN: Final = 1
SHARD_CHANNEL: Final = 2
KINDS: Final = (CHANNEL, PATTERN, SHARD_CHANNEL)

_Listeners = dict["Connection", None]  # in the order of their coming


class Subscriptions:
    """One client's: for each kind its names, in the order in which they were subscribed to."""

    __slots__ = ("names",)

    def __init__(self) -> None:
        self.names: tuple[dict[bytes, None], ...] = ({}, {}, {})

    def __bool__(self) -> bool:
        return any(self.names)

    def count(self, kind: int) -> int:
        """As confirmations tell it: shard channels are counted apart."""
        channels, patterns, shard_channels = self.names
        return len(shard_channels) if kind == SHARD_CHANNEL else len(channels) + len(patterns)


class Channels:
    """All subscriptions of a node's clients.

    Args:
        push: called as `push(connection, data)` with each encoded message.
    """

    def __init__(self, push: Callable[[Connection, bytes], None]) -> None:
        self._push = push
        self._listeners: tuple[dict[bytes, _Listeners], ...] = ({}, {}, {})
        self._matchers: dict[bytes, Matcher] = {}

    # -- subscriptions

    def subscribe(self, connection: Connection, kind: int, name: bytes) -> None:
        session = connection.session
        if session.subscriptions is None:
            session.subscriptions = Subscriptions()
        session.subscriptions.names[kind][name] = None
        self._listeners[kind].setdefault(name, {})[connection] = None
        if kind == PATTERN and name not in self._matchers:
            self._matchers[name] = matcher(name)

    def unsubscribe(self, connection: Connection, kind: int, name: bytes) -> None:
        subscriptions = connection.session.subscriptions
        if subscriptions is None or name not in subscriptions.names[kind]:
            return
        del subscriptions.names[kind][name]
        listeners = self._listeners[kind][name]
        del listeners[connection]
        if not listeners:
            del self._listeners[kind][name]
            if kind == PATTERN:
                del self._matchers[name]
        if not subscriptions:
            connection.session.subscriptions = None

    def leave(self, connection: Connection) -> None:
        """The client is gone, or begins anew."""
        subscriptions = connection.session.subscriptions
        if subscriptions is not None:
            for kind in KINDS:
                for name in list(subscriptions.names[kind]):
                    self.unsubscribe(connection, kind, name)

    def subscriptions_of(self, connection: Connection) -> Iterator[tuple[bytes, bool]]:
        """All that the client listens to, and whether it is a pattern."""
        subscriptions = connection.session.subscriptions
        if subscriptions is not None:
            for kind in KINDS:
                for name in subscriptions.names[kind]:
                    yield name, kind == PATTERN

    # -- questions

    def active(self, kind: int, pattern: bytes | None = None) -> list[bytes]:
        """The names of a kind that somebody has subscribed to; those that match `pattern`."""
        names = self._listeners[kind]
        return list(names) if pattern is None else list(filter(matcher(pattern), names))

    def count(self, kind: int) -> int:
        return len(self._listeners[kind])

    def listeners(self, kind: int, name: bytes) -> int:
        return len(self._listeners[kind].get(name, ()))

    # -- messages

    def deliver(self, channel: bytes, message: bytes, *, sharded: bool = False, standalone_only: bool = False) -> int:
        """Sends `message` to all who listen to `channel`; returns how many times.

        `standalone_only` leaves out clients of the cluster view.
        """
        if sharded:
            return self._send(SHARD_CHANNEL, channel, [b"smessage", channel, message], False)
        count = self._send(CHANNEL, channel, [b"message", channel, message], standalone_only)
        for pattern, matches in self._matchers.items():
            if matches(channel):
                count += self._send(PATTERN, pattern, [b"pmessage", pattern, channel, message], standalone_only)
        return count

    def _send(self, kind: int, name: bytes, items: list[bytes], standalone_only: bool) -> int:
        listeners = self._listeners[kind].get(name)
        if not listeners:
            return 0
        wire: dict[int, bytes] = {}
        count = 0
        for connection in listeners:
            session = connection.session
            if standalone_only and session.cluster_view:
                continue
            if session.protocol not in wire:
                wire[session.protocol] = encode(Push(list(items)), session.protocol)
            self._push(connection, wire[session.protocol])
            count += 1
        return count
