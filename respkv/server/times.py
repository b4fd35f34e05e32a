"""How long commands took: counts by size, for percentiles and for LATENCY HISTOGRAM.

A time in nanoseconds is counted in the bucket of its four highest bits, so a percentile is at most an eighth too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_STEPS_BITS: Final = 3
_STEPS: Final = 1 << _STEPS_BITS
_LINEAR_NS: Final = _STEPS  # below that a bucket is a nanosecond
_FIRST_NS: Final = 1024  # the first bucket that LATENCY HISTOGRAM shows


def _bucket(time_ns: int) -> int:
    shift = time_ns.bit_length() - 1 - _STEPS_BITS
    return time_ns if shift < 0 else (shift << _STEPS_BITS) + (time_ns >> shift)


def _bound_ns(bucket: int) -> int:
    """The longest time in a bucket."""
    if bucket < 2 * _LINEAR_NS:
        return bucket
    shift = (bucket >> _STEPS_BITS) - 1
    return (((bucket & (_STEPS - 1)) + _STEPS + 1) << shift) - 1


class Times:
    """A distribution of times."""

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0

    def add(self, seconds: float, times: int = 1) -> None:
        bucket = _bucket(int(seconds * 1e9))
        self._counts[bucket] = self._counts.get(bucket, 0) + times
        self.count += times

    def percentiles(self, wanted: Sequence[float]) -> list[float]:
        """The times, in microseconds, that so many percent of all do not exceed."""
        found = []
        ordered = sorted(self._counts.items())
        for percent in wanted:
            left, bound = max(1, round(self.count * percent / 100)), 0
            for bucket, count in ordered:
                bound = _bound_ns(bucket)
                left -= count
                if left <= 0:
                    break
            found.append(bound / 1000)
        return found

    def with_sample(self, sample: Times, total: int) -> Times:
        """These and `total` more, of which `sample` holds some."""
        found = Times()
        found._counts = dict(self._counts)
        found.count = self.count
        left = total
        for position, (bucket, count) in enumerate(sorted(sample._counts.items()), 1):
            share = left if position == len(sample._counts) else min(left, round(count * total / sample.count))
            found._counts[bucket] = found._counts.get(bucket, 0) + share
            found.count += share
            left -= share
        return found

    def histogram(self) -> dict[int, int]:
        """Microseconds, each about twice the one before, to how many took no longer; none that adds nothing."""
        found: dict[int, int] = {}
        bound_ns, seen, shown = _FIRST_NS, 0, 0
        for bucket, count in sorted(self._counts.items()):
            while _bound_ns(bucket) >= bound_ns:
                if seen > shown:
                    found[bound_ns // 1000] = shown = seen
                bound_ns *= 2
            seen += count
        if seen > shown:
            found[bound_ns // 1000] = seen
        return found
