"""The shortest queue relative to the worker's speed. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import Stateless, lowest, speeds
from router.request import RouteRequest


class MinExpectedLatency(Stateless):
    """LMDeploy's `min_expected_latency`: argmin of requests in flight / speed, random ties."""

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        costs = [worker.inflight / speed for worker, speed in zip(candidates, speeds(candidates), strict=True)]
        return lowest(candidates, costs, rng)
