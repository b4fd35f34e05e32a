"""The journal's bytes: the layout, and what a scan makes of files that were cut, flipped, zeroed or recycled."""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

import pytest

from respkv.raft.segment import (
    ENTRY,
    FRAME,
    RECORD,
    START,
    JournalDamaged,
    encode_frame,
    list_segments,
    scan,
    segment_path,
)


def start(number: int, *, fresh: bool) -> bytes:
    return RECORD.pack(START, 0, number, int(fresh), 0)


def entry(index: int, payload: bytes = b"\0x") -> bytes:
    return RECORD.pack(ENTRY, 0, index, 1, len(payload)) + payload


def write(directory: Path, number: int, *frames: bytes, pad: int = 0, size: int = 0) -> Path:
    path = segment_path(directory, number)
    data = b"".join(frames) + bytes(pad)
    path.write_bytes(data.ljust(size, b"\0"))
    return path


def sequences(directory: Path) -> list[int]:
    return [frame.sequence for frame in scan(directory)[0]]


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_a_frame_is_magic_crc_length_sequence_synced_and_body() -> None:
    body = entry(2)
    frame = encode_frame(7, 5, [body])
    rest = struct.pack("<QQQ", len(body), 7, 5)
    assert frame == b"RJF1" + struct.pack("<I", crc32(rest + body)) + rest + body


def test_a_record_is_kind_shard_index_term_length_and_payload(tmp_path: Path) -> None:
    assert RECORD.pack(2, 3, 4, 5, 6) == struct.pack("<BHQQI", 2, 3, 4, 5, 6)
    write(tmp_path, 1, encode_frame(1, 0, [start(1, fresh=True), entry(2, b"\0ab"), entry(3, b"")]))
    frames, torn = scan(tmp_path)
    assert torn is None
    assert list(frames[0].records()) == [(1, 0, 1, 1, b""), (2, 0, 2, 1, b"\0ab"), (2, 0, 3, 1, b"")]


def test_segments_are_listed_by_number_and_strangers_are_not(tmp_path: Path) -> None:
    for name in ("0000000000000010.journal", "0000000000000002.journal", "x.journal", "3.tmp"):
        (tmp_path / name).touch()
    assert [number for number, _ in list_segments(tmp_path)] == [2, 10]


def test_no_segment_at_all_is_an_empty_journal(tmp_path: Path) -> None:
    assert scan(tmp_path) == ([], None)


def test_zeros_behind_the_last_frame_are_its_end_and_nothing_torn(tmp_path: Path) -> None:
    write(tmp_path, 1, encode_frame(1, 0, [start(1, fresh=True)]), encode_frame(2, 1, [entry(2)]), size=4096)
    frames, torn = scan(tmp_path)
    assert [frame.sequence for frame in frames] == [1, 2]
    assert torn is None


def test_a_cut_or_zeroed_tail_gives_the_frames_before_it_at_every_byte(tmp_path: Path) -> None:
    parts = [encode_frame(1, 0, [start(1, fresh=True)])]
    parts += [encode_frame(n, 1, [entry(n)]) for n in (2, 3, 4)]
    whole = b"".join(parts)
    ends = [sum(map(len, parts[: n + 1])) for n in range(4)]
    path = segment_path(tmp_path, 1)
    for cut in range(len(parts[0]), len(whole) + 1):
        expected = [n + 1 for n in range(4) if ends[n] <= cut]
        path.write_bytes(whole[:cut])
        assert sequences(tmp_path) == expected, f"cut at {cut}"
        path.write_bytes(whole[:cut].ljust(len(whole) + 100, b"\0"))
        found, torn = scan(tmp_path)
        # a cut may fall on bytes that are zero anyway
        assert [frame.sequence for frame in found] in (expected, [*expected, len(expected) + 1])
        assert torn is None or torn[1] == ends[len(found) - 1]


def test_a_flipped_bit_in_a_frame_known_to_be_synced_is_refused_with_file_and_offset(tmp_path: Path) -> None:
    first = encode_frame(1, 0, [start(1, fresh=True)])
    second, third = encode_frame(2, 1, [entry(2)]), encode_frame(3, 2, [entry(3)])
    for offset in range(len(first), len(first) + len(second)):
        path = write(tmp_path, 1, first, second, third, pad=64)
        flip(path, offset, bit=offset % 8)
        with pytest.raises(JournalDamaged) as caught:
            scan(tmp_path)
        assert (caught.value.file, caught.value.offset) == (path, len(first))
        assert str(path) in str(caught.value)
        assert f"offset {len(first)}" in str(caught.value)


def test_a_flipped_bit_in_the_unsynced_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    first = encode_frame(1, 0, [start(1, fresh=True)])
    second, third = encode_frame(2, 1, [entry(2)]), encode_frame(3, 1, [entry(3)])
    for offset in range(len(first), len(first) + len(second) + len(third)):
        flip(write(tmp_path, 1, first, second, third, pad=64), offset, bit=offset % 8)
        assert sequences(tmp_path) == ([1] if offset < len(first) + len(second) else [1, 2])


def test_a_lost_frame_with_a_later_unsynced_one_is_cut_and_reported(tmp_path: Path) -> None:
    first, second, third = (encode_frame(1, 0, [start(1, fresh=True)]), encode_frame(2, 1, [entry(2)]), b"")
    third = encode_frame(3, 1, [entry(3)])
    path = write(tmp_path, 1, first, bytes(len(second)), third, pad=64)
    frames, torn = scan(tmp_path)
    assert [frame.sequence for frame in frames] == [1]
    assert torn == (path, len(first))


def test_damage_at_the_end_of_a_segment_is_proved_by_the_next_one(tmp_path: Path) -> None:
    first, second = encode_frame(1, 0, [start(1, fresh=True)]), encode_frame(2, 1, [entry(2)])
    path = write(tmp_path, 1, first, second)
    write(tmp_path, 2, encode_frame(3, 2, [start(2, fresh=False)]))
    flip(path, len(first) + 40)
    with pytest.raises(JournalDamaged) as caught:
        scan(tmp_path)
    assert caught.value.file == path


def test_frames_of_an_earlier_life_are_never_read_wherever_they_lie(tmp_path: Path) -> None:
    first, second = encode_frame(10, 9, [start(2, fresh=True)]), encode_frame(11, 10, [entry(2)])
    stale = b"".join(encode_frame(n, n - 1, [entry(90 + n)]) for n in range(1, 9))
    for shift in range(0, 60, 7):
        write(tmp_path, 2, first, second, stale[shift:])
        assert sequences(tmp_path) == [10, 11]


def test_a_recycled_segment_that_was_not_begun_is_no_part_of_the_journal(tmp_path: Path) -> None:
    write(tmp_path, 2, encode_frame(10, 9, [start(2, fresh=True)]))
    write(tmp_path, 3, encode_frame(4, 3, [start(1, fresh=False)]), encode_frame(5, 4, [entry(77)]))
    frames, torn = scan(tmp_path)
    assert [frame.sequence for frame in frames] == [10]
    assert torn is None


def test_a_fresh_segment_supersedes_all_older_ones(tmp_path: Path) -> None:
    write(tmp_path, 1, encode_frame(1, 0, [start(1, fresh=True)]), encode_frame(2, 1, [entry(2)]))
    write(tmp_path, 2, encode_frame(3, 2, [start(2, fresh=True)]))
    assert sequences(tmp_path) == [3]


def test_a_damaged_first_frame_of_the_oldest_segment_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1, encode_frame(1, 0, [start(1, fresh=True)]))
    flip(path, FRAME.size)
    with pytest.raises(JournalDamaged, match="first frame"):
        scan(tmp_path)


def test_a_missing_segment_in_the_middle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, encode_frame(1, 0, [start(1, fresh=True)]))
    write(tmp_path, 3, encode_frame(3, 2, [start(3, fresh=False)]))
    with pytest.raises(JournalDamaged, match="frame 2"):
        scan(tmp_path)
