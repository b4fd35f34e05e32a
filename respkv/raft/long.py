"""Long commands: those that are too large for one entry travel as several.

Appending, sending, acknowledging and storing half a gigabyte at once would hold everybody up. So a command longer than
`PIECE_BYTES` becomes a run of consecutive entries of one term, and only the last of them has an effect:

| entry   | first byte | then                                                                     |
| ------- | ---------- | ------------------------------------------------------------------------ |
| piece   | 16         | at most `PIECE_BYTES` of the body                                        |
| last    | 17         | number of pieces before it (u32, little endian), then the head           |

With an empty head the body is the command as any other; otherwise head and body are the proposer's business. The leader
appends pieces as its followers keep up. If it loses the lead in between, the run ends without its last entry, and
nothing comes of it on any replica.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from struct import Struct

from respkv.raft.log import Entry, ShardLog

PIECE_BYTES = 1 << 20
UNCOMMITTED_MAX = 16 << 20  # bytes of pieces in the leader's log that no majority has yet
APPEND_BYTES = 4 << 20  # appended per pump

PIECE = 16  # the library has names for the lowest numbers
LAST = 17
_PIECE_MARK = bytes([PIECE])
_LAST_HEAD = Struct("<BI")
LAST_HEAD_BYTES = _LAST_HEAD.size


def cut(parts: Iterable[bytes]) -> Iterator[memoryview]:
    """The same bytes in slices of at most `PIECE_BYTES`; nothing is copied."""
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


class LongAppend:
    """A long command on its way into the leader's log."""

    def __init__(self, parts: Iterable[bytes], head: bytes) -> None:
        self._slices = deque(cut(parts))
        self._head = head
        self._count = len(self._slices)
        self._waiting: deque[tuple[int, int]] = deque()
        self._waiting_bytes = 0

    def index_behind(self, index: int) -> int:
        """The index of its last entry if the log ends at `index` now, before anything of it is appended."""
        return index + self._count + 1

    def advance(self, log: ShardLog, term: int, commit: int) -> tuple[bool, bool]:
        """Appends what may be appended now: (whether that was the end of it, whether more may come at once)."""
        waiting, budget = self._waiting, APPEND_BYTES
        while waiting and waiting[0][0] <= commit:
            self._waiting_bytes -= waiting.popleft()[1]
        while self._slices and budget > 0 and self._waiting_bytes < UNCOMMITTED_MAX:
            budget -= self._add_piece(log, term)
        if self._slices:
            return False, self._waiting_bytes < UNCOMMITTED_MAX
        self._add_last(log, term)
        return True, False

    def finish(self, log: ShardLog, term: int) -> None:
        """Appends all that is left, however much that is."""
        while self._slices:
            self._add_piece(log, term)
        self._add_last(log, term)

    def _add_piece(self, log: ShardLog, term: int) -> int:
        piece = _PIECE_MARK + self._slices.popleft()
        log.add(piece, log[-1][1] + 1, term)
        self._waiting.append((log[-1][1], len(piece)))
        self._waiting_bytes += len(piece)
        return len(piece)

    def _add_last(self, log: ShardLog, term: int) -> None:
        log.add(_LAST_HEAD.pack(LAST, self._count) + self._head, log[-1][1] + 1, term)


def pieces_before(log: ShardLog, entries: list[Entry], position: int, new_from: int) -> list[memoryview] | None:
    """The body of the long command that `entries[position]` ends, in pieces, None if they are not right before it:
    among `entries`, which follow each other and of which those from `new_from` on go into `log`, or there.

    No piece is at the base of the log or before it, as nothing is trimmed before its end is applied."""
    command, index, term = entries[position]
    base, first = log[0][1], entries[0][1]
    if len(command) < LAST_HEAD_BYTES:
        return None
    count: int = _LAST_HEAD.unpack_from(command)[1]
    if index - count <= base:
        return None
    pieces = []
    for number in range(index - count, index):
        piece = entries[number - first] if number - first >= new_from else log[number - base]
        if piece[0][0] != PIECE or piece[2] != term:
            return None
        pieces.append(memoryview(piece[0])[1:])
    return pieces


def collect(log: ShardLog, index: int) -> tuple[bytes, list[memoryview]]:
    """Head and body of the long command whose last entry is `index`.

    Raises:
        ValueError: its pieces are not before it; no leader makes such a log.
    """
    position = index - log[0][1]
    command, _, term = log[position]
    count = _LAST_HEAD.unpack_from(command)[1]
    pieces = log[position - count : position] if count < position else []
    if len(pieces) != count or any(piece[0][0] != PIECE or piece[2] != term for piece in pieces):
        raise ValueError(f"entry {index} ends a long command whose {count} pieces are not before it")
    return command[_LAST_HEAD.size :], [memoryview(piece[0])[1:] for piece in pieces]
