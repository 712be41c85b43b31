"""Two workers drawn at random, the one with fewer requests in flight. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import Stateless
from router.request import RouteRequest


class PowerOfTwo(Stateless):
    """Two distinct choices; a tie goes to the first drawn. Source: Mitzenmacher, "The Power of Two Choices" (2001)."""

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        one = int(rng.random() * count)
        two = int(rng.random() * (count - 1))
        if two >= one:
            two += 1  # skip the first one drawn
        first, second = candidates[one], candidates[two]
        return second if second.inflight < first.inflight else first
