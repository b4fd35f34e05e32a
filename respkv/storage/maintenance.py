"""Background work on the log: what is to be done next, and doing it in slices.

Files finish in the order of the log. When a new active file begins, the one before is *sealed* (fdatasync, seal frame,
cut to its length, fdatasync); from then on it never changes. It gets its hint unless it is merged first: where the same
keys are written over and over, most of a file is dead by the time it is full, and is never read again.

A *tally* goes over the keydir and adds up the bytes that live records take in each file; commits keep no such books. By
the time it is used a tally can only be too high, for sealed files gain no records.

The tally decides what to *merge* (see the module `merge`): runs of adjacent files in which more than the configured
share is dead, or many small ones. A tombstone is needed as long as an older file may hold a record of its key. A file
is *clean* when all of its records with a value are alive: it holds nothing that needs hiding. So tombstones go once
every older file is clean; where they pile up behind files with a few dead records, those are merged first.

A merge or a hint for which the disk has no room is undone, and tried anew many runs later. A file that turned out to
be damaged is left alone as long as the directory is open: it gets no hint, and is not merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from respkv.disk import is_no_room
from respkv.storage import record
from respkv.storage.columns import SIZE_MASK
from respkv.storage.datafile import TEMPORARY_SUFFIX, DataFile
from respkv.storage.errors import Damaged
from respkv.storage.frame import FILE_HEAD_BYTES, FRAME_HEAD_BYTES, SEAL_MAGIC, encode_head
from respkv.storage.hint import Hint
from respkv.storage.keydir import FILE_BYTES_MAX, NUMBER_SHIFT, offset_of
from respkv.storage.live import locations
from respkv.storage.merge import Merge
from respkv.storage.slices import Steps, Task, slices

if TYPE_CHECKING:
    from respkv.storage.bitcask import Bitcask

log = structlog.get_logger(__name__)

NEVER = float("-inf")
SLICE_HEADERS = 500  # of records whose size the keydir does not know
SMALL_FILES = 4
"""So many adjacent small files are merged even when nothing in them is dead. Small: an eighth of a segment at most."""
NO_ROOM_RUNS = 60
"""So many runs (of `Bitcask.maintain`) do without merges, or hints, for which there was no room."""
_EMPTY_BYTES = FILE_HEAD_BYTES + FRAME_HEAD_BYTES


class Maintenance:
    """The background work of one `Bitcask`. What has been begun stays here when a caller drops its iterator."""

    def __init__(self, cask: Bitcask) -> None:
        self._cask = cask
        self._closed = False
        self._steps: Steps | None = None
        self._task: Task | None = None
        self._tallied_at = NEVER  # how many bytes had been written at the last tally
        self._choice_due = False
        self._runs = 0
        self._merges_from = self._hints_from = 0  # the first of the runs that may try it
        self._damaged: set[Path] = set()

    def run(self) -> Iterator[Task | None]:
        """See `Bitcask.maintain`."""
        self._runs += 1
        while not (self._closed or self._cask.failed):
            if self._task is not None and not self._task.done:  # the caller before did not run it
                yield self._task
                continue
            told = None if self._task is None else self._task.error
            if self._steps is None:
                self._steps = self._work()
            try:
                self._task = next(self._steps) if told is None else self._steps.throw(told)
            except StopIteration:
                self._steps = self._task = None
                return
            except BaseException as error:
                self._steps = self._task = None
                if isinstance(error, Damaged):
                    self._damaged.add(error.file)
                    self._tallied_at = NEVER  # so that the next run chooses among the others
                if error is not told:  # which the caller has seen
                    raise
            if self._task is None:
                yield None

    def close(self) -> None:
        """Gives up what is under way, and lets go of the log; the next opening removes the unfinished files."""
        steps, self._steps, self._task = self._steps, None, None
        if steps is not None:
            steps.close()
        self._closed = True
        del self._cask  # which refers to this: nothing but the collector would free the two

    def expect_dead(self) -> None:
        """Much may be dead now: has the next run count, and merge even if there was no room a moment ago."""
        self._tallied_at = NEVER
        self._merges_from = self._hints_from = 0

    def _work(self) -> Steps:
        cask = self._cask
        while True:
            while cask.discard():
                yield None
            finished = cask.files[:-1]
            if unsealed := [file for file in finished if not file.sealed]:
                yield from self._seal(unsealed[0])
            elif finished and self._tally_is_due(finished):
                yield from self._tally()
            elif self._choice_due:
                run = self._choose()
                self._choice_due = False  # should the merge fail, other work goes on, and the next tally tries again
                if run:
                    yield from self._merge(run)
            elif unhinted := self._unhinted(finished):
                yield from self._write_hint(unhinted[0])
            else:
                return

    def _merge(self, run: list[DataFile]) -> Steps:
        cask = self._cask
        hides = not all(older.clean for older in cask.files[: cask.files.index(run[0])])
        try:
            yield from Merge(cask, run, hides).steps()
            self._choice_due = True
        except OSError as error:
            self._require_no_room(error)
            log.warning("no_room_to_merge", file=str(run[0].path), files=len(run), error=str(error))
            self._merges_from = self._runs + NO_ROOM_RUNS
            self._tallied_at = NEVER

    def _require_no_room(self, error: OSError) -> None:
        """Raises an `error` that is more than that the disk is full."""
        if self._cask.failed or not is_no_room(error):
            raise error

    # ------------------------------------------------------------------ finishing a file

    def _unhinted(self, finished: list[DataFile]) -> list[DataFile]:
        """The files that may get a hint now."""
        if self._runs < self._hints_from:
            return []
        return [file for file in finished if not (file.hinted or file.path in self._damaged)]

    def _write_hint(self, file: DataFile) -> Steps:
        hint = Hint()
        for step in slices(file):
            if isinstance(step, Task):
                yield step
            else:
                for records in step:
                    hint.extend(records)
                yield None
        hint.finish(file.length, file.index, file.term, file.clock_ms)
        temporary = file.hint_path.with_name(file.hint_path.name + TEMPORARY_SUFFIX)
        disk = self._cask.disk
        try:
            with suppress(FileNotFoundError):
                disk.unlink(temporary)
            yield from hint.write(temporary, file.seed, disk)
            disk.rename(temporary, file.hint_path)
        except Exception as error:
            with suppress(OSError):
                disk.unlink(temporary)
            if not isinstance(error, OSError):
                raise
            self._require_no_room(error)
            log.warning("no_room_for_hint", file=str(file.path), error=str(error))
            self._hints_from = self._runs + NO_ROOM_RUNS
            return
        file.hinted = True
        file.take_sizes(hint)

    def _seal(self, file: DataFile) -> Steps:
        """Ends the file. The seal goes behind what is on the disk already: wherever it is found, the file was whole."""
        cask = self._cask
        last = (file.index, file.term, file.clock_ms)
        length = file.length + FRAME_HEAD_BYTES

        def sync() -> None:
            try:
                cask.disk.sync(file.fd)
            except BaseException:
                cask.failed = True
                raise

        yield Task(sync)
        cask.disk.write(file.fd, encode_head(file.seed, file.length, 0, *last, cask.synced, SEAL_MAGIC), file.length)

        def cut_to_length() -> None:
            try:
                file.truncate(length)
                cask.disk.sync(file.fd)
                cask.disk.sync_dir(cask.path)
            except BaseException:
                cask.failed = True
                raise

        yield Task(cut_to_length)
        file.length = file.synced_length = length
        file.sealed = file.named = True

    # ------------------------------------------------------------------ tally

    def _tally_is_due(self, finished: list[DataFile]) -> bool:
        """When a file is new, so that it is counted before it gets its hint; but seldom if there is much to count."""
        cask = self._cask
        if self._runs < self._merges_from:
            return False
        every_bytes = cask.segment_bytes if all(file.tallied for file in finished) else cask.segment_bytes // 2
        return cask.written_bytes - self._tallied_at >= max(every_bytes, cask.file_bytes // 8)

    def _tally(self) -> Steps:
        cask = self._cask
        counted = [file for file in cask.files if file.sealed]
        self._tallied_at = cask.written_bytes
        live: Counter[int] = Counter()
        for part in locations(cask.buckets):
            yield from self._add_up(part, live)
        for file in counted:
            file.live_bytes = live[file.number]
            file.tallied = True
        self._choice_due = True

    def _add_up(self, part: list[int], live: Counter[int]) -> Steps:
        headers = 0
        for location in part:
            size = location & SIZE_MASK
            if size == SIZE_MASK:
                headers += 1
                if headers % SLICE_HEADERS == 0:
                    yield None
                file = self._cask.numbered[location >> NUMBER_SHIFT]
                if file is not None and file.path not in self._damaged:
                    size = record.size_at(file.contents(ahead_bytes=0), offset_of(location))
            live[location >> NUMBER_SHIFT] += size
        yield None

    # ------------------------------------------------------------------ choice

    def _choose(self) -> list[DataFile]:
        """The next run of files to merge; empty when there is none."""
        cask = self._cask
        run: list[DataFile] = []
        run_bytes = 0
        hides = hides_before_run = False
        for file in cask.files:
            if not (file.sealed and file.tallied):
                break
            if not run:
                hides_before_run = hides
            needed = self._needed(file, hides_before_run)
            wanted = file.path not in self._damaged and (self._is_dirty(file, needed) or self._is_small(file))
            if run and not (wanted and run_bytes + needed <= cask.segment_bytes):
                if self._is_worthwhile(run, hides_before_run):
                    return run
                run, run_bytes, hides_before_run = [], 0, hides
                needed = self._needed(file, hides)
            if wanted and file.length < FILE_BYTES_MAX - (64 << 20):  # room for the copy's frames
                run.append(file)
                run_bytes += needed
            hides = hides or not file.clean
        return run if self._is_worthwhile(run, hides_before_run) else self._choose_unclean()

    def _needed(self, file: DataFile, hides: bool) -> int:
        """How many bytes of records a merge would keep."""
        return file.live_bytes + (file.tombstone_bytes if hides else 0)

    def _is_dirty(self, file: DataFile, needed: int) -> bool:
        """Frame heads count as dead as long as every batch has its own; a merge joins them."""
        records = file.put_bytes + file.tombstone_bytes
        total = records if file.name.generation else file.length - _EMPTY_BYTES
        return total - needed > self._cask.merge_dead_ratio * total

    def _is_small(self, file: DataFile) -> bool:
        return file.length <= self._cask.segment_bytes // 8

    def _is_worthwhile(self, run: list[DataFile], hides: bool) -> bool:
        return len(run) >= SMALL_FILES or any(self._is_dirty(file, self._needed(file, hides)) for file in run)

    def _choose_unclean(self) -> list[DataFile]:
        """The oldest file that is not clean, when the tombstones behind such files outweigh merging them."""
        first: DataFile | None = None
        cost = tombstones = 0
        for file in self._cask.files:
            if not (file.sealed and file.tallied):
                break
            if first is not None:
                tombstones += file.tombstone_bytes
                if tombstones > self._cask.merge_dead_ratio * cost:
                    return [first]
            if not file.clean:
                if file.path in self._damaged:  # what lies behind it has to stay
                    break
                first = first or file
                cost += file.live_bytes + file.tombstone_bytes
        return []
