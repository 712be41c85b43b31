"""An engine made as plainly as its rules allow: one step at a time, everything counted anew. What engine.py must equal.

It knows no stretches, no running totals and no reference counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scripts.simulation.costs import Costs
from scripts.simulation.job import Job


@dataclass(eq=False)
class Ride:
    """One request, and what became of it."""

    job: Job
    first: float = 0.0
    end: float = 0.0
    cached: int = 0  # when it was first admitted
    preempted: bool = False
    answered: int = 0  # tokens
    goal: int = 0  # tokens to be in the cache before the next token of the answer
    done: int = 0  # of those
    owned: int = 0  # tokens of memory taken
    shared: int = 0  # blocks in the cache that it uses, from the first on

    @property
    def decodes(self) -> bool:
        return self.done == self.goal

    @property
    def context(self) -> int:
        return self.job.prompt + self.answered


@dataclass
class Stepper:
    """`arrivals` are served to the end by `run`."""

    costs: Costs
    block: int
    speed: float
    arrivals: list[tuple[float, Job]]
    running: list[Ride] = field(default_factory=list)  # in order of admission
    waiting: list[Ride] = field(default_factory=list)
    cache: list[int] = field(default_factory=list)  # blocks, least recently given back first
    preemptions: int = 0

    def run(self) -> list[Ride]:
        rides, coming, now = [], list(self.arrivals), -1.0
        while coming or self.running or self.waiting:
            idle = not self.running and not self.waiting and coming[0][0] > now
            if idle:
                now = coming[0][0]
            while coming and coming[0][0] <= now:
                ride = Ride(coming.pop(0)[1])
                rides.append(ride)
                self.waiting.append(ride)
                if idle:  # it begins at once, with the first one
                    break
            now = self.step(now)
        return rides

    # -- memory

    def used(self, ride: Ride) -> set[int]:
        return set(ride.job.held[: ride.shared])

    def taken(self) -> int:
        """Tokens of memory that cannot be had."""
        shared = set().union(*(self.used(ride) for ride in self.running))
        return sum(ride.owned for ride in self.running) + self.block * len(shared)

    def evict(self) -> None:
        while sum(ride.owned for ride in self.running) + self.block * len(self.cache) > self.costs.kv_tokens:
            self.cache.remove(
                next(block for block in self.cache if not any(block in self.used(ride) for ride in self.running))
            )

    def share(self, ride: Ride, tokens: int) -> None:
        """The full blocks of its first `tokens` are cached from now on."""
        for block in ride.job.held[ride.shared : tokens // self.block]:
            if block not in self.cache:
                self.cache.append(block)
            ride.shared += 1
            ride.owned -= self.block

    def stop(self, ride: Ride, tokens: int) -> None:
        """It runs no longer; `tokens` of it had been computed."""
        self.share(ride, tokens)
        self.running.remove(ride)
        for block in reversed(ride.job.held[: ride.shared]):
            if not any(block in self.used(other) for other in self.running):
                self.cache.remove(block)
                self.cache.append(block)
        ride.owned = ride.shared = 0

    # -- a step

    def step(self, now: float) -> float:
        """Returns when it is over."""
        costs = self.costs
        while self.taken() + sum(ride.decodes for ride in self.running) > costs.kv_tokens:
            self.preempt()
        decoding = [ride for ride in self.running if ride.decodes]
        chunks = self.chunks(len(decoding))
        seconds = costs.base + costs.running * len(decoding) + costs.context * sum(ride.context for ride in decoding)
        for ride, size in chunks:
            seconds += sum(costs.token + costs.pair * (ride.done + i + 0.5) for i in range(size))
        now += seconds / self.speed
        for ride in decoding:
            ride.owned += 1
            ride.answered += 1
        self.evict()
        for ride in decoding:
            self.end(ride, now)
        for ride, size in chunks:
            ride.done += size
            self.share(ride, ride.done)
            if ride.decodes:
                ride.answered += 1
                ride.first = ride.first or now
                self.end(ride, now)
        return now

    def end(self, ride: Ride, now: float) -> None:
        if ride.answered == ride.job.output:
            ride.end = now
            self.stop(ride, ride.context - 1)  # the last token is never put in

    def preempt(self) -> None:
        self.preemptions += 1
        ride = self.running[-1]
        ride.preempted = True
        self.stop(ride, ride.context - 1 if ride.decodes else ride.done)
        ride.done = ride.goal = 0
        self.waiting.insert(0, ride)

    def chunks(self, decoding: int) -> list[tuple[Ride, int]]:
        """Who computes how many tokens of a prompt."""
        budget = self.costs.chunk - decoding
        found = []
        for ride in [ride for ride in self.running if not ride.decodes]:
            if budget > 0:
                found.append((ride, min(budget, ride.goal - ride.done)))
                budget -= found[-1][1]
        while budget > 0 and self.waiting and len(self.running) < self.costs.max_running:
            ride = self.waiting[0]
            if not self.admit(ride, decoding):
                break
            self.waiting.pop(0)
            found.append((ride, min(budget, ride.goal - ride.done)))
            budget -= found[-1][1]
        return found

    def admit(self, ride: Ride, decoding: int) -> bool:
        goal, hit = ride.context, 0
        for block in ride.job.held[: (goal - 1) // self.block]:
            if block not in self.cache:
                break
            hit += 1
        ride.goal, ride.done, ride.shared = goal, hit * self.block, hit
        ride.owned = goal - ride.done
        self.running.append(ride)
        if self.taken() + decoding > self.costs.kv_tokens:
            self.running.remove(ride)
            ride.goal = ride.done = ride.shared = ride.owned = 0
            return False
        if not ride.preempted:
            ride.cached = ride.done
        self.evict()
        return True
