"""The workers and what is known of each: membership, state, load, recent failures. Pure: `now` is an argument.

One writer for each piece of state:
  lifecycle, pid, restarted  the supervisor (workers launched here) or the health watcher (all others)
  node, waiting, devices                 the supervisor
  last_error                 the same; while the worker is ready, Fleet.failed
  draining                               the members service (router/members.py)
  inflight, prefills, prefill_outstanding, context, shared, latencies, *_tokens   Lease
  others_waiting, others_running         Fleet.set_others, called by Neighbours (router/neighbours.py)
  kv_tokens, kv_prompts                  Fleet.set_cache, called by learn() (router/health.py)
  failures, breaker                      Fleet.succeeded / failed / half_open, called by the exchange and the prober
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Protocol

from router.usage import Usage


class State(str, enum.Enum):
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


class Role(str, enum.Enum):
    """What of a request a worker does."""

    REGULAR = "regular"  # all of it
    PREFILL = "prefill"  # computes the prompt and hands its KV cache over
    DECODE = "decode"  # takes that, and makes the answer


class Breaker(enum.Enum):
    """Passive health. OPEN workers get no request; a HALF_OPEN one gets a single trial request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Cause(enum.Enum):
    """Why a worker was started again."""

    EXITED = "exited"  # by itself
    KILLED = "killed"  # by a signal
    HUNG = "hung"  # no byte and no answer to probes
    STUCK = "stuck"  # answers probes, and nothing else
    TOO_SLOW = "too_slow"  # not ready in time
    NO_PROCESS = "no_process"  # none could be made
    ACTOR_DIED = "actor_died"  # what held it on its node of a cluster
    NODE_LOST = "node_lost"  # its node of a cluster
    ASKED = "asked"  # by a person, or a rolling restart


class Handle(Protocol):
    """What the control plane may ask of a worker whose process was launched here."""

    async def restart(self) -> None:
        """Stop the engine and start it again; returns once it is ready. Raises RuntimeError if it did not become so."""

    async def stop(self) -> None:
        """Stop the engine for good; returns once all of its processes are gone."""

    def written(self, lines: int, after: str | None) -> tuple[list[str], str]:
        """What the engine wrote: the last lines, or all since the mark `after`; and the next mark. Reads a file."""


# LMDeploy keeps this many latencies per node (LATENCY_DEQUE_LEN).
LATENCIES = 15


class Worker:
    """One inference server. Identity is `id`; `url` has no trailing slash."""

    __slots__ = (
        "answer_tokens",
        "bootstrap_port",
        "breaker",
        "context",
        "devices",
        "draining",
        "failures",
        "failures_total",
        "handle",
        "heard",
        "id",
        "inflight",
        "key",
        "kv_prompts",
        "kv_tokens",
        "last_error",
        "latencies",
        "lifecycle",
        "models",
        "native_generate",
        "node",
        "others_running",
        "others_waiting",
        "pid",
        "prefill_outstanding",
        "prefills",
        "prompt_tokens",
        "ready_path",
        "reported_cached_tokens",
        "reported_prompt_tokens",
        "requests_total",
        "restarted",
        "role",
        "shared",
        "speed",
        "trial",
        "uncached_tokens",
        "url",
        "waiting",
    )

    def __init__(
        self,
        id: str,
        url: str,
        *,
        devices: tuple[str, ...] = (),
        models: tuple[str, ...] = (),
        speed: float | None = None,
        native_generate: bool | None = None,
        ready_path: str = "/health",
        lifecycle: State = State.STARTING,
        handle: Handle | None = None,
        role: Role = Role.REGULAR,
        bootstrap_port: int | None = None,
        key: str | None = None,
    ):
        self.id = id
        self.url = url
        self.devices = devices
        self.models = models  # () until the worker has told: it then takes requests for any model
        self.speed = speed  # relative throughput, any unit, the user's word; None: not given
        self.role = role
        self.bootstrap_port = bootstrap_port  # where a prefill worker meets decode workers; None: the engine's default
        self.native_generate = native_generate  # None: not known yet (asked at the first successful probe)
        self.ready_path = ready_path
        self.kv_tokens: int | None = None  # what its KV cache holds; None: it has not told
        self.kv_prompts: int | None = None  # how many prompts it keeps, where the cache is no pool for all
        self.handle = handle  # None: started elsewhere
        self.key = key  # what its engine wants to be sent; None: nothing
        self.node: str | None = None  # of a cluster, where it runs; None: this machine, or not known
        self.waiting: str | None = None  # why it has no place in a cluster yet
        self.lifecycle = lifecycle
        self.draining = False
        self.pid: int | None = None
        self.restarted: dict[Cause, int] = {}  # how often, and why
        self.last_error: str | None = None
        self.inflight = 0
        self.prefills = 0  # of those in flight, the ones that have no byte of answer yet
        self.prefill_outstanding = 0  # estimated uncached prompt tokens sent and not yet answered by a first byte
        self.context = 0  # estimated tokens, prompts and answers, of the requests that are being decoded
        self.shared = 0  # of those, tokens that were found in its cache: others may refer to them, too
        # Requests there that other routers have sent, as far as the engine's own count tells.
        self.others_waiting = 0.0
        self.others_running = 0.0
        self.latencies: deque[float] = deque(maxlen=LATENCIES)  # seconds, successful requests, newest last
        self.failures = 0  # consecutive
        self.breaker = Breaker.CLOSED
        self.trial: Lease | None = None  # HALF_OPEN: the one trial request that is out
        self.requests_total = 0
        self.heard = 0.0  # when its last byte came, monotonic seconds; written by the data plane
        self.failures_total = 0
        # Sums since it joined, tokens. The first two are estimates of the router's, made when a request was sent.
        self.prompt_tokens = 0
        self.uncached_tokens = 0  # of those, not predicted to be cached here
        self.reported_prompt_tokens = 0  # of prompts of which the engine told what was cached
        self.reported_cached_tokens = 0
        self.answer_tokens = 0  # events of streams, and what engines say of whole answers

    def __repr__(self) -> str:
        return f"<Worker {self.id} {self.state.value} {self.url} inflight={self.inflight}>"

    @property
    def state(self) -> State:
        """What people are shown: the lifecycle, overlaid by draining and by the breaker."""
        if self.lifecycle is State.READY:
            if self.draining:
                return State.DRAINING
            if self.breaker is not Breaker.CLOSED:
                return State.UNHEALTHY
        return self.lifecycle

    @property
    def alive(self) -> bool:
        """Its probes fail, but its process, launched here, is there: it may be busy with a long prefill."""
        return self.lifecycle is State.UNHEALTHY and self.handle is not None

    @property
    def healthy(self) -> bool:
        return self.state in (State.READY, State.DRAINING)


class Lease:
    """One request on one worker: first its prefill, then its decode. Counts are given back exactly once, whatever order
    the calls come in.
    """

    __slots__ = ("_began", "_context", "_decoded", "_fleet", "_open", "_prefill", "_shared", "_uncached", "worker")

    def __init__(self, fleet: Fleet, worker: Worker, uncached: int, now: float, prompt: int):
        self._fleet = fleet
        self.worker = worker
        self._uncached = uncached
        self._context = prompt
        self._shared = prompt - uncached
        self._decoded = 0
        self._began = now
        self._open = True
        self._prefill = True  # no byte of answer yet
        worker.inflight += 1
        worker.prefills += 1
        worker.prefill_outstanding += uncached
        worker.requests_total += 1
        worker.prompt_tokens += prompt
        worker.uncached_tokens += uncached
        if worker.breaker is Breaker.HALF_OPEN and worker.trial is None:
            worker.trial = self
            fleet.touch()

    def first_byte(self) -> None:
        """The worker has computed the prompt: nothing of it is outstanding any more, all of it is context."""
        if self._open and self._prefill:
            self._end_prefill()
            self.worker.context += self._context
            self.worker.shared += self._shared

    def decoded(self, tokens: int) -> None:
        """So many more tokens of the answer came."""
        if self._open and not self._prefill:
            self._context += tokens
            self._decoded += tokens
            self.worker.context += tokens
            self.worker.answer_tokens += tokens

    def told(self, usage: Usage) -> None:
        """The engine says what the prompt and the answer were; an answer that came whole has not been counted yet."""
        worker = self.worker
        if usage.answer > self._decoded:
            worker.answer_tokens += usage.answer - self._decoded
            self._decoded = usage.answer
        if usage.cached is not None:
            worker.reported_prompt_tokens += usage.prompt
            worker.reported_cached_tokens += usage.cached

    def release(self, now: float, *, latency: bool = False) -> None:
        """Give the counts back; with `latency` the request succeeded and its duration is remembered."""
        if not self._open:
            return
        self._open = False
        worker = self.worker
        worker.inflight -= 1
        if self._prefill:
            self._end_prefill()
        else:
            worker.context -= self._context
            worker.shared -= self._shared
        if latency:
            worker.latencies.append(now - self._began)
        if worker.trial is self:
            worker.trial = None
            self._fleet.touch()

    def _end_prefill(self) -> None:
        self._prefill = False
        self.worker.prefills -= 1
        self.worker.prefill_outstanding -= self._uncached


class Fleet:
    """The table between the launcher, which lays it, and the router, which reads it."""

    def __init__(self, max_worker_retries: int = 3):
        self.workers: dict[str, Worker] = {}
        self._max_failures = max_worker_retries
        self._candidates: dict[str | tuple[str | None, Role] | None, tuple[Worker, ...]] = {}
        self._serial = 0
        self._silent: list[tuple[float, int, Lease]] = []  # heap: requests that say nothing until they are answered
        self._leases = 0  # of those
        # Called with a worker whose cache is gone (restarted, flushed, removed): policies forget what it held.
        self.on_forget: list[Callable[[Worker], None]] = []
        # Called with a worker that joined the fleet.
        self.on_add: list[Callable[[Worker], None]] = []
        # Called with a worker that left the fleet.
        self.on_remove: list[Callable[[Worker], None]] = []
        # Called with (worker, old state, new state, reason) after each visible change.
        self.on_state: list[Callable[[Worker, State, State, str], None]] = []

    # -- membership

    def next_id(self) -> str:
        """Ids are w0, w1, ... in order of arrival, and never used twice."""
        self._serial += 1
        return f"w{self._serial - 1}"

    def add(self, worker: Worker) -> None:
        if worker.id in self.workers or self.by_url(worker.url):
            raise ValueError(f"worker {worker.url} is already there")
        self.workers[worker.id] = worker
        self.touch()
        for listener in self.on_add:
            listener(worker)

    def remove(self, worker: Worker) -> None:
        if self.workers.pop(worker.id, None) is None:
            return
        self.touch()
        self.forget(worker)
        for listener in self.on_remove:
            listener(worker)

    def by_url(self, url: str) -> Worker | None:
        return next((w for w in self.workers.values() if w.url == url), None)

    def models(self) -> list[str]:
        """All models served by some worker, each once, in order of first appearance."""
        return list(dict.fromkeys(m for w in self.workers.values() for m in w.models))

    def forget(self, worker: Worker) -> None:
        """What the worker had cached is gone."""
        for listener in self.on_forget:
            listener(worker)

    # -- state

    def touch(self) -> None:
        """Something that decides who may be picked has changed."""
        self._candidates.clear()

    def set_lifecycle(self, worker: Worker, state: State, reason: str = "") -> None:
        old, before = worker.state, worker.lifecycle
        worker.lifecycle = state
        if (before, state) != (State.READY, State.READY):  # what failed before it was ready says nothing of it now
            self.forgive(worker)
        self._changed(worker, old, reason)

    def set_draining(self, worker: Worker, draining: bool) -> None:
        old = worker.state
        worker.draining = draining
        self._changed(worker, old, "draining" if draining else "drain cancelled")

    def set_models(self, worker: Worker, models: Iterable[str]) -> None:
        models = tuple(models)
        if models != worker.models:
            worker.models = models
            self.touch()

    def set_others(self, worker: Worker, waiting: float, running: float) -> None:
        """An engine tells how many requests wait there and run; what is not ours is other routers'."""
        total = waiting + running
        share = max(0, total - worker.inflight) / total if total else 0.0
        worker.others_waiting, worker.others_running = waiting * share, running * share

    def set_cache(self, worker: Worker, tokens: int | None, prompts: int | None = None) -> None:
        """What its KV cache holds: `tokens`, None when it has not told; `prompts` at most, None when any number."""
        worker.kv_tokens, worker.kv_prompts = tokens, prompts

    def _changed(self, worker: Worker, old: State, reason: str) -> None:
        self.touch()
        if worker.state is not old:
            for listener in self.on_state:
                listener(worker, old, worker.state, reason)

    # -- passive health

    def succeeded(self, worker: Worker) -> None:
        if worker.failures or worker.breaker is not Breaker.CLOSED:
            old = worker.state
            self.forgive(worker)
            self._changed(worker, old, "a request succeeded")

    def failed(self, worker: Worker, reason: str) -> None:
        """One more consecutive failure; past the limit, or on a failed trial, the worker is unavailable."""
        worker.failures += 1
        worker.failures_total += 1
        if worker.lifecycle is State.READY:  # else it is known why, and this is only what a request met meanwhile
            worker.last_error = reason
        if worker.breaker is Breaker.HALF_OPEN or worker.failures > self._max_failures:
            old = worker.state
            worker.breaker = Breaker.OPEN
            self._changed(worker, old, reason)

    def half_open(self, worker: Worker) -> None:
        """A probe of an unavailable worker went well: let one trial request through."""
        if worker.breaker is Breaker.OPEN:
            worker.breaker = Breaker.HALF_OPEN
            self.touch()

    def forgive(self, worker: Worker) -> None:
        worker.failures = 0
        worker.breaker = Breaker.CLOSED
        worker.trial = None
        self.touch()

    # -- choice

    def candidates(self, model: str | None, role: Role | None = None) -> tuple[Worker, ...]:
        """The workers that may get a request for `model` now (None: any model), or their part of one.

        When every living worker is unavailable, all of them are candidates: the last living worker is never ejected.
        One that only does not answer its probes is living when nobody does better.
        """
        key = model if role is None else (model, role)
        found = self._candidates.get(key)
        if found is None:
            found = self._find(model, role)
            if model is None or model in self.models():  # clients make names up: those would fill the memory
                self._candidates[key] = found
        return found

    def untried(self, model: str | None, tried: Container[str], role: Role | None = None) -> tuple[Worker, ...]:
        """Who may get a request that has failed on the workers with these ids.

        An unavailable worker is better than none: what made it so may be what others asked of it.
        """
        left = tuple(w for w in self.candidates(model, role) if w.id not in tried)
        return left or tuple(w for w in self._living(model, role) if w.id not in tried)

    def _find(self, model: str | None, role: Role | None) -> tuple[Worker, ...]:
        living = self._living(model, role)
        usable = tuple(
            w for w in living if w.breaker is Breaker.CLOSED or (w.breaker is Breaker.HALF_OPEN and w.trial is None)
        )
        return usable or tuple(living)

    def _living(self, model: str | None, role: Role | None) -> list[Worker]:
        serving = [w for w in self.workers.values() if not w.draining and (role is None or w.role is role)]
        if model is not None:
            serving = [w for w in serving if not w.models or model in w.models]
        return [w for w in serving if w.lifecycle is State.READY] or [w for w in serving if w.alive]

    def serves(self, model: str) -> bool:
        """Whether some worker, in whatever state, is known to serve `model`, or none has told what it serves."""
        told = [w.models for w in self.workers.values() if w.models]
        return not told or any(model in models for models in told)

    def lease(self, worker: Worker, uncached: int, now: float, prompt: int = 0, computed_by: float = math.inf) -> Lease:
        """Count a request of `prompt` tokens, `uncached` of them to be computed, on `worker` until it is released.

        `computed_by`: for an answer that comes whole, when its prefill should be over, monotonic seconds.
        """
        lease = Lease(self, worker, uncached, now, prompt)
        if computed_by < math.inf:
            self._leases += 1
            heapq.heappush(self._silent, (computed_by, self._leases, lease))
        return lease

    def presume(self, now: float) -> None:
        """Take the prompts that should be computed by now for computed."""
        silent = self._silent
        while silent and silent[0][0] <= now:
            heapq.heappop(silent)[2].first_byte()
