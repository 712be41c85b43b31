"""A few workers, prompts of blocks of 10 tokens, and engines that say what a test wants: for the peers' tests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from router.fleet import Fleet, Lease, Worker
from router.request import RouteRequest
from scripts.simulation.contestants import CONTESTANTS
from scripts.simulation.job import BYTES_PER_TOKEN, Job, Workload
from tests.router.policies.worlds import workers

BLOCK = 10  # tokens


@dataclass
class Engine:
    """The truth of one engine, written down."""

    holds: tuple[int, ...] = ()
    queued: int = 0
    prefilling: int = 0
    decoding: int = 0
    context: int = 0
    speed: float = 1.0
    costs: Any = field(
        default_factory=lambda: SimpleNamespace(kv_tokens=80, chunk=100, prefill=lambda new, old: new / 50)
    )

    def cached(self, job: Job) -> int:
        return BLOCK * sum(block in self.holds for block in job.blocks)


def job(*blocks: int, prompt: int | None = None) -> Job:
    """A request with these blocks, all full unless `prompt` says less."""
    return Job(0.0, blocks, prompt or BLOCK * len(blocks), 1, blocks)


class Stage:
    """Places jobs by a contestant's rule as the simulator's world does, and keeps them in flight until told."""

    def __init__(self, name: str, *inflight: int, **settings: float):
        self.fleet = Fleet()
        for worker in workers(*inflight):
            self.fleet.add(worker)
        self.workers = tuple(self.fleet.workers.values())
        self.engines = {worker.id: Engine() for worker in self.workers}
        self.workload = Workload("test", BLOCK)
        self.scene = SimpleNamespace(routers=1)
        self.now = 0.0
        self.job = job(0)
        self.request = RouteRequest("/v1/completions")
        self.rng = random.Random(0)
        self.leases: dict[Job, Lease] = {}
        self.policy: Any = CONTESTANTS[name].make(self, settings)  # type: ignore[arg-type]
        self.fleet.on_forget.append(self.policy.forget)

    def send(self, job: Job) -> str:
        """The id of the worker that it went to."""
        self.job = job
        self.request = RouteRequest("/v1/completions", bytes(int(job.prompt * BYTES_PER_TOKEN)))
        worker: Worker = self.policy.pick(self.request, self.fleet.candidates(None), self.now, self.rng)
        tokens = self.request.uncached_tokens
        self.leases[job] = self.fleet.lease(worker, tokens, self.now, self.request.prompt_tokens)
        return worker.id

    def first_token(self, job: Job) -> None:
        self.leases[job].first_byte()
        if hasattr(self.policy, "first_token"):
            self.policy.first_token(job, self.leases[job].worker, self.now)

    def finish(self, job: Job) -> None:
        lease = self.leases.pop(job)
        lease.release(self.now)
        if hasattr(self.policy, "finished"):
            self.policy.finished(job, lease.worker, self.now)

    def answer(self, job: Job) -> str:
        """Send it and have it answered at once."""
        worker = self.send(job)
        self.finish(job)
        return worker

    def load(self, *inflight: int) -> None:
        """Set the requests in flight."""
        for worker, load in zip(self.workers, inflight, strict=True):
            worker.inflight = load

    def queue(self, *tokens: int) -> None:
        """Set the uncached tokens that wait."""
        for worker, count in zip(self.workers, tokens, strict=True):
            worker.prefill_outstanding = count
