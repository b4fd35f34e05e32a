"""What may be on a disk: journals and data files after any accident, or replaced by anything.

The oracle knows every state that the files went through. What opens after an accident must show one of them, value by
value; all else must be refused as damage. CRCs would hide most of the readers' code from mutated bytes, so parts of the
targets make the checksums right again.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from respkv.checksum import crc32
from respkv.disk import Disk
from respkv.raft import journal as raft_journal
from respkv.raft.identity import Identity
from respkv.raft.journal import Journal
from respkv.raft.segment import FRAME, HEAD_BYTES, MAGIC, Head, JournalDamaged, list_segments
from respkv.storage import Bitcask, Damaged, check, columns, record
from respkv.storage.frame import FileHead, find_headers, frames
from tests.fuzz.source import mutate, some_bytes

SEGMENT_BYTES = 2048
SHARDS = (0, 1)
Files = dict[str, bytes]
Entries = dict[tuple[int, int], set[tuple[bytes, int]]]


def _directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="respkv-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def _read_all(path: Path) -> Files:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}


def _damage(rng: Random, files: Files, words: tuple[bytes, ...]) -> Files:
    """The files after an accident or two."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(files))
        what = rng.randrange(9)
        data = files[name]
        start = rng.randrange(len(data) + 1)
        if what == 0:
            files[name] = data[:start]
        elif what == 1:
            files[name] = data[:start] + bytes(len(data) - start)
        elif what == 2:
            del files[name]
            if not files:
                break
        elif what == 3:
            files[rng.choice((*sorted(files), "000009.0.data", "x.tmp", f"{9:016d}.journal"))] = data
        elif what == 4:
            files[name] = some_bytes(rng, 300)
        elif what == 5:
            other = files[rng.choice(sorted(files))]
            files[name] = data[:start] + other[start:]
        else:
            files[name] = mutate(rng, data, words)
    return files


@cache
def _cask_files() -> tuple[Files, dict[bytes, set[bytes | None]], int]:
    """The files of a store with several segments, hints, a merge, tombstones and a clear; each key's values ever."""
    path, rng = _directory(), Random(1)
    known: dict[bytes, set[bytes | None]] = {}
    try:
        with Bitcask(path, segment_bytes=SEGMENT_BYTES) as cask:
            for number in range(150):
                key, value = b"key%d" % rng.randrange(40), rng.randbytes(rng.choice((0, 5, 90)))
                seen = known.setdefault(key, {None})
                if rng.randrange(6) == 0:
                    cask.delete(key)
                else:
                    cask.put(key, value)
                    seen.add(value)
                if number == 60:
                    batch = cask.batch()
                    batch.clear()
                    cask.commit(batch, cask.applied + 1, 1, 1)
                if number % 20 == 0:
                    cask.flush()
                    for task in cask.maintain():
                        if task is not None:
                            task()
            return _read_all(path), known, cask.applied
    finally:
        shutil.rmtree(path)


def data_files(rng: Random) -> None:
    """A damaged store opens with values that were there, or says `Damaged`; and so does the offline check."""
    files, known, applied = _cask_files()
    path = _directory()
    try:
        for name, data in _damage(rng, files, (b"RKVDATA1", b"RKVB", b"RKVS", b"RKVHINT1")).items():
            (path / name).write_bytes(data)
        try:
            check(path)
            with Bitcask(path, segment_bytes=SEGMENT_BYTES) as cask:
                assert cask.applied <= applied
                first = _contents(cask, known)
            with Bitcask(path, segment_bytes=SEGMENT_BYTES) as cask:
                assert _contents(cask, known) == first, "opening twice gives the same"
        except Damaged as damaged:
            assert damaged.file.parent == path or damaged.file == path
    finally:
        shutil.rmtree(path)


def _contents(cask: Bitcask, known: dict[bytes, set[bytes | None]]) -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    for key in list(cask):
        try:
            got = cask.get(key)
        except Damaged:
            continue
        found[key] = None if got is None else got.value
        assert found[key] in known[key], f"{key!r} never had the value {found[key]!r}"
    return found


@cache
def _journal_files() -> tuple[Files, Entries]:
    """The files of a journal with several segments, and what each index ever held."""
    path, rng = _directory(), Random(2)
    ever: Entries = {}
    try:
        journal = Journal.open(path, SHARDS, segment_bytes=1500)
        for number in range(60):
            shard_log = journal.logs[rng.randrange(2)]
            term = 1 + number // 20
            index = shard_log.last_index + 1
            command = b"\0" + rng.randbytes(rng.choice((0, 10, 200)))
            shard_log.add(command, index, term)
            ever.setdefault((shard_log.shard, index), set()).add((command, term))
            if rng.randrange(8) == 0 and len(shard_log) > 3:
                shard_log.truncate(shard_log.last_index - 1)
            if rng.randrange(10) == 0:
                shard_log.trim(shard_log.last_index - 1)
            journal.flush()
            if rng.randrange(3) == 0:
                journal.ask_sync()
                journal.sync_done(journal.sequence)
                journal.release()
        journal.close()
        return _read_all(path), ever
    finally:
        shutil.rmtree(path)


def journals(rng: Random) -> None:
    """A damaged journal opens with entries that were there, or says `JournalDamaged`; and so does the check."""
    files, ever = _journal_files()
    path = _directory()
    try:
        heads = [Head.decode(data) for data in files.values()]
        marks = [head.stamp[0] for head in heads if head is not None]
        damaged = _damage(rng, files, (MAGIC, rng.choice(marks), FRAME.pack(rng.choice(marks), 0, 2**63, 5, 5)))
        for name, data in damaged.items():
            (path / name).write_bytes(data)
        if rng.randrange(3) == 0:
            _make_checksums_right(rng, path)
        had_segments = bool(list_segments(path))
        raft_journal.check(path)
        try:
            journal = Journal.open(path, SHARDS, segment_bytes=1500)
        except JournalDamaged as error:
            assert error.file.is_relative_to(path)
            return
        journal.close()
        if damaged == files or not had_segments:
            return
        for shard, shard_log in journal.logs.items():
            indexes = [entry[1] for entry in shard_log]
            assert indexes == list(range(indexes[0], indexes[0] + len(indexes)))
            if not _RIGHTED:
                assert all((entry[0], entry[2]) in ever[shard, entry[1]] for entry in shard_log[1:])
    finally:
        _RIGHTED.clear()
        shutil.rmtree(path)


_RIGHTED: list[Path] = []


def _make_checksums_right(rng: Random, path: Path) -> None:
    """Mutates a segment behind its frames' checksums: the readers see what no disk makes, but a faulty writer may."""
    segment = rng.choice([file for _, file in list_segments(path)] or [None])
    if segment is None:
        return
    data = bytearray(segment.read_bytes())
    head, at = Head.decode(data), HEAD_BYTES
    if head is None:
        return
    mark, seed = head.stamp
    while at + FRAME.size <= len(data) and data[at : at + 4] == mark:
        _, _, body_bytes, _, _ = FRAME.unpack_from(data, at)
        end = at + FRAME.size + body_bytes
        if end > len(data):
            break
        if body_bytes and rng.randrange(4) == 0:
            data[at + FRAME.size + rng.randrange(body_bytes)] ^= 1 << rng.randrange(8)
        data[at + 4 : at + 8] = crc32(bytes(data[at + 8 : end]), seed + at & 0xFFFFFFFF).to_bytes(4, "little")
        at = end
    segment.write_bytes(data)
    _RIGHTED.append(segment)


def records_and_frames(rng: Random) -> None:
    """The readers of single records and frames take any buffer and any place in it."""
    kinds = [rng.choice((0, 1, 2, 255)) for _ in range(3)]
    wire = b"".join(record.encode(kind, rng.randrange(9), some_bytes(rng), some_bytes(rng)) for kind in kinds)
    data = mutate(rng, wire, (b"RKVB", b"RKVS"))
    end = rng.randrange(len(data) + 1)
    start = rng.randrange(end + 1)
    record.decode(data[start:end])
    record.read(data, start, end)
    try:
        for found_records in columns.read_records(data, start, end):
            for _type, _expiry, key, offset, size in found_records.rows():
                assert start <= offset < offset + size <= end
                assert len(key) <= size
    except record.BadRecord as bad:
        assert start <= bad.offset <= end
    FileHead.decode(data[:64])
    for found in (*frames(data, 7, 0, len(data)), *find_headers(data, 7, 0, len(data))):
        assert 0 <= found.body_start <= found.body_end <= len(data)


def identities(rng: Random) -> None:
    """An identity file that does not check is as good as none."""
    path = _directory()
    try:
        Identity(path).meet(0, "n2", "life")
        content = mutate(rng, (path / "identity").read_bytes(), (b" ", b"{}", b"null"))
        if rng.randrange(2):
            body = content.partition(b" ")[2]
            content = b"%08x %s" % (crc32(body), body)
        (path / "identity").write_bytes(content)
        identity = Identity(path, Disk())
        assert identity.life
        assert identity.met(0, "n2") is None or isinstance(identity.met(0, "n2"), str)
    finally:
        shutil.rmtree(path)

