"""The worker whose last requests were quickest; one that has shown nothing yet is tried. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import Stateless, lowest, one_of
from router.request import RouteRequest

MAX_WAIT = 1024  # picks between two trials of a worker that never succeeds


class MinObservedLatency(Stateless):
    """LMDeploy's `min_observed_latency`: argmin of the mean of the last latencies of successful requests, random ties.

    A worker without a sample is tried before all others, with two guards. Only one request at a time tries it, so that
    a burst does not herd onto it. And a trial that brought no sample is repeated after 2, 4, 8, ... picks, so that a
    worker which fails every request at once does not swallow them all; for the same reason it does not count as an
    average one in the meantime. While nobody has a sample, the rest of a burst goes where the fewest are in flight.

    What remains is the strategy's own: a sample comes when a request ends, so a quick worker is overrun before its mean
    says so, and one that was slow once waits until the others are slower.
    """

    def __init__(self) -> None:
        self._picks = 0
        self._trials: dict[str, tuple[int, int]] = {}  # worker id -> (trials so far, pick from which the next is due)

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        self._picks += 1
        due = [worker for worker in candidates if not worker.latencies and self._is_due(worker)]
        if due:
            return self._try(one_of(due, rng))
        known = [worker for worker in candidates if worker.latencies]
        if not known:
            return lowest(candidates, [worker.inflight for worker in candidates], rng)
        return lowest(known, [sum(worker.latencies) / len(worker.latencies) for worker in known], rng)

    def forget(self, worker: Worker) -> None:
        self._trials.pop(worker.id, None)

    def _is_due(self, worker: Worker) -> bool:
        return not worker.inflight and self._picks >= self._trials.get(worker.id, (0, 0))[1]

    def _try(self, worker: Worker) -> Worker:
        trials = self._trials.get(worker.id, (0, 0))[0] + 1
        self._trials[worker.id] = (trials, self._picks + min(2**trials, MAX_WAIT))
        return worker
