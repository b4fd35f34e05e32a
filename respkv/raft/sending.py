"""What a leader sends its followers: heartbeats and entries, within a window for each of them.

At most `WINDOW_BYTES` are on the way to a follower without its acknowledgement, in messages of about `MESSAGE_BYTES`
(one entry at least), so a follower that lags or does not answer costs its leader a window and no more. One that needs
entries which are trimmed is named in `snapshot_wanted` and gets heartbeats alone.

What is lost on the way is found by the next heartbeat, which names the last entry sent: the follower asks for what it
lacks. While the window is full heartbeats do without that, as they may overtake a long message, until nothing has been
acknowledged for `LOST_AFTER_S`.

How far the followers may apply, every message says. When the last entry of the log is applied and no further one is to
be sent, an early heartbeat says so, so that whoever hears of a write and asks a follower then finds it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pysyncobj.node import Node

from respkv.raft.clock import NEVER, Clock
from respkv.raft.core import Core
from respkv.raft.log import Entry, ShardLog
from respkv.raft.messages import APPEND, Message

WINDOW_BYTES = 8 << 20
MESSAGE_BYTES = 1 << 20
IN_A_ROW_S = 0.01  # entries that leave sooner behind one another are told of by the next one, or at the tick
LOST_AFTER_S = 5.0
LOST_AFTER_MAX_S = 60.0


class _Window:
    """What one follower was sent and has not acknowledged.

    back_at     when it last asked for something once more
    moved_at    when it last acknowledged something, or was sent something after it had acknowledged everything
    patience_s  how long after that what is on the way seems lost; twice as long each time in a row, up to a minute
    """

    __slots__ = ("back_at", "bytes", "moved_at", "patience_s", "sent")

    def __init__(self) -> None:
        self.sent: deque[tuple[int, int]] = deque()
        self.bytes = 0
        self.back_at = self.moved_at = NEVER
        self.patience_s = LOST_AFTER_S

    def add(self, last_index: int, size: int, now: float) -> None:
        if not self.sent:
            self.moved_at = now
        self.sent.append((last_index, size))
        self.bytes += size

    def acknowledged(self, index: int) -> None:
        if self.sent and self.sent[0][0] <= index:
            self.moved_at = Clock.now()
            self.patience_s = LOST_AFTER_S
            while self.sent and self.sent[0][0] <= index:
                self.bytes -= self.sent.popleft()[1]

    def seems_lost(self, now: float) -> bool:
        """Whether to ask the follower what it has, even if more is on the way."""
        if now < self.moved_at + self.patience_s:
            return False
        self.moved_at = now
        self.patience_s = min(2 * self.patience_s, LOST_AFTER_MAX_S)
        return True

    def clear(self) -> None:
        self.sent.clear()
        self.bytes = 0
        self.patience_s = LOST_AFTER_S


class Sending:
    """The followers of one leader."""

    def __init__(self, shard: int, core: Core, others: list[str], send: Callable[[str, Message], None]) -> None:
        self.snapshot_wanted: set[str] = set()
        self._shard = shard
        self._core = core
        self._send = send
        self._windows = {name: _Window() for name in others}
        self.promised = 0  # up to here entries are applied, or will be before the lease goes on
        self._told = 0  # how far the newest message has told followers to apply
        self._fed_at = NEVER
        self._in_a_row = False  # the newest entries left soon after those before them

    def start_over(self) -> None:
        """Leadership was gained or lost."""
        self.promised = self._told = 0
        self.snapshot_wanted.clear()
        for window in self._windows.values():
            window.clear()

    def link_up(self, name: str) -> None:
        """What was on the way is lost: it is sent again from what the follower has, or from the log's end."""
        core = self._core
        self._windows[name].clear()
        if core.leader:
            core.next[core.nodes[name]] = (core.matched(name) or core.log[-1][1]) + 1

    def link_down(self, name: str) -> None:
        self._windows[name].clear()

    # -- out

    def feed(self) -> None:
        """Sends the connected followers the new entries."""
        core = self._core
        if not core.nodes:
            return
        last, following, connected = core.log[-1][1], core.next, core.connected_nodes
        hungry = [(name, node) for name, node in core.nodes.items() if following[node] <= last and node in connected]
        if hungry:
            now = Clock.now()
            self._in_a_row, self._fed_at = now - self._fed_at < IN_A_ROW_S, now
            for name, node in hungry:
                self._feed(name, node, now, heartbeat=False)
        elif self._told < last and not self._in_a_row and max(core.applied, self.promised) == last:
            self.tell()

    def tell(self) -> None:
        """Tells followers how far to apply. Entries take that along; what none has taken is told at once where they
        are few, and at the next tick where they come in a row: so busy followers are spared a message for each."""
        ready = max(self._core.applied, self.promised)
        if self._told < ready:
            self.heartbeat()
            self._told = ready  # even if nobody is there to hear it

    def heartbeat(self) -> None:
        """A heartbeat to every connected follower, with the entries that it lacks."""
        core, now = self._core, Clock.now()
        core.beat_next_at(now + core.timing.heartbeat)
        for name, node in core.nodes.items():
            if node in core.connected_nodes:
                self._feed(name, node, now, heartbeat=True)

    def _feed(self, name: str, node: Node, now: float, *, heartbeat: bool) -> None:
        core, window = self._core, self._windows[name]
        shard_log = core.log
        base, last, next_index = shard_log[0][1], shard_log[-1][1], core.next[node]
        if next_index <= base:
            self.snapshot_wanted.add(name)
            if heartbeat:
                self._append(name, base, shard_log[0][2], now, [])
            return
        self.snapshot_wanted.discard(name)
        while next_index <= last and window.bytes < WINDOW_BYTES:
            entries, size = _take(shard_log, next_index - base)
            self._append(name, next_index - 1, shard_log[next_index - 1 - base][2], now, entries)
            next_index += len(entries)
            window.add(next_index - 1, size, now)
            core.next[node] = next_index
            heartbeat = False
        if heartbeat:
            if window.bytes >= WINDOW_BYTES and not window.seems_lost(now):
                # It may overtake a long message: say only what the follower has.
                next_index = max(core.matched(name), base) + 1
            self._append(name, next_index - 1, shard_log[next_index - 1 - base][2], now, [])

    def _append(self, name: str, prev_index: int, prev_term: int, now: float, entries: list[Entry]) -> None:
        # Not the commit index: no follower may apply, and its node answer, what a read under our lease does not see
        # yet.
        core = self._core
        self._told = max(core.applied, self.promised)
        self._send(name, (APPEND, self._shard, core.term, self._told, prev_index, prev_term, now, entries))

    # -- back

    def acknowledged(self, name: str, next_index: int, sent: float, *, success: bool, reset: bool) -> None:
        """A follower's answer in this leader's term to what was `sent` then: it has everything before `next_index`, or
        asks for that again. What it asks for behind that was sent in vain, too, and is being sent again already."""
        core, node = self._core, self._core.nodes[name]
        next_before = core.next[node]
        match_before = core.matched(name)
        core.take(name, {"type": "next_node_idx", "next_node_idx": next_index, "success": success, "reset": reset})
        window = self._windows[name]
        if success:
            window.acknowledged(next_index - 1)
            core.next[node] = max(core.next[node], next_before)  # an old answer takes nothing back
            core.raise_match(name, match_before)
        elif sent < window.back_at:
            core.next[node] = next_before
        elif reset:
            window.clear()
            window.back_at = Clock.now()
            if name in core.learners:  # it has less than it had when it acknowledged that
                core.forget_match(name)
            core.next[node] = max(next_index, core.matched(name) + 1)


def _take(shard_log: ShardLog, position: int) -> tuple[list[Entry], int]:
    """Entries from `position` on for one message, and their bytes."""
    end, size = position, 0
    while end < len(shard_log) and (size < MESSAGE_BYTES or end == position):
        size += len(shard_log[end][0]) + 32
        end += 1
    return shard_log[position:end], size
