"""The same commands to a real redis-server and to respkv: every reply and every error text must be equal.

To respkv's commands alone, where thousands of scripts take seconds, and to nodes in both protocols. Skipped where
`redis-server` is not in PATH. `asked` says what is asked, `targets.comparable` what may differ.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from respkv.commands.describe import info
from respkv.commands.table import COMMANDS
from tests.cluster import NodeProcess, TestCluster, running_cluster
from tests.compat.asked import (
    commands,
    compressible,
    floats,
    is_atomic_over_shards,
    node_commands,
    one_slot_commands,
    values,
)
from tests.compat.targets import Command, LocalTarget, SocketTarget, StringsTarget, Target, assert_same, plain

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not in PATH")


@pytest.fixture(scope="module")
def redis(redis_port: int) -> Iterator[SocketTarget]:
    target = SocketTarget(redis_port)
    yield target
    target.close()


@pytest.fixture(scope="module", params=[False, True], ids=["a batch per write", "one batch"])
def ours(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Target]:
    target = LocalTarget(tmp_path_factory.mktemp("respkv"), request.param)
    yield target
    target.cask.close()


@settings(suppress_health_check=list(HealthCheck))
@given(script=st.lists(commands, max_size=30))
@example(script=[[b"SET", b"a", b"10.5"], [b"INCRBYFLOAT", b"a", b"0.1"], [b"INCRBYFLOAT", b"a", b"5.0e3"]])
@example(script=[[b"INCRBYFLOAT", b"a", b"1e4000"], [b"INCRBYFLOAT", b"a", b"1e4932"], [b"STRLEN", b"a"]])
@example(script=[[b"nope\r\n\x00x", b"y" * 200, b"z"], [b"nope" * 40], [b"nope", b"a" * 60, b"b" * 60, b"c" * 9]])
@example(script=[[b"EXPIRE", b"a", b"100", b"\xc3\xa9\r\n"], [b"EXPIRE", b"a", b"100", b"x" * 300]])
def test_replies_equal_those_of_redis(redis: Target, ours: Target, script: list[Command]) -> None:
    assert_same(redis, ours, script)


@settings(suppress_health_check=list(HealthCheck))
@given(pairs=st.lists(st.tuples(floats, floats), min_size=1, max_size=20))
def test_float_arithmetic_is_that_of_long_double(
    redis: Target, ours: Target, pairs: list[tuple[bytes, bytes]]
) -> None:
    assert_same(redis, ours, [c for x, y in pairs for c in ([b"SET", b"a", x], [b"INCRBYFLOAT", b"a", y])])


pattern_bytes = st.lists(
    st.sampled_from([b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"a", b"b", b"\x80", b"\xff"]), max_size=12
).map(b"".join)
text_bytes = st.lists(
    st.sampled_from([b"a", b"b", b"]", b"^", b"-", b"\\", b"[", b"\x7f", b"\x80", b"\xff"]), max_size=6
).map(b"".join)


@settings(suppress_health_check=list(HealthCheck))
@given(names=st.lists(text_bytes, min_size=1, max_size=12), patterns=st.lists(pattern_bytes, min_size=1, max_size=12))
def test_patterns_match_as_in_redis(redis: Target, ours: Target, names: list[bytes], patterns: list[bytes]) -> None:
    assert_same(redis, ours, [[b"SET", name, b""] for name in names] + [[b"KEYS", pattern] for pattern in patterns])


# --- the same against a node ---


@pytest.fixture(scope="module", params=[2, 3], ids=["RESP2", "RESP3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def strings_redis(redis_port: int, protocol: int) -> Iterator[StringsTarget]:
    target = StringsTarget(redis_port, protocol)
    yield target
    target.close()


@pytest.fixture(scope="module")
def node(shared_single: NodeProcess, protocol: int) -> Iterator[StringsTarget]:
    target = StringsTarget(shared_single.port, protocol)
    yield target
    target.close()


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(script=st.lists(node_commands.filter(lambda args: not is_atomic_over_shards(args)), max_size=40))
def test_a_node_of_three_shards_answers_as_redis(
    strings_redis: StringsTarget, node: StringsTarget, script: list[Command]
) -> None:
    assert_same(strings_redis, node, script)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(script=st.lists(one_slot_commands.filter(lambda args: not is_atomic_over_shards(args)), max_size=40))
def test_a_node_does_what_is_in_one_slot_as_redis(
    strings_redis: StringsTarget, node: StringsTarget, script: list[Command]
) -> None:
    assert_same(strings_redis, node, script)


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory, protocol: int) -> Iterator[StringsTarget]:
    with running_cluster(tmp_path_factory.mktemp("one-shard"), nodes=1, shards=1) as cluster:
        target = StringsTarget(cluster.nodes[0].port, protocol)
        yield target
        target.close()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(script=st.lists(node_commands, max_size=40))
@example(script=[[b"MSETNX", b"a", b"1", b"b", b"2"], [b"RENAME", b"a", b"c"], [b"BITOP", b"OR", b"a", b"b", b"c"]])
def test_a_node_of_one_shard_answers_as_redis_whatever_the_keys(
    strings_redis: StringsTarget, one_shard: StringsTarget, script: list[Command]
) -> None:
    assert_same(strings_redis, one_shard, script)


@pytest.fixture(scope="module")
def members(shared_cluster: TestCluster, protocol: int) -> Iterator[list[StringsTarget]]:
    targets = [StringsTarget(node.port, protocol) for node in shared_cluster.nodes]
    yield targets
    for target in targets:
        target.close()


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    script=st.lists(node_commands.filter(lambda args: not is_atomic_over_shards(args)), max_size=30),
    which=st.integers(0, 2),
)
def test_any_node_of_a_cluster_answers_as_redis(
    strings_redis: StringsTarget, members: list[StringsTarget], which: int, script: list[Command]
) -> None:
    assert_same(strings_redis, members[which], script)


@settings(suppress_health_check=list(HealthCheck))
@given(stored=st.lists(st.one_of(values, compressible, st.integers(1, 60).map(lambda n: b"x" * n)), max_size=20))
@example(stored=[b"9999", b"10000", b"0", b"-1", b"007"])
def test_encodings_are_those_that_redis_chooses(redis: SocketTarget, ours: Target, stored: list[bytes]) -> None:
    asked = [[b"OBJECT", b"ENCODING", b"a"], [b"OBJECT", b"REFCOUNT", b"a"]]
    script = [row for value in stored for row in ([b"SET", b"a", value], *asked)]
    ours.reset()
    redis.reset()
    assert ours.run(script) == redis.run(script)


def test_command_info_is_that_of_redis(redis: SocketTarget) -> None:
    def canonical(entry: list[Any]) -> list[Any]:
        specs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in entry[8]]
        children = [canonical(child) for child in entry[9] if child[0] in known]
        return [*entry[:2], sorted(entry[2]), *entry[3:6], sorted(entry[6]), sorted(entry[7]), specs, sorted(children)]

    known = {spec.name.encode() for container in COMMANDS.values() for spec in container.subcommands.values()}

    for name in sorted(name for name, spec in COMMANDS.items() if spec.kind == "data" and name.islower()):
        theirs = redis.run([[b"COMMAND", b"INFO", name]])[0][0]
        assert canonical(plain(info(COMMANDS[name]))) == canonical(theirs), name
