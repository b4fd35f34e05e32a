"""The border: every kind of message has a shape, what nodes say passes, what they never say does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from respkv.border import BadMessage
from respkv.raft import border as raft_border
from respkv.raft import messages
from respkv.raft.log import NO_OP, ShardLog
from respkv.raft.long import LAST, PIECE
from respkv.reply import LongBulk, RespError, Simple, Verbatim
from respkv.shard import border
from respkv.shard.batch import Entry, Guarded, Ops, Puts, encode_entry, encode_runs
from respkv.shard.long import LongEntry, LongPut, encode_head
from respkv.shard.machine import EXPIRE_OP, Machine
from respkv.shard.transaction import EXEC_OP, Watched, exec_args
from respkv.storage.record import encode_puts

ENTRIES = [(NO_OP, 1, 0), (bytes([PIECE]) + b"a", 2, 3), (b"\x01", 3, 3), (bytes([PIECE]) + b"b", 4, 3)]


def check_append(entries: list[Any], prev_term: int = 3, more: Sequence[Any] = ()) -> None:
    """An APPEND comes to a replica whose log holds `ENTRIES`, the first of them as its base, and `more`."""
    log = ShardLog(0, [], lambda _: None)
    for entry in (*ENTRIES[1:], *more):
        log.add(*entry)
    message = (messages.APPEND, 0, 5, 1, entries[0][1] - 1, prev_term, 0.0, entries)
    border.check_append(log, message, Machine.can_apply, lambda *_: None)


def puts(**changes: Any) -> Puts:
    sizes, records = encode_puts([b"a", b"b"], [b"1", b"2"])
    return Puts(**{"slots": [1, 2], "keys": [b"a", b"b"], "sizes": sizes, "records": records} | changes)


def append(entries: list[Any], term: int = 3, prev: int = 4, prev_term: int = 3) -> list[Any]:
    return [messages.APPEND, 0, term, 0, prev, prev_term, 1.0, entries]


def test_every_kind_of_message_has_a_shape() -> None:
    def kinds(module: Any) -> set[int]:
        return {value for name, value in vars(module).items() if name.isupper() and type(value) is int}

    assert kinds(messages) == set(raft_border.SHAPES)
    assert {kind for kind in kinds(border) if 20 <= kind < 30} == set(border.SHAPES)


GOOD = [
    append([]),
    append([[b"\x01", 5, 3], [b"\x00x", 6, 3]]),
    [messages.ACK, 0, 3, 5, True, False, 0.5],
    [messages.VOTE, 0, 3, 4, 3, False],
    [messages.SNAPSHOT_BEGIN, 0, 1, 3, 9, 3, [["000001-000004.2.data", 100]]],
    [messages.SNAPSHOT_ACK, 0, 1, -1],
    [messages.ASIDE, 0],
]
BAD = [
    [99, 0],
    [messages.ASIDE, 0, 1],
    [messages.VOTED, 0],
    [messages.VOTED, 0, 3, 4],
    [messages.VOTED, 0, -1],
    [messages.VOTED, 0, 1 << 62],
    [messages.VOTED, 0, "3"],
    [messages.VOTED, 0, 3.5],
    [messages.VOTED, 0, True],
    [messages.PREVOTED, 0, 3, 1],
    [messages.ACK, 0, 3, 5, True, False, float("inf")],
    [messages.ACK, 0, 3, 5, True, False, float("nan")],
    append([[b"", 5, 3]]),
    append([["x", 5, 3]]),
    append([[b"\x01", 5]]),
    append([[b"\x01", 6, 3]]),
    append([[b"\x01", 5, 3], [b"\x01", 7, 3]]),
    append([[b"\x01", 5, 2]]),
    append([[b"\x01", 5, 4]]),
    append([], prev_term=4),
    *([messages.SNAPSHOT_BEGIN, 0, 1, 3, 9, 3, [[name, 1]]] for name in ("", "..", "a/b", "a\0b", "a\n", "x" * 200)),
    [messages.SNAPSHOT_BEGIN, 0, 1, 3, 9, 3, [["a", 1], ["a", 1]]],
    [messages.SNAPSHOT_BEGIN, 0, 1, 3, 9, 3, []],
    [messages.SNAPSHOT_CHUNK, 0, 1, 0, -1, 0, b""],
    [messages.SNAPSHOT_CHUNK, 0, 1, 0, 0, -5, b""],
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: repr(message)[:40])
def test_what_replicas_say_passes(message: list[Any]) -> None:
    raft_border.check(message)


@pytest.mark.parametrize("message", BAD, ids=lambda message: repr(message)[:40])
def test_what_no_replica_says_is_refused(message: list[Any]) -> None:
    with pytest.raises(BadMessage):
        raft_border.check(message)


def commands(*args: list[bytes]) -> bytes:
    return encode_runs([Ops(list(args))])


TRANSACTION = exec_args([Watched(b"k", b"", 1)], [[b"INCR", b"n"]])

BAD_RUNS = [
    b"",
    b"\xff",
    b"\x91" * 100_000,
    encode_runs([puts(slots=[1])]),
    encode_runs([puts(slots=[1, 16384])]),
    encode_runs([puts(slots=[1, -1])]),
    encode_runs([puts(records=b"short")]),
    encode_runs([puts(sizes=[2, 42])]),
    commands([]),
    commands([b"NOSUCH"]),
    commands([b"GET"]),
    commands([b"SET", b"a"]),
    commands([b"PING"]),
    commands([b"FLUSHALL"], [b"SHUTDOWN"]),
    commands([EXEC_OP, b"\xc1"]),
    encode_runs([Guarded([])]),
    encode_runs([Guarded([[b"INCR", b"n"]])]),
    encode_runs([Guarded([TRANSACTION, TRANSACTION])]),
]


@pytest.mark.parametrize("runs", BAD_RUNS, ids=lambda runs: repr(runs)[:40])
def test_what_cannot_be_applied_gets_into_no_log(runs: bytes) -> None:
    """Neither of the leader, forwarded, nor of a follower, in an entry."""
    with pytest.raises(BadMessage):
        border.checked_runs(runs, Machine.can_apply)
    if runs[:1] == b"\x91" and len(runs) < 1000:
        entry = b"\x00\x94\x01\x02\x90" + runs
        with pytest.raises(BadMessage):
            check_append([(entry, 5, 3)])


def test_what_can_be_applied_passes() -> None:
    runs = [puts(), Ops([[b"INCR", b"n"], [EXPIRE_OP, b"a"], [b"GET", b"a"], TRANSACTION]), Guarded([TRANSACTION])]
    assert border.checked_runs(encode_runs(runs), Machine.can_apply) == runs
    check_append([(encode_entry(Entry(1, 2, [], runs)), 5, 3)])


@pytest.mark.parametrize(
    ("entries", "whole"),
    [
        ([(bytes([LAST, 1, 0, 0, 0]), 5, 3)], True),  # its piece is in the log
        ([(bytes([LAST, 2, 0, 0, 0]), 5, 3)], False),  # the entry before that is none
        ([(bytes([LAST, 1, 0, 0, 0]), 5, 4)], False),  # of another term
        ([(bytes([LAST, 4, 0, 0, 0]), 5, 3)], False),  # the base is none
        ([(bytes([LAST, 255, 255, 255, 255]), 5, 3)], False),
        ([(bytes([LAST]), 5, 3)], False),
        ([(bytes([PIECE]) + b"c", 5, 3), (bytes([LAST, 2, 0, 0, 0]), 6, 3)], True),
        ([(b"\x01", 5, 3), (bytes([LAST, 1, 0, 0, 0]), 6, 3)], False),
        ([(bytes([PIECE]), 3, 3), (bytes([PIECE]), 4, 3), (bytes([LAST, 2, 0, 0, 0]), 5, 3)], False),  # 3 is another
        ([(bytes([LAST, 4, 0, 0, 0]), 4, 3)], True),  # nothing comes of it: there is an entry of that index and term
        ([(bytes([PIECE, 1]), 3, 4), (bytes([LAST, 1, 0, 0, 0]), 4, 4)], True),  # which this one replaces
    ],
)
def test_a_long_command_without_its_pieces_gets_into_no_log(entries: list[Any], whole: bool) -> None:
    if whole:
        check_append(entries)
    else:
        with pytest.raises(BadMessage):
            check_append(entries)


def last(head: bytes, pieces: int = 1) -> bytes:
    return bytes([LAST, pieces, 0, 0, 0]) + head


GOOD = encode_entry(Entry(1, 2, [], [Ops([[b"INCR", b"n"]])]))
BAD = encode_entry(Entry(1, 2, [], [Ops([[b"QUIT"]])]))


@pytest.mark.parametrize(
    ("head", "body", "possible"),
    [
        (b"", [GOOD], True),
        (b"", [GOOD[:5], GOOD[5:]], True),
        (b"", [b""], False),
        (b"", [], False),
        (b"", [b"\0rubbish"], False),
        (b"", [BAD], False),
        (b"", [NO_OP], True),
        (encode_head(LongEntry(1, 2, [], [LongPut(7, b"k", 5)])), [b"12", b"345"], True),
        (encode_head(LongEntry(1, 2, [], [LongPut(7, b"k", 5)])), [b"12", b"3456"], False),
        (encode_head(LongEntry(1, 2, [], [LongPut(7, b"k", 5)])), [b"12"], False),
        (encode_head(LongEntry(1, 2, [], [LongPut(7, b"k", 2)])), [b"12", b"345"], False),
        (encode_head(LongEntry(1, 2, [], [LongPut(7, b"k", 1), Ops([[b"QUIT"]])])), [b"1"], False),
        (b"rubbish", [b"1"], False),
    ],
)
def test_a_long_command_that_cannot_be_applied_gets_into_no_log(head: bytes, body: list[bytes], possible: bool) -> None:
    pieces = [(bytes([PIECE]) + part, 5 + number, 3) for number, part in enumerate(body)]
    end = (last(head, len(body)), 5 + len(body), 3)
    for sent, known in (([*pieces, end], []), ([end], pieces)):  # all at once, and its end behind the rest
        if possible:
            check_append(sent, more=known)
        else:
            with pytest.raises(BadMessage):
                check_append(sent, more=known)


def test_what_comes_behind_an_entry_that_is_replaced_is_judged_even_if_the_log_has_its_like() -> None:
    """The log is cut there, and takes all that follows."""
    with pytest.raises(BadMessage):
        check_append([(b"\x01", 4, 4), (b"\0rubbish", 5, 5)], more=[(b"\x01", 5, 5)])
    check_append([(b"\x01", 4, 3), (b"\0rubbish", 5, 5)], more=[(b"\x01", 5, 5)])


def test_what_the_log_will_refuse_for_what_comes_before_is_no_bad_message() -> None:
    """Its leader lacks what is in this log, or has more: the end of a long command has other entries before it here."""
    check_append([(bytes([LAST, 1, 0, 0, 0]), 5, 4)], prev_term=4)
    check_append([(bytes([LAST, 3, 0, 0, 0]), 7, 4)], prev_term=4)


@pytest.mark.parametrize(
    "outcome",
    [
        [0, None], [0, b"OK"], [0, ["text"]], [0, [[[{b"a": "text"}]]]], [0, [Simple(b"a\r\nb")]],
        [0, [Verbatim(b"", b"")]],
        [0, [LongBulk(3, [])]], [0, [b"x"], [b"parts"]], [1, []], [1, ["n1"]], [1, [1, 2]], [2, None], [2, b"ERR"],
        [3, None], [-1, None], [True, None],
    ],
    ids=lambda outcome: re.sub(" at 0x.*?>", ">", repr(outcome)),
)  # fmt: skip
def test_what_no_client_can_be_sent_is_refused(outcome: list[Any]) -> None:
    with pytest.raises(BadMessage):
        border.check([border.FORWARDED, 0, 1, *outcome])


def test_outcomes_pass() -> None:
    for outcome in ([0, [b"x", 1, None, [Simple(b"OK"), {b"a": 1.5}]]], [1, None], [1, ["n1", 4]], [2, RespError("X")]):
        border.check([border.FORWARDED, 0, 1, *outcome])
    border.check([border.READ_DONE, 0, 1, 0, [LongBulk(5, [])], [b"par", b"ts"]])
