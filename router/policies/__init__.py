"""The routing policies, by name. Each is a pure class: no I/O, no clock, no logging, its own small state."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from router.fleet import Worker
from router.request import RouteRequest


class Policy(Protocol):
    """Chooses a worker for a request."""

    def pick(self, request: RouteRequest, candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
        """Return one of `candidates` (never empty; all of them may be used) and note what it will hold.

        `now` is a monotonic time in seconds. A policy that predicts cache hits sets `request.matched`.
        """

    def forget(self, worker: Worker) -> None:
        """The worker's cache is gone: it restarted, was flushed, or left."""

    def upkeep(self, now: float) -> None:
        """Called every eviction interval; must return within 5 ms."""
