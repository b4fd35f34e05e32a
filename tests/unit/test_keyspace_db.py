"""Db: typed keys with expiry over the log; what a batch shows, what survives a restart, what two replicas share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from respkv.keyspace.db import NO_EXPIRY
from respkv.keyspace.digest import Digest, digest
from respkv.reply import RespError
from respkv.storage.record import encode_puts
from tests.unit.one_shard import NOW_MS, OneShard


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[OneShard]:
    shard = OneShard(tmp_path)
    yield shard
    shard.cask.close()


def run(shard: OneShard) -> Digest:
    return result(digest(shard.db))


def result(slices: Generator[None, None, Digest]) -> Digest:
    """Runs the rest of the slices."""
    found: list[Digest] = []

    def last() -> Iterator[None]:
        found.append((yield from slices))

    for _ in last():
        pass
    return found[0]


def test_a_write_outside_a_batch_is_a_mistake(shard: OneShard) -> None:
    with pytest.raises(RuntimeError, match="outside"):
        shard.db.set_string(b"k", b"v")
    shard.db.begin()
    with pytest.raises(RuntimeError, match="open"):
        shard.db.begin()


def test_an_empty_batch_moves_the_index(shard: OneShard) -> None:
    shard.db.begin()
    shard.db.commit(7, 2)
    assert (shard.cask.applied, shard.cask.applied_term, shard.cask.clock_ms) == (7, 2, NOW_MS)


def test_pre_encoded_puts_and_commands_share_a_batch(shard: OneShard) -> None:
    shard("SET b 1 EX 10")
    batch = shard.db.begin()
    sizes, records = encode_puts([b"a", b"b"], [b"1", b"2"])
    batch.put_encoded([shard.cask.bucket_of(b"a"), shard.cask.bucket_of(b"b")], [b"a", b"b"], sizes, records)
    assert (shard.db.string(b"a"), shard.db.expire_at_ms(b"b")) == (b"1", NO_EXPIRY)
    shard.db.set_string(b"a", b"3", NOW_MS + 5)
    shard.db.commit(9, 1)
    assert (shard("GET a"), shard("PTTL a"), shard("TTL b")) == (b"3", 5, -1)


def test_only_strings_are_read_as_strings(shard: OneShard) -> None:
    shard.put_other_type(b"other")
    shard.put_other_type(b"late", NOW_MS)
    with pytest.raises(RespError, match="WRONGTYPE"):
        shard.db.string(b"other")
    assert shard.db.string(b"late") is None
    assert shard.db.lookup(b"other") == (2, 0, b"x")


def test_the_size_is_exact_while_expired_keys_wait(shard: OneShard) -> None:
    shard("MSET a 1 b 1 c 1")
    shard("PEXPIRE a 10")
    shard("PEXPIRE b 20")
    shard.db.now_ms += 10
    assert len(shard.db) == 2
    with shard.batch():
        assert len(shard.db) == 2
        shard.db.set_string(b"a", b"2")
        assert len(shard.db) == 3
        assert not shard.db.delete(b"none")
        assert shard.db.delete(b"c")
        assert len(shard.db) == 2
    shard.db.now_ms += 10
    assert len(shard.db) == 1
    assert shard.db.deadlines.due(shard.db.now_ms, 10) == [b"b"]


def test_deleting_an_expired_key_removes_it_without_counting_it(shard: OneShard) -> None:
    shard("SET a 1 PX 10")
    shard.db.now_ms += 10
    assert shard("DEL a") == 0
    assert len(shard.cask) == 0


def test_expiry_survives_a_restart(tmp_path: Path) -> None:
    shard = OneShard(tmp_path)
    shard("SET a 1 PX 10")
    shard("SET b 1")
    shard.cask.close()
    again = OneShard(tmp_path)
    assert (again.db.deadlines.next_ms(), again("PTTL a"), again("TTL b")) == (NOW_MS + 10, 10, -1)
    again.db.now_ms += 10
    assert again.db.deadlines.due(again.db.now_ms, 5) == [b"a"]
    again.cask.close()


def test_after_a_flush_deadlines_start_anew(shard: OneShard) -> None:
    shard("SET a 1 PX 10")
    with shard.batch():
        shard.db.flush_all()
        shard.db.set_string(b"b", b"1", NOW_MS + 10)
    shard("SET c 1 PX 10")
    shard.db.now_ms += 10
    assert sorted(shard.db.deadlines.due(shard.db.now_ms, 5)) == [b"b", b"c"]
    assert len(shard.db) == 0
    assert shard.db.expiry_figures() == (2, 0)


def test_expiry_figures_for_info(shard: OneShard) -> None:
    assert shard.db.expiry_figures() == (0, 0)
    shard("SET a 1 PX 100")
    shard("SET b 1 PX 300")
    shard("SET c 1")
    assert shard.db.expiry_figures() == (2, 200)


def test_the_digest_tells_data_apart_not_layouts(shard: OneShard, tmp_path: Path) -> None:
    other = OneShard(tmp_path / "other")
    for i in range(1000):
        shard(f"SET k{i} {i}")
    for i in reversed(range(1000)):
        other(f"SET k{i} x")
        other(f"SET k{i} {i}")
    other("SET gone 1")
    other("DEL gone")
    mine, theirs = run(shard), run(other)
    assert (mine.value, mine.keys) == (theirs.value, 1000)
    assert mine.first_applied == mine.last_applied == shard.cask.applied
    for line in ("SET k1 2", "EXPIRE k2 100", "DEL k3", "SET k1 1"):
        before = run(shard).value
        shard(line)
        assert run(shard).value != before
    other.cask.close()


def test_the_digest_leaves_expired_keys_out(shard: OneShard) -> None:
    empty = run(shard).value
    shard("SET a 1 PX 10")
    assert run(shard).value != empty
    shard.db.now_ms += 10
    assert run(shard) == Digest(empty, 0, shard.cask.applied, shard.cask.applied)


def test_the_digest_comes_in_slices_and_notices_writes_in_between(shard: OneShard) -> None:
    for i in range(600):
        shard(f"SET k{i} {i}")
    slices = digest(shard.db)
    next(slices)
    shard("SET new 1")
    found = result(slices)
    assert found.last_applied == found.first_applied + 1
