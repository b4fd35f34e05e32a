"""Answers that are known already: the replies to GETs, by the very bytes that asked for them.

Most reads ask for what was asked for before, in the same words. Then nothing has to be taken apart, looked up and put
together again: the bytes of the request lead to the bytes of the reply. A reply is known as long as its value is at
hand in the read cache of its shard (`respkv.storage.cache`), on whose account it is kept, and counts only while this
node has the leases of all shards that have replies here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from respkv.resp.lone import get_chunks
from respkv.shard.proposer import Proposer
from respkv.storage.cache import ENTRY_BYTES

Find = Callable[[bytes], bytes | None]


def _find_nothing(chunk: bytes) -> None:
    return None


class Answers:
    """Those of one node, about the shards of `proposers`."""

    def __init__(self, proposers: Iterable[Proposer]) -> None:
        self._replies: dict[bytes, bytes] = {}
        self._find: Find = self._replies.get
        self._shards: set[Proposer] = set()
        for proposer in proposers:
            proposer.tell_of_cache(self._forget)

    def __len__(self) -> int:
        return len(self._replies)

    def known_at(self, now: float) -> Find:
        """What leads from a chunk to the reply of the GET that it is, if that is known at `now`."""
        for proposer in self._shards:
            if proposer.lease.lease_until <= now:
                if not proposer.leads:
                    self._forget(None)
                return _find_nothing
        return self._find

    def add(self, proposer: Proposer, key: bytes, chunk: bytes, reply: bytes) -> None:
        """`reply` is what `chunk`, a GET of `key`, is to be answered, for as long as its value is at hand: it is now if
        it was when `proposer` gave it."""
        if proposer.at_hand(key) is not None:
            self._replies[chunk] = reply
            self._shards.add(proposer)
            proposer.cache.charge(len(chunk) + len(reply) + ENTRY_BYTES)

    def _forget(self, key: bytes | None) -> int:
        if key is None:
            self._replies.clear()
            self._shards.clear()
            return 0
        freed = 0
        for chunk in get_chunks(key):
            reply = self._replies.pop(chunk, None)
            if reply is not None:
                freed += len(chunk) + len(reply) + ENTRY_BYTES
        return freed
