"""What proposers of other nodes may send: shapes, commands that exist, replies that a client can be sent.

The most dangerous message of all is a forwarded batch: what is in it goes into the log, and is applied by every replica
now and after each restart. So it is checked here by the node that is about to propose it, and by each follower that is
about to take the entry: it can be decoded; the commands exist, may be replicated and have a right number of arguments;
columns of puts belong together. The records of puts are not parsed (that would cost a tenth of all that a follower
does): their CRC was made where the client is and is verified when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from respkv.border import BadMessage, Count, Shape, require
from respkv.cluster.slots import SLOTS
from respkv.raft.log import ShardLog
from respkv.raft.long import LAST, LAST_HEAD_BYTES, pieces_before
from respkv.reply import LongBulk, NullArray, RespError, Simple, Verbatim
from respkv.shard.batch import Entry, Guarded, Ops, Puts, Run, decode_entry, decode_runs
from respkv.shard.long import LongRun, decode_head, decode_long_runs, values_of
from respkv.shard.transaction import EXEC_OP

FORWARD = 20  # shard, request, term or -1, runs
FORWARDED = 21  # shard, request, status, values or (leader, term)
READ = 22  # shard, request, term or -1, commands
READ_DONE = 23  # shard, request, status, values or (leader, term), parts of the long values if there are any
FORWARD_LONG = 24  # shard, request, term or -1, runs, body; answered by FORWARDED
READ_LATER = 25  # shard, request, bytes that will take their time

APPLIED, REFUSED, FAILED = 0, 1, 2

Possible = Callable[[list[bytes]], bool]

_Term = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)]
_Args = Annotated[list[bytes], msgspec.Meta(min_length=1)]
Hint = tuple[str, int] | None

_PLAIN_REPLIES: Final = frozenset((bytes, int, type(None), bool, float, RespError, NullArray, LongBulk))


class Forward(Shape):
    request: Count
    term: _Term
    runs: bytes


class ForwardLong(Forward):
    body: list[bytes]


class Outcome(Shape):
    request: Count
    status: Literal[0, 1, 2]
    content: Any
    parts: list[bytes] = msgspec.field(default_factory=list)


class Later(Shape):
    request: Count
    value_bytes: Count


class Reads(Shape):
    request: Count
    term: _Term
    commands: list[_Args]


SHAPES: Final[dict[int, type[Shape]]] = {
    FORWARD: Forward,
    FORWARDED: Outcome,
    READ: Reads,
    READ_DONE: Outcome,
    FORWARD_LONG: ForwardLong,
    READ_LATER: Later,
}


def check(message: Any) -> None:
    """Raises BadMessage unless a proposer may say `message` (a list that begins with an int).

    What is to be run is left to `checked_runs` and `check_commands`, for the node that runs it.
    """
    require(message, SHAPES)
    if message[0] in (FORWARDED, READ_DONE):
        _check_outcome(message[3], message[4])
        if message[3] == APPLIED:
            _check_parts(message[4], message[5] if len(message) > 5 else [])


def check_commands(commands: list[list[bytes]], possible: Possible) -> None:
    """Raises BadMessage unless the machine can run each."""
    for args in commands:
        if not args or not possible(args):
            raise BadMessage(f"a command that cannot be: {args[:1]!r:.60} with {len(args)} words")


def check_append(
    log: ShardLog, message: Sequence[Any], possible: Possible, decoded: Callable[[int, bytes, Entry], None]
) -> None:
    """Raises BadMessage for entries of a leader that could not be applied here: they must not get into the log. What
    was decoded to find out is handed to `decoded(index, command, entry)`.

    An `APPEND` that does not follow what is in the log is refused by the group, which asks for what comes before."""
    _, _, _, _, prev, prev_term, _, entries = message
    if prev > log.last_index or log.term_at(prev) not in {None, prev_term}:
        return
    new_from = None  # from the first entry that is not there on, all go into the log
    for position, (command, index, term) in enumerate(entries):
        if new_from is None:
            if index <= log.base_index or log.term_at(index) == term:
                continue
            new_from = position
        try:
            if command[0] == 0:
                entry = decode_entry(command)
                _check_runs(entry.runs, possible)
                decoded(index, command, entry)
            elif command[0] == LAST:
                pieces = pieces_before(log, entries, position, new_from)
                if pieces is None:
                    raise BadMessage(f"Append: entry {index} ends a long command that is not there")
                _check_long(command[LAST_HEAD_BYTES:], pieces, possible)
        except (ValueError, RecursionError) as error:
            raise BadMessage(f"Append: entry {index}: {error}") from None


def _check_long(head: bytes, pieces: list[memoryview], possible: Possible) -> None:
    """Raises BadMessage or ValueError for a long command that cannot be applied."""
    if head:
        runs = decode_head(head).runs
        for _ in values_of(runs, pieces):
            pass
        _check_runs(runs, possible)
        return
    command = b"".join(pieces)
    if not command:
        raise BadMessage("Append: a command without a byte")
    if command[0] == 0:
        _check_runs(decode_entry(command).runs, possible)


def checked_runs(encoded: bytes, possible: Possible) -> list[Run]:
    """The runs of a forwarded batch. Raises BadMessage for what must not get into the log."""
    try:
        runs = decode_runs(encoded)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadMessage(f"Forward: {error}") from None
    _check_runs(runs, possible)
    return runs


def checked_long_runs(encoded: bytes, body: list[bytes], possible: Possible) -> list[LongRun]:
    """The same for a batch with long values, which are in `body`."""
    try:
        runs = decode_long_runs(encoded)
        for _ in values_of(runs, [memoryview(part) for part in body]):
            pass
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"ForwardLong: {error}") from None
    _check_runs(runs, possible)
    return runs


def _check_runs(runs: Sequence[LongRun], possible: Possible) -> None:
    for run in runs:
        if isinstance(run, Puts):
            _check_puts(run)
        elif isinstance(run, Ops):
            check_commands(run.commands, possible)
            if type(run) is Guarded and [args[0] for args in run.commands] != [EXEC_OP]:
                raise BadMessage("a guarded run that is not one transaction")
        elif not (0 <= run.slot < SLOTS and run.value_bytes >= 0):
            raise BadMessage("a long value in a slot, or of a size, that cannot be")


def _check_puts(puts: Puts) -> None:
    if not len(puts.slots) == len(puts.keys) == len(puts.sizes) or sum(puts.sizes) != len(puts.records):
        raise BadMessage("columns of different lengths")


def _check_outcome(status: int, content: Any) -> None:
    if status == APPLIED:
        if type(content) is not list:
            raise BadMessage("Outcome: the replies are no list")
        check_replies(content)
    elif status == FAILED:
        if type(content) is not RespError:
            raise BadMessage("Outcome: the failure is no error")
    else:
        try:
            msgspec.convert(content, Hint)
        except msgspec.ValidationError as error:
            raise BadMessage(f"Outcome: {error}") from None


def _check_parts(values: list[Any], parts: list[bytes]) -> None:
    """The parts are those of the long values, which come without them."""
    long = [value for value in values if type(value) is LongBulk]
    if sum(value.value_bytes for value in long) != sum(map(len, parts)) or any(value.parts for value in long):
        raise BadMessage("Outcome: the parts are not those of the long values")


def check_replies(replies: Iterable[Any]) -> None:
    """Raises BadMessage unless each can be written to a client as it is."""
    others = set(map(type, replies)) - _PLAIN_REPLIES
    if not others:
        return
    for reply in replies:
        kind = type(reply)
        if kind is list:
            check_replies(reply)
        elif kind is dict:
            check_replies(reply)
            check_replies(reply.values())
        elif kind is Simple:
            if b"\r" in reply.text or b"\n" in reply.text:
                raise BadMessage("Outcome: a line break in a simple string")
        elif kind is Verbatim:
            if len(reply.format) != 3:
                raise BadMessage("Outcome: a verbatim string without its format")
        elif kind not in _PLAIN_REPLIES:
            raise BadMessage(f"Outcome: {kind.__name__} is no reply")


def require_count(values: Sequence[Any], count: int, least: int | None = None) -> None:
    """Raises BadMessage unless there are as many replies as commands were sent (or from `least` up to as many)."""
    if not (count if least is None else least) <= len(values) <= count:
        raise BadMessage(f"Outcome: {len(values)} replies to {count} commands")
