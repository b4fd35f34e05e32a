"""Disks that fail or are full, and clocks that jump, under real nodes."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.cluster import ROOT, TestCluster, environment, wait_until
from tests.crash import full_disk, inject
from tests.crash.inject import Injector
from tests.crash.isolated import isolated, why_not
from tests.crash.test_failover import assert_only_waited, elsewhere
from tests.crash.writers import check, go_on, writing

HOUR_MS = 3_600_000
FULL_DISK_S = 110


class Faulty:
    """A running cluster whose disks and clocks can be made to fail."""

    def __init__(self, directory: Path) -> None:
        self.cluster = TestCluster(directory, 3, 3, READ_CACHE_BYTES="0")  # what is read is read from the file
        self.injectors = {node.name: Injector(node) for node in self.cluster.nodes}

    def heal(self) -> None:
        for injector in self.injectors.values():
            injector.heal_disk()
            injector.shift_clock(0)
        self.cluster.start()


@contextmanager
def faulty_cluster(directory: Path) -> Iterator[Faulty]:
    faulty = Faulty(directory)
    try:
        faulty.cluster.start()
        yield faulty
    finally:
        for node in faulty.cluster.running:
            node.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with faulty_cluster(tmp_path_factory.mktemp("faulty") / "cluster") as faulty:
        yield faulty


@pytest.fixture
def faulty(shared: Faulty) -> Faulty:
    shared.heal()
    return shared


def sync_of_the_journal(injector: Injector) -> None:
    injector.fail_syncs("journal")


def write_of_the_journal(injector: Injector) -> None:
    injector.fail_writes("journal", errno.EIO)


def write_of_the_data(injector: Injector) -> None:
    injector.fail_writes("shard-", errno.EIO)


def no_room(injector: Injector) -> None:
    injector.fail_writes("", errno.ENOSPC)


@pytest.mark.parametrize("fails", [sync_of_the_journal, write_of_the_journal, write_of_the_data, no_room])
def test_a_disk_that_fails_stops_the_node_and_loses_nothing(faulty: Faulty, fails: Callable[[Injector], None]) -> None:
    """Never tried again, never acknowledged: a process that starts anew reads what is really there."""
    cluster = faulty.cluster
    victim = cluster.leader(0)
    with writing(cluster.nodes) as writers:
        fails(faulty.injectors[victim.name])
        wait_until(lambda: not victim.running, "the node stops")
        assert victim.process is not None
        assert victim.process.returncode == 1
        assert "node_failed" in victim.log()
        go_on(elsewhere(writers, victim))
        faulty.heal()
        go_on(writers)
    assert_only_waited(elsewhere(writers, victim))
    check(cluster, writers)


def test_fsync_errors_on_all_disks_at_once_lose_nothing_acknowledged(faulty: Faulty) -> None:
    cluster = faulty.cluster
    with writing(cluster.nodes) as writers:
        for injector in faulty.injectors.values():
            injector.fail_syncs("")
        wait_until(lambda: not cluster.running, "all nodes stop")
        faulty.heal()
        go_on(writers)
    check(cluster, writers)


def test_a_disk_that_fails_while_a_node_starts_keeps_it_from_starting_and_it_starts_when_healed(faulty: Faulty) -> None:
    victim = faulty.cluster.nodes[1]
    with faulty.cluster.nodes[0].client() as client:
        assert client.set("before", "x")
    for arm in (Injector.fail_syncs, Injector.fail_writes, Injector.fail_renames):
        victim.kill()
        arm(faulty.injectors[victim.name])
        victim.start()
        wait_until(lambda: not victim.running, "it gives up")
        assert victim.process is not None
        assert victim.process.returncode == 1
        faulty.injectors[victim.name].heal_disk()
        victim.start()
        faulty.cluster.wait_ready()
    faulty.cluster.assert_replicas_equal()


@pytest.mark.parametrize("at_the_start", [False, True], ids=["met by a read", "met at the start"])
def test_a_disk_that_cannot_be_read_is_damage_that_repairs_itself(faulty: Faulty, at_the_start: bool) -> None:
    cluster = faulty.cluster
    victim = cluster.leader(0)
    injector, hits, log_bytes = faulty.injectors[victim.name], 0, victim.log_file.stat().st_size
    prefix = f"unreadable:{at_the_start}:"
    values = {key: key.encode() for key in cluster.keys_of_shard(0, 50, prefix)}
    with cluster.nodes[1].client() as client:
        client.mset(values)
    if at_the_start:
        victim.kill()
    hits = injector.hits
    injector.fail_reads("shard-0/")
    if at_the_start:
        victim.start()
    with cluster.nodes[(cluster.nodes.index(victim) + at_the_start) % 3].client() as client:
        for key, value in values.items():
            assert client.get(key) == value
    wait_until(lambda: injector.hits > hits, "the disk is asked")
    injector.heal_disk()
    wait_until(lambda: "replica_repaired" in victim.log()[log_bytes:], "it is repaired")
    assert "cannot be read" in victim.log()[log_bytes:]
    cluster.wait_ready()
    with victim.client() as client:
        assert client.mget(list(values)) == list(values.values())
    cluster.assert_replicas_equal()


def test_a_slow_disk_of_one_node_is_not_noticed_by_clients_of_others(faulty: Faulty) -> None:
    """The majority does not wait for it."""
    cluster = faulty.cluster
    victim = cluster.nodes[2]
    with writing(cluster.nodes) as writers:
        faulty.injectors[victim.name].slow_syncs(200)
        go_on(elsewhere(writers, victim), 50)
        faulty.heal()
        go_on(writers)
    for writer in elsewhere(writers, victim):
        assert writer.errors == []
    check(cluster, writers)


def test_too_little_room_refuses_writes_as_not_applied_and_reads_go_on(faulty: Faulty) -> None:
    """On any file system: more headroom is asked for than there is, at every node, as any may lead by then."""
    cluster = faulty.cluster
    (key,) = cluster.keys_of_shard(0, 1, "room")
    with cluster.leader(0).client() as client, cluster.followers(0)[0].client() as other:
        assert client.set(key, "before")
        with _headroom(cluster, 1 << 49):
            for writer in (client, other):  # at the leader, and by another node
                wait_until(lambda writer=writer: _refusal(writer, key, "before"), "writes are refused")  # in a moment
                refusal = _refusal(writer, key, "never")
                assert re.fullmatch(r"MISCONF .* the command was not applied", refusal)
                assert writer.get(key) == b"before"
        wait_until(lambda: not _refusal(client, key, "after"), "writes go on")
        assert other.get(key) == b"after"
    cluster.assert_replicas_equal()


@contextmanager
def _headroom(cluster: TestCluster, size: int) -> Iterator[None]:
    try:
        for node in cluster.nodes:
            node.call("CONFIG", "SET", "disk-headroom-bytes", str(size))
        yield
    finally:
        for node in cluster.nodes:
            node.call("CONFIG", "SET", "disk-headroom-bytes", str(1 << 20))


def _refusal(client: redis.Redis, key: str, value: str) -> str:
    """What a write is refused with, if it is."""
    try:
        client.set(key, value)
    except redis.ResponseError as error:
        return str(error)
    return ""


def test_disks_that_are_really_full_refuse_writes_and_come_back(tmp_path: Path) -> None:
    """File systems of a few megabytes; without the right to mount them, the two tests above must do."""
    reason = why_not()
    if reason is not None:
        warnings.warn(f"no disk was really filled: {reason}; ENOSPC came by {Injector.how()} alone", stacklevel=1)
        assert shutil.disk_usage(tmp_path).free < 1 << 49  # what the test above rests on
        return
    command = isolated([sys.executable, "-m", full_disk.__name__, str(tmp_path / "disks")])
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment({}), timeout=FULL_DISK_S)
    assert done.returncode == 0, done.stdout + done.stderr


# -- clocks


def unix_ms(cluster: TestCluster, number: int) -> int:
    seconds, microseconds = cluster.nodes[number].call("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


@pytest.mark.parametrize("how", ["library", "python"])
def test_the_clock_of_a_node_can_be_shifted_and_its_disk_made_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By the preloaded library and by what stands for it without a compiler: the tests above work with either."""
    if how == "python":
        monkeypatch.setattr(inject, "library", lambda: None)
    elif inject.library() is None:
        warnings.warn("no C compiler: disk and clock faults come from a Python hook alone", stacklevel=1)
    with faulty_cluster(tmp_path / "cluster") as faulty:
        node, injector = faulty.cluster.nodes[0], faulty.injectors["n1"]
        injector.shift_clock(HOUR_MS)
        assert abs(unix_ms(faulty.cluster, 0) - unix_ms(faulty.cluster, 1) - HOUR_MS) < HOUR_MS / 10
        injector.fail_syncs("journal", skip=3)
        with faulty.cluster.nodes[1].client() as client:
            wait_until(lambda: client.incr("x") and not node.running, "it stops for its disk")
        assert injector.hits >= 1
        assert "Input/output error" in node.log()


def test_a_key_that_was_seen_to_be_gone_stays_gone_when_clocks_jump_back_and_leaders_change(faulty: Faulty) -> None:
    cluster = faulty.cluster
    keys = [cluster.keys_of_shard(shard, 1, "gone")[0] for shard in range(3)]
    with cluster.nodes[0].client() as client:
        for key in keys:
            assert client.set(key, "x", px=200)
        wait_until(lambda: not any(client.exists(key) for key in keys), "they expire")
        time.sleep(0.5)  # until their removal is in the log: what holds by the clock alone is another node's to judge
    for injector in faulty.injectors.values():
        injector.shift_clock(-HOUR_MS)
    for _ in range(2):
        for node in cluster.nodes:
            with node.client() as client:
                assert [client.get(key) for key in keys] == [None] * 3
        cluster.leader(0).stop()
        cluster.start()
    cluster.assert_replicas_equal()


def test_a_follower_whose_clock_is_ahead_expires_nothing(faulty: Faulty) -> None:
    """Only leaders read the clock, and what they saw is replicated."""
    cluster = faulty.cluster
    keys = [cluster.keys_of_shard(shard, 1, "ahead")[0] for shard in range(3)]
    leaders = cluster.leaders()
    follower = cluster.nodes[2]
    led_elsewhere = [key for shard, key in enumerate(keys) if leaders[shard] != follower.name]
    with follower.client() as client:
        for key in led_elsewhere:
            assert client.set(key, "x", ex=600)
        faulty.injectors[follower.name].shift_clock(HOUR_MS)
        time.sleep(0.3)
        for key in led_elsewhere:
            assert client.get(key) == b"x"
            assert client.ttl(key) > 500
    faulty.injectors[follower.name].shift_clock(0)


def test_clocks_that_jump_back_do_not_cut_short_or_undo_what_was_acknowledged(faulty: Faulty) -> None:
    cluster = faulty.cluster
    keys = [cluster.keys_of_shard(shard, 1, "kept")[0] for shard in range(3)]
    with cluster.nodes[0].client() as client:
        deadlines = []
        for key in keys:
            assert client.set(key, "x", ex=600)
            deadlines.append(client.execute_command("PEXPIRETIME", key))
        for injector in faulty.injectors.values():
            injector.shift_clock(-HOUR_MS)
        for key in keys:
            assert client.set(key + "later", "y", ex=600)
            assert 0 < client.ttl(key + "later") <= 4200
    cluster.leader(1).kill()
    cluster.start()
    for node in cluster.nodes:
        with node.client() as client:
            assert [client.execute_command("PEXPIRETIME", key) for key in keys] == deadlines
            assert client.mget([key + "later" for key in keys]) == [b"y"] * 3
    cluster.assert_replicas_equal()
