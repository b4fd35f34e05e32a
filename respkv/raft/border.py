"""The shapes of what replicas say to each other: see `respkv.border` and, for the meaning of the fields, `messages`."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from respkv.border import BadMessage, Count, Seconds, Shape, require
from respkv.raft import messages
from respkv.raft.log import Standing

LIFE_LENGTH_MAX = 100
FILES_MAX = 4096  # of one snapshot: each is an open descriptor of the receiver

_Command = Annotated[bytes, msgspec.Meta(min_length=1)]
_FileName = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,99}\Z")]


class Append(Shape):
    term: Count
    commit: Count
    prev_index: Count
    prev_term: Count
    sent: Seconds
    entries: list[tuple[_Command, Count, Count]]


class Ack(Shape):
    term: Count
    next_index: Count
    success: bool
    reset: bool
    sent: Seconds


class Vote(Shape):
    term: Count
    last_index: Count
    last_term: Count
    forced: bool


class OfTerm(Shape):
    term: Count


class Prevote(Shape):
    term: Count
    last_index: Count
    last_term: Count


class Prevoted(Shape):
    term: Count
    granted: bool


class Aside(Shape):
    pass


class SnapshotBegin(Shape):
    transfer: Count
    term: Count
    index: Count
    index_term: Count
    files: Annotated[list[tuple[_FileName, Count]], msgspec.Meta(min_length=1, max_length=FILES_MAX)]


class SnapshotChunk(Shape):
    transfer: Count
    number: Count
    position: Count
    offset: Count
    data: bytes


class SnapshotEnd(Shape):
    transfer: Count
    chunks: Count


class SnapshotAck(Shape):
    transfer: Count
    chunks: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)]


class Introduce(Shape):
    question: Count
    life: Annotated[str, msgspec.Meta(min_length=1, max_length=LIFE_LENGTH_MAX)]
    standing: Annotated[int, msgspec.Meta(ge=int(min(Standing)), le=int(max(Standing)))]


class Introduced(Shape):
    question: Count
    known_otherwise: bool
    term: Count
    last_index: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)]


SHAPES: Final[dict[int, type[Shape]]] = {
    messages.APPEND: Append,
    messages.ACK: Ack,
    messages.VOTE: Vote,
    messages.VOTED: OfTerm,
    messages.PREVOTE: Prevote,
    messages.PREVOTED: Prevoted,
    messages.TIMEOUT_NOW: OfTerm,
    messages.ASIDE: Aside,
    messages.SNAPSHOT_BEGIN: SnapshotBegin,
    messages.SNAPSHOT_CHUNK: SnapshotChunk,
    messages.SNAPSHOT_END: SnapshotEnd,
    messages.SNAPSHOT_ACK: SnapshotAck,
    messages.INTRODUCE: Introduce,
    messages.INTRODUCED: Introduced,
}


def check(message: Any) -> None:
    """Raises BadMessage unless a replica may say `message` (a list that begins with an int)."""
    require(message, SHAPES)
    if message[0] == messages.APPEND:
        _, _, term, _, index, entry_term, _, entries = message
        _check_entries(term, index, entry_term, entries)
    elif message[0] == messages.SNAPSHOT_BEGIN:
        names = [name for name, _ in message[6]]
        if len(set(names)) != len(names):
            raise BadMessage("SnapshotBegin: a file is there twice")


def _check_entries(term: int, index: int, entry_term: int, entries: list[Any]) -> None:
    """Entries follow each other and what comes before them, in terms that never fall and end at the sender's."""
    for _, own_index, own_term in entries:
        index += 1
        if own_index != index or own_term < entry_term:
            raise BadMessage(f"Append: entry {own_index} of term {own_term} at {index} behind term {entry_term}")
        entry_term = own_term
    if entry_term > term:
        raise BadMessage(f"Append: an entry of term {entry_term} from a leader of term {term}")
