"""What is in use, as the keydir knows it: found without reading the files.

The keydir is gone over in slices, between which the caller may do other things and commits may come. So what is found
may have been overwritten since; but nothing is missed: a record in a finished file never comes into use again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator

from respkv.storage.columns import OFFSET_SHIFT
from respkv.storage.datafile import DataFile
from respkv.storage.keydir import NUMBER_SHIFT

SLICE_KEYS = 4000
_BUCKET_COST = 4  # an empty bucket takes a while, too; in keys
_PIECE_SHIFT = OFFSET_SHIFT + 18  # a piece of a file: few enough records to be sorted in one go


class Pieces:
    """Locations in one file, to be had in the order of their offsets."""

    def __init__(self) -> None:
        self._pieces: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, location: int) -> None:
        self._pieces[location >> _PIECE_SHIFT].append(location)

    def in_order(self) -> Iterator[int]:
        """Each once; they are gone then."""
        for piece in sorted(self._pieces):
            yield from sorted(self._pieces.pop(piece))


def locations(buckets: list[dict[bytes, int]]) -> Iterator[list[int]]:
    """All locations in the keydir, a slice at a time."""
    found: list[int] = []
    cost = 0
    for number in range(len(buckets)):
        found += buckets[number].values()
        cost += _BUCKET_COST
        if len(found) + cost >= SLICE_KEYS:
            for start in range(0, max(1, len(found)), SLICE_KEYS):
                yield found[start : start + SLICE_KEYS]
            found, cost = [], 0
    yield found


def find(buckets: list[dict[bytes, int]], files: Iterable[DataFile]) -> Generator[None, None, dict[int, Pieces]]:
    """The locations that lie in `files`, by the number of the file. Yields after each slice."""
    pieces = {file.number: Pieces() for file in files}
    for part in locations(buckets):
        for location in part:
            wanted = pieces.get(location >> NUMBER_SHIFT)
            if wanted is not None:
                wanted.add(location)
        yield None
    return pieces
