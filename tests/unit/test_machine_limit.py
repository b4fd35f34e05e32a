"""How much the commands of one entry may write: less than one file holds, whatever they make of little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import respkv.commands  # noqa: F401  (fills the table)
from respkv import errors
from respkv.cluster.slots import SLOTS, slot_of
from respkv.keyspace.db import WRITTEN_BYTES_MAX
from respkv.keyspace.digest import Digest, digest
from respkv.reply import OK, RespError
from respkv.shard.batch import Ops, decode_entry
from respkv.shard.long import LongEntry, LongPut
from respkv.shard.machine import Machine
from respkv.storage import Bitcask
from tests.unit.test_transactions import Leader, puts

REFUSED = errors.too_much_at_once(WRITTEN_BYTES_MAX)
BIT = 8_000 * 8 - 1  # the last of 8,000 bytes


@pytest.fixture
def leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    """Its commands may write 20,000 bytes."""
    monkeypatch.setattr("respkv.keyspace.db.WRITTEN_BYTES_MAX", 20_000)
    leader = Leader(tmp_path / "leader")
    yield leader
    leader.machine.cask.close()


def strings(leader: Leader, *keys: str) -> list[int]:
    return leader(*[f"STRLEN {key}" for key in keys])


def whole(machine: Machine) -> Digest:
    slices = digest(machine.db)
    while True:
        try:
            next(slices)
        except StopIteration as over:
            found: Digest = over.value
            return found


def test_an_entry_that_has_written_enough_refuses_what_follows_and_changes_nothing(leader: Leader) -> None:
    leader("SET other 1 PX 100000")
    assert leader(*[f"SETBIT k{n} {BIT} 1" for n in range(5)], "GET other", "INCR other", "DEL other") == [
        0, 0, 0, REFUSED, REFUSED, b"1", REFUSED, REFUSED
    ]  # fmt: skip
    assert strings(leader, "k0", "k1", "k2", "k3", "k4", "other") == [8000, 8000, 8000, 0, 0, 1]
    assert leader("SETBIT k3 1 1", "INCR other") == [0, 2]  # an entry of its own


def test_a_command_writes_all_of_its_keys_or_none(leader: Leader) -> None:
    value = "x" * 9000
    assert leader(f"MSET a {value} b {value} c {value}", "MSET d 1 e 2", "EXISTS a b c d e") == [OK, REFUSED, 3]


def test_in_a_transaction_only_the_command_fails(leader: Leader) -> None:
    reply = leader.exec([], *[f"SETRANGE k{n} 9000 x" for n in range(4)], "STRLEN k0")
    assert reply == [9001, 9001, 9001, REFUSED, 9001]
    assert leader("EXISTS k0 k1 k2 k3") == [3]


@pytest.mark.parametrize(
    "again",
    ["SETBIT k {bit} 1", "COPY a k REPLACE", "PEXPIRE a 100000", "APPEND k x", "RENAME k l|RENAME l k",
     "SETRANGE k 8000 x|DEL k", "SETRANGE k 8000 x|SET k short", "SETRANGE k 8000 x|FLUSHALL"],
)  # fmt: skip
def test_what_is_replaced_in_the_same_entry_does_not_count(leader: Leader, again: str) -> None:
    leader(f"SETBIT a {BIT} 1", f"SETBIT k {BIT} 1")
    replies = leader(*again.format(bit=BIT).split("|") * 50)
    assert not [reply for reply in replies if type(reply) is RespError]


@pytest.mark.parametrize("long", [False, True])
def test_nor_does_what_a_plain_put_replaces(leader: Leader, long: bool) -> None:
    grow: Any = Ops([[b"SETBIT", b"k", b"%d" % BIT, b"1"]])
    if not long:
        replies = leader.apply(*[grow, puts(b"k", b"short")] * 50)
    else:
        entry = LongEntry(leader.now_ms, 1, [], [grow, LongPut(slot_of(b"k"), b"k", 5)] * 50)
        machine, body = leader.machine, [memoryview(b"short")] * 50
        slices = machine.apply_in_slices(machine.applied + 1, 1, entry, body)
        while True:
            try:
                next(slices)()
            except StopIteration as over:
                replies = over.value
                break
    assert replies == [0] * 50
    assert leader("GET k") == [b"short"]


def test_what_came_in_the_entry_is_not_counted_and_makes_no_room(leader: Leader) -> None:
    grow = [Ops([[b"SETBIT", b"k%d" % n, b"%d" % BIT, b"1"]]) for n in range(3)]
    same = puts(b"same", b"x")
    for _ in range(3):
        same.slots += same.slots
        same.keys += same.keys
        same.sizes += same.sizes
        same.records += same.records
    big = puts(b"big", bytes(50_000))
    bit = Ops([[b"SETBIT", b"same", b"%d" % BIT, b"1"]])
    assert leader.apply(big, bit, same, *grow, grow[0], puts(b"behind", b"1")) == [0, 0, 0, 0, REFUSED]
    assert strings(leader, "big", "behind", "same") == [50_000, 1, 1]


def test_replicas_and_replay_refuse_the_same(leader: Leader, tmp_path: Path) -> None:
    leader(*[f"SETBIT k{n} {BIT} 1" for n in range(5)])
    leader("COPY k0 l0", "COPY k1 l1", "COPY k2 l2", "COPY k0 l3", "PERSIST k1")
    leader.exec([], "PEXPIRE k0 100000", "PEXPIRE k1 100000", "PEXPIRE k2 100000", "PEXPIRE l0 100000", "DBSIZE")
    with Bitcask(tmp_path / "other", buckets=SLOTS, bucket_of=slot_of) as cask:
        other = Machine(cask, clock_ms=lambda: leader.now_ms + 50_000)
        for index, command in enumerate(leader.entries, 1):
            other.apply(index, 1, decode_entry(command))
        assert whole(other) == whole(leader.machine)
        assert len(other.db) == 6
