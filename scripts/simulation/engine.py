"""One engine in virtual time: chunked prefill, first come first served, preemption. Pure.

A step computes a token for every request that is being decoded, and chunks of waiting prompts in order of arrival.
While no prompt waits, steps differ only by a token of context per request: such a stretch is one event, its end known
in closed form. What arrives meanwhile cuts it at the end of the step under way.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from scripts.simulation.costs import Costs
from scripts.simulation.job import Job
from scripts.simulation.kv import Kv

LONGEST_STRETCH = 64  # steps: so often the router hears of the tokens


class Listener(Protocol):
    """Who sent a request."""

    def first(self, now: float) -> None:
        """Its first token is there."""

    def tokens(self, count: int, now: float) -> None:
        """So many more are."""

    def finished(self, now: float) -> None:
        """The last one was."""


@dataclass(eq=False)
class Flight:
    """One request on one engine."""

    job: Job
    listener: Listener
    prompt: int  # tokens to have in the cache before decoding: the prompt and, after a preemption, what was answered
    cached: int = 0  # of these, found in the cache when it was first admitted
    done: int = 0  # of these, in the cache now
    answered: int = 0  # tokens
    queued: int = 0  # its share of Engine.queued
    refers: list[int] = field(default_factory=list)  # its cached blocks, from the first on
    private: int = 0  # its own tokens of memory
    last_step: int = 0  # the engine's step that ends its answer
    preempted: bool = False  # at least once: what it finds in the cache since may be its own


class Engine:
    """Times are seconds; the world calls `advance` when `due` has come, and only then."""

    def __init__(self, id: str, costs: Costs, block: int, speed: float = 1.0):
        self.id = id
        self.costs = costs
        self.speed = speed
        self.kv = Kv(costs.kv_tokens, block)
        self.due: float | None = None  # when the step or stretch under way ends; None: idle
        self.queued = 0  # prompt tokens to be computed: of waiting requests, those not cached when they came
        self.context = 0  # tokens of context of the requests being decoded
        self.preemptions = 0
        self._waiting: deque[Flight] = deque()
        self._admitted: dict[Flight, None] = {}  # in order of admission
        self._prefill: deque[Flight] = deque()  # admitted, prompt not complete
        self._decoding: dict[Flight, None] = {}
        self._ends: list[tuple[int, int, Flight]] = []  # heap by last step
        self._pushed = 0
        self._step = 0  # steps made
        self._began = 0.0  # the stretch under way
        self._steps = 0  # its length; 0: a step with chunks
        self._chunks: list[tuple[Flight, int]] = []  # of the step under way

    @property
    def waiting(self) -> int:
        """Requests that are not admitted, as engines count them."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._admitted)

    @property
    def prefilling(self) -> int:
        return len(self._waiting) + len(self._prefill)

    @property
    def decoding(self) -> int:
        return len(self._decoding)

    def cached(self, job: Job) -> int:
        """Tokens of the prompt that it would find in its cache now."""
        return self.kv.block * self._depth(job, job.prompt)

    def _depth(self, job: Job, tokens: int) -> int:
        """How many of the first blocks are cached; one token at least is always computed, to have the next from it."""
        return self.kv.depth(job.held[: (tokens - 1) // self.kv.block])

    # -- requests

    def submit(self, job: Job, listener: Listener, now: float) -> Flight:
        """Take a request; `due` may change. Raises ValueError for one that could never be held."""
        if job.prompt + job.output > self.kv.capacity:
            raise ValueError(f"a request of {job.prompt + job.output} tokens in a cache of {self.kv.capacity}")
        flight = Flight(job, listener, job.prompt)
        flight.queued = job.prompt - self.cached(job)
        self.queued += flight.queued
        self._waiting.append(flight)
        if self.due is None:
            self._start(now)
        elif self._steps > 1 and len(self._waiting) == 1:  # behind others that cannot be admitted it must wait anyway
            self._cut(now)
        return flight

    # -- steps

    def advance(self, now: float) -> None:
        """The step or stretch under way is over."""
        if self._steps:
            self._decoded(self._steps, now)
        else:
            self._stepped(now)
        self._start(now)

    def _start(self, now: float) -> None:
        """Begin the next step or stretch, if there is anything to do."""
        self._steps, self._chunks = 0, []
        self._make_room()
        self._fill()
        running = len(self._decoding)
        if self._chunks:
            seconds = self.costs.step(running, self.context)
            seconds += sum(self.costs.prefill(size, flight.done) for flight, size in self._chunks)
        elif running:
            self._steps = min(self._ends[0][0] - self._step, self.kv.room // running, LONGEST_STRETCH)
            seconds = self.costs.stretch(self._steps, running, self.context)
        else:
            self.due = None
            return
        self._began = now
        self.due = now + seconds / self.speed

    def _fill(self) -> None:
        """Choose the chunks of the next step: prompts begun first, then those that wait, while there is memory."""
        budget = self.costs.chunk - len(self._decoding)
        for flight in self._prefill:
            if budget <= 0:
                return
            budget -= self._chunk(flight, budget)
        while budget > 0 and self._waiting and len(self._admitted) < self.costs.max_running:
            if not self._admit(self._waiting[0]):
                return
            flight = self._waiting.popleft()
            self._prefill.append(flight)
            budget -= self._chunk(flight, budget)

    def _chunk(self, flight: Flight, budget: int) -> int:
        size = min(budget, flight.prompt - flight.done)
        self._chunks.append((flight, size))
        return size

    def _admit(self, flight: Flight) -> bool:
        """Give it its cached prefix and memory for the rest of its prompt; False when there is not enough.

        A token for each request that is being decoded stays free: theirs of this step.
        """
        kv = self.kv
        depth = self._depth(flight.job, flight.prompt)
        hit, rest = list(flight.job.held[:depth]), flight.prompt - depth * kv.block
        if rest + len(self._decoding) > kv.room - kv.block * kv.spare(hit):
            return False
        kv.refer(hit)
        kv.take(rest)
        flight.refers, flight.private = hit, rest
        flight.done = depth * kv.block
        if not flight.preempted:
            flight.cached = flight.done
        self._queue(flight, rest)
        self._admitted[flight] = None
        return True

    def _queue(self, flight: Flight, tokens: int) -> None:
        self.queued += tokens - flight.queued
        flight.queued = tokens

    def _stepped(self, now: float) -> None:
        """A step with chunks is over."""
        self._decoded(1, now)
        for flight, size in self._chunks:
            flight.done += size
            self._queue(flight, flight.prompt - flight.done)
            blocks = flight.job.held[len(flight.refers) : flight.done // self.kv.block]
            self.kv.computed(blocks)
            flight.refers += blocks
            flight.private -= self.kv.block * len(blocks)
            if flight.done == flight.prompt:
                self._prefill.popleft()
                self._decode(flight, now)

    def _decode(self, flight: Flight, now: float) -> None:
        """The step that completes a prompt makes a token as well; it takes up memory in the step that comes after."""
        again = flight.answered > 0
        flight.answered += 1
        if again:
            flight.listener.tokens(1, now)
        else:
            flight.listener.first(now)
        self._decoding[flight] = None
        self.context += flight.job.prompt + flight.answered
        flight.last_step = self._step + flight.job.output - flight.answered
        if flight.answered == flight.job.output:
            self._finish(flight, now)
        else:
            self._pushed += 1
            heapq.heappush(self._ends, (flight.last_step, self._pushed, flight))

    def _decoded(self, steps: int, now: float) -> None:
        """So many steps are over: each request that is being decoded has as many tokens more."""
        self._step += steps
        running = len(self._decoding)
        if not running:
            return
        self.context += steps * running
        self.kv.take(steps * running)
        for flight in self._decoding:
            flight.answered += steps
            flight.private += steps
            flight.listener.tokens(steps, now)
        while self._ends and self._ends[0][0] <= self._step:
            flight = heapq.heappop(self._ends)[2]
            self._finish(flight, now)

    def _finish(self, flight: Flight, now: float) -> None:
        """Its last token is there; its blocks, those of the answer too, stay in the cache as long as there is room."""
        flight.listener.finished(now)
        self._leave(flight, flight.job.prompt + flight.answered - 1)

    def _leave(self, flight: Flight, computed: int) -> None:
        """It gives its memory back; the full blocks of so many tokens are in the cache."""
        fresh = flight.job.held[len(flight.refers) : computed // self.kv.block]
        self.kv.computed(fresh)
        flight.refers += fresh
        self.kv.give(flight.private - self.kv.block * len(fresh))
        self.kv.release(flight.refers)
        flight.refers, flight.private = [], 0
        del self._admitted[flight]
        if flight in self._decoding:
            del self._decoding[flight]
            self.context -= flight.job.prompt + flight.answered

    def _cut(self, now: float) -> None:
        """End the stretch with the step under way: someone has come."""
        running, gone = len(self._decoding), (now - self._began) * self.speed
        low, high = 1, self._steps
        while low < high:  # the first number of steps that lasts until now
            middle = (low + high) // 2
            if self.costs.stretch(middle, running, self.context) < gone:
                low = middle + 1
            else:
                high = middle
        self._steps = low
        self.due = max(now, self._began + self.costs.stretch(low, running, self.context) / self.speed)

    # -- when memory is short

    def _make_room(self) -> None:
        """Preempt the latest admitted until everyone who is being decoded can have a token more."""
        while self._admitted and self.kv.room < len(self._decoding):
            self._preempt(next(reversed(self._admitted)))

    def _preempt(self, flight: Flight) -> None:
        """Back to the head of the line: its prompt and what it has answered are computed again, or found cached."""
        self.preemptions += 1
        flight.preempted = True
        if flight in self._decoding:
            self._ends = [entry for entry in self._ends if entry[2] is not flight]
            heapq.heapify(self._ends)
            flight.prompt = flight.job.prompt + flight.answered
            computed = flight.prompt - 1  # its last token was not put in yet
        else:
            self._prefill.remove(flight)
            computed = flight.done
        self._leave(flight, computed)
        self._queue(flight, flight.prompt - self.kv.block * self._depth(flight.job, flight.prompt))
        self._waiting.appendleft(flight)
