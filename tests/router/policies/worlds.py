"""A few workers, and a pick that holds a lease, for the policies' tests."""

from __future__ import annotations

import random

from router.fleet import Fleet, Lease, State, Worker
from router.policies import Policy
from router.request import RouteRequest


def workers(*inflight: int, speeds: tuple[float | None, ...] = ()) -> tuple[Worker, ...]:
    """Ready workers w0, w1, ... with so many requests in flight each."""
    made = []
    for number, load in enumerate(inflight):
        speed = speeds[number] if speeds else None
        worker = Worker(f"w{number}", f"http://10.0.0.{number}:31000", speed=speed, lifecycle=State.READY)
        worker.inflight = load
        made.append(worker)
    return tuple(made)


def request(key: bytes = b"", session: str | None = None) -> RouteRequest:
    return RouteRequest("/generate", key, session=session)


class Router:
    """Picks as the exchange does: over the fleet's candidates, and the request is in flight until it is finished."""

    def __init__(self, policy: Policy, *members: Worker, seed: int = 0):
        self.policy = policy
        self.rng = random.Random(seed)
        self.fleet = Fleet()
        self.fleet.on_forget.append(policy.forget)
        for worker in members:
            self.fleet.add(worker)

    def start(self, request: RouteRequest) -> Lease:
        worker = self.policy.pick(request, self.fleet.candidates(request.model), 0.0, self.rng)
        return self.fleet.lease(worker, request.uncached_tokens, 0.0)

    def send(self, request: RouteRequest) -> str:
        """Start and finish at once; the id of the worker that served it."""
        lease = self.start(request)
        lease.release(1.0)
        return lease.worker.id
