"""A ceiling: the cheapest worker by the engines' true queue, batch and cache, which no router can see. Pure.

    cost(w) = (Q + u * (1 + p + 2 * mean(p) + b / 10) + K / 10) / speed         the oracle
    cost(w) = (Q + u * (1 + 2 * p + b / 10) + K / 10) / speed                   the simple one

Q: uncached tokens that w has still to compute; u: those that this prompt would add; p: requests there without a first
token, b: requests there with one, K: tokens of context of those; mean(p): over the candidates. All are of this moment.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from router.fleet import Worker
from router.policies.base import Stateless, lowest
from router.request import RouteRequest
from scripts.simulation.peers.held import believe

if TYPE_CHECKING:
    from scripts.simulation.world import World


class Oracle(Stateless):
    """`own` and `mean` weigh the waiting requests of the worker and of the fleet."""

    def __init__(self, world: World, *, own: float, mean: float, decoding: float, context: float):
        self._world = world
        self._own = own
        self._mean = mean
        self._decoding = decoding
        self._context = context

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        job = self._world.job
        engines = [self._world.engines[worker.id] for worker in candidates]
        base = 1 + self._mean * sum(engine.prefilling for engine in engines) / len(engines)
        cached = [engine.cached(job) for engine in engines]
        costs = []
        for engine, held in zip(engines, cached, strict=True):
            factor = base + self._own * engine.prefilling + self._decoding * engine.decoding
            cost = engine.queued + (job.prompt - held) * factor + self._context * engine.context
            costs.append(cost / engine.speed)
        worker = lowest(candidates, costs, rng)
        believe(request, job, cached[candidates.index(worker)])
        return worker
