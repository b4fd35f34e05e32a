"""Keyspace notifications, and who watches what the shards of this node apply.

`notify-keyspace-events` of a node says what *its* clients are told of. It tells the others which classes that are, and
the leader of a shard sends a node the events of an entry when it has applied it, once: only the leader of the term in
which the entry was proposed does. So an event may be lost where a leader is, and never comes twice. Clients of the
cluster view hear of the shards that their node leads, as they would from a node of a Redis Cluster; others of all keys.

Nobody watches as long as no node wants events and none caches: then what is applied is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from respkv.config.events import KEYEVENT, KEYSPACE, events_mask
from respkv.keyspace.watch import MISS, Event
from respkv.server.channels import Channels
from respkv.server.feed import Feed
from respkv.server.news import EVENTS, WANTS, News
from respkv.shard.machine import Watcher
from respkv.shard.proposer import Proposer

_CLASSES: Final = ~(KEYSPACE | KEYEVENT)


class ShardWatcher(Watcher):
    """Watches one shard's replica on this node, for all nodes."""

    __slots__ = ("_feed", "_notifier", "_proposer")

    def __init__(self, proposer: Proposer, notifier: Notifier, feed: Feed) -> None:
        super().__init__()
        self._proposer = proposer
        self._notifier = notifier
        self._feed = feed

    def committed(self, term: int) -> None:
        events, writers, flushed = self.events, self.writers, self.flushed
        self.clear()
        group = self._proposer.group
        if group is None or not group.leader:
            return
        shard = self._proposer.shard
        if events and term == group.term:
            self._notifier.emit(shard, events)
        if (writers or flushed) and self._feed.active:
            self._feed.changed(shard, group.term, list(writers.items()), whole=flushed)

    def missed(self, events: list[Event]) -> None:
        self._notifier.emit(self._proposer.shard, events)


class Notifier:
    """Events of keys, from the shards led here to the clients of all nodes.

    Args:
        misses_wanted: called with whether reads of keys that are not there are events for somebody.
    """

    def __init__(
        self,
        proposers: Sequence[Proposer],
        channels: Channels,
        news: News,
        feed: Feed,
        misses_wanted: Callable[[bool], None],
    ) -> None:
        self._channels = channels
        self._news = news
        self._feed = feed
        self._misses_wanted = misses_wanted
        self._mask = 0
        self._peers: dict[str, int] = {}
        self._watchers = [
            (proposer, ShardWatcher(proposer, self, feed)) for proposer in proposers if proposer.group is not None
        ]
        feed.wants_changed = self._wants_changed
        news.handlers[WANTS] = self._on_wants
        news.handlers[EVENTS] = self._on_events

    def configure(self, text: str) -> None:
        """Takes `notify-keyspace-events`."""
        mask = events_mask(text)
        mask = mask if mask & (KEYSPACE | KEYEVENT) and mask & _CLASSES else 0
        if mask != self._mask:
            self._mask = mask
            self._wants_changed()

    def _wants_changed(self) -> None:
        for peer in self._news.peers:
            self._tell(peer)
        self._watch()

    def _tell(self, peer: str) -> None:
        self._news.send(peer, (WANTS, 0, self._mask & _CLASSES, self._feed.caches))

    def _on_wants(self, peer: str, message: list[Any]) -> None:
        self._peers[peer] = message[2]
        self._feed.watched_by(peer, message[3])
        self._watch()

    def link_up(self, peer: str) -> None:
        if self._mask or self._feed.caches:
            self._tell(peer)

    def link_down(self, peer: str) -> None:
        self._peers.pop(peer, None)
        self._watch()

    def _watch(self) -> None:
        """Watches for what somebody wants, or nothing."""
        wanted = self._mask & _CLASSES
        for mask in self._peers.values():
            wanted |= mask
        for proposer, watcher in self._watchers:
            watcher.wanted = wanted
            proposer.watch(watcher if wanted or self._feed.active else None)
        self._misses_wanted(bool(wanted & MISS))

    # -- events

    def emit(self, shard: int, events: list[Event]) -> None:
        """What has happened to keys of a shard that is led here."""
        self._deliver(events, standalone_only=False)
        for peer, mask in self._peers.items():
            wanted = [event for event in events if event[0] & mask]
            if wanted:
                self._news.send(peer, (EVENTS, shard, wanted))

    def _on_events(self, peer: str, message: list[Any]) -> None:
        self._deliver(message[2], standalone_only=True)

    def _deliver(self, events: list[Event], *, standalone_only: bool) -> None:
        mask, deliver = self._mask, self._channels.deliver
        for kind, name, key in events:
            if mask & kind and mask & KEYSPACE:
                deliver(b"__keyspace@0__:" + key, name, standalone_only=standalone_only)
            if mask & kind and mask & KEYEVENT:
                deliver(b"__keyevent@0__:" + name, key, standalone_only=standalone_only)
