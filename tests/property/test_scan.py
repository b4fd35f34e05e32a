"""SCAN's guarantee: a key that is there from the first to the last call is returned, whatever happens meanwhile: other
keys come and go, files are merged, replicas with files of their own answer, COUNT changes from call to call."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.cluster import ring
from respkv.cluster.slots import SLOTS, slot_of
from respkv.commands.spread import SCAN
from respkv.keyspace.db import Db
from respkv.storage.bitcask import Bitcask
from tests.unit.one_shard import NOW_MS, OneShard

SHARDS = 3
REPLICAS = 2


class SmallFiles(OneShard):
    """A replica whose files are so small that there is always something to merge."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.cask.close()
        self.cask = Bitcask(directory, buckets=SLOTS, bucket_of=slot_of, segment_bytes=4096, merge_dead_ratio=0.05)
        self.db = Db(self.cask)
        self.db.now_ms = NOW_MS


class Cluster:
    """Shards of two replicas that apply the same writes; a read may go to either, as after a failover."""

    def __init__(self, directory: Path) -> None:
        self.slots = ring.owners(ring.tokens(SHARDS))
        self.shards = [
            [SmallFiles(directory / f"{shard}-{replica}") for replica in range(REPLICAS)] for shard in range(SHARDS)
        ]

    def write(self, key: bytes, value: bytes | None) -> None:
        for replica in self.shards[self.slots[slot_of(key)]]:
            replica([b"DEL", key] if value is None else [b"SET", key, value])

    def scan(self, cursor: bytes, options: list[bytes], replica: int) -> tuple[bytes, list[bytes]]:
        args = [b"SCAN", cursor, *options]
        parts = SCAN.split(args, slot_of, self.slots, range(SHARDS))
        replies = [self.shards[shard][replica](part) for shard, part in parts]
        reply = SCAN.merge(args, parts, replies, slot_of)
        assert isinstance(reply, list), reply
        return reply[0], reply[1]

    def merge(self, shard: int) -> None:
        self.shards[shard][0].cask.merge()

    def close(self) -> None:
        for replicas in self.shards:
            for replica in replicas:
                replica.cask.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 40)),
        st.tuples(st.just("del"), st.integers(0, 40)),
        st.tuples(st.just("overwrite"), st.integers(0, 200)),
        st.tuples(st.just("merge"), st.integers(0, SHARDS - 1)),
    ),
    max_size=8,
)
Step = tuple[str, int]
calls = st.lists(st.tuples(st.integers(1, 60), st.integers(0, REPLICAS - 1), steps), min_size=1, max_size=8)


@settings(max_examples=25)
@given(count=st.integers(0, 120), script=calls, match=st.booleans())
def test_a_key_that_stays_is_returned(count: int, script: list[tuple[int, int, list[Step]]], match: bool) -> None:
    staying = [b"stay:%d" % number for number in range(count)]
    with TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory))
        for key in staying:
            cluster.write(key, b"x" * 30)
        found: list[bytes] = []
        cursor, turn = b"0", 0
        while True:
            size, replica, doings = script[turn % len(script)]
            options = [b"COUNT", b"%d" % size, *([b"MATCH", b"stay:*", b"TYPE", b"string"] if match else [])]
            cursor, some = cluster.scan(cursor, options, replica)
            found += some
            if cursor == b"0":
                break
            for what, number in doings:
                if what == "merge":
                    cluster.merge(number)
                elif what == "overwrite" and staying:
                    cluster.write(staying[number % count], b"y" * 40)
                elif what in ("set", "del"):
                    cluster.write(b"other:%d" % number, b"z" if what == "set" else None)
            turn += 1
            assert turn <= count + 41 + SHARDS, "SCAN comes to an end"
        cluster.close()
    stayed = [key for key in found if key.startswith(b"stay:")]
    assert sorted(stayed) == sorted(staying), "each exactly once"
    assert not match or stayed == found
