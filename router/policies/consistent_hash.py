"""The same session to the same worker, while that worker has room. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import Stateless, lowest
from router.policies.rendezvous import Rendezvous, key_of
from router.request import RouteRequest

LOAD_FACTOR = 1.25  # a worker may have this many times the mean in flight


class ConsistentHash(Stateless):
    """Rendezvous hashing with bounded load.

    The worker with the highest score whose load is below the bound ceil(1.25 x mean), this request included, gets it:
    every router places alike. A request without session or prompt goes where the fewest are in flight. Source: Mirrokni
    et al., "Consistent hashing with bounded loads" (2018).
    """

    def __init__(self) -> None:
        self._rendezvous = Rendezvous()

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        key = key_of(request)
        loads = [worker.inflight for worker in candidates]
        if not key:
            return lowest(candidates, loads, rng)
        scores = self._rendezvous.scores(key, candidates)
        limit = _bound(sum(loads) + 1, len(loads))
        best = scores.index(max(scores))
        if loads[best] < limit:
            return candidates[best]
        return candidates[max((score, i) for i, score in enumerate(scores) if loads[i] < limit)[1]]

    def forget(self, worker: Worker) -> None:
        self._rendezvous.forget(worker)


def _bound(requests: int, workers: int) -> int:
    """ceil(LOAD_FACTOR x mean) requests; at least the mean, so that someone is always below it."""
    return -int(-LOAD_FACTOR * requests // workers)
