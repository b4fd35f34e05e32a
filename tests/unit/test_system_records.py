"""Records of the system's own: versions, and that they are no keys for anybody, through merges, restarts and copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.cluster.slots import slot_of
from respkv.keyspace.digest import digest
from respkv.keyspace.system import BUCKETS, NONE, SystemRecord, bucket_of, system_key
from respkv.keyspace.values import KEY_BYTES_MAX
from respkv.shard.batch import Entry, Ops
from respkv.shard.machine import Machine, system_op
from respkv.storage.bitcask import Bitcask

NAME = b"users"


def opened(directory: Path) -> Bitcask:
    return Bitcask(directory, buckets=BUCKETS, bucket_of=bucket_of, hidden=1, segment_bytes=1 << 20)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(opened(tmp_path / "shard"))
    yield machine
    machine.cask.close()


def apply(machine: Machine, *commands: list[bytes]) -> list[object]:
    return machine.apply(machine.applied + 1, 1, Entry(1, 2, [], [Ops(list(commands))]))


def replaced(known: int, content: bytes) -> list[bytes]:
    return system_op(NAME, known, SystemRecord(known + 1, content))


def digest_of(machine: Machine) -> object:
    steps = digest(machine.db)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value.value, end.value.keys


def test_a_change_names_the_version_that_it_replaces(machine: Machine) -> None:
    told: list[tuple[bytes, SystemRecord]] = []
    machine.on_system = lambda name, record: told.append((name, record))
    assert machine.db.system_record(NAME) == NONE
    assert apply(machine, replaced(0, b"first")) == [1]
    assert apply(machine, replaced(0, b"late")) == [[1, b"first"]]
    assert apply(machine, replaced(1, b"second"), replaced(1, b"late")) == [2, [2, b"second"]]
    assert machine.db.system_record(NAME) == (2, b"second")
    assert apply(machine, system_op(NAME, 2, SystemRecord(2, b"no later one"))) == [[2, b"second"]]
    assert told == [(NAME, SystemRecord(1, b"first")), (NAME, SystemRecord(2, b"second"))]
    assert machine.db.system_record(b"other") == NONE
    assert apply(machine, system_op(NAME, 2, SystemRecord(9, b"later by far"))) == [9]


def test_no_key_of_a_client_is_that_of_a_record() -> None:
    assert len(system_key(b"")) > KEY_BYTES_MAX
    assert bucket_of(system_key(NAME)) == BUCKETS - 1
    assert bucket_of(system_key(NAME)[:KEY_BYTES_MAX]) < BUCKETS - 1


@given(st.binary(max_size=40) | st.text("a{}", max_size=8).map(str.encode))
def test_keys_of_clients_are_in_the_buckets_of_their_slots(key: bytes) -> None:
    assert bucket_of(key) == slot_of(key)


def test_a_record_is_in_no_count_list_or_digest(machine: Machine) -> None:
    empty = digest_of(machine)
    apply(machine, replaced(0, b"x"))
    assert digest_of(machine) == empty
    db = machine.db
    assert (len(db), len(machine.cask), list(db.keys()), list(machine.cask)) == (0, 0, [], [])
    assert machine.read([b"RANDOMKEY"]) is None
    assert machine.read([b"DBSIZE"]) == 0
    assert machine.read([b"SCAN", b"0"]) == [b"0", []]
    apply(machine, [b"SET", b"k", b"v"])
    db.begin()
    db.set_system_record(NAME, SystemRecord(2, b"y"))
    assert (len(db), list(db.keys()), db.scan(0, 100)) == (1, [b"k"], (0, [b"k"]))
    db.commit(machine.applied + 1, 1)
    assert (len(db), machine.read([b"KEYS", b"*"])) == (1, [b"k"])
    assert db.system_record(NAME) == (2, b"y")


def test_flushall_leaves_it(machine: Machine) -> None:
    apply(machine, replaced(0, b"x"), [b"SET", b"k", b"v"])
    apply(machine, [b"FLUSHALL"])
    assert machine.db.system_record(NAME) == (1, b"x")
    assert apply(machine, [b"FLUSHALL"], replaced(1, b"y"), [b"FLUSHALL"], [b"DBSIZE"])[3] == 0
    assert machine.db.system_record(NAME) == (2, b"y")


def test_it_survives_restarts_merges_and_copies(tmp_path: Path) -> None:
    machine = Machine(opened(tmp_path / "a"))
    apply(machine, replaced(0, b"x" * 1000))
    for number in range(60):  # several files, nearly all of them dead
        apply(machine, [b"SET", b"k%d" % (number % 3), b"v" * 100_000])
    apply(machine, [b"FLUSHALL"])
    machine.cask.merge()
    assert machine.db.system_record(NAME) == (1, b"x" * 1000)
    machine.cask.flush()
    copy = tmp_path / "copy"
    copy.mkdir()
    with machine.cask.snapshot() as snapshot:
        for file in snapshot.files:
            source = Path(f"/proc/self/fd/{file.fd}")
            (copy / file.name).write_bytes(source.read_bytes()[: file.length])
    machine.cask.close()
    Bitcask.install(tmp_path / "b", copy)
    for name in ("a", "b"):
        again = Machine(opened(tmp_path / name))
        assert again.db.system_record(NAME) == (1, b"x" * 1000)
        assert len(again.db) == 0
        again.cask.close()


@pytest.mark.parametrize(
    ("args", "possible"),
    [
        (replaced(7, b"x"), True),
        (replaced(7, b"x")[:3], False),
        ([*replaced(7, b"x"), b""], False),
        ([b"\0system", NAME, b"-1", b"8", b"x"], False),
        ([b"\0system", NAME, b"", b"8", b"x"], False),
        ([b"\0system", NAME, b"9" * 19, b"8", b"x"], False),
        ([b"\0system", NAME, b"7", b"9" * 19, b"x"], False),
    ],
)
def test_what_another_node_may_ask_for(args: list[bytes], possible: bool) -> None:
    """Anything else would stop every replica that applies it."""
    assert Machine.can_apply(args) is possible
