"""The snapshots that a leader sends: one transfer per follower that is too far behind (`respkv.raft.snapshot`).

Which followers need one, `Group.snapshot_wanted` says. Whether the files may be copied is for the caller to decide
between `supervise` and `begin`. All transfers end with the lead.
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


class Snapshots:
    """Those under way from this replica."""

    def __init__(self, group: Group, *, send: Callable[[str, Any], bool], now: Callable[[], float]) -> None:
        self.senders: dict[str, SnapshotSender] = {}
        self._group = group
        self._send = send
        self._now = now

    def supervise(self) -> set[str]:
        """Drops transfers that are over or stalled; the followers that need one and have none."""
        now = self._now()
        for peer, sender in list(self.senders.items()):
            sender.tick(now)
            if sender.finished:
                del self.senders[peer]
        return self._group.snapshot_wanted - self.senders.keys() if self._group.leader else set()

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
        """The link to `peer` is gone, and with it what was under way."""
        sender = self.senders.pop(peer, None)
        if sender is not None:
            sender.stop()

    def stop(self) -> None:
        for sender in self.senders.values():
            sender.stop()
        self.senders.clear()
