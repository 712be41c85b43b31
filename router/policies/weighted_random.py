"""The policy "random": any worker, with a probability proportional to its speed. Pure."""

from __future__ import annotations

import random
from bisect import bisect
from itertools import accumulate

from router.fleet import Worker
from router.policies.base import Stateless, speeds
from router.request import RouteRequest


class WeightedRandom(Stateless):
    """LMDeploy's `random`: P(worker) = speed / sum of speeds."""

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        sums = list(accumulate(speeds(candidates)))
        return candidates[bisect(sums, rng.random() * sums[-1], 0, len(sums) - 1)]
