"""The standalone view over several shards answers as one server would, and is honest when a shard does not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from respkv.cluster import ring
from respkv.cluster.slots import slot_of
from respkv.commands import spread
from respkv.commands.table import COMMANDS, resolve
from respkv.reply import OK, RespError
from tests.unit.one_shard import OneShard

DOWN = RespError("CLUSTERDOWN no leader; the command was not applied")
LATE = RespError("TIMEOUT no outcome in time; the command may have been applied")


class ThreeShards:
    """What a dispatcher does with `spread`: three shards and a map of slots."""

    def __init__(self, directory: Path) -> None:
        self.shards = [OneShard(directory / str(i)) for i in range(3)]
        self.slots = ring.owners(ring.tokens(3))
        self.calls: Counter[int] = Counter()

    def __call__(self, args: list[bytes]) -> Any:
        strategy = resolve(args).spread
        assert strategy is not None
        try:
            parts = strategy.split(args, slot_of, self.slots, range(3))
        except RespError as error:
            return error
        self.calls.update(shard for shard, _ in parts)
        return strategy.merge(args, parts, [self.shards[shard](part) for shard, part in parts], slot_of)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeShards]:
    three = ThreeShards(tmp_path_factory.mktemp("three"))
    yield three
    for shard in three.shards:
        shard.cask.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneShard]:
    one = OneShard(tmp_path_factory.mktemp("one"))
    yield one
    one.cask.close()


keys = st.integers(0, 12).map(lambda i: b"k%d" % i)
commands = st.one_of(
    st.builds(
        lambda name, some: [name, *some],
        st.sampled_from([b"MGET", b"DEL", b"unlink", b"EXISTS", b"TOUCH"]),
        st.lists(keys, min_size=1, max_size=8),
    ),
    st.lists(st.tuples(keys, st.binary(max_size=2)), min_size=1, max_size=6).map(
        lambda pairs: [b"MSET", *(word for pair in pairs for word in pair)]
    ),
    st.lists(keys, min_size=2, max_size=2).map(lambda some: [b"MSET", *some, b"odd"]),
    st.sampled_from([b"KEYS *", b"KEYS k1*", b"DBSIZE", b"FLUSHALL", b"FLUSHDB", b"FLUSHALL now"]).map(bytes.split),
    st.sampled_from([b"SCAN x", b"SCAN 0 COUNT 0", b"SCAN 0 COUNT x", b"SCAN 0 MATCH", b"SCAN 0 a b"]).map(bytes.split),
    st.sampled_from([b"SCAN 0 COUNT 100", b"SCAN 0 MATCH k1* COUNT 100 TYPE string"]).map(bytes.split),
)


@settings(suppress_health_check=list(HealthCheck))
@given(script=st.lists(commands, max_size=15))
def test_many_shards_answer_as_one(three: ThreeShards, one: OneShard, script: list[list[bytes]]) -> None:
    three([b"FLUSHALL"])
    one(b"FLUSHALL")
    for args in script:
        replies = [three(args), one(args)]
        if args[0] == b"KEYS":
            replies = [sorted(reply) for reply in replies]
        if args[0] == b"SCAN" and isinstance(replies[0], list):
            replies = [[cursor, sorted(found)] for cursor, found in replies]
        assert replies[0] == replies[1], args


@pytest.mark.parametrize("count", [1, 10, 100, 5000])
def test_scan_visits_every_key_once_whatever_the_count(three: ThreeShards, count: int) -> None:
    three([b"FLUSHALL"])
    stored = [b"key:%d" % i for i in range(600)]
    three([b"MSET", *(word for key in stored for word in (key, b""))])
    found: list[bytes] = []
    cursor, calls = b"0", 0
    while True:
        cursor, some = three([b"SCAN", cursor, b"COUNT", b"%d" % count])
        found += some
        calls += 1
        if cursor == b"0":
            break
    assert sorted(found) == sorted(stored)
    assert calls <= 600 // count * 4 + 2


def test_random_key_is_fair_to_keys_not_to_shards(three: ThreeShards) -> None:
    three([b"FLUSHALL"])
    assert three([b"RANDOMKEY"]) is None
    many = [key for key in (b"m%d" % i for i in range(200)) if three.slots[slot_of(key)] == 0][:20]
    lone = next(key for key in (b"l%d" % i for i in range(100)) if three.slots[slot_of(key)] == 1)
    three([b"MSET", *(word for key in [*many, lone] for word in (key, b""))])
    spread.RANDOMKEY.rng = random.Random(3)
    seen = Counter(three([b"RANDOMKEY"]) for _ in range(400))
    assert set(seen) == {*many, lone}
    assert seen[lone] < 60  # 19 expected; a fair choice among shards would give 200


def test_only_the_shards_with_keys_are_asked(three: ThreeShards) -> None:
    three.calls.clear()
    three([b"MGET", b"{t}1", b"{t}2", b"{t}3"])
    assert three.calls == {three.slots[slot_of(b"t")]: 1}


@pytest.mark.parametrize(
    ("line", "replies", "expected"),
    [
        (b"EXISTS a b", [1, DOWN], DOWN),
        (b"EXISTS a b", [DOWN, LATE], LATE),
        (b"DEL a b", [DOWN, DOWN], DOWN),
        (b"DEL a b", [DOWN, LATE], LATE),
        (b"DEL a b", [1, DOWN], RespError(f"TIMEOUT some shards applied their part, another answered '{DOWN.text}'; "
                                          "the command may have been applied in part")),
        (b"MSET a 1 b 2", [OK, OK], OK),
        (b"FLUSHALL", [RespError("ERR syntax error")] * 2, RespError("ERR syntax error")),
    ],
)  # fmt: skip
def test_what_a_client_is_told_when_shards_fail(line: bytes, replies: list[Any], expected: Any) -> None:
    args = line.split()
    strategy = COMMANDS[args[0]].spread
    assert strategy is not None
    parts = [(0, args), (1, args)]
    assert strategy.merge(args, parts, replies, slot_of) == expected


@pytest.mark.parametrize(
    ("line", "reply"),
    [(b"KEYS *", []), (b"DBSIZE", 0), (b"RANDOMKEY", None), (b"SCAN 0 COUNT 5", [b"0", []]), (b"FLUSHALL", OK)],
)
def test_without_shards_the_keyspace_is_empty(line: bytes, reply: Any) -> None:
    args = line.split()
    strategy = COMMANDS[args[0]].spread
    assert strategy is not None
    assert strategy.split(args, slot_of, [], []) == []
    assert strategy.merge(args, [], [], slot_of) == reply


def test_commands_without_a_strategy_stay_in_one_slot() -> None:
    spreading = {spec.name for name, spec in COMMANDS.items() if spec.spread}
    assert spreading == {"mget", "mset", "del", "unlink", "exists", "touch", "keys", "scan", "randomkey", "dbsize",
                         "flushall", "flushdb"}  # fmt: skip
