"""Tells in the node's log whom a replica follows: a person who reads one node's log sees each change of leader there.

A leader tells of itself (`leader_elected`). A learner does not notice that its leader is gone, and tells nothing then.
"""

from __future__ import annotations

import structlog

from respkv.raft.group import Group

log = structlog.get_logger()


class LeaderNews:
    """For one replica. Times are in seconds of any one clock.

    Args:
        missed_s: how long there must have been no leader before that is told.
    """

    def __init__(self, node: str, missed_s: float, now: float) -> None:
        self._node = node
        self._missed_s = missed_s
        self._known: tuple[str, int] | None = None
        self._seen_at = now
        self._missing = False

    def look(self, group: Group, now: float) -> None:
        """To be called about once a second, which is how often a change is told at the most."""
        leader = group.leader_id
        if leader is not None and group.elections.prevotes is None:
            self._seen_at, self._missing = now, False
            if self._known != (leader, group.term):
                self._known = (leader, group.term)
                if leader != self._node:
                    log.info("leader_known", shard=group.shard, leader=leader, term=group.term)
        elif not self._missing and now - self._seen_at >= self._missed_s:
            self._known, self._missing = None, True
            log.warning("no_leader", shard=group.shard, term=group.term, missed_s=round(now - self._seen_at, 1))
