"""What one Raft entry holds, and who waits for it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.reply import RespError
from respkv.shard.batch import (
    Entry,
    Ops,
    Puts,
    count_ops,
    decode_entry,
    decode_puts_run,
    decode_runs,
    encode_entry,
    encode_puts_run,
    encode_runs,
    joined,
)
from respkv.shard.gathering import Gathering
from respkv.shard.waiting import Batch, Part, Read, finish
from respkv.storage.record import encode_puts


class Quiet(Gathering):
    """Proposes nothing by itself."""

    def begun(self) -> None:
        pass


def puts(*pairs: tuple[int, bytes, bytes]) -> Puts:
    keys, values = [key for _, key, _ in pairs], [value for _, _, value in pairs]
    sizes, records = encode_puts(keys, values)
    return Puts([slot for slot, _, _ in pairs], keys, sizes, records)


all_puts = st.lists(st.tuples(st.integers(0, 16383), st.binary(max_size=9), st.binary(max_size=30)), max_size=4).map(
    lambda pairs: puts(*pairs)
)
all_ops = st.lists(st.lists(st.binary(max_size=9), min_size=1, max_size=3), max_size=4).map(Ops)
all_runs = st.lists(all_puts | all_ops, max_size=4)


@given(st.integers(0, 1 << 60), st.integers(0, (1 << 63) - 1), all_runs)
def test_an_entry_is_decoded_as_it_was_encoded(now_ms: int, seed: int, runs: list[Any]) -> None:
    entry = Entry(now_ms, seed, [("n1", 1 << 47, 0, count_ops(runs))], runs)
    command = encode_entry(entry)
    assert command[0] == 0
    decoded = decode_entry(command)
    assert (decoded.now_ms, decoded.seed, decoded.runs) == (now_ms, seed, runs)
    assert [tuple(origin) for origin in decoded.origins] == entry.origins
    assert decode_runs(encode_runs(runs)) == runs


@given(all_runs)
def test_runs_that_are_encoded_already_are_the_same_bytes(runs: list[Any]) -> None:
    entry = Entry(1, 2, [], runs)
    wires = [encode_puts_run(run) if isinstance(run, Puts) else run for run in runs]
    assert encode_entry(entry, wires) == encode_entry(entry)
    assert encode_runs(wires) == encode_runs(runs)
    assert [decode_puts_run(wire) for wire in wires if isinstance(wire, msgspec.Raw)] == [
        run for run in runs if isinstance(run, Puts)
    ]


GATHERED = st.one_of(
    st.tuples(st.just("encoded"), all_puts),
    st.tuples(st.just("put"), st.tuples(st.integers(0, 16383), st.binary(max_size=9), st.binary(max_size=9))),
    st.tuples(st.just("write"), st.lists(st.binary(max_size=9), min_size=1, max_size=3)),
    st.tuples(st.just("seal"), st.none()),
)


@given(st.lists(GATHERED, max_size=12))
def test_what_is_gathered_keeps_its_order_and_what_came_encoded_stays_so(steps: list[tuple[str, Any]]) -> None:
    gathering, part, expected, encoded = Quiet(lambda: 0.0), Part(), list[Any](), 0
    batches = list[Batch]()
    for what, content in steps:
        if what == "seal":
            batches.append(gathering._seal())
        elif what == "encoded":
            gathering.put_encoded([part], content, encode_puts_run(content))
            expected += zip(content.slots, content.keys, strict=True)
            encoded += 1
        elif what == "put":
            gathering.join(part)
            gathering.put(*content)
            expected.append(content[:2])
        else:
            gathering.write(part, 0, content)
            expected.append(content)
    batches.append(gathering._seal())
    found: list[Any] = []
    for batch in batches:
        assert encode_runs(batch.wires) == encode_runs(batch.runs)
        for run in batch.runs:
            found += zip(run.slots, run.keys, strict=True) if isinstance(run, Puts) else run.commands
    assert found == expected
    assert sum(isinstance(wire, msgspec.Raw) for batch in batches for wire in batch.wires) == encoded


@pytest.mark.parametrize("command", [b"\0", b"\0\xc1", b"\0\x94\x01\x02\x90", b"\0\x94\x01\x02\x90\x91\x92\x07\x90"])
def test_a_damaged_entry_is_a_decode_error(command: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_entry(command)


@given(st.lists(all_puts, min_size=1, max_size=4))
def test_joined_runs_are_their_columns_one_after_the_other(runs: list[Puts]) -> None:
    one = joined(runs)
    assert one.keys == [key for run in runs for key in run.keys]
    assert one.slots == [slot for run in runs for slot in run.slots]
    assert sum(one.sizes) == len(one.records)
    assert one.records == b"".join(run.records for run in runs)


def test_only_commands_are_counted_for_replies() -> None:
    assert count_ops([puts((1, b"k", b"v")), Ops([[b"A"], [b"B"]]), puts(), Ops([]), Ops([[b"C"]])]) == 3


class Waiter(Part):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[Any] = []

    def put(self, token: int, value: Any) -> None:
        self.got.append((token, value))

    def fail(self, ok: bytes, error: RespError) -> None:
        self.got.append((ok, error))

    def done(self) -> None:
        self.got.append("done")


def waiting(*waiters: Waiter) -> Batch:
    for waiter in waiters:
        waiter.pending += 1
    sinks = [(waiter, token) for token, waiter in enumerate(waiters)]
    return Batch([], sinks, list(waiters), b"+OK", 0.0, 0)


def test_an_applied_batch_gives_each_command_its_reply_and_then_says_done_once() -> None:
    one, two = Waiter(), Waiter()
    waiting(one, two, one).applied([b"a", b"b", b"c"])
    assert one.got == [(0, b"a"), (2, b"c"), "done"]
    assert two.got == [(1, b"b"), "done"]


def test_a_batch_with_too_few_replies_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="shorter"):
        waiting(Waiter(), Waiter()).applied([b"a"])


def test_a_failed_batch_answers_commands_and_tells_of_puts_answered_in_advance() -> None:
    waiter, error = Waiter(), RespError("TIMEOUT")
    waiting(waiter).fail(error)
    assert waiter.got == [(0, error), (b"+OK", error), "done"]


def test_a_waiter_for_several_things_is_done_when_the_last_is() -> None:
    waiter = Waiter()
    first, second = waiting(waiter), waiting(waiter)
    waiter.pending += 1
    second.applied([1])
    first.applied([2])
    assert "done" not in waiter.got
    finish(waiter)
    assert waiter.got[-1] == "done"
    waiter = Waiter()
    waiter.pending = 1
    Read(waiter, 5, [b"GET"], 0.0, 1.0).answer(b"v")
    assert waiter.got == [(5, b"v"), "done"]
