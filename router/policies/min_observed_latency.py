"""The worker whose last requests were quickest; one that has shown nothing yet is tried. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from router.fleet import Worker
from router.policies.base import Stateless, lowest, one_of
from router.request import RouteRequest

MAX_WAIT = 1024  # picks between two trials of a worker that never succeeds


class MinObservedLatency(Stateless):
    """LMDeploy's `min_observed_latency`: argmin of the mean of the last latencies of successful requests, random ties.

    A worker without a sample is tried, with two guards. Only one request at a time tries it: while that is out, the
    worker counts as an average one, so that a burst does not herd onto it. And a trial that brought no sample is
    repeated after 2, 4, 8, ... picks, so that a worker which fails every request at once does not swallow them all.
    While nobody has a sample, the fewest requests in flight decide among those not due for a trial.

    What remains is the strategy's own: samples come late, so a quick worker is overrun before its mean says so.
    """

    def __init__(self) -> None:
        self._picks = 0
        self._trials: dict[str, tuple[int, int]] = {}  # worker id -> (trials so far, pick from which the next is due)

    def pick(self, request: RouteRequest, candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
        self._picks += 1
        untried = [worker for worker in candidates if not worker.latencies]
        if untried:
            due = [worker for worker in untried if not worker.inflight and self._is_due(worker)]
            if due:
                return self._try(one_of(due, rng))
            if len(untried) == len(candidates):
                return lowest(candidates, [worker.inflight for worker in candidates], rng)
        return lowest(candidates, _means(candidates), rng)

    def forget(self, worker: Worker) -> None:
        self._trials.pop(worker.id, None)

    def _is_due(self, worker: Worker) -> bool:
        return worker.id not in self._trials or self._picks >= self._trials[worker.id][1]

    def _try(self, worker: Worker) -> Worker:
        trials = self._trials.get(worker.id, (0, 0))[0] + 1
        self._trials[worker.id] = (trials, self._picks + min(2**trials, MAX_WAIT))
        return worker


def _means(workers: Sequence[Worker]) -> list[float]:
    """Mean latency of each, seconds; of one without samples, the mean of the others' means. Someone has samples."""
    means = [sum(worker.latencies) / len(worker.latencies) if worker.latencies else None for worker in workers]
    known = [mean for mean in means if mean is not None]
    average = sum(known) / len(known)
    return [average if mean is None else mean for mean in means]
