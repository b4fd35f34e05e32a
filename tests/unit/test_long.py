"""Long values: pieces in the log, slices to the Bitcask log, parts back; whole or not there, whoever dies."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from respkv.offload import Worker
from respkv.raft import long as raft_long
from respkv.raft.messages import APPEND
from respkv.shard import long as shard_long
from respkv.storage import Bitcask
from respkv.storage.errors import Damaged
from tests.unit import test_proposer
from tests.unit.raft_world import Client, World, WorldNode, reads, writes
from tests.unit.worlds import idle, outcome

make = test_proposer.make


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is otherwise a MiB is 100 bytes here."""
    monkeypatch.setattr(raft_long, "PIECE_BYTES", 100)
    monkeypatch.setattr(raft_long, "APPEND_BYTES", 400)
    monkeypatch.setattr(raft_long, "UNCOMMITTED_MAX", 1600)
    monkeypatch.setattr(shard_long, "LONG_BYTES", 100)
    monkeypatch.setattr("respkv.shard.gathering.LONG_BYTES", 100)


def put(node: WorldNode, pairs: dict[bytes, int]) -> Client:
    """A client sets each key to a value of so many bytes, all in one turn."""
    client = Client(node.name, list(pairs))
    proposer = node.proposer
    assert proposer is not None
    proposer.join(client)
    for key, size in pairs.items():
        proposer.put(0, key, bytes(size))
    return client


MIXED = {b"a": 10, b"b": 5_000, b"c": 99, b"d": 100, b"e": 1}


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_long_values_among_short_ones_are_applied_together_on_every_replica(
    make: Callable[..., World], where: str
) -> None:
    world = make(3)
    node = world.leader() if where == "leader" else world.followers()[0]
    client = put(node, MIXED)
    world.run(0.001)
    behind = put(node, {b"behind": 3})
    world.settle()
    assert outcome(client) == outcome(behind) == "applied"
    assert all(sorted(other.machine.ops[:-1]) == sorted(MIXED) for other in world.nodes.values())
    assert all(other.machine.ops[-1] == b"behind" for other in world.nodes.values())
    idle(world)


def test_pieces_go_out_only_as_fast_as_a_majority_stores_them(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    world.intercept = lambda source, target, message: message[0] != APPEND or not message[7]
    before = leader.group.log.bytes
    client = put(leader, {b"k": 100_000})
    world.run(0.3)
    assert leader.group.appending
    assert leader.group.log.bytes - before <= raft_long.UNCOMMITTED_MAX + 2 * raft_long.PIECE_BYTES
    world.intercept = lambda source, target, message: True
    world.run_until(lambda: client.ended == 1, 60.0)
    assert outcome(client) == "applied"


def test_a_value_that_its_leader_leaves_unfinished_is_proposed_again_as_a_whole(make: Callable[..., World]) -> None:
    world = make(3)
    follower, leader = world.followers()[0], world.leader()
    client = put(follower, {b"k": 20_000})
    world.run_until(lambda: leader.group.appending and leader.group.log.bytes > 3_000)
    leader.crash()
    world.run_until(lambda: client.ended == 1, 20.0)
    assert outcome(client) == "applied"
    leader.start()
    world.settle()
    assert all(node.machine.ops == [b"k"] for node in world.nodes.values())
    assert any(command[0] == raft_long.PIECE for command, _, _ in world.leader().group.log)
    idle(world)


def test_while_leadership_is_offered_nothing_is_appended_and_then_it_goes_on(make: Callable[..., World]) -> None:
    world = make(3)
    leader = world.leader()
    client = put(leader, {b"k": 20_000})
    world.run_until(lambda: leader.group.appending)
    world.isolate("c", notice=False)
    leader.group.transfer("c")
    index = leader.group.log.last_index
    world.run(0.2)
    assert leader.group.log.last_index == index
    world.heal()
    world.run_until(lambda: client.ended == 1, 20.0)
    assert outcome(client) == "applied"
    world.settle()
    idle(world)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_breaks_long_values_have_one_outcome_and_nothing_is_left_over(
    make: Callable[..., World], seed: int
) -> None:
    world = make(3, seed=seed)
    world.leader()
    rng, clients = world.rng, []
    world.drop, world.duplicate = 0.05, 0.05
    for n in range(30):
        up = [node for node in world.nodes.values() if node.up]
        if not up:
            world.run(0.5)
            continue
        node = rng.choice(up)
        clients.append(put(node, {b"%d" % n: rng.choice((10, 3_000, 30_000))}))
        world.run(rng.uniform(0, 0.05))
        victim = rng.choice(list(world.nodes.values()))
        if rng.random() < 0.15 and victim.up:
            victim.crash()
            clients = [client for client in clients if client.node != victim.name or client.ended]
            world.after(rng.uniform(0.1, 1.0), lambda victim=victim: victim.up or victim.start())
        if rng.random() < 0.1:
            world.isolate(victim.name, notice=rng.random() < 0.5)
            world.after(rng.uniform(0.1, 1.0), world.heal)
    world.drop = world.duplicate = 0.0
    world.heal()
    world.run(world.timeout_s * 3 + 30_000 / 1000)
    world.settle()
    ops = world.leader().machine.ops
    assert all(node.machine.ops == ops for node in world.nodes.values())
    for client in clients:
        allowed = {"applied": {1}, "CLUSTERDOWN": {0}, "TIMEOUT": {0, 1}}
        assert ops.count(client.ids[0]) in allowed[outcome(client)]
    idle(world)


def test_while_a_slice_is_written_elsewhere_its_replica_has_nothing_to_do(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(3)
    leader = world.leader()
    assert leader.proposer is not None
    jobs: list[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = []
    leader.proposer._long_apply._offload = lambda job, done: jobs.append((job, done))
    client = put(leader, {b"k": 5_000})
    world.run_until(lambda: bool(jobs))
    turns, turn = [], leader._turn

    def count(life: int) -> None:
        turns.append(world.now)
        assert len(turns) < 1000
        turn(life)

    monkeypatch.setattr(leader, "_turn", count)
    world.run(0.5)
    assert len(turns) < 100  # ticks and heartbeats
    assert client.ended == 0
    job, done = jobs.pop()
    job()
    done(None)
    world.settle()
    assert outcome(client) == "applied"
    idle(world)


def test_a_last_piece_without_its_pieces_is_not_believed(make: Callable[..., World]) -> None:
    leader = make(1).leader()
    log = leader.group.log
    log.add(b"\x10piece", log.last_index + 1, leader.group.term)
    log.add(b"\x11\x02\0\0\0head", log.last_index + 1, leader.group.term)
    with pytest.raises(ValueError, match="2 pieces are not before it"):
        raft_long.collect(log, log.last_index)


def test_values_that_do_not_fit_their_body_are_refused() -> None:
    runs: list[Any] = [shard_long.LongPut(0, b"k", 5)]
    for body in ([b"1234"], [b"123456"], [b"12345", b"6"], []):
        with pytest.raises(ValueError, match=r"long value|belong to no value"):
            list(shard_long.values_of(runs, [memoryview(part) for part in body]))
    assert [b"".join(parts) for parts in shard_long.values_of(runs, [memoryview(b"12"), memoryview(b"345")])] == [
        b"12345"
    ]


# --- forwarded reads ---


def test_replies_to_forwarded_reads_come_in_messages_of_bounded_size(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("respkv.shard.proposer.REPLY_BYTES_MAX", 1000)
    world = make(3)
    leader, follower = world.leader(), world.followers()[0]
    monkeypatch.setattr(leader.machine, "read", lambda args: bytes(400))
    world.record = True
    client = reads(follower, 20)
    world.settle(1.0)
    assert client.ended == 1
    assert client.answers == dict.fromkeys(range(20), bytes(400))
    done = [message for _, _, message in world.sent if message[0] == 23]
    assert max(sum(map(len, message[4])) for message in done) <= 1400
    assert sum(len(message[4]) for message in done) == 20
    idle(world)


# --- the Bitcask log ---


def begin_long(cask: Bitcask, key: bytes, value: bytes) -> Any:
    batch = cask.batch()
    batch.put(b"short", b"1")
    view = memoryview(value)
    batch.put_long(cask.bucket_of(key), key, [view[n : n + 1000] for n in range(0, len(view), 1000)])
    return cask.commit_in_slices(batch, cask.applied + 1, 1, 0)


@pytest.fixture
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respkv.storage.record.SLICE_BYTES", 3000)
    monkeypatch.setattr("respkv.storage.reading.PIECE_BYTES", 1000)


@pytest.mark.usefixtures("_small_slices")
def test_a_value_written_in_slices_is_seen_when_it_is_whole_and_found_again(tmp_path: Path) -> None:
    value = bytes(range(256)) * 100
    with Bitcask(tmp_path) as cask:
        count = 0
        for job in begin_long(cask, b"long", value):
            assert (cask.get(b"long"), cask.get(b"short"), cask.applied) == (None, None, 0)
            job()
            count += 1
        assert count > 5
        assert (cask.get(b"long").value, cask.get(b"short").value, cask.applied) == (value, b"1", 1)  # type: ignore[union-attr]
    with Bitcask(tmp_path) as cask:
        assert cask.get(b"long").value == value  # type: ignore[union-attr]
        found = cask.read_long(b"long", cask.bucket_of(b"long"), 5000)
        assert found is not None
        cask.put(b"long", b"overwritten")
        cask.merge()
        pieces = list(found)
        assert max(map(len, pieces)) == 1000
        assert b"".join(pieces) == value
        assert cask.read_long(b"short", cask.bucket_of(b"short"), 1) is None


@pytest.mark.usefixtures("_small_slices")
def test_a_value_whose_writing_was_cut_short_anywhere_is_not_there(tmp_path: Path) -> None:
    for stop in range(10):
        path = tmp_path / str(stop)
        with Bitcask(path) as cask:
            cask.put(b"before", b"b")
            for count, job in enumerate(begin_long(cask, b"long", bytes(20_000))):
                if count == stop:
                    break
                job()
        with Bitcask(path) as cask:
            assert cask.get(b"before").value == b"b"  # type: ignore[union-attr]
            there = cask.get(b"long") is not None
            assert there is (cask.applied == 2)
            assert there is (cask.get(b"short") is not None)
            cask.put(b"behind", b"x")
        with Bitcask(path) as cask:
            assert cask.get(b"behind").value == b"x"  # type: ignore[union-attr]


@pytest.mark.usefixtures("_small_slices")
def test_a_flipped_bit_in_a_long_value_is_never_answered(tmp_path: Path) -> None:
    with Bitcask(tmp_path) as cask:
        for job in begin_long(cask, b"long", bytes(20_000)):
            job()
        file = cask.files[-1].path
        data = bytearray(file.read_bytes())
        data[10_000] ^= 4
        file.write_bytes(data)
        told: list[Damaged] = []
        cask.on_damage = told.append
        found = cask.read_long(b"long", cask.bucket_of(b"long"), 1)
        assert found is not None
        got: list[bytes] = []
        with pytest.raises(Damaged):
            got.extend(found)
        assert sum(map(len, got)) < 20_000
        assert [damage.file for damage in told] == [file]


@pytest.mark.parametrize("end", ["closed", "merged"])
def test_a_damaged_value_is_damaged_whatever_became_of_its_file(tmp_path: Path, end: str) -> None:
    """A replica that begins anew because of the first reader may have closed the log before the second comes to it."""
    cask = Bitcask(tmp_path, segment_bytes=1 << 16)
    cask.put(b"long", bytes(20_000))
    finished = cask.files[0].path
    writable = finished.open("r+b")
    told: list[Damaged] = []
    damaged: list[Damaged] = []
    reads = shard_long.LongReads(lambda read, error: damaged.append(error))
    for _ in range(2):
        found = cask.read_long(b"long", cask.bucket_of(b"long"), 5000)
        assert found is not None
        reads.add(None, found)  # type: ignore[arg-type]
    if end == "merged":
        while len(cask.files) < 3:
            cask.put(b"filler", bytes(1000))
        cask.merge()
        assert not finished.exists()
    cask.on_damage = told.append
    with writable:
        writable.seek(10_000)
        writable.write(b"x")
    reads.advance()
    if end == "closed":
        cask.close()
    reads.advance()
    assert [one.file for one in damaged] == [finished] * 2
    assert len(told) == (end == "closed")
    assert not reads
    cask.close()


def test_reads_of_long_values_are_answered_one_after_the_other_and_a_damaged_one_is_left_to_others(
    tmp_path: Path,
) -> None:
    class Value(list[bytes]):
        value_bytes = 4

    class Bad(Value):
        def __iter__(self) -> Any:
            raise Damaged(tmp_path, 0, "bad")
            yield

    answers: list[Any] = []
    damaged: list[Any] = []

    class Asked:
        def answer(self, value: Any) -> None:
            answers.append(value.parts)

    reads = shard_long.LongReads(lambda read, error: damaged.append(error))
    for value in (Value([b"12", b"34"]), Bad(), Value([b"5678"])):
        reads.add(Asked(), value)  # type: ignore[arg-type]
    for _ in range(3):
        assert reads
        reads.advance()
    assert not reads
    assert answers == [[b"12", b"34"], [b"5678"]]
    assert len(damaged) == 1


def test_what_is_being_written_ends_before_its_file_is_closed() -> None:
    started, go_on, order = threading.Event(), threading.Event(), []

    def job() -> None:
        started.set()
        go_on.wait(10)
        order.append("written")

    def slices() -> Any:
        yield job
        return []

    async def run() -> None:
        worker = Worker(asyncio.get_running_loop(), "test")
        resumed: list[None] = []
        apply = shard_long.LongApply(worker.submit, lambda: resumed.append(None), lambda error: None)
        assert apply.advance(slices) is None
        started.wait(10)
        threading.Timer(0.05, go_on.set).start()
        apply.drop()
        order.append("closed")
        await asyncio.sleep(0.02)
        assert not resumed, "what was dropped is not gone on with"
        worker.stop()

    asyncio.run(run())
    assert order == ["written", "closed"]


def test_what_is_dropped_between_two_slices_has_nothing_to_wait_for() -> None:
    def slices() -> Any:
        yield lambda: order.append("written")
        return ["reply"]

    order: list[str] = []
    apply = shard_long.LongApply(shard_long.run_here, lambda: None, lambda error: None)
    apply.drop()
    assert apply.advance(slices) == ["reply"]
    apply.drop()
    assert apply.advance(slices) == ["reply"]
    assert order == ["written", "written"]


def test_a_leader_knows_by_way_of_which_node_it_was_asked_what(make: Callable[..., World]) -> None:
    world = make(3)
    leader, (one, other) = world.leader(), world.followers()
    assert leader.proposer is not None
    leader.proposer.take_demand()
    put(one, MIXED)
    writes(world, one, [b"f", b"g"])
    reads(other, 2)
    writes(world, leader, [b"h"])
    world.settle()
    leader.proposer.asked = [20, 3]  # as its connections count
    expected = Counter({one.name: len(MIXED) + 2, other.name: 2, leader.name: 20})
    expected["a"] += 3  # the first of the replicas
    assert leader.proposer.take_demand() == expected
    assert leader.proposer.take_demand().total() == 0


__all__ = ["make"]
