"""Each worker in its turn. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import Stateless
from router.request import RouteRequest


class RoundRobin(Stateless):
    """The candidate that has waited longest for a request, a new one first.

    A counter modulo the number of candidates would favour some workers whenever that number changes (a retry, another
    model, a worker gone); each worker's last turn stays right.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[str, int] = {}  # worker id -> its last turn

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        last = self._last
        turns = [last.get(worker.id, 0) for worker in candidates]
        worker = candidates[turns.index(min(turns))]
        self._turn += 1
        last[worker.id] = self._turn
        return worker

    def forget(self, worker: Worker) -> None:
        self._last.pop(worker.id, None)
