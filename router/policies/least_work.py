"""The worker that this request, and those beside it, will wait for least. Pure."""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import lowest
from router.prefix import PrefixIndex
from router.request import BYTES_PER_TOKEN, RouteRequest

# The weights of the terms below, found on simulated engines.
OWN = 1.0  # of a prefill on the same worker
FLEET = 1.0  # of a prefill on the average worker
STALL = 0.02  # of a request being decoded there
CONTEXT = 0.03  # of a token of their context

# Engines cache whole blocks, of 16 tokens where they are smallest. What is less is no hit: all chats begin with the
# same few bytes of JSON.
BLOCK = 16 * BYTES_PER_TOKEN

# How a worker's pace is learnt, in tokens of prefill. A step has a price of its own, whatever it computes: 7 to 25 ms,
# at 30 us a token. What is remembered fades over some REMEMBERED answers, and weighs as much as PRIOR tokens at the
# others' pace when nothing is known.
STEP = 1024
REMEMBERED = 50
PRIOR = 4096
# What is learnt varies by itself, more so where engines are full: only a clear difference counts.
CLEAR = 1.4


class Pace:
    """How fast one worker computes prompts. Told by the requests that found none waiting: their time is all theirs."""

    __slots__ = ("alone", "seconds", "since", "tokens")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0.0
        self.alone: RouteRequest | None = None  # the request that is being timed
        self.since = 0.0  # when it was sent

    def completed(self, request: RouteRequest, now: float) -> None:
        if request is not self.alone:
            return
        self.alone = None
        fade = 1 - 1 / REMEMBERED
        self.seconds = self.seconds * fade + (now - self.since)
        self.tokens = self.tokens * fade + request.uncached_tokens + STEP

    def slowness(self, seconds: float, tokens: float) -> float:
        """Its seconds per token over those of the other workers, all's being given; 1 where that is not clear."""
        seconds -= self.seconds
        tokens -= self.tokens
        if seconds <= 0 or tokens <= 0:
            return 1.0
        usual = seconds / tokens
        factor = (self.seconds + usual * PRIOR) / (usual * (self.tokens + PRIOR))
        return 1.0 if 1 / CLEAR < factor < CLEAR else factor


class LeastWork:
    """Argmin over the candidates of

        slowness * (Q + u * (1 + OWN * p + FLEET * mean p + STALL * b) + CONTEXT * K)

    in tokens of prefill, ties at random, where for a worker

    - u: this prompt's tokens that it does not hold. It has to compute them, which is what a cache hit saves.
    - Q: uncached tokens that were sent to it and are not computed: an engine prefills in order of arrival, so this
      request waits for all of them.
    - p: requests of it that wait for their prefill. Work that is added delays those who come next, and where many wait
      more will come before it is done: so u weighs more than once, the more so the busier the worker.
    - mean p: the same of the fleet. When everyone is busy, a hit is worth more: it is capacity. When nobody is, a
      request had better go where it is computed at once.
    - b: requests that it decodes. Each stalls while a prompt's chunk is computed beside it.
    - K: tokens of their context, prompts and answers. Each is read at every step, so this request's steps are longer.
    - slowness: the worker's seconds per token of prefill over the others', learnt from the times of first bytes.

    What a worker holds is told by an index that is its KV cache in miniature (router/prefix.py): it holds what the
    requests in flight refer to and, as far as its capacity goes, what earlier ones left, in the order of their ends.
    The form is that of `Q + u` (least work left) with the externalities priced in; LMetric's product and Dynamo's sum
    are corners of it. `scripts/simulate` compares them.

    Sets request.matched to what the picked worker held before.
    """

    def __init__(self, max_tree_size: int):
        self.index = PrefixIndex(max_tree_size)
        self._paces: dict[str, Pace] = {}

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        held = self.index.matches(request.key)
        paces = [self._pace(worker) for worker in candidates]
        worker = lowest(candidates, self._costs(request, candidates, paces, held), rng)
        if not worker.prefills:
            pace = self._pace(worker)
            pace.alone, pace.since = request, now
        limit = self.index.max_size if worker.kv_tokens is None else worker.kv_tokens * BYTES_PER_TOKEN
        request.stay = self.index.enter(request.key, worker.id, limit)
        request.matched = request.stay.held
        return worker

    def answered(self, request: RouteRequest, worker: Worker, now: float) -> None:
        self._pace(worker).completed(request, now)

    def done(self, request: RouteRequest, worker: Worker) -> None:
        if request.stay is not None:
            self.index.leave(request.stay)
            request.stay = None

    def forget(self, worker: Worker) -> None:
        """A worker that was started anew may be another machine."""
        self.index.forget(worker.id)
        self._paces.pop(worker.id, None)

    def upkeep(self, now: float) -> None:
        self.index.upkeep()

    def _pace(self, worker: Worker) -> Pace:
        pace = self._paces.get(worker.id)
        if pace is None:
            pace = self._paces[worker.id] = Pace()
        return pace

    def _costs(
        self, request: RouteRequest, candidates: tuple[Worker, ...], paces: list[Pace], held: dict[str, int]
    ) -> list[float]:
        prefills, seconds, tokens = 0, 0.0, 0.0
        for worker, pace in zip(candidates, paces, strict=True):
            prefills += worker.prefills
            seconds += pace.seconds
            tokens += pace.tokens
        weight = 1 + FLEET * prefills / len(candidates)
        size = len(request.key)
        costs = []
        for worker, pace in zip(candidates, paces, strict=True):
            hit = held.get(worker.id, 0)
            uncached = (size - hit + hit % BLOCK) / BYTES_PER_TOKEN
            waiting = worker.prefills
            work = uncached * (weight + OWN * waiting + STALL * (worker.inflight - waiting))
            costs.append(
                pace.slowness(seconds, tokens) * (worker.prefill_outstanding + work + CONTEXT * worker.context)
            )
        return costs
