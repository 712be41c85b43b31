"""What SGLang's router and its successor smg share: affinity by match rate over a tree of texts. Pure."""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import TYPE_CHECKING

from router.fleet import Worker
from router.policies.base import Stateless
from router.request import RouteRequest
from scripts.simulation.peers.held import Held, believe

if TYPE_CHECKING:
    from scripts.simulation.world import World


class TreePolicy(Stateless):
    """Its tree is trimmed to `tree` characters every `interval` seconds only, as theirs are."""

    def __init__(self, world: World, *, threshold: float, abs: float, rel: float, tree: float, interval: float):
        self._world = world
        self._threshold = threshold
        self._abs = abs
        self._rel = rel
        self._blocks = int(tree / (world.workload.block * world.workload.bytes_per_token))
        self._interval = interval
        self._trimmed = 0.0
        self._held = Held()

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        job = self._world.job
        worker = self._choose(candidates, rng)
        believe(request, job, self._held.depth(worker.id, job.blocks) * self._world.workload.block)
        self._held.send(worker.id, job.blocks, now)
        return worker

    def forget(self, worker: Worker) -> None:
        self._held.forget(worker.id)

    def upkeep(self, now: float) -> None:
        if now - self._trimmed >= self._interval:
            self._trimmed = now
            self._trim()

    @abstractmethod
    def _choose(self, candidates: tuple[Worker, ...], rng: random.Random) -> Worker: ...

    @abstractmethod
    def _trim(self) -> None: ...

    def _holders(self, candidates: tuple[Worker, ...]) -> list[Worker]:
        """The holders of the longest match in the order in which they got its end; none where that is no hit."""
        job = self._world.job
        depth, ids = self._held.deepest(job.blocks)
        if depth * self._world.workload.block <= self._threshold * job.prompt:
            return []
        usable = {worker.id: worker for worker in candidates}
        return [usable[id] for id in ids if id in usable]
