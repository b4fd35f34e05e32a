"""How background work is cut into pieces that do not hold up the caller."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from respkv.contents import Contents
from respkv.disk import is_no_room
from respkv.storage import record
from respkv.storage.columns import Records, read_records
from respkv.storage.datafile import DataFile
from respkv.storage.errors import Damaged
from respkv.storage.frame import FILE_HEAD_BYTES, frames

SLICE_RECORDS = 500
SLICE_BYTES = 256 << 10


class Task:
    """Work that blocks, to be called once, in any thread. Remembers how it went, for the step that waits for it.

    What is `optional` is left to that step alone when the disk has no room for it.
    """

    __slots__ = ("_optional", "_work", "done", "error")

    def __init__(self, work: Callable[[], object], *, optional: bool = False) -> None:
        self._work = work
        self._optional = optional
        self.done = False
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
            if not (self._optional and is_no_room(error)):
                raise
        finally:
            self.done = True


Steps = Generator[Task | None, None, None]


def slices(file: DataFile) -> Iterator[Task | list[Records]]:
    """All records of a sealed file in order, verified, in lists of a slice's worth; a large one is alone in its list.

    Tasks that come between verify large records; they are to be run before going on. Raises `Damaged`.
    """
    parts: list[Records] = []
    count = size = 0
    end = FILE_HEAD_BYTES
    contents = file.contents()
    for frame in frames(contents, file.seed, FILE_HEAD_BYTES, file.length):
        end = frame.body_end
        if frame.is_seal:
            break
        try:
            for records in read_records(contents, frame.body_start, frame.body_end):
                if parts and (records.is_large or count >= SLICE_RECORDS or size >= SLICE_BYTES):
                    yield parts
                    parts, count, size = [], 0, 0
                if records.is_large:
                    yield from verify_large(file, contents, *records.starts)
                    yield [records]
                    continue
                parts.append(records)
                count += len(records.keys)
                size += records.size
        except record.BadRecord as bad:
            raise Damaged(file.path, bad.offset, "a record is not intact") from None
    if end != file.length:
        raise Damaged(file.path, end, "a frame is not intact")
    if parts:
        yield parts


def verify_large(file: DataFile, contents: Contents, start: int, end: int) -> Iterator[Task]:
    """The task that verifies the large record there; to be run before going on. Raises `Damaged`."""
    results: list[bool] = []
    task = Task(lambda: results.append(record.intact(contents, start, end - start)))
    yield task
    if results != [True]:
        raise Damaged(file.path, start, "a record is not intact")
