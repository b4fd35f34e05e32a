"""The snapshots that a leader sends: one transfer per follower that is too far behind (`respkv.raft.snapshot`).

Which followers need one, `Group.snapshot_wanted` says. Whether the files may be copied is for the caller to decide
between `supervise` and `begin`. All transfers end with the lead.

A follower that has refused one, or did not get it through, is left alone for a while, longer each time: before the next
one all files are verified, and a full disk does not become empty at once.

The log has to hold what comes behind a snapshot until the follower has that, too: else it needs the next one. How far
the log may be trimmed, `trimmable` says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from respkv.raft.group import Group
from respkv.raft.messages import Message
from respkv.raft.snapshot import SnapshotSender
from respkv.storage import Bitcask

log = structlog.get_logger()

RETRY_S = 2.0
RETRY_MAX_S = 60.0
CATCH_UP_S = 30.0  # from a snapshot's arrival on the follower is given what it lacks from the log


class Snapshots:
    """Those under way from this replica."""

    def __init__(self, group: Group, *, send: Callable[[str, Any], bool], now: Callable[[], float]) -> None:
        self.senders: dict[str, SnapshotSender] = {}
        self._delivered: dict[str, tuple[int, float]] = {}  # the index, and until when its follower may catch up
        self._failed: dict[str, tuple[float, float]] = {}  # the wait, and when it ends
        self._group = group
        self._send = send
        self._now = now

    def supervise(self) -> set[str]:
        """Drops transfers that are over or stalled; the followers that need one, have none and could take it now."""
        group, now = self._group, self._now()
        for peer, sender in list(self.senders.items()):
            sender.tick(now)
            if sender.finished:
                del self.senders[peer]
                self._note_end(peer, sender, now)
        if not group.leader:
            return set()
        waiting = {peer for peer, (_, end) in self._failed.items() if now < end}
        return {peer for peer in group.snapshot_wanted - self.senders.keys() - waiting if group.is_connected(peer)}

    def _note_end(self, peer: str, sender: SnapshotSender, now: float) -> None:
        if sender.delivered:
            self._failed.pop(peer, None)
            self._delivered[peer] = (sender.source.index, now + CATCH_UP_S)
            return
        wait, _ = self._failed.get(peer, (RETRY_S / 2, 0.0))
        wait = min(2 * wait, RETRY_MAX_S)
        self._failed[peer] = (wait, now + wait)
        log.warning("snapshot_failed", shard=self._group.shard, peer=peer, next_in_s=wait)

    def trimmable(self, index: int) -> int:
        """Up to where no follower that gets a snapshot, or has just got one, needs the log: `index` at the most."""
        now, matched = self._now(), self._group.matched
        under_way = [sender.source.index for sender in self.senders.values()]
        catching_up = [max(start, matched(peer)) for peer, (start, end) in self._delivered.items() if now < end]
        return min([index, *under_way, *catching_up])

    def begin(self, peers: Iterable[str], cask: Bitcask) -> None:
        """Starts a transfer of what `cask` holds now to each of `peers`, if there are descriptors for that."""
        group = self._group
        for peer in peers:
            try:
                source = cask.snapshot()
            except OSError as error:
                log.warning("snapshot_not_begun", shard=group.shard, peer=peer, reason=str(error))
                return
            log.info("snapshot_sending", shard=group.shard, peer=peer, index=source.index)

            def send(message: Message, peer: str = peer) -> bool:
                return self._send(peer, message)

            transfer = random.getrandbits(48)
            self.senders[peer] = SnapshotSender(group.shard, transfer, group.term, source, send, self._now())

    def acknowledged(self, peer: str, message: Message) -> None:
        """Takes a SNAPSHOT_ACK."""
        sender = self.senders.get(peer)
        if sender is not None:
            sender.acknowledged(message[2], message[3], self._now())

    def drop(self, peer: str) -> None:
        """The link to `peer` is gone, and with it what was under way. It may have room when it is back."""
        self._failed.pop(peer, None)
        sender = self.senders.pop(peer, None)
        if sender is not None:
            sender.stop()

    def stop(self) -> None:
        for sender in self.senders.values():
            sender.stop()
        self.senders.clear()
        self._delivered.clear()
        self._failed.clear()
