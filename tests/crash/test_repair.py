"""Nodes whose files were damaged or lost are refilled by the others; nothing acknowledged is lost meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import NodeProcess, TestCluster, running_cluster, wait_until
from tests.crash.writers import check, go_on, writing

VALUE = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One with sealed files, and a journal that does not reach back to the first entry."""
    options = {"JOURNAL_KEEP_BYTES": "1mb", "JOURNAL_SEGMENT_BYTES": "1mb", "SEGMENT_BYTES": "1mb"}
    options |= {"READ_CACHE_BYTES": "0"}  # what is read is read from the file
    with running_cluster(tmp_path_factory.mktemp("repair"), **options) as cluster:
        with cluster.nodes[0].client() as client:
            for start in range(0, 3000, 100):
                client.mset({f"old:{number}": VALUE + b"%d" % number for number in range(start, start + 100)})
        wait_until(lambda: all(map(_is_trimmed, cluster.nodes)), "the journals are trimmed", 40)
        wait_until(lambda: all(map(_is_sealed, cluster.nodes)), "the data files are sealed", 40)
        yield cluster


def _is_trimmed(node: NodeProcess) -> bool:
    shards = node.shards().values()
    return all(int(shard["last"]) - int(shard["log_entries"]) > 1 for shard in shards)


def _is_sealed(node: NodeProcess) -> bool:
    return all(sealed_files(node, shard) for shard in node.shards())


def sealed_files(node: NodeProcess, shard: int) -> list[Path]:
    files = sorted((node.directory / f"shard-{shard}").glob("*.data"))
    return [file for file in files if file.with_suffix(".hint").exists()]


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 4]))


def flip_in_data(node: NodeProcess) -> None:
    """In a sealed file, whose hint is gone, so that the start has to read it."""
    file = sealed_files(node, 1)[0]
    file.with_suffix(".hint").unlink()
    flip(file, 500)


def lose_a_data_file(node: NodeProcess) -> None:
    sealed_files(node, 0)[0].unlink()


def flip_in_journal(node: NodeProcess) -> None:
    flip(max((node.directory / "journal").glob("*.journal"), key=lambda file: file.stat().st_size), 40)


def lose_journal(node: NodeProcess) -> None:
    shutil.rmtree(node.directory / "journal")


def lose_segments(node: NodeProcess) -> None:
    for file in (node.directory / "journal").glob("*.journal"):
        file.unlink()


def lose_a_shard(node: NodeProcess) -> None:
    shutil.rmtree(node.directory / "shard-2")


def lose_everything(node: NodeProcess) -> None:
    for path in node.directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix not in {".toml", ".log"}:
            path.unlink()


def is_repaired(node: NodeProcess) -> bool:
    return all(shard["standing"] == "voter" for shard in node.shards().values())


@pytest.mark.parametrize(
    "damage",
    [flip_in_data, lose_a_data_file, flip_in_journal, lose_journal, lose_segments, lose_a_shard, lose_everything],
)
def test_a_node_with_damaged_or_lost_files_is_refilled_while_the_others_serve(
    cluster: TestCluster, damage: Callable[[NodeProcess], None]
) -> None:
    cluster.start()
    victim, *others = cluster.nodes
    with writing(others) as writers:
        assert victim.stop() == 0
        size = victim.log_file.stat().st_size
        damage(victim)
        go_on(writers)
        victim.start()
        cluster.wait_ready()
        wait_until(lambda: is_repaired(victim), "the node is repaired", 40)
        go_on(writers)
    log = victim.log()[size:]
    assert "replica_damaged" in log
    assert "replica_repairing" in log
    assert "replica_repaired" in log
    for writer in writers:
        assert (writer.errors, writer.reconnects) == ([], 0), writer.name
    check(cluster, writers)
    with victim.client() as client:
        assert client.mget("old:0", "old:2999") == [VALUE + b"0", VALUE + b"2999"]
