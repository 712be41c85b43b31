"""What `/metrics` says, made by prometheus_client only when it is scraped.

The counters are the router's (router/metrics.py); the rest is read where it is kept: the workers in the fleet, the
prefix index in the policy.
"""

from __future__ import annotations

import importlib.metadata
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

from router.fleet import Cause, State, Worker
from router.metrics import Histogram, Metrics

if TYPE_CHECKING:
    from router.parts import Parts


def scrape(parts: Parts) -> tuple[bytes, str]:
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
    ("worker_prompt_tokens", "Estimated tokens of the prompts sent to it", lambda worker: worker.prompt_tokens),
    ("worker_uncached_tokens", "Of those, not predicted to be cached there", lambda worker: worker.uncached_tokens),
    (
        "worker_answer_tokens",
        "Tokens that came back: streamed events, or what the engine says of a whole answer",
        lambda worker: worker.answer_tokens,
    ),
    (
        "worker_reported_prompt_tokens",
        "Of prompts of which the engine told what it had cached",
        lambda worker: worker.reported_prompt_tokens,
    ),
    (
        "worker_reported_cached_tokens",
        "Of those, what the engine had cached",
        lambda worker: worker.reported_cached_tokens,
    ),
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
    restarts = CounterMetricFamily(
        _PREFIX + "worker_restarts", "Times the worker was started again, by cause", labels=("worker", "cause")
    )
    for worker in workers:
        for cause in Cause:
            restarts.add_metric((worker.url, cause.value), worker.restarted.get(cause, 0))
    yield restarts
    types = GaugeMetricFamily(
        _PREFIX + "worker_type", "1; of a request, the worker does all (regular) or half", labels=("worker", "type")
    )
    for worker in workers:
        types.add_metric((worker.url, worker.role.value), 1.0)
    yield types
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
    told, cached = metrics.prompt_tokens, metrics.cached_tokens
    yield CounterMetricFamily(_PREFIX + "reported_prompt_tokens", "Of prompts whose engine tells what it cached", told)
    yield CounterMetricFamily(_PREFIX + "reported_cached_tokens", "Of those, what the engine had cached", cached)
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
