"""Reads at the machine: what one has told, no entry takes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import respkv.commands  # noqa: F401  (fills the table)
from respkv.shard.machine import InDoubt
from respkv.shard.transaction import WATCH_OP, exec_args
from tests.unit.test_transactions import Leader

READS = [
    [b"GET", b"k"], [b"EXISTS", b"other", b"k"], [b"MGET", b"k", b"other"], [b"PTTL", b"k"],
    [b"OBJECT", b"ENCODING", b"k"], [WATCH_OP, b"other", b"k"], exec_args([], [[b"GET", b"other"], [b"GET", b"k"]]),
]  # fmt: skip


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Leader]:
    leader = Leader(tmp_path / "leader")
    leader("SET other 1 PX 1000000", "SET k v PX 20")
    yield leader
    leader.machine.cask.close()


@pytest.mark.parametrize("args", READS)
def test_a_key_that_expired_by_this_clock_alone_is_left_to_an_entry(leader: Leader, args: list[bytes]) -> None:
    leader.now_ms += 19
    leader.machine.read(args)
    leader.now_ms += 1
    with pytest.raises(InDoubt):
        leader.machine.read(args)
    leader("SET unrelated 1")
    leader.machine.read(args)


def test_a_key_read_as_expired_is_not_found_alive_by_an_entry_that_was_under_way(leader: Leader) -> None:
    leader.now_ms += 20
    with pytest.raises(InDoubt):
        leader.machine.read([b"GET", b"k"])
    leader.now_ms -= 1
    assert leader("EXPIRE k 1") == [1]
    leader.now_ms += 1
    assert leader.machine.read([b"GET", b"k"]) == b"v"


def test_keys_that_are_not_named_leave_no_doubt_and_a_stale_read_knows_none(leader: Leader) -> None:
    leader.now_ms += 20
    assert leader.machine.read([b"GET", b"other"]) == b"1"
    assert leader.machine.read([b"DBSIZE"]) == 1
    assert leader.machine.read([b"GET", b"k"], stale=True) is None
