"""Publish and subscribe over all nodes: a message goes to this node's clients and to every node there is a link to.

Promises: delivery is at most once, as in Redis. All subscribers of a node get the messages that one publisher sends
to one node in the order in which it sent them. Once SUBSCRIBE is answered, whatever is published later, on whichever
node, arrives as long as the nodes are linked. Answers count the subscribers of all nodes; a node that does not answer
in time (`News`) counts as having none.

Questions of a client of the cluster view are about its node alone, so that clients that ask every node add up right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from respkv.server.channels import CHANNEL, PATTERN, SHARD_CHANNEL, Channels
from respkv.server.news import ASK, PUBLISH, News, Told_

COUNTS: Final = 4  # added to a kind of names: how many listen to each of those named
_COUNTED: Final = {COUNTS + kind: kind for kind in (CHANNEL, SHARD_CHANNEL)}
_KINDS: Final = (CHANNEL, PATTERN, SHARD_CHANNEL)


class Messaging:
    """One node's part of it."""

    def __init__(self, channels: Channels, news: News) -> None:
        self._channels = channels
        self._news = news
        news.handlers[PUBLISH] = self._on_publish
        news.handlers[ASK] = self._on_ask

    @property
    def alone(self) -> bool:
        """Whether there is no other node to tell or to ask."""
        return not self._news.peers

    def publish(self, channel: bytes, message: bytes, *, sharded: bool) -> int:
        """Delivers to this node's clients; returns to how many."""
        return self._channels.deliver(channel, message, sharded=sharded)

    def publish_elsewhere(
        self, channel: bytes, message: bytes, *, sharded: bool, done: Callable[[int], None]
    ) -> None:
        """Delivers to the clients of all other nodes; `done` is told to how many."""
        self._news.ask(
            PUBLISH, (sharded, channel, message), lambda answers: done(sum(sum(numbers) for numbers, _ in answers))
        )

    def names(self, kind: int, pattern: bytes | None = None) -> set[bytes]:
        """What this node's clients have subscribed to."""
        return set(self._channels.active(kind, pattern))

    def names_elsewhere(self, kind: int, pattern: bytes | None, done: Callable[[set[bytes]], None]) -> None:
        """The same of all other nodes."""
        fields = (kind, [] if pattern is None else [pattern])
        self._news.ask(ASK, fields, lambda answers: done({name for _, names in answers for name in names}))

    def counts(self, kind: int, names: Sequence[bytes]) -> list[int]:
        """How many of this node's clients listen to each of `names`."""
        return [self._channels.listeners(kind, name) for name in names]

    def counts_elsewhere(self, kind: int, names: Sequence[bytes], done: Callable[[list[int]], None]) -> None:
        """The same of all other nodes together."""

        def add_up(answers: list[Told_]) -> None:
            columns = [numbers for numbers, _ in answers if len(numbers) == len(names)]
            done([sum(column[at] for column in columns) for at in range(len(names))])

        self._news.ask(ASK, (COUNTS + kind, list(names)), add_up)

    def _on_publish(self, peer: str, message: list[Any]) -> Told_:
        _, _, _, sharded, channel, content = message
        return [self._channels.deliver(channel, content, sharded=sharded)], []

    def _on_ask(self, peer: str, message: list[Any]) -> Told_:
        _, _, _, what, names = message
        if what in _COUNTED:
            return self.counts(_COUNTED[what], names), []
        if what in _KINDS:
            return [], self._channels.active(what, names[0] if names else None)
        return [], []
