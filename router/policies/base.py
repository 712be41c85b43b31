"""What several policies share: the no-ops of those without state, the lowest cost with random ties, speeds. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from router.fleet import Worker
from router.prefix import PrefixIndex
from router.request import RouteRequest

Cost = TypeVar("Cost", float, tuple[int, int])


class Stateless:
    """The rest of the Policy protocol, for a policy that remembers nothing of a worker."""

    index: PrefixIndex | None = None

    def answered(self, request: RouteRequest, worker: Worker, now: float) -> None: ...

    def done(self, request: RouteRequest, worker: Worker) -> None: ...

    def forget(self, worker: Worker) -> None: ...

    def upkeep(self, now: float) -> None: ...


def lowest(workers: Sequence[Worker], costs: Sequence[Cost], rng: random.Random) -> Worker:
    """The worker with the lowest cost, `costs[i]` being that of `workers[i]`; ties are broken at random."""
    low = min(costs)
    if costs.count(low) == 1:
        return workers[costs.index(low)]
    return one_of([worker for worker, cost in zip(workers, costs, strict=True) if cost == low], rng)


def one_of(workers: Sequence[Worker], rng: random.Random) -> Worker:
    """Any of them; a fifth of the time of random.choice."""
    return workers[int(rng.random() * len(workers))]


def speeds(workers: Sequence[Worker]) -> list[float]:
    """Each worker's speed; an unknown one is the mean of the known, else 1 (LMDeploy's rule).

    A speed that is no positive finite number counts as unknown.
    """
    given = [w.speed if w.speed is not None and 0 < w.speed < math.inf else None for w in workers]
    known = [speed for speed in given if speed is not None]
    if len(known) == len(given):
        return known
    mean = sum(known) / len(known) if known else 1.0
    return [mean if speed is None else speed for speed in given]
