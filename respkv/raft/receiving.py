"""What a follower does with a leader's `APPEND`, and when it answers.

The library would truncate a log that matches, trust a commit index beyond what was compared, and answer before the
disk has anything. So it is shown only the part of a message that the log lacks (behind an entry that is known to be the
same), and its answers wait here until the entries and the term that they reflect are on the disk.
"""

from __future__ import annotations

from collections.abc import Callable

from respkv.raft.core import Core
from respkv.raft.log import Entry
from respkv.raft.messages import ACK, Message


class LogDivergence(Exception):
    """A leader contradicts an entry that was already applied: no state here can be trusted. Fatal to the node."""


class Receiving:
    """The log of one follower against that of its leader.

    Attributes:
        verified: up to where the log is known to be that of the present leader.
    """

    def __init__(self, shard: int, core: Core, send: Callable[[str, Message], None]) -> None:
        self.verified = 0
        self._shard = shard
        self._core = core
        self._send = send
        self._held: dict[str, tuple[int, int, float]] = {}
        self._echo = 0.0
        self._reject: int | None = None

    def on_append(self, name: str, message: Message) -> None:
        """An `APPEND` of the leader of this term or a later one.

        Raises:
            LogDivergence: it contradicts an applied entry; the node must stop.
        """
        core, shard_log = self._core, self._core.log
        _, _, term, commit, prev, prev_term, sent, entries = message
        if term > core.term or core.leader_id != name:
            self.verified = 0
        self._echo = sent
        base, last = shard_log[0][1], shard_log[-1][1]
        if prev < base:  # trimmed here, so committed, so the same
            skip = base - prev
            prev, prev_term, entries = base, shard_log[0][2], entries[skip:]
        self._reject = None
        if prev > last or shard_log[prev - base][2] != prev_term:
            self._reject = self._where_to_resume(prev)
            entries, commit = [], 0
        else:
            self.verified = max(self.verified, prev + len(entries))
            commit = min(commit, self.verified)
            entries = self._new_entries(entries)
        previous = shard_log[entries[0][1] - 1 - base if entries else -1]
        core.take(
            name,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": previous[1],
                "prevLogTerm": previous[2],
                "entries": entries,
            },
        )

    def refuse(self, name: str, sent: float) -> None:
        """An `APPEND` of an earlier term: its leader is told that there is a later one."""
        self._send(name, (ACK, self._shard, self._core.term, 0, False, False, sent))

    def _new_entries(self, entries: list[Entry]) -> list[Entry]:
        """The part of matching `entries` that the log lacks; the library truncates from its first element on."""
        shard_log = self._core.log
        base, last = shard_log[0][1], shard_log[-1][1]
        for position, entry in enumerate(entries):
            index = entry[1]
            if index > last:
                return entries[position:]
            if shard_log[index - base][2] != entry[2]:
                self._check_not_applied(index)
                return entries[position:]
        return []

    def _where_to_resume(self, prev: int) -> int:
        """The index from which the leader should send: behind our log, or where the conflicting term began."""
        shard_log, applied = self._core.log, self._core.applied
        base, last = shard_log[0][1], shard_log[-1][1]
        if prev > last:
            return last + 1
        self._check_not_applied(prev)
        term = shard_log[prev - base][2]
        while prev > base + 1 and shard_log[prev - 1 - base][2] == term and prev - 1 > applied:
            prev -= 1
        return prev

    def _check_not_applied(self, index: int) -> None:
        if index <= self._core.applied:
            raise LogDivergence(f"shard {self._shard}: the leader's entry {index} contradicts an applied one")

    # -- answers

    def acknowledge(self, name: str, next_index: int) -> None:
        """The library acknowledges everything before `next_index`: as far as that is verified and on the disk."""
        log, term, sent = self._core.log, self._core.term, self._echo
        if self._reject is not None:
            if log.state_durable:
                self._send(name, (ACK, self._shard, term, self._reject, False, True, sent))
            return
        next_index = min(next_index, self.verified + 1)
        if log.state_durable and next_index - 1 <= log.durable:
            self._held.pop(name, None)
            self._send(name, (ACK, self._shard, term, next_index, True, False, sent))
            return
        held = self._held.get(name)
        self._held[name] = (next_index, term, sent)
        if held is not None and held[0] == next_index and log.state_durable:
            # A heartbeat while the disk is slow: say that we are alive, and how far the disk is.
            self._send(name, (ACK, self._shard, term, min(log.durable, self.verified) + 1, True, False, sent))

    def durable_moved(self) -> None:
        """More of the log, or the term, is on the disk."""
        log, current = self._core.log, self._core.term
        for name, (next_index, term, sent) in list(self._held.items()):
            if term != current:
                del self._held[name]
            elif log.state_durable:
                durable_next = min(log.durable, self.verified) + 1
                if durable_next >= next_index:
                    del self._held[name]
                self._send(name, (ACK, self._shard, term, min(durable_next, next_index), True, False, sent))

    def start_over(self) -> None:
        """The log was lost."""
        self.verified = 0
        self._reject = None
        self._held.clear()

    def link_down(self, name: str) -> None:
        self._held.pop(name, None)
