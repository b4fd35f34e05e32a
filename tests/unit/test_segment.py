"""The journal's bytes: the layout, and what a scan makes of files that were cut, flipped, zeroed or recycled."""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

import pytest

from respkv.raft.segment import (
    ENTRY,
    FRAME,
    HEAD_BYTES,
    MAGIC,
    RECORD,
    Head,
    JournalDamaged,
    encode_frame,
    list_segments,
    scan,
    segment_path,
    stamp_of,
)

SALT = bytes(range(16))


def entry(index: int, payload: bytes = b"\0x") -> bytes:
    return RECORD.pack(ENTRY, 0, index, 1, len(payload)) + payload


Turn = tuple[int, int, list[bytes]]
"""Sequence, synced and records of a frame to be."""


def laid_out(number: int, *turns: Turn, fresh: bool, salt: bytes = SALT) -> list[bytes]:
    """Head and frames of a segment; the head comes with the first frame."""
    head = Head(salt, number, fresh)
    data, parts = head.encode(), []
    for turn in turns:
        parts.append(encode_frame(head.stamp, len(data), *turn))
        data += parts[-1]
    return [data[: HEAD_BYTES + len(parts[0])], *parts[1:]]


def write(directory: Path, number: int, *parts: bytes, pad: int = 0, size: int = 0) -> Path:
    path = segment_path(directory, number)
    data = b"".join(parts) + bytes(pad)
    path.write_bytes(data.ljust(size, b"\0"))
    return path


def sequences(directory: Path) -> list[int]:
    return [frame.sequence for frame in scan(directory)[0]]


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_a_head_is_magic_salt_number_fresh_and_crc() -> None:
    data = Head(SALT, 5, fresh=True).encode()
    assert data[:36] == b"RKVJRNL2" + SALT + struct.pack("<QI", 5, 1)
    assert data[36:] == struct.pack("<I", crc32(data[:36]))
    assert Head.decode(data) == (SALT, 5, True)


def test_a_frame_is_mark_crc_length_sequence_synced_and_body() -> None:
    body = entry(2)
    mark, seed = stamp = stamp_of(SALT, 5)
    frame = encode_frame(stamp, 1000, 7, 5, [body])
    rest = struct.pack("<QQQ", len(body), 7, 5)
    assert frame == mark + struct.pack("<I", crc32(rest + body, (seed + 1000) % 2**32)) + rest + body


def test_marks_and_seeds_differ_by_salt_and_number() -> None:
    stamps = [stamp_of(salt, number) for salt in (SALT, bytes(16)) for number in range(100)]
    assert len({mark for mark, _ in stamps}) == len({seed for _, seed in stamps}) == 200


def test_a_record_is_kind_shard_index_term_length_and_payload(tmp_path: Path) -> None:
    assert RECORD.pack(2, 3, 4, 5, 6) == struct.pack("<BHQQI", 2, 3, 4, 5, 6)
    write(tmp_path, 1, *laid_out(1, (1, 0, [entry(2, b"\0ab"), entry(3, b"")]), fresh=True))
    frames, torn = scan(tmp_path)
    assert torn is None
    assert list(frames[0].records()) == [(1, 0, 2, 1, b"\0ab"), (1, 0, 3, 1, b"")]


def test_segments_are_listed_by_number_and_strangers_are_not(tmp_path: Path) -> None:
    for name in ("0000000000000010.journal", "0000000000000002.journal", "x.journal", "3.tmp"):
        (tmp_path / name).touch()
    assert [number for number, _ in list_segments(tmp_path)] == [2, 10]


def test_no_segment_at_all_is_an_empty_journal(tmp_path: Path) -> None:
    assert scan(tmp_path) == ([], None)


def test_zeros_behind_the_last_frame_are_its_end_and_nothing_torn(tmp_path: Path) -> None:
    write(tmp_path, 1, *laid_out(1, (1, 0, []), (2, 1, [entry(2)]), fresh=True), size=4096)
    frames, torn = scan(tmp_path)
    assert [frame.sequence for frame in frames] == [1, 2]
    assert torn is None


def test_a_cut_or_zeroed_tail_gives_the_frames_before_it_at_every_byte(tmp_path: Path) -> None:
    parts = laid_out(1, (1, 0, []), *((n, 1, [entry(n)]) for n in (2, 3, 4)), fresh=True)
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
    first, second, third = laid_out(1, (1, 0, []), (2, 1, [entry(2)]), (3, 2, [entry(3)]), fresh=True)
    for offset in range(len(first), len(first) + len(second)):
        path = write(tmp_path, 1, first, second, third, pad=64)
        flip(path, offset, bit=offset % 8)
        with pytest.raises(JournalDamaged) as caught:
            scan(tmp_path)
        assert (caught.value.file, caught.value.offset) == (path, len(first))
        assert str(path) in str(caught.value)
        assert f"offset {len(first)}" in str(caught.value)


def test_a_flipped_bit_in_the_unsynced_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    first, second, third = laid_out(1, (1, 0, []), (2, 1, [entry(2)]), (3, 1, [entry(3)]), fresh=True)
    for offset in range(len(first), len(first) + len(second) + len(third)):
        flip(write(tmp_path, 1, first, second, third, pad=64), offset, bit=offset % 8)
        assert sequences(tmp_path) == ([1] if offset < len(first) + len(second) else [1, 2])


def test_a_lost_frame_with_a_later_unsynced_one_is_cut_and_reported(tmp_path: Path) -> None:
    first, second, third = laid_out(1, (1, 0, []), (2, 1, [entry(2)]), (3, 1, [entry(3)]), fresh=True)
    path = write(tmp_path, 1, first, bytes(len(second)), third, pad=64)
    frames, torn = scan(tmp_path)
    assert [frame.sequence for frame in frames] == [1]
    assert torn == (path, len(first))


def test_damage_at_the_end_of_a_segment_is_proved_by_the_next_one(tmp_path: Path) -> None:
    first, second = laid_out(1, (1, 0, []), (2, 1, [entry(2)]), fresh=True)
    path = write(tmp_path, 1, first, second)
    write(tmp_path, 2, *laid_out(2, (3, 2, []), fresh=False))
    flip(path, len(first) + 40)
    with pytest.raises(JournalDamaged) as caught:
        scan(tmp_path)
    assert caught.value.file == path


@pytest.mark.parametrize(("number", "salt"), [(1, SALT), (2, bytes(16))])
def test_frames_of_an_earlier_use_are_never_read_wherever_they_lie(tmp_path: Path, number: int, salt: bytes) -> None:
    first, second = laid_out(2, (10, 9, []), (11, 10, [entry(2)]), fresh=True)
    at = len(first) + len(second)
    for newest in (8, 12, 40):  # a power cut may take sequence numbers back
        turns = [(n, n - 1, [entry(90 + n)]) for n in range(1, newest)]
        old = b"".join(laid_out(number, *turns, fresh=True, salt=salt))
        for shift in (*range(0, 60, 7), at):  # at: in the very places where they lay
            write(tmp_path, 2, first, second, old[shift:])
            assert sequences(tmp_path) == [10, 11]
            assert scan(tmp_path)[1] is None


def test_frames_copied_within_their_segment_are_never_read(tmp_path: Path) -> None:
    parts = laid_out(1, (1, 0, []), (2, 1, [entry(2)]), (3, 2, [entry(3)]), fresh=True)
    write(tmp_path, 1, *parts, bytes(8), *parts)
    assert sequences(tmp_path) == [1, 2, 3]


def test_what_a_client_can_make_of_all_that_is_published_is_no_frame(tmp_path: Path) -> None:
    """As a value that lies behind the log's end, for every mark, seed and offset that does not take the salt."""
    first, second = laid_out(1, (1, 0, []), (2, 1, [entry(2)]), fresh=True)
    at = len(first) + len(second)
    rest = struct.pack("<QQQ", 0, 1 << 60, 1 << 60)
    marks = (MAGIC[:4], MAGIC[4:], b"RJF1", stamp_of(b"", 1)[0], stamp_of(bytes(16), 1)[0])
    seeds = (0, at, stamp_of(b"", 1)[1] + at, stamp_of(bytes(16), 1)[1] + at)
    for mark in marks:
        for seed in seeds:
            write(tmp_path, 1, first, second, mark + struct.pack("<I", crc32(rest, seed % 2**32)) + rest, pad=64)
            frames, torn = scan(tmp_path)
            assert ([frame.sequence for frame in frames], torn) == ([1, 2], None)


def test_the_salt_of_the_oldest_segment_proves_damage_in_the_head_of_a_later_one(tmp_path: Path) -> None:
    write(tmp_path, 1, *laid_out(1, (1, 0, []), (2, 1, [entry(2)]), fresh=True))
    for synced in (2, 3):
        parts = laid_out(2, (3, 2, []), (4, synced, [entry(3)]), fresh=False)
        for offset in range(HEAD_BYTES):
            flip(write(tmp_path, 2, *parts), offset)
            if synced == 3:
                with pytest.raises(JournalDamaged, match="frame 3 is damaged"):
                    scan(tmp_path)
            else:
                assert sequences(tmp_path) == [1, 2]
                assert scan(tmp_path)[1] is not None, "what is cut off is told"


def test_files_of_the_format_before_are_refused(tmp_path: Path) -> None:
    rest = struct.pack("<QQQ", 0, 1, 0)
    write(tmp_path, 1, b"RJF1" + struct.pack("<I", crc32(rest)) + rest, size=4096)
    with pytest.raises(JournalDamaged, match="offset 0: the oldest segment does not begin with a head RKVJRNL2"):
        scan(tmp_path)


def test_a_recycled_segment_that_was_not_begun_is_no_part_of_the_journal(tmp_path: Path) -> None:
    write(tmp_path, 2, *laid_out(2, (10, 9, []), fresh=True))
    write(tmp_path, 3, *laid_out(1, (4, 3, []), (5, 4, [entry(77)]), fresh=False))
    frames, torn = scan(tmp_path)
    assert [frame.sequence for frame in frames] == [10]
    assert torn is None


def test_a_fresh_segment_supersedes_all_older_ones(tmp_path: Path) -> None:
    write(tmp_path, 1, *laid_out(1, (1, 0, []), (2, 1, [entry(2)]), fresh=True))
    write(tmp_path, 2, *laid_out(2, (3, 2, []), fresh=True, salt=bytes(16)))
    assert sequences(tmp_path) == [3]


def test_a_damaged_head_or_first_frame_of_the_oldest_segment_is_refused(tmp_path: Path) -> None:
    for offset in range(HEAD_BYTES + FRAME.size):
        path = write(tmp_path, 1, *laid_out(1, (1, 0, []), fresh=True))
        flip(path, offset)
        with pytest.raises(JournalDamaged, match="first frame" if offset >= HEAD_BYTES else "head"):
            scan(tmp_path)


def test_a_missing_segment_in_the_middle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, *laid_out(1, (1, 0, []), fresh=True))
    write(tmp_path, 3, *laid_out(3, (3, 2, []), fresh=False))
    with pytest.raises(JournalDamaged, match="frame 2"):
        scan(tmp_path)
