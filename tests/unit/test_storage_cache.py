"""The read cache of a Bitcask: it never answers what the store would not."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from respkv.storage import Bitcask
from respkv.storage.record import encode_puts

KEYS = [b"a", b"b", b"c", b"d"]


def _puts(cask: Bitcask, pairs: list[tuple[bytes, bytes]]) -> None:
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    sizes, records = encode_puts(keys, values)
    cask.append_puts(cask.applied + 1, 1, 1, [0] * len(keys), keys, sizes, records)


@given(st.lists(st.tuples(st.sampled_from(["puts", "put", "expire", "delete", "clear"]), st.sampled_from(KEYS),
                          st.binary(max_size=40)), max_size=30), st.sampled_from([1, 450, 20_000, 100_000]))
def test_a_cached_read_is_what_an_uncached_store_answers(
    tmp_path_factory, steps: list[tuple[str, bytes, bytes]], cache_bytes: int
) -> None:
    directory: Path = tmp_path_factory.mktemp("cache")
    with (
        Bitcask(directory / "with", buckets=1, cache_bytes=cache_bytes) as cached,
        Bitcask(directory / "without", buckets=1) as plain,
    ):
        for action, key, value in steps:
            for cask in (cached, plain):
                if action == "puts":
                    _puts(cask, [(key, value), (b"a", value[::-1])])
                    continue
                batch = cask.batch()
                if action == "put":
                    batch.put(key, value)
                elif action == "expire":
                    batch.put(key, value, expire_ms=1 << 40)
                elif action == "delete":
                    batch.delete(key)
                else:
                    batch.clear()
                cask.commit(batch, cask.applied + 1, 1, 1)
            for _ in range(2):
                assert [cached.get_plain(0, k) for k in KEYS] == [plain.get_plain(0, k) for k in KEYS]


def test_the_second_read_does_not_look_at_the_file(tmp_path: Path) -> None:
    with Bitcask(tmp_path, buckets=1, cache_bytes=1500) as cask:
        cask.put(b"key", b"value")
        assert cask.get_plain(0, b"key") == b"value"
        cask.numbered.clear()
        assert cask.get_plain(0, b"key") == b"value"


def test_a_full_cache_starts_over(tmp_path: Path) -> None:
    with Bitcask(tmp_path, buckets=1, cache_bytes=1500) as cask:
        for number in range(100):
            cask.put(b"%d" % number, b"x" * 100)
            assert cask.get_plain(0, b"%d" % number) == b"x" * 100
        assert len(cask.cache) <= 4
