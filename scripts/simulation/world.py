"""A fleet in virtual time: arrivals, engines, and between them the router, by its own classes. Pure."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from router.fleet import Fleet, Lease, State, Worker
from router.neighbours import INTERVAL
from router.policies import Policy
from router.request import RouteRequest
from router.usage import Usage
from scripts.simulation.costs import Costs
from scripts.simulation.engine import Engine, Flight
from scripts.simulation.job import Job, Workload

UPKEEP = 30.0  # s between calls of the policy's upkeep


@dataclass
class Outcome:
    """What became of a request. Times in seconds; None where it did not come so far."""

    job: Job
    arrival: float
    sent: float  # for the last time
    worker: str
    first: float | None = None
    end: float | None = None
    cached: int = 0  # tokens that the engine found in its cache
    matched: int = 0  # tokens that the policy believed it would
    attempts: int = 1
    failed: bool = False


@dataclass(frozen=True)
class Change:
    """What happens to worker `worker`: "join" (cold; with a lost one's number it is that one), "lose", "leave"."""

    at: float
    worker: int
    what: Literal["join", "lose", "leave"]


@dataclass(frozen=True)
class Scene:
    """All that a run needs but the policy and the workload."""

    replicas: int  # at the start
    costs: Costs
    speeds: tuple[float, ...] = ()  # of the workers by number; 1 where it is not said
    changes: tuple[Change, ...] = ()
    seed: int = 0
    streams: bool = True  # else the router sees nothing of an answer before its end
    told: bool = True  # engines tell how many tokens they hold
    usage: bool = False  # answers tell what their prompts were
    routers: int = 1  # side by side over the same engines; each request, also of a session, comes to any of them


class World:
    """What happens when. A policy that looks at the truth reads `engines`, `now` and `job`, the one being placed."""

    def __init__(self, workload: Workload, scene: Scene):
        self.workload = workload
        self.scene = scene
        self.engines: dict[str, Engine] = {}
        self.routers: list[Router] = []
        self.outcomes: list[Outcome] = []
        self.now = 0.0
        self.job: Job
        self._events: list[tuple[float, int, Callable[[], None]]] = []  # heap
        self._count = 0
        self._chores = 0  # of the events, those that are due again and again

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def every(self, interval: float, what: Callable[[], None], first: float) -> None:
        """Do it again and again, from `first` on, as long as anything else happens."""

        def again() -> None:
            self._chores -= 1
            what()
            if not self.over:
                self.every(interval, what, self.now + interval)

        self._chores += 1
        self.at(first, again)

    @property
    def fleet(self) -> Fleet:
        """What the only router, or the first one, sees."""
        return self.routers[0].fleet

    def arrive(self, job: Job, lot: random.Random) -> None:
        """A request comes to one of the routers."""
        routers = self.routers
        router = routers[0] if len(routers) == 1 else lot.choice(routers)
        router.arrive(job)

    def happens(self, change: Change) -> None:
        """To an engine, and then in the eyes of every router."""
        id = f"w{change.worker}"
        if change.what == "join":
            speeds = self.scene.speeds
            speed = speeds[change.worker] if change.worker < len(speeds) else 1.0
            self.engines[id] = Engine(id, self.scene.costs, self.workload.block, speed)
        for router in self.routers:
            {"join": router.join, "lose": router.lose, "leave": router.leave}[change.what](id)

    @property
    def over(self) -> bool:
        return len(self._events) == self._chores

    def play(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def wake(self, engine: Engine) -> None:
        """Have an engine go on when its step or stretch is over; events for other times than that are void."""
        due = engine.due
        if due is not None:
            self.at(due, partial(self._advance, engine, due))

    def _advance(self, engine: Engine, due: float) -> None:
        if engine.due == due:
            engine.advance(due)
            self.wake(engine)


class Flying:
    """One request on its way: what router/exchange.py keeps of it, and what comes of it."""

    def __init__(self, router: Router, request: RouteRequest, lease: Lease, outcome: Outcome):
        self.router = router
        self.request = request
        self.lease = lease
        self.outcome = outcome
        self.flight: Flight | None = None  # at the engine

    def first(self, now: float) -> None:
        if self.request.stream:
            self.began(now)
        self.outcome.first = now
        if self.flight is not None:
            self.outcome.cached = self.flight.cached

    def began(self, now: float) -> None:
        """The router sees the first byte."""
        self.lease.first_byte()
        self.router.policy.answered(self.request, self.lease.worker, now)
        self.request.key = b""
        self.router.tell("first_token", self.outcome.job, self.lease.worker, now)

    def tokens(self, count: int, now: float) -> None:
        if self.request.stream:
            self.lease.decoded(count)

    def finished(self, now: float) -> None:
        if not self.request.stream:
            self.began(now)
        self.outcome.end = now
        self.router.ended(self, now)

    def broken(self, now: float) -> None:
        """Its worker was lost: it is sent again where nothing of the answer has come."""
        self.router.gone(self, now)
        if self.outcome.first is None:
            self.outcome.attempts += 1
            self.router.send(self.outcome)
        else:
            self.router.fail(self.outcome)


@dataclass
class Router:
    """What router/exchange.py and the supervisor do, in the same calls."""

    world: World
    policy: Policy
    rng: random.Random
    fleet: Fleet = field(default_factory=Fleet)
    flying: dict[str, dict[Flying, None]] = field(default_factory=dict)  # by worker

    def arrive(self, job: Job) -> None:
        outcome = Outcome(job, self.world.now, self.world.now, "")
        self.world.outcomes.append(outcome)
        if job.prompt + job.output > self.world.scene.costs.kv_tokens:  # an engine refuses what it could never hold
            self.fail(outcome)
        else:
            self.send(outcome)

    def send(self, outcome: Outcome) -> None:
        world, job = self.world, outcome.job
        candidates = self.fleet.candidates(None)
        if not candidates:
            self.fail(outcome)
            return
        world.job = job
        request = RouteRequest("/v1/completions", text(world.workload, job), stream=world.scene.streams)
        self.fleet.presume(world.now)
        worker = self.policy.pick(request, candidates, world.now, self.rng)
        lease = self.fleet.lease(worker, request.uncached_tokens, world.now, request.prompt_tokens, request.computed_by)
        outcome.sent, outcome.worker = world.now, worker.id
        outcome.matched = int(request.matched / world.workload.bytes_per_token)
        flying = Flying(self, request, lease, outcome)
        self.flying[worker.id][flying] = None
        self.tell("dispatched", job, request, worker, world.now)
        engine = world.engines[worker.id]
        before = engine.due
        flying.flight = engine.submit(job, flying, world.now)
        if engine.due != before:
            world.wake(engine)

    def ended(self, flying: Flying, now: float) -> None:
        if self.world.scene.usage:
            flying.request.usage = Usage(flying.outcome.job.prompt, flying.outcome.cached)
        self.gone(flying, now, good=True)
        self.follow(flying.outcome.job)

    def fail(self, outcome: Outcome) -> None:
        outcome.failed = True
        self.follow(outcome.job)

    def follow(self, job: Job) -> None:
        """The session goes on, whatever became of this request: all policies are given the same ones."""
        if job.then is not None:
            self.world.at(self.world.now + job.think, partial(self.world.arrive, job.then, self.rng))

    def gone(self, flying: Flying, now: float, good: bool = False) -> None:
        worker = flying.lease.worker
        flying.lease.release(now, latency=good)
        self.policy.done(flying.request, worker)
        self.flying[worker.id].pop(flying)
        self.tell("finished", flying.outcome.job, worker, now)
        self.drained(worker)

    def tell(self, what: str, *arguments: Any) -> None:
        """For the policies that want to know; see contestants.py."""
        listener = getattr(self.policy, what, None)
        if listener is not None:
            listener(*arguments)

    def upkeep(self) -> None:
        self.policy.upkeep(self.world.now)

    # -- the fleet

    def join(self, id: str) -> None:
        worker = self.fleet.workers.get(id)
        if worker is None:
            worker = Worker(id, f"http://{id}")
            worker.kv_tokens = self.world.scene.costs.kv_tokens if self.world.scene.told else None
            self.fleet.add(worker)
            self.flying[id] = {}
        self.fleet.set_lifecycle(worker, State.READY)

    def lose(self, id: str) -> None:
        worker = self.fleet.workers.get(id)
        if worker is None:  # it has left before
            return
        self.world.engines[id].due = None
        self.fleet.set_lifecycle(worker, State.BACKOFF)
        self.fleet.forget(worker)
        for flying in list(self.flying[id]):
            flying.broken(self.world.now)

    def leave(self, id: str) -> None:
        worker = self.fleet.workers[id]
        self.fleet.set_draining(worker, True)
        self.drained(worker)

    def look(self) -> None:
        """Ask the engines how much is with them, whoever sent it."""
        for id, worker in self.fleet.workers.items():
            engine = self.world.engines[id]
            self.fleet.set_others(worker, engine.waiting, engine.running)

    def drained(self, worker: Worker) -> None:
        """One that leaves goes once it has nothing to do."""
        if worker.draining and not worker.inflight:
            self.fleet.remove(worker)


def text(workload: Workload, job: Job) -> bytes:
    """What stands for the job's prompt: equal blocks have equal text, others differ within its first bytes."""
    size = int(workload.block * workload.bytes_per_token)
    whole = b"".join([_text(block, size) for block in job.blocks])
    return whole[: int(job.prompt * workload.bytes_per_token)]


def _text(block: int, size: int) -> bytes:
    return (block.to_bytes(8, "little") * (size // 8 + 1))[:size]


def run(workload: Workload, make_policy: Callable[[World], Policy], scene: Scene) -> list[Outcome]:
    """Play a workload to its end; what became of each request, in order of arrival."""
    world = World(workload, scene)
    for number in range(scene.routers):
        router = Router(world, make_policy(world), random.Random(scene.seed + 1_000_003 * number))
        router.fleet.on_forget.append(router.policy.forget)
        world.routers.append(router)
    for number in range(scene.replicas):
        world.happens(Change(0.0, number, "join"))
    lot = random.Random(scene.seed)
    for job in workload.jobs:
        world.at(job.arrival, partial(world.arrive, job, lot))
    for change in scene.changes:
        world.at(change.at, partial(world.happens, change))
    for router in world.routers:
        world.every(UPKEEP, router.upkeep, UPKEEP)
        if scene.routers > 1:
            world.every(INTERVAL, router.look, router.rng.random() * INTERVAL)
    world.play()
    return world.outcomes
