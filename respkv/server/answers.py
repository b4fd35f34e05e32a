"""Answers that are known already: the replies to GETs, by the very bytes that asked for them.

Most reads ask for what was asked for before, in the same words. Then nothing has to be taken apart, looked up and put
together again: the bytes of the request lead to the bytes of the reply. A reply is known as long as its value is in
the read cache of its shard (`respkv.storage.cache`), which counts it in its limit, and is given only while this node
has the leases of all shards that have replies here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from respkv.resp.lone import get_chunks
from respkv.shard.proposer import Proposer

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

    def add(self, proposer: Proposer, chunk: bytes, reply: bytes) -> None:
        """`reply` is what `chunk`, a GET, is to be answered with the value that `proposer` has just read."""
        if proposer.cache.limit_bytes:  # then the value is in there
            self._replies[chunk] = reply
            self._shards.add(proposer)

    def _forget(self, key: bytes | None) -> None:
        if key is None:
            self._replies.clear()
            self._shards.clear()
            return
        for chunk in get_chunks(key):
            self._replies.pop(chunk, None)
