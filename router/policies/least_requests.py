"""Fewest requests in flight, random ties. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import Stateless, lowest
from router.request import RouteRequest


class LeastRequests(Stateless):
    """Join the shortest queue, counted in requests."""

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        return lowest(candidates, [worker.inflight for worker in candidates], rng)
