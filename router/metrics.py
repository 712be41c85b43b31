"""Counters: plain numbers on the hot path, made into Prometheus text by prometheus_client only when scraped.

`exposition` reads the rest where it is kept: the workers in the fleet, the prefix index in the policy.
"""

from __future__ import annotations

import importlib.metadata
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from router.fleet import State, Worker
from router.request import INFERENCE_PATHS

if TYPE_CHECKING:
    from router.parts import Parts

_PATHS = frozenset(INFERENCE_PATHS)

# Upper bounds, seconds. Requests run from a cached embedding (ms) to a long reasoning chain (half an hour).
_REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_FIRST_BYTE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DECISION = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
_LAG = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1)


class Histogram:
    """How many values fell into each of len(bounds) + 1 buckets, the last being unbounded. A bound is inclusive."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """What the router counts. Written by the exchange, but for `lag`, which the loop's watcher writes. Seconds."""

    __slots__ = (
        "decision",
        "first_byte",
        "hits",
        "inflight",
        "lag",
        "matched",
        "misses",
        "offered",
        "queue_depth",
        "request",
        "requests",
        "retries",
    )

    def __init__(self) -> None:
        self.inflight = 0  # requests taken and not yet answered, queued ones included
        self.queue_depth = 0
        self.requests: dict[tuple[str, int], int] = {}  # by path and status code
        self.retries: dict[str, int] = {}  # by reason
        self.request = Histogram(_REQUEST)
        self.first_byte = Histogram(_FIRST_BYTE)
        self.decision = Histogram(_DECISION)
        self.lag = Histogram(_LAG)
        self.hits = 0
        self.misses = 0
        self.matched = 0  # bytes of prompts that the picked worker was predicted to hold
        self.offered = 0  # bytes of prompts

    def finished(self, path: str, code: int, seconds: float, ttfb: float | None) -> None:
        """A request is over, `seconds` after it came; `ttfb` is None when not one byte of an answer came."""
        key = (path if path in _PATHS else "other", code)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.request.observe(seconds)
        if ttfb is not None:
            self.first_byte.observe(ttfb)

    def retried(self, reason: str) -> None:
        """A request goes to a worker once more; `reason` comes from a fixed list."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def picked(self, seconds: float, matched: int, length: int) -> None:
        """A policy chose within `seconds` a worker predicted to hold `matched` of the prompt's `length` bytes."""
        self.decision.observe(seconds)
        if matched:
            self.hits += 1
            self.matched += matched
        else:
            self.misses += 1
        self.offered += length

    def lagged(self, seconds: float) -> None:
        """The event loop ran a timer `seconds` late."""
        self.lag.observe(seconds)

    @property
    def hit_ratio(self) -> float:
        """Share of all prompt bytes that was predicted to be cached where it was sent, 0..1; 0 before any came."""
        return self.matched / self.offered if self.offered else 0.0


def exposition(parts: Parts) -> tuple[bytes, str]:
    """The body and the content type of a Prometheus scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(parts))
    return generate_latest(registry), CONTENT_TYPE_LATEST


_PREFIX = "llm_router_"


class _Scrape(Collector):
    """Lives for one scrape."""

    def __init__(self, parts: Parts):
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        yield from _of_requests(self._parts.metrics)
        yield from _of_workers(list(self._parts.fleet.workers.values()))
        yield from _of_cache(self._parts)
        yield _histogram("event_loop_lag_seconds", "How late the event loop runs a timer", self._parts.metrics.lag)
        yield InfoMetricFamily(_PREFIX + "build", "The version that runs", value={"version": version()})


def _of_requests(metrics: Metrics) -> Iterator[Metric]:
    requests = CounterMetricFamily(_PREFIX + "requests", "Requests answered", labels=("path", "code"))
    for (path, code), count in metrics.requests.items():
        requests.add_metric((path, str(code)), count)
    yield requests
    retries = CounterMetricFamily(_PREFIX + "retries", "Attempts after the first", labels=("reason",))
    for reason, count in metrics.retries.items():
        retries.add_metric((reason,), count)
    yield retries
    yield _histogram("request_duration_seconds", "From a request's arrival to the answer's last byte", metrics.request)
    yield _histogram("time_to_first_byte_seconds", "From arrival to the answer's first byte", metrics.first_byte)
    yield GaugeMetricFamily(_PREFIX + "inflight", "Requests not yet answered", metrics.inflight)
    yield GaugeMetricFamily(_PREFIX + "queue_depth", "Requests that wait for admission", metrics.queue_depth)


# name, help, how a worker's value is read
_GAUGES = (
    ("worker_up", "1 when the worker takes requests", lambda worker: float(worker.state is State.READY)),
    ("worker_inflight", "Requests on the worker", lambda worker: worker.inflight),
    (
        "worker_prefill_outstanding",
        "Estimated prompt tokens sent, not cached and not yet computed",
        lambda worker: worker.prefill_outstanding,
    ),
)
_COUNTERS = (
    ("worker_requests", "Attempts sent to the worker", lambda worker: worker.requests_total),
    ("worker_failures", "Attempts that failed there", lambda worker: worker.failures_total),
    ("worker_restarts", "Times the worker was started again", lambda worker: worker.restarts),
)


def _of_workers(workers: list[Worker]) -> Iterator[Metric]:
    for name, help, read in _GAUGES:
        gauge = GaugeMetricFamily(_PREFIX + name, help, labels=("worker",))
        for worker in workers:
            gauge.add_metric((worker.url,), read(worker))
        yield gauge
    for name, help, read in _COUNTERS:
        counter = CounterMetricFamily(_PREFIX + name, help, labels=("worker",))
        for worker in workers:
            counter.add_metric((worker.url,), read(worker))
        yield counter
    states = GaugeMetricFamily(_PREFIX + "worker_state", "1 for the worker's state, else 0", labels=("worker", "state"))
    for worker in workers:
        for state in State:
            states.add_metric((worker.url, state.value), float(worker.state is state))
    yield states


def _of_cache(parts: Parts) -> Iterator[Metric]:
    metrics = parts.metrics
    index = parts.policy.index  # None: the policy predicts no cache hits
    size, evictions = (index.size, index.evictions) if index is not None else (0, 0)
    yield CounterMetricFamily(_PREFIX + "cache_hits", "Requests with a predicted prefix hit", metrics.hits)
    yield CounterMetricFamily(_PREFIX + "cache_misses", "Requests without one", metrics.misses)
    yield GaugeMetricFamily(_PREFIX + "cache_hit_ratio", "Prompt bytes predicted cached / all", metrics.hit_ratio)
    yield GaugeMetricFamily(_PREFIX + "index_size", "Bytes of prompts in the prefix index, times their holders", size)
    yield CounterMetricFamily(_PREFIX + "index_evictions", "Entries dropped to keep its bound", evictions)
    yield _histogram("policy_decision_seconds", "Time to choose a worker", metrics.decision)


def _histogram(name: str, help: str, histogram: Histogram) -> Metric:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(_PREFIX + name, help, buckets=buckets, sum_value=histogram.sum)


def version() -> str:
    """The installed version of this program; "unknown" where it runs without being installed."""
    try:
        return importlib.metadata.version("llm-launch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
