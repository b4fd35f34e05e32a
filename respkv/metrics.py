"""The Prometheus endpoint: reads plain numbers where they are, when somebody asks.

The server counts in plain ints. A metric here is a name and a callable that returns the number (or one number per
combination of label values) at scrape time; nothing is paid for it otherwise. Scrapes run in a thread of their own, so
a callable must only read, and should copy a dict that the loop may grow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from respkv.listener import cannot_listen

Number = int | float
Labelled = Mapping[tuple[str, ...], Number]  # label values -> number

# 50 us to 13 s, each twice the one before: from a fast fdatasync to a disk in trouble.
BOUNDS_SECONDS: Final = tuple(0.00005 * 2**i for i in range(19))


class Histogram:
    """Counts of seconds by size, cheap enough for every fsync. Not thread-safe: one writer."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        found = []
        total = 0
        for bound, count in zip((*map(repr, BOUNDS_SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Metrics(Collector):
    """The metrics of one node; all names begin with `respkv_`."""

    def __init__(self) -> None:
        self._read: list[Callable[[], Metric]] = []

    def register(
        self,
        name: str,
        about: str,
        read: Callable[[], Number | Labelled],
        *,
        kind: Literal["counter", "gauge"] = "gauge",
        labels: tuple[str, ...] = (),
    ) -> None:
        """Adds `respkv_<name>`. With `labels`, `read` returns a mapping from label values to numbers."""
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily

        def collect() -> Metric:
            value = read()
            metric = family(f"respkv_{name}", about, labels=labels)
            for values, number in value.items() if isinstance(value, Mapping) else (((), value),):
                metric.add_metric(values, number)
            return metric

        self._read.append(collect)

    def register_histogram(self, name: str, about: str, histogram: Histogram) -> None:
        """Adds `respkv_<name>` (in seconds)."""

        def collect() -> Metric:
            return HistogramMetricFamily(
                f"respkv_{name}", about, buckets=histogram.buckets(), sum_value=histogram.sum_seconds
            )

        self._read.append(collect)

    def collect(self) -> Iterator[Metric]:
        for read in self._read:
            yield read()

    def serve(self, port: int, address: str) -> Callable[[], None]:
        """Serves `http://address:port/metrics` from a thread; returns what stops it. Raises ConfigError."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            server, thread = start_http_server(port, address, registry)
        except OSError as error:
            raise cannot_listen("metrics-port", f"{port} at {address}", error) from None

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
