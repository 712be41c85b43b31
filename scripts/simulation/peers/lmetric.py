"""LMetric: the product of prefill work and batch size. Pure.

Source: "LMetric", arXiv 2603.15202, and its ports to SGLang (#29574), llm-d (#2351) and Dynamo (#11028).

    score(w) = P_w * (BS_w + 1), lowest wins

BS is the requests in flight. P is the prompt's uncached tokens (SGLang's and llm-d's reading), or those and the
uncached tokens that were sent before and have no first token yet (Dynamo's). Equal scores, full hits above all, go to
the lower load, then to less work, then to any.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from router.fleet import Worker
from router.policies.base import Stateless, one_of
from router.request import RouteRequest
from scripts.simulation.peers.held import Held, believe, full, uncached

if TYPE_CHECKING:
    from scripts.simulation.world import World


class LMetric(Stateless):
    """`capacity` of the index in units of an engine's KV cache; `queued` for the second reading of P."""

    def __init__(self, world: World, *, capacity: float, queued: float):
        self._world = world
        self._capacity = capacity
        self._queued = int(queued)
        self._held = Held()

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        world, job = self._world, self._world.job
        depths = self._held.depths(job.blocks)
        new = uncached(world, request, depths)
        scores = []
        for worker in candidates:
            work = new.get(worker.id, request.prompt_tokens) + self._queued * worker.prefill_outstanding
            scores.append((work * (worker.inflight + 1), worker.inflight, work))
        best = min(scores)
        worker = one_of([worker for worker, score in zip(candidates, scores, strict=True) if score == best], rng)
        believe(request, job, full(world, depths.get(worker.id, 0)))
        self._held.send(worker.id, job.blocks, now)
        kv = world.engines[worker.id].costs.kv_tokens
        self._held.trim(worker.id, int(self._capacity * kv / world.workload.block))
        return worker

    def forget(self, worker: Worker) -> None:
        self._held.forget(worker.id)
