"""How background work is cut into pieces that do not hold up the caller."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from respkv.contents import Contents
from respkv.storage import record
from respkv.storage.datafile import DataFile
from respkv.storage.errors import Damaged
from respkv.storage.frame import FILE_HEAD_BYTES, frames
from respkv.storage.keydir import Row

SLICE_RECORDS = 500
SLICE_BYTES = 256 << 10
LARGE_BYTES = 1 << 20
"""Records from this size on are verified and copied off the loop."""


class Task:
    """Work that blocks, to be called once, in any thread. Remembers how it went, for the step that waits for it."""

    __slots__ = ("_work", "done", "error")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.done = False
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.done = True


Steps = Generator[Task | None, None, None]


def slices(file: DataFile) -> Iterator[Task | list[Row]]:
    """All records of a sealed file in order, verified, in lists of a slice's worth; a large one is alone in its list.

    Tasks that come between verify large records; they are to be run before going on. Raises `Damaged`.
    """
    rows: list[Row] = []
    slice_bytes = 0
    end = FILE_HEAD_BYTES
    contents = file.contents()
    for frame in frames(contents, file.seed, FILE_HEAD_BYTES, file.length):
        end = frame.body_end
        if frame.is_seal:
            break
        try:
            for row in record.walk(contents, frame.body_start, frame.body_end):
                if row[4] >= LARGE_BYTES:
                    if rows:
                        yield rows
                    yield from _verify_large(contents, row)
                    rows, slice_bytes = [], 0
                    yield [row]
                    continue
                if not record.intact(contents, row[3], row[4]):
                    raise record.BadRecord(row[3])
                rows.append(row)
                slice_bytes += row[4]
                if len(rows) >= SLICE_RECORDS or slice_bytes >= SLICE_BYTES:
                    yield rows
                    rows, slice_bytes = [], 0
        except record.BadRecord as bad:
            raise Damaged(file.path, bad.offset, "a record is not intact") from None
    if end != file.length:
        raise Damaged(file.path, end, "a frame is not intact")
    if rows:
        yield rows


def _verify_large(contents: Contents, row: Row) -> Iterator[Task]:
    results: list[bool] = []
    task = Task(lambda: results.append(record.intact(contents, row[3], row[4])))
    yield task
    if results != [True]:
        raise record.BadRecord(row[3])
