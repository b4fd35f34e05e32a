"""Where a node with clients that cache learns of every change: from the leader of each shard.

A node that caches tells all others so (`WANTS`). From then on each leader sends it the keys of every entry that it
applies, in order, and ten times per second that there was nothing else (`CHANGED` without keys). What a leader says
bears its term, and a generation that moves when something for this node had to be dropped, or this node did not want to
hear for a while. `Tracking.doubt` is called when it is not certain that a shard's changes have all come:

- the link to the node that they came from broke;
- they come from another leader, in another term or generation than before;
- nothing has come for `SILENT_S`. A leader that no majority follows any more keeps silent.

Why that is enough: a client's read is remembered before it is sent to the leader. Whatever that leader applies later is
sent here or puts the link, and so the shard, in doubt; if it learns only later that this node caches, what it says
first does. What another leader applies bears another term. So a cached value may be stale for as long as a message is
on its way; for about `SILENT_S` more where this node is cut off from the leader; never for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from respkv.raft.group import Clock
from respkv.server.news import CHANGED, News
from respkv.server.tracking import Tracking
from respkv.shard.proposer import Proposer

SILENT_S: Final = 1.5
READY_S: Final = 0.5
LINGER_S: Final = 10.0

_Source = tuple[str, int, int]  # node, term, generation


class Feed:
    """Both sides: what this node sends as a leader, and what its own clients are told.

    Attributes:
        caches: whether this node wants to hear of changes.
        watchers: the nodes that do.
        wants_changed: called when `caches` has changed.
    """

    def __init__(self, node: str, proposers: Sequence[Proposer], news: News, tracking: Tracking) -> None:
        self.caches = False
        self.watchers: set[str] = set()
        self.wants_changed: Callable[[], None] = lambda: None
        self._node = node
        self._proposers = proposers
        self._news = news
        self._tracking = tracking
        self._generations: dict[tuple[str, int], int] = {}
        self._sources: list[_Source | None] = [None] * len(proposers)
        self._heard_at = [float("-inf")] * len(proposers)
        self._ready: list[tuple[float, Callable[[], None]]] = []  # until when they wait, and what to call then
        self._needed_at = float("-inf")
        news.handlers[CHANGED] = self._on_changed

    @property
    def active(self) -> bool:
        """Whether anybody wants to know of the changes that are applied here."""
        return self.caches or bool(self.watchers)

    # -- as a leader

    def changed(self, shard: int, term: int, keys: list[tuple[bytes, bytes]], *, whole: bool) -> None:
        """The leader of `shard` in `term`, which is on this node, has applied changes."""
        if self.caches:
            self._hear(shard, (self._node, term, 0))
            self._tracking.changed(shard, keys, whole=whole)
        for peer in self.watchers:
            self._send(peer, shard, term, keys, whole)

    def _send(self, peer: str, shard: int, term: int, keys: list[tuple[bytes, bytes]], whole: bool) -> None:
        generation = self._generations.get((peer, shard), 0)
        if not self._news.send(peer, (CHANGED, shard, term, generation, whole, keys)):
            self._miss(peer, shard)

    def _miss(self, peer: str, shard: int) -> None:
        self._generations[peer, shard] = self._generations.get((peer, shard), 0) + 1

    def watched_by(self, peer: str, wants: bool) -> None:
        """Node `peer` has clients that cache, or none any more."""
        if not wants:
            self.watchers.discard(peer)
            for proposer in self._proposers:
                self._miss(peer, proposer.shard)
            return
        self.watchers.add(peer)
        for shard, term in self._led():
            self._send(peer, shard, term, [], whole=False)

    def _led(self) -> list[tuple[int, int]]:
        """Shard and term of each that is led here, and knows that it is."""
        found = []
        for proposer in self._proposers:
            group = proposer.group
            if group is None or not group.readable:
                continue
            if not group.nodes or group.confirmed > Clock.now() - SILENT_S / 2:
                found.append((proposer.shard, group.term))
        return found

    # -- as a node with clients that cache

    def begin(self) -> bool:
        """From now on this node wants to hear of changes. Whether it hears of all shards' by now."""
        self._needed_at = Clock.now()
        if not self.caches:
            self.caches = True
            self.wants_changed()
            self._hear_own()
        return all(self._sources)

    def when_ready(self, call: Callable[[], None]) -> None:
        """Calls `call` when all shards' changes are heard of, or that takes too long."""
        self._ready.append((Clock.now() + READY_S, call))

    def _hear_own(self) -> None:
        for shard, term in self._led():
            self._hear(shard, (self._node, term, 0))

    def _hear(self, shard: int, source: _Source) -> None:
        known = self._sources[shard]
        self._heard_at[shard] = Clock.now()
        if known != source:
            self._sources[shard] = source
            self._tracking.doubt(shard)
            self._call_ready()

    def _on_changed(self, peer: str, message: list[Any]) -> None:
        _, shard, term, generation, whole, keys = message
        known = self._sources[shard]
        if self.caches and (known is None or term >= known[1]):
            self._hear(shard, (peer, term, generation))
            self._tracking.changed(shard, keys, whole=whole)

    def _lose(self, shard: int) -> None:
        self._sources[shard] = None
        self._tracking.doubt(shard)

    def link_down(self, peer: str) -> None:
        self.watchers.discard(peer)
        for shard, source in enumerate(self._sources):
            if source is not None and source[0] == peer:
                self._lose(shard)

    def _call_ready(self) -> None:
        now, done = Clock.now(), all(self._sources)
        calls = [call for until, call in self._ready if done or until <= now]
        self._ready = [] if done else [(until, call) for until, call in self._ready if until > now]
        for call in calls:
            call()

    # -- time

    def tick(self) -> None:
        """To be called about ten times per second."""
        if not self.active:
            return
        for shard, term in self._led():
            if self.caches:
                self._hear(shard, (self._node, term, 0))
            for peer in self.watchers:
                self._send(peer, shard, term, [], whole=False)
        if not self.caches:
            return
        now = Clock.now()
        for shard, source in enumerate(self._sources):
            if source is not None and now - self._heard_at[shard] > SILENT_S:
                self._lose(shard)
        self._call_ready()
        if self._tracking.trackers:
            self._needed_at = now
        elif now - self._needed_at > LINGER_S and not self._ready:
            self.caches = False
            self._sources = [None] * len(self._sources)
            self.wants_changed()
