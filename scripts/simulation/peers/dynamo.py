"""Dynamo's KV router: uncached prefill and decode blocks, added. Pure.

Source: ai-dynamo/dynamo, lib/kv-router/src/scheduling/selector/default.rs, sequences/, and its router's concepts page.

    decay   = 1 / (1 + credit_decay * (active prefill - lowest active prefill) / prompt)
    prefill = max(0, active prefill + prompt - credit * decay * overlap)
    cost(w) = prefill_scale * prefill + decode blocks, lowest wins, any of equals

Active prefill is the uncached tokens sent that have no first token yet. Decode blocks are the different blocks of all
prompts in flight on the worker, this one's included; those of answers are not counted by default. Costs are summed in
tokens here; theirs are these by block.

The overlap is the engine's own word (KV events), or what was sent there within `ttl` seconds (without events).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from router.fleet import Worker
from router.policies.base import Stateless, lowest
from router.request import RouteRequest
from scripts.simulation.job import Job
from scripts.simulation.peers.held import Held, believe, full

if TYPE_CHECKING:
    from scripts.simulation.world import World


class Active:
    """The requests in flight on one worker: prefill still to be done, and the different blocks of their prompts."""

    def __init__(self, block: int) -> None:
        self.prefill = 0  # uncached tokens without a first token
        self.tokens = 0  # of the different blocks
        self._block = block
        self._prefills: dict[Job, int] = {}
        self._jobs: set[Job] = set()
        self._users: dict[int, int] = {}  # block -> requests

    def beyond(self, job: Job) -> int:
        """Tokens of its prompt in blocks that no request here has. Prompts that share a block share all before it."""
        shared = next((i for i, block in enumerate(job.blocks) if block not in self._users), len(job.blocks))
        return max(0, job.prompt - shared * self._block)

    def add(self, job: Job, uncached: int) -> None:
        self.tokens += self.beyond(job)
        self._jobs.add(job)
        self._prefills[job] = uncached
        self.prefill += uncached
        for block in job.blocks:
            self._users[block] = self._users.get(block, 0) + 1

    def first_token(self, job: Job) -> None:
        self.prefill -= self._prefills.pop(job, 0)

    def remove(self, job: Job) -> None:
        """Take it out; no harm done if it is not here."""
        if job not in self._jobs:
            return
        self.first_token(job)
        self._jobs.remove(job)
        for block in job.blocks:
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
        self.tokens -= self.beyond(job)


class Dynamo(Stateless):
    """`events`: the engines tell what they hold; else it is predicted for `ttl` seconds from what was sent."""

    def __init__(
        self, world: World, *, credit: float, credit_decay: float, prefill_scale: float, ttl: float, events: float
    ):
        self._world = world
        self._credit = credit
        self._credit_decay = credit_decay
        self._prefill_scale = prefill_scale
        self._ttl = ttl
        self._events = bool(events)
        self._held = Held()
        self._active: dict[str, Active] = {}

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        job = self._world.job
        overlaps = self._overlaps(candidates, now)
        active = [self._of(worker) for worker in candidates]
        floor = min(a.prefill for a in active)
        costs = [self._cost(job, a, floor, overlap) for a, overlap in zip(active, overlaps, strict=True)]
        worker = lowest(candidates, costs, rng)
        overlap = overlaps[candidates.index(worker)]
        believe(request, job, overlap)
        self._of(worker).add(job, job.prompt - overlap)
        if not self._events:
            self._held.send(worker.id, job.blocks, now)
        return worker

    def first_token(self, job: Job, worker: Worker, now: float) -> None:
        self._of(worker).first_token(job)

    def finished(self, job: Job, worker: Worker, now: float) -> None:
        self._of(worker).remove(job)

    def forget(self, worker: Worker) -> None:
        self._held.forget(worker.id)
        self._active.pop(worker.id, None)

    def _of(self, worker: Worker) -> Active:
        found = self._active.get(worker.id)
        if found is None:
            found = self._active[worker.id] = Active(self._world.workload.block)
        return found

    def _overlaps(self, candidates: tuple[Worker, ...], now: float) -> list[int]:
        """Tokens of the prompt that each worker holds."""
        world = self._world
        if self._events:
            return [world.engines[worker.id].cached(world.job) for worker in candidates]
        self._held.expire(now - self._ttl)
        depths = self._held.depths(world.job.blocks)
        return [full(world, depths.get(worker.id, 0)) for worker in candidates]

    def _cost(self, job: Job, active: Active, floor: int, overlap: int) -> float:
        decay = 1 / (1 + self._credit_decay * (active.prefill - floor) / job.prompt)
        prefill = max(0.0, active.prefill + job.prompt - self._credit * decay * overlap)
        return self._prefill_scale * prefill + active.tokens + active.beyond(job)
