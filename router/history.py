"""The last minutes of the fleet as numbers, for plots: a sample each second, the oldest are forgotten. Pure.

Sums go on for as long as the router runs: a rate is the difference between two samples.
"""

from __future__ import annotations

from collections import deque

import msgspec

from router.fleet import Fleet, Worker
from router.metrics import Metrics

PERIOD = 1.0  # seconds between two samples
KEPT = 240  # samples: four minutes


class WorkerSample(msgspec.Struct, array_like=True, frozen=True):
    """One worker at one moment; in JSON a plain array, for a page gets hundreds of them at once."""

    inflight: int
    prefill_outstanding: int  # tokens, as all that follows
    prompt: int  # sums from here on
    uncached: int
    reported_prompt: int
    reported_cached: int
    answer: int


class Sample(msgspec.Struct, frozen=True):
    """The router at one moment."""

    time: float  # Unix time, seconds
    inflight: int
    queued: int
    answered: int  # requests, a sum; as the next
    failed: int  # of those, by the router's or a worker's fault, or for want of room
    first_byte: tuple[int, ...]  # requests in each bucket of Metrics.first_byte, sums
    workers: dict[str, WorkerSample]  # by id


class History:
    """Sole writer: whoever calls add()."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)

    def add(self, fleet: Fleet, metrics: Metrics, now: float) -> Sample:
        """Take a sample, keep it and return it. `now` is Unix time, seconds."""
        taken = Sample(
            now,
            metrics.inflight,
            metrics.queue_depth,
            sum(metrics.requests.values()),
            sum(count for (_, code), count in metrics.requests.items() if code >= 500 or code == 429),
            tuple(metrics.first_byte.counts),
            {worker.id: _of(worker) for worker in fleet.workers.values()},
        )
        self.samples.append(taken)
        return taken


def _of(worker: Worker) -> WorkerSample:
    return WorkerSample(
        worker.inflight,
        worker.prefill_outstanding,
        worker.prompt_tokens,
        worker.uncached_tokens,
        worker.reported_prompt_tokens,
        worker.reported_cached_tokens,
        worker.answer_tokens,
    )
