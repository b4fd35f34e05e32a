"""`python -m tests.crash.full_disk DIRECTORY`: nodes on file systems of a few megabytes that really become full.

To be run inside `tests.crash.isolated`, where it may mount them. First all nodes run out of room: writes are refused as
not applied before anything is appended, reads go on, restarts work, and with more room writes go on. Then one node
loses its room without warning: it stops, the others go on without it, and with room it comes back by itself. Until it
stops it may refuse writes to shards that it leads. At last a node with default settings, alone, and a client at full
speed: it is refused in time, too, and a start needs little room, also when it comes again and again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import redis

from tests.cluster import NodeProcess, TestCluster, wait_until

SMALL_MB = 48
LARGE_MB = 128
ALONE_MB = 500
DEFAULTS = {"JOURNAL_SEGMENT_BYTES": "64mb", "SEGMENT_BYTES": "128mb"}
OPTIONS = {
    "DISK_HEADROOM_BYTES": "16mb",
    "JOURNAL_SEGMENT_BYTES": "2mb",
    "JOURNAL_KEEP_BYTES": "2mb",
    "SEGMENT_BYTES": "2mb",
}
VALUE = b"v" * 16_384


class Disk:
    """A file system in memory for one node's data."""

    def __init__(self, path: Path, size_mb: int) -> None:
        self.path = path
        path.mkdir()
        self._mount("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(path))

    def resize(self, size_mb: int) -> None:
        self._mount("mount", "-o", f"remount,size={size_mb}m", str(self.path))

    def fill(self, leave: int = 0) -> None:
        """Somebody else takes all that is left, but for `leave` bytes."""
        with (self.path / "ballast").open("wb", buffering=0) as file:
            try:
                while shutil.disk_usage(self.path).free > leave:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    def empty(self) -> None:
        (self.path / "ballast").unlink()

    @staticmethod
    def _mount(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def fill_up(node: NodeProcess) -> int:
    """Writes until it is refused; returns how many writes were acknowledged."""
    count, refusal = 0, ""
    with node.client() as client:
        while not refusal:
            try:
                assert client.set(f"k{count}", VALUE)
                count += 1
            except redis.ResponseError as error:
                refusal = str(error)
    assert refusal.startswith("MISCONF"), refusal
    assert refusal.endswith("not applied"), refusal
    return count


def check_reads(cluster: TestCluster, count: int) -> None:
    for node in cluster.nodes:
        with node.client() as client:
            for number in range(count):
                assert client.get(f"k{number}") == VALUE, number
            assert client.get(f"k{count}") is None, "a write that was refused as not applied is there"


def writes_again(node: NodeProcess) -> bool:
    with node.client() as client:
        return bool(client.set("again", "x"))


def all_nodes_run_out_of_room(cluster: TestCluster, disks: list[Disk]) -> None:
    count = fill_up(cluster.nodes[0])
    check_reads(cluster, count)
    for node in cluster.nodes:
        assert node.stop() == 0
        node.start()
        cluster.wait_ready()
    check_reads(cluster, count)
    for disk in disks:
        disk.resize(LARGE_MB)
    for node in cluster.nodes:
        wait_until(lambda node=node: writes_again(node), "writes go on")
    cluster.assert_replicas_equal()
    print(f"all nodes: refused after {count} writes, reads went on, so did writes with more room")


def one_node_loses_its_room(cluster: TestCluster, disk: Disk) -> None:
    victim, *others = reversed(cluster.nodes)
    disk.fill()
    refusals: set[tuple[str, bool]] = set()
    with others[0].client() as client:
        for number in range(2000):
            try:
                assert client.set(f"more{number % 100}", VALUE)
            except redis.ResponseError as error:  # it leads a shard, and sees how full its disk is before it stops
                refusals.add((str(error).split(" ")[0], str(error).endswith("not applied")))
            if not victim.running:
                break
        assert refusals <= {("MISCONF", True)}
        assert not victim.running, "it goes on without room on its disk"
        assert client.set("without", "it")
    assert "No space left on device" in victim.log()
    disk.empty()
    victim.start()
    cluster.wait_ready()
    time.sleep(0.5)
    assert writes_again(victim)
    cluster.assert_replicas_equal()
    print("one node: stopped, was not missed, came back")


def a_client_at_full_speed(directory: Path) -> None:
    disk = Disk(directory / "disk-alone", ALONE_MB)
    cluster = TestCluster(directory / "alone", 1, 1, **DEFAULTS)
    (node,) = cluster.nodes
    node.options["DIR"] = str(disk.path / "data")
    try:
        cluster.start()
        count, refused = 0, False
        with node.client() as client:
            while not refused:
                pipe = client.pipeline(transaction=False)
                for number in range(count, count + 40):
                    pipe.set(f"k{number}", 4 * VALUE)
                replies = pipe.execute(raise_on_error=False)
                refused = any(isinstance(reply, redis.ResponseError) for reply in replies)
                count += replies.count(True)
        assert not any(str(reply).split(" ")[0] not in {"True", "MISCONF"} for reply in replies)
        disk.fill(leave=1 << 20)
        for end in (node.stop, node.kill, node.stop):
            end()
            node.start()
            cluster.wait_ready()
            assert node.call("DBSIZE") == count
            assert node.call("GET", f"k{count - 1}") == 4 * VALUE
    finally:
        for node in cluster.running:
            node.kill()
    print(f"alone: refused after {count} writes at full speed, starts with little room")


def main(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    disks = [Disk(directory / f"disk-{number}", SMALL_MB) for number in (1, 2, 3)]
    cluster = TestCluster(directory / "cluster", 3, 3, **OPTIONS)
    for node, disk in zip(cluster.nodes, disks, strict=True):
        node.options["DIR"] = str(disk.path / "data")
    try:
        cluster.start()
        all_nodes_run_out_of_room(cluster, disks)
        one_node_loses_its_room(cluster, disks[-1])
    finally:
        for node in cluster.running:
            node.kill()
    a_client_at_full_speed(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
