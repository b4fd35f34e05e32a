"""The bytes of records, frames, file heads and hints, one by one."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from zlib import crc32

import pytest

from respkv.disk import Disk
from respkv.storage import Bitcask, columns, hint, record
from respkv.storage.datafile import DataFile, Name
from respkv.storage.frame import FILE_HEAD_BYTES, FRAME_HEAD_BYTES, SEAL_MAGIC, FileHead, decode_head, encode_head


def test_a_record_is_header_key_value_and_a_checksum_over_all_of_it() -> None:
    encoded = record.encode(record.STRING, 5, b"key", b"value")
    body = b"\x01" + struct.pack("<qII", 5, 3, 5) + b"keyvalue"
    assert encoded == body + struct.pack("<I", crc32(body))
    assert crc32(encoded) == record.CRC_RESIDUE
    assert record.decode(encoded) == (b"key", record.Record(1, 5, b"value"))


def test_encode_puts_makes_the_records_of_plain_strings() -> None:
    keys, values = [b"a", b"", b"a"], [b"1", b"\0" * 5000, b""]
    sizes, records = record.encode_puts(keys, values)
    expected = [record.encode(record.STRING, 0, key, value) for key, value in zip(keys, values, strict=True)]
    assert records == b"".join(expected)
    assert sizes == [len(one) for one in expected]
    assert all(one.startswith(record.PLAIN) for one in expected)
    assert record.encode_puts([], []) == ([], b"")


@pytest.mark.parametrize("value_bytes", [3, 70_000])
def test_no_record_with_a_flipped_bit_or_a_missing_byte_is_intact(value_bytes: int) -> None:
    encoded = record.encode(record.STRING, 0, b"key", b"v" * value_bytes)
    assert record.intact(encoded, 0, len(encoded))
    assert record.read(encoded, 0, len(encoded)) == (b"key", record.Record(1, 0, b"v" * value_bytes))
    for bit in range(0, len(encoded) * 8, 1 if value_bytes < 10 else 100_003):
        bad = bytearray(encoded)
        bad[bit // 8] ^= 1 << bit % 8
        assert not record.intact(bytes(bad), 0, len(bad))
        assert record.read(bytes(bad), 0, len(bad)) is None
        assert record.decode(bytes(bad)) is None
    for length in range(min(30, len(encoded))):
        assert record.read(encoded, 0, length) is None
        assert record.decode(encoded[:length]) is None


def rows(data: bytes, start: int, end: int) -> list[columns.Row]:
    return [row for records in columns.read_all(data, start, end) for row in records.rows()]


def test_every_record_is_told_and_one_that_does_not_fit_refused() -> None:
    parts = [record.encode(1, 0, b"a", b"xy"), record.encode(0, 0, b"bb", b""), record.CLEAR_RECORD]
    data = b"".join(parts)
    assert rows(data, 0, len(data)) == [(1, 0, b"a", 0, 24), (0, 0, b"bb", 24, 23), (255, 0, b"", 47, 21)]
    assert rows(data, 24, 47) == [(0, 0, b"bb", 24, 23)]
    for cut in range(len(data)):
        if cut not in {0, 24, 47}:
            with pytest.raises(record.BadRecord) as bad:
                rows(data, 0, cut)
            assert bad.value.offset == max(start for start in (0, 24, 47) if start < cut)


def test_records_of_all_sizes_are_told_piece_by_piece_and_the_first_bad_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "PIECE_BYTES", 200)
    monkeypatch.setattr(columns, "LARGE_BYTES", 1000)
    rng = random.Random(3)
    expected: list[columns.Row] = []
    data = bytearray(b"ahead")
    for n in range(200):
        kind, expire_ms = rng.choice([(1, 0), (1, 0), (1, 7), (0, 0), (2, 0)])
        key, value = b"k%d" % n, bytes(rng.choice([0, 30, 150, 180, 500, 3000, 6000])) if kind else b""
        encoded = record.encode(kind, expire_ms, key, value)
        expected.append((kind, expire_ms, key, len(data), len(encoded)))
        data += encoded
    whole = bytes(data)
    assert rows(whole, 5, len(whole)) == expected
    found = list(columns.read_records(whole, 5, len(whole)))
    assert any(records.is_large for records in found)
    assert any(len(records.keys) > 1 for records in found)
    assert [place for records in found for place in records.places()] == [
        offset << 12 | min(size, 4095) for _, _, _, offset, size in expected
    ]
    for _ in range(300):
        place = rng.randrange(5, len(whole))
        data[place] ^= 1 << rng.randrange(8)
        with pytest.raises(record.BadRecord) as bad:
            rows(bytes(data), 5, len(whole))
        assert bad.value.offset == max(offset for _, _, _, offset, _ in expected if offset <= place)
        data[place] = whole[place]


def test_a_hint_of_many_records_is_that_of_each_of_them() -> None:
    data = b"".join(record.encode(1, 0, b"k%d" % n, b"v" * (n * 977 % 9000)) for n in range(60))
    special = record.encode(0, 0, b"k3", b"") + record.encode(1, 88, b"k4", b"v")
    for wire in (data, data + special, data + record.CLEAR_RECORD + special):
        one_by_one, at_once = hint.Hint(), hint.Hint()
        for records in columns.read_all(wire, 0, len(wire)):
            at_once.extend(records)
            for row in records.rows():
                one_by_one.add(*row)
        assert len(at_once) > 0
        assert at_once.equals(one_by_one)


def test_a_file_head_is_64_bytes_with_its_checksum_last() -> None:
    head = FileHead(salt=7, first_id=3, last_id=5, base_index=9, generation=2)
    data = head.encode()
    assert data[:60] == b"RKVDATA1" + struct.pack("<QQQQI", 7, 3, 5, 9, 2) + bytes(16)
    assert data[60:] == struct.pack("<I", crc32(data[:60]))
    assert FileHead.decode(data + b"more") == head
    for at in range(64):
        assert FileHead.decode(data[:at]) is None
        assert FileHead.decode(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]) is None


def test_a_frame_head_is_48_bytes_and_holds_at_its_own_place_only() -> None:
    data = encode_head(1234, 64, 0, 5, 6, 7, 4)
    fields = struct.pack("<5Q", 0, 5, 6, 7, 4)
    assert data == b"RKVB" + struct.pack("<I", crc32(fields, 1234 + 64)) + fields
    frame = decode_head(bytes(64) + data, 1234, 64, 112)
    assert frame is not None
    assert (frame.index, frame.term, frame.clock_ms, frame.synced_index, frame.is_seal) == (5, 6, 7, 4, False)
    assert decode_head(bytes(65) + data, 1234, 65, 113) is None
    assert decode_head(bytes(64) + data, 1235, 64, 112) is None
    assert decode_head(bytes(64) + data, 1234, 64, 111) is None
    for at in range(48):
        bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert decode_head(bytes(64) + bad, 1234, 64, 1 << 62) is None


def test_seeds_differ_by_salt_ids_and_generation() -> None:
    heads = [FileHead(1, 1, 1, 0, 0), FileHead(2, 1, 1, 0, 0), FileHead(1, 1, 2, 0, 0), FileHead(1, 1, 1, 0, 1)]
    assert len({head.seed for head in heads}) == 4


def test_names_say_ids_and_generation_and_nothing_else_is_a_name() -> None:
    for text, name in [("000012.0", Name(12, 12, 0)), ("000003-000007.2", Name(3, 7, 2)), ("1234567.0", None)]:
        if name is not None:
            assert str(name) == text
            assert Name.parse(text + ".data") == (name, ".data")
            assert Name.parse(text + ".hint") == (name, ".hint")
    for text in ["lock", "12.0.data", "0000012.0.data", "000012.data", "000001-000001.1.data", "000001.0.data.tmp"]:
        assert Name.parse(text) is None
    assert Name(3, 7, 2).replaces(Name(4, 7, 1))
    assert not Name(3, 7, 2).replaces(Name(7, 8, 1))
    assert not Name(3, 7, 2).replaces(Name(3, 7, 2))


def test_a_data_file_is_its_head_and_frames_without_gaps(tmp_path: Path) -> None:
    cask = Bitcask(tmp_path, segment_bytes=4096)
    batch = cask.batch()
    batch.put(b"k", b"v", expire_ms=3)
    cask.commit(batch, 7, 2, 1000)
    cask.commit(cask.batch(), 8, 2, 1001)
    data = (tmp_path / "000001.0.data").read_bytes()
    assert len(data) == 4096
    head = FileHead.decode(data)
    assert head is not None
    assert head[1:] == (1, 1, 0, 0)
    expected = encode_head(head.seed, 64, 23, 7, 2, 1000, 0) + record.encode(1, 3, b"k", b"v")
    expected += encode_head(head.seed, 64 + len(expected), 0, 8, 2, 1001, 0)
    assert data[64:] == expected.ljust(4096 - 64, b"\0")
    cask.close()


def test_a_sealed_file_ends_with_its_seal_and_the_hint_lists_its_records(tmp_path: Path) -> None:
    cask = Bitcask(tmp_path, segment_bytes=8192, merge_dead_ratio=1.0)
    cask.put(b"a", b"1")
    cask.put(b"b", b"2" * 5000)
    cask.put(b"e", b"3", expire_ms=99)
    cask.delete(b"a")
    cask.put(b"c", b"4" * 5000)
    cask.merge()
    first, second = cask.files
    data = first.path.read_bytes()
    seal_at = len(data) - FRAME_HEAD_BYTES
    assert data[seal_at:] == encode_head(first.seed, seal_at, 0, 4, 0, 0, 0, SEAL_MAGIC)
    loaded = hint.read(first.hint_path, first)
    assert loaded is not None
    assert (loaded.data_bytes, loaded.index, loaded.tombstone_bytes) == (len(data), 4, 22)
    assert loaded.put_bytes == 23 + 5022 + 23
    keys, places, _end = loaded.keys_and_places(0, 0, 10)
    assert keys == [b"a", b"b", b"e", b"a"]
    assert places[0] == (FILE_HEAD_BYTES + FRAME_HEAD_BYTES) << 12 | 23
    assert places[1] & 4095 == 4095
    assert hint.read(first.hint_path, second) is None
    cask.close()


def test_no_hint_with_a_changed_or_missing_byte_is_believed(tmp_path: Path) -> None:
    head = FileHead(1, 1, 1, 0, 0)
    file = DataFile.create(tmp_path, head, 0, 1024, Disk())
    made = hint.Hint()
    made.add(1, 0, b"key", 112, 30)
    made.add(0, 0, b"gone", 142, 25)
    made.add(2, 77, b"soon", 167, 5000)
    made.finish(9000, 3, 2, 1)
    for task in made.write(file.hint_path, file.seed, Disk()):
        assert task is not None
        task()
    data = file.hint_path.read_bytes()
    loaded = hint.read(file.hint_path, file)
    assert loaded is not None
    assert loaded.equals(made)
    for at in range(len(data)):
        for bad in (data[:at], data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :], data + data[: at + 1]):
            file.hint_path.write_bytes(bad)
            assert hint.read(file.hint_path, file) is None
    file.close()
