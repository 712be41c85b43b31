"""llm-d's recommended compositions: affinity filter, then the least token load, or the fewest requests. Pure.

Source: llm-d/llm-d-router, the plugins prefix-cache-affinity-filter, token-load-scorer, active-request-scorer,
inflight-load-producer and approx-prefix-cache-producer, and llm-d's guide "optimized-baseline".

    sticky = {w: matched blocks / blocks >= threshold}; all if there are none
    all, if  (min over sticky of load - min over the others of load) / peak > penalty
    of those left the lowest load + the request's uncached tokens (the guide's choice), any of equals;
    or the fewest requests in flight, which they advise where decode is the bottleneck

Load is the uncached tokens sent that have no first token yet. Penalty 0 is: always stick. The peak rate is theirs as
they measure it: one chunk on an idle engine. The index holds what an engine holds, as it does there where the engines
tell their KV capacity (the default); at most 131,072 tokens of a prompt are looked at.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.fleet import Worker
from router.policies.base import Stateless, lowest
from router.request import RouteRequest
from scripts.simulation.peers.held import Held, believe, full, uncached

if TYPE_CHECKING:
    from scripts.simulation.world import World

LOOKED_AT = 131_072  # tokens


class LlmD(Stateless):
    """`penalty` in seconds; `requests`: score by them; `capacity` of the index in units of an engine's KV cache."""

    def __init__(self, world: World, *, threshold: float, penalty: float, requests: float, capacity: float):
        self._world = world
        self._threshold = threshold
        self._penalty = penalty
        self._requests = bool(requests)
        self._capacity = capacity
        self._held = Held()

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        world, job = self._world, self._world.job
        blocks = job.blocks[: max(1, LOOKED_AT // world.workload.block)]
        depths = self._held.depths(blocks)
        some = self._filter(candidates, depths, len(blocks))
        worker = lowest(some, self._loads(some, request, depths), rng)
        believe(request, job, full(world, depths.get(worker.id, 0)))
        self._held.send(worker.id, blocks, now)
        kv = world.engines[worker.id].costs.kv_tokens
        self._held.trim(worker.id, int(self._capacity * kv / world.workload.block))
        return worker

    def forget(self, worker: Worker) -> None:
        self._held.forget(worker.id)

    def _filter(self, candidates: tuple[Worker, ...], depths: dict[str, int], blocks: int) -> Sequence[Worker]:
        """The sticky ones, unless there are none or all of them are too busy."""
        sticky = [w for w in candidates if depths.get(w.id, 0) >= self._threshold * blocks]
        others = [w.prefill_outstanding for w in candidates if depths.get(w.id, 0) < self._threshold * blocks]
        if not sticky or not others:
            return candidates
        ahead = min(w.prefill_outstanding for w in sticky) - min(others)
        return candidates if self._penalty and ahead > self._penalty * self._peak() else sticky

    def _loads(self, some: Sequence[Worker], request: RouteRequest, depths: dict[str, int]) -> list[int]:
        if self._requests:
            return [w.inflight for w in some]
        new = uncached(self._world, request, depths)
        return [w.prefill_outstanding + new.get(w.id, request.prompt_tokens) for w in some]

    def _peak(self) -> float:
        """Tokens per second of one chunk on an idle engine of nominal speed."""
        costs = next(iter(self._world.engines.values())).costs
        return costs.chunk / costs.prefill(costs.chunk, 0)
