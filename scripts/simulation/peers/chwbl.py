"""KubeAI's `PrefixHash`: consistent hashing of the prompt's beginning, with bounded load. Pure.

Source: substratusai/kubeai, internal/loadbalancer/balance_chwbl.go and api/k8s/v1/model_types.go.

Each worker stands at 256 places on a ring of hashes. From the key's place on, clockwise, the first worker is taken for
which  load + 1 <= load_factor * (requests in flight + 1) / workers;  where there is none, the first one on the way, and
so it is while fewer requests than four fifths of the workers are in flight.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from router.fleet import Worker
from router.policies.base import Stateless
from router.request import RouteRequest

if TYPE_CHECKING:
    from scripts.simulation.world import World

PLACES = 256  # of each worker


class Chwbl(Stateless):
    """`beginning` in characters: 100 by default there."""

    def __init__(self, world: World, *, load_factor: float, beginning: float):
        self._load_factor = load_factor
        self._beginning = int(beginning)
        self._candidates: tuple[Worker, ...] = ()
        self._ring: list[tuple[int, int]] = []  # hash, number of the candidate

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        self._turn_to(candidates)
        loads = [worker.inflight for worker in candidates]
        total, ring = sum(loads), self._ring
        limit = self._load_factor * (total + 1) / len(loads)
        place = bisect_left(ring, (_hash(request.key[: self._beginning]), 0)) % len(ring)
        if total and min(loads) + 1 <= limit:  # someone is below it
            while loads[ring[place][1]] + 1 > limit:
                place = (place + 1) % len(ring)
        return candidates[ring[place][1]]

    def _turn_to(self, candidates: tuple[Worker, ...]) -> None:
        """Build the ring anew when the candidates changed; the fleet gives the same tuple until they do."""
        if candidates is not self._candidates:
            self._candidates = candidates
            self._ring = sorted((place, i) for i, worker in enumerate(candidates) for place in _places(worker.id))


def _hash(data: bytes) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


@lru_cache(maxsize=1024)
def _places(worker: str) -> tuple[int, ...]:
    return tuple(_hash(b"%s %d" % (worker.encode(), place)) for place in range(PLACES))
