"""Client-side caching: which client has read which keys, and telling it when they change (CLIENT TRACKING).

A key is remembered for a client when its read is sent on its way, so before any value of it can reach the client. Where
changes come from is the business of `respkv.server.feed`: it tells `changed` each change of every shard, and calls
`doubt` when some may have been missed. In doubt everything is invalidated; a change that is told twice, or one that a
client knew already, does no harm.

In the default mode a client is told once for each key that it has read, and no more until it reads it again; a client
that is in doubt, after FLUSHALL for example, gets a null instead of keys. In broadcasting mode (BCAST) it is told of
each changed key with one of its prefixes, those of a turn in one message. At most `keys_max` keys are remembered:
beyond that the ones remembered longest are invalidated.

NOLOOP: a client's own writes bear its mark through the log (`Machine`), so that they can be told from others'. The key
stays remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from respkv.cluster.slots import slot_of
from respkv.reply import Push
from respkv.resp.encoder import encode

if TYPE_CHECKING:
    from respkv.server.connection import Connection
    from respkv.server.outbox import Outbox

_CHANNEL: Final = b"__redis__:invalidate"
_EVICTIONS: Final = 100  # of remembered keys at a time

Keys = list[bytes] | None
"""Keys that are to be forgotten; None: all."""


class Tracker:
    """One client that caches. `redirect`: the client that is told in its place, or 0. `caching`: the next command is an
    exception (CLIENT CACHING). `holds`: shards of which it may have keys (default mode); `fresh`: whether it may have
    any since it was told to forget all."""

    __slots__ = ("bcast", "broken", "caching", "connection", "fresh", "holds", "mark", "noloop", "optin", "optout",
                 "prefixes", "redirect")  # fmt: skip

    def __init__(self, connection: Connection, mark: bytes) -> None:
        self.connection = connection
        self.mark = mark
        self.redirect = 0
        self.bcast = self.optin = self.optout = self.noloop = self.caching = self.broken = False
        self.prefixes: dict[bytes, None] = {}
        self.holds: set[int] = set()
        self.fresh = True

    def may_cache(self, word: bytes) -> bool:
        """Whether CLIENT CACHING `word` means something to this client."""
        return (word == b"YES" and self.optin) or (word == b"NO" and self.optout)

    @property
    def skips(self) -> bool:
        """Whether the next command's keys are not to be remembered."""
        return (self.optin and not self.caching) or (self.optout and self.caching)


class Tracking:
    """The clients of one node that cache.

    Args:
        clients: all clients of the node by their ids.
        shard_of_slot: the shard of each slot.
        shards: how many there are.
        life: tells marks of this process from those of others.
    """

    def __init__(
        self, clients: dict[int, Connection], outbox: Outbox, shard_of_slot: Sequence[int], shards: int, life: str
    ) -> None:
        self.keys_max = 0
        self.trackers: dict[int, Tracker] = {}
        self.items = 0
        self._clients = clients
        self._outbox = outbox
        self._shard_of_slot = shard_of_slot
        self._tables: list[OrderedDict[bytes, set[int]]] = [OrderedDict() for _ in range(shards)]
        self._life = life.encode()
        self._prefixes: dict[bytes, dict[int, None]] = {}
        self._lengths: list[int] = []
        self._emptied: set[int] = set()  # clients that were told in this turn to forget all
        self._broadcasts: dict[bytes, dict[bytes, bytes]] = {}  # prefix to changed keys and the marks of who did it

    # -- clients

    def mark_of(self, client: int) -> bytes:
        return b"%b:%d" % (self._life, client)

    def turn_on(self, tracker: Tracker, prefixes: Iterable[bytes]) -> None:
        """`tracker` takes effect, perhaps in the place of the client's former one."""
        client = tracker.connection.session.id
        self.trackers[client] = tracker
        tracker.connection.session.tracker = tracker
        for prefix in prefixes:
            tracker.prefixes[prefix] = None
            self._prefixes.setdefault(prefix, {})[client] = None
        self._lengths = sorted(set(map(len, self._prefixes)))

    def turn_off(self, connection: Connection) -> None:
        """What is remembered for the client is forgotten when its turn comes."""
        session = connection.session
        tracker = self.trackers.pop(session.id, None)
        session.tracker = None
        if tracker is None:
            return
        for prefix in tracker.prefixes:
            del self._prefixes[prefix][session.id]
            if not self._prefixes[prefix]:
                del self._prefixes[prefix]
                self._broadcasts.pop(prefix, None)
        self._lengths = sorted(set(map(len, self._prefixes)))

    def distrust(self, connection: Connection) -> None:
        """The client forgets all it has: what its transaction has read before it began to cache was not remembered."""
        self._invalidate(connection.session.id, None)

    def keys_count(self) -> int:
        return sum(map(len, self._tables))

    def prefixes_count(self) -> int:
        return len(self._prefixes)

    # -- what clients read

    def remember(self, tracker: Tracker, keys: Iterable[bytes]) -> None:
        """The client is about to read `keys`."""
        if tracker.skips or tracker.bcast:
            return
        client = tracker.connection.session.id
        for key in keys:
            shard = self._shard_of_slot[slot_of(key)]
            table = self._tables[shard]
            holders = table.get(key)
            if holders is None:
                holders = table[key] = set()
            if client not in holders:
                holders.add(client)
                self.items += 1
            tracker.holds.add(shard)
        tracker.fresh = True
        self.evict()

    def evict(self) -> None:
        """Invalidates some of the keys that are too many."""
        if not self.keys_max or self.keys_count() <= self.keys_max:
            return
        for _ in range(_EVICTIONS):
            table = max(self._tables, key=len)
            key, holders = table.popitem(last=False)
            self.items -= len(holders)
            for client in holders:
                self._invalidate(client, [key])
            if self.keys_count() <= self.keys_max:
                break

    # -- what changes

    def changed(self, shard: int, keys: Iterable[tuple[bytes, bytes]], *, whole: bool = False) -> None:
        """`keys` of `shard` were written, each with the mark of the client that did it or none; before that, if
        `whole`, all keys of the shard went."""
        if whole:
            self._flush(shard, everybody=True)
        table = self._tables[shard]
        for key, mark in keys:
            holders = table.pop(key, None)
            if holders is not None:
                self._tell_holders(table, key, holders, mark)
            if self._lengths:
                self._broadcast(key, mark)

    def _tell_holders(
        self, table: OrderedDict[bytes, set[int]], key: bytes, holders: set[int], mark: bytes
    ) -> None:
        self.items -= len(holders)
        for client in sorted(holders):
            tracker = self.trackers.get(client)
            if tracker is None or tracker.bcast:
                continue
            if tracker.noloop and tracker.mark == mark:
                table.setdefault(key, set()).add(client)
                self.items += 1
            else:
                self._invalidate(client, [key])

    def _broadcast(self, key: bytes, mark: bytes) -> None:
        for length in self._lengths:
            if length > len(key):
                break
            prefix = key[:length]
            if prefix in self._prefixes:
                changes = self._broadcasts.setdefault(prefix, {})
                if changes.setdefault(key, mark) != mark:
                    changes[key] = b""

    def doubt(self, shard: int) -> None:
        """Changes of `shard` may have been missed: whoever may hold keys of it forgets all it has."""
        self._flush(shard, everybody=False)

    def _flush(self, shard: int, *, everybody: bool) -> None:
        table = self._tables[shard]
        self.items -= sum(map(len, table.values()))
        table.clear()
        for client, tracker in list(self.trackers.items()):
            if not (tracker.bcast or shard in tracker.holds or (everybody and tracker.fresh)):
                continue
            if client not in self._emptied:
                self._emptied.add(client)
                self._invalidate(client, None)
            tracker.fresh = False
            if tracker.redirect:  # a value may still be on its way beside this
                tracker.holds.discard(shard)
            else:
                tracker.holds.clear()

    # -- telling

    def end_turn(self) -> None:
        """Sends what was gathered for clients in broadcasting mode."""
        self._emptied.clear()
        if not self._broadcasts:
            return
        broadcasts, self._broadcasts = self._broadcasts, {}
        for prefix, changes in broadcasts.items():
            for client in self._prefixes.get(prefix, ()):
                tracker = self.trackers[client]
                if tracker.noloop:
                    keys = [key for key, mark in changes.items() if mark != tracker.mark]
                else:
                    keys = list(changes)
                if keys:
                    self._invalidate(client, keys)

    def _invalidate(self, client: int, keys: Keys) -> None:
        """Tells the client, or the one it has named for that, if there is a way to tell."""
        tracker = self.trackers.get(client)
        if tracker is None:
            return
        connection = tracker.connection
        if tracker.redirect:
            target = self._clients.get(tracker.redirect)
            if target is None or target.closing:
                tracker.broken = True
                if connection.session.protocol == 3:
                    broken = encode(Push([b"tracking-redir-broken", tracker.redirect]), 3)
                    self._outbox.push(connection, broken)
                return
            connection = target
        session = connection.session
        if session.protocol == 3:
            self._outbox.push(connection, encode(Push([b"invalidate", keys]), 3))
        elif tracker.redirect and session.subscriptions is not None:
            items = [b"message", _CHANNEL, keys]
            self._outbox.push(connection, encode(Push(items), 2))
