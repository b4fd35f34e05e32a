"""Replies that are known by the bytes that asked for them: never anything but what the log would answer now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.raft.clock import NEVER
from respkv.resp.encoder import encode
from respkv.resp.lone import get_chunks, lone_get
from respkv.server.answers import Answers
from respkv.storage import Bitcask
from respkv.storage.cache import ENTRY_BYTES, ReadCache
from respkv.storage.record import encode_puts
from tests.unit.running import Wire, eventually, respkv

KEYS = [b"a", b"b", b"", b"k" * 300]
FOREVER = float("inf")


class Shard:
    """What `Answers` needs of a proposer."""

    def __init__(self, cache: ReadCache) -> None:
        self.lease = SimpleNamespace(lease_until=FOREVER)
        self.leads = True
        self.cache = cache
        self.at_hand = cache.at_hand

    def tell_of_cache(self, told: Any) -> None:
        self.cache.told = told


def answers_of(*shards: Shard) -> Answers:
    return Answers(cast("Any", shards))


def ask(answers: Answers, shard: Shard, cask: Bitcask, key: bytes, chunk: bytes) -> bytes:
    """As `Arrivals` does."""
    reply = answers.known_at(1.0)(chunk)
    if reply is None:
        value = cask.get_plain(0, key)
        assert value is not False
        reply = encode(value, 2)
        if value is not None:
            answers.add(cast("Any", shard), chunk, reply)
    return reply


STEPS = st.tuples(st.sampled_from(["puts", "put", "delete", "clear"]), st.sampled_from(KEYS), st.binary(max_size=40))


@given(st.lists(STEPS, max_size=30), st.sampled_from([1, 1350, 100_000]))
def test_a_known_reply_is_what_the_log_holds(
    tmp_path_factory, steps: list[tuple[str, bytes, bytes]], cache_bytes: int
) -> None:
    directory: Path = tmp_path_factory.mktemp("answers")
    with Bitcask(directory, buckets=1, cache_bytes=cache_bytes) as cask:
        shard = Shard(cask.cache)
        answers, model = answers_of(shard), dict[bytes, bytes]()
        for action, key, value in steps:
            index = cask.applied + 1
            if action == "puts":
                sizes, records = encode_puts([key, b"a"], [value, value[::-1]])
                cask.append_puts(index, 1, 1, [0, 0], [key, b"a"], sizes, records)
                model |= {key: value}
                model |= {b"a": value[::-1]}
            else:
                batch = cask.batch()
                if action == "put":
                    batch.put(key, value)
                    model[key] = value
                elif action == "delete":
                    batch.delete(key)
                    model.pop(key, None)
                else:
                    batch.clear()
                    model.clear()
                cask.commit(batch, index, 1, 1)
            for each in KEYS:
                for chunk in get_chunks(each) * 2:
                    assert ask(answers, shard, cask, each, chunk) == encode(model.get(each), 2)
            kept = sum(2 * (len(k) + len(v)) + ENTRY_BYTES for k, v in cask.cache._values.items())
            assert cask.cache._room == cask.cache.limit_bytes - kept > -1100
            assert all(cask.cache.at_hand(lone_get(chunk) or b"") is not None for chunk in answers._replies)
        if cache_bytes > 10_000 and model:
            assert len(answers) == 2 * len(model)


@pytest.fixture
def shards() -> tuple[Shard, Shard]:
    return Shard(ReadCache(10_000)), Shard(ReadCache(10_000))


def test_nothing_is_known_unless_the_leases_of_all_that_is_here_last(shards: tuple[Shard, Shard]) -> None:
    one, other = shards
    answers = answers_of(one, other)
    other.lease.lease_until = NEVER  # nothing of it is here
    one.cache.add(b"a", b"1")
    answers.add(cast("Any", one), b"ask for a", b"1")
    assert answers.known_at(5.0)(b"ask for a") == b"1"
    one.lease.lease_until = 5.0
    assert answers.known_at(4.9)(b"ask for a") == b"1"
    assert answers.known_at(5.0)(b"ask for a") is None
    one.lease.lease_until = FOREVER
    assert answers.known_at(5.0)(b"ask for a") == b"1"  # it was only late
    one.lease.lease_until, one.leads = NEVER, False
    assert answers.known_at(5.0)(b"ask for a") is None
    assert len(answers) == 0  # so that the shards that are led here have their own again
    other.lease.lease_until = FOREVER
    other.cache.add(b"b", b"2")
    answers.add(cast("Any", other), b"ask for b", b"2")
    assert answers.known_at(5.0)(b"ask for b") == b"2"


def test_without_a_cache_nothing_is_kept() -> None:
    shard = Shard(ReadCache(0))
    answers = answers_of(shard)
    answers.add(cast("Any", shard), b"ask for a", b"1")
    assert len(answers) == 0


def test_a_cache_that_is_full_takes_the_replies_along(shards: tuple[Shard, Shard]) -> None:
    one, _ = shards
    answers = answers_of(*shards)
    for number in range(1, 4):
        one.cache.add(b"%d" % number, bytes(3000))
        answers.add(cast("Any", one), b"ask for %d" % number, bytes(3000))
        assert len(answers) == len(one.cache) == (1 if number == 3 else number)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with respkv(tmp_path_factory.mktemp("node")) as port:
        yield port


@pytest.mark.parametrize(
    ("change", "reply"),
    [
        ("SET k new", b"new"),
        ("SET k new EX 100", b"new"),
        ("APPEND k !", b"old!"),
        ("DEL k", None),
        ("GETDEL k", None),
        ("PEXPIRE k 20", None),
        ("FLUSHALL", None),
        ("MSET k new {k}l new", b"new"),
        ("RENAME {k}l k", b"l"),
    ],
)
def test_a_get_in_the_same_words_sees_what_has_changed(port: int, change: str, reply: bytes | None) -> None:
    with Wire(port) as wire, Wire(port) as other:
        wire("MSET k old {k}l l")
        for client in (wire, other):
            for word in ("GET", "get") * 2:
                assert client(f"{word} k") == b"old"
        other(change)
        if change.startswith("PEXPIRE"):
            time.sleep(0.05)
        for client in (wire, other):
            for word in ("GET", "get"):
                assert client(f"{word} k") == reply


def test_reads_in_the_same_words_are_counted_and_change_with_the_policy(port: int) -> None:
    with Wire(port) as wire:
        wire("SET k v")
        wire("CONFIG RESETSTAT")
        for _ in range(9):
            assert wire("GET k") == b"v"
        info = bytes(wire("INFO everything")).decode()  # type: ignore[call-overload]
        assert "keyspace_hits:9\r\n" in info
        assert "cmdstat_get:calls=9," in info
        wire("CONFIG SET maxmemory-policy allkeys-lfu maxmemory 1gb")
        try:

            def counts() -> bool:
                for _ in range(100):
                    assert wire("GET k") == b"v"
                return cast("int", wire("OBJECT FREQ k")) > 5  # as of a new key

            eventually(counts)
        finally:
            wire("CONFIG SET maxmemory-policy noeviction maxmemory 0")
