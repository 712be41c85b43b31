"""The worker that this request, and those beside it, will wait for least. Pure."""

from __future__ import annotations

import math
import random
from typing import Final

from router.fleet import Worker
from router.policies.hearsay import Hearsay
from router.policies.rooms import Rooms
from router.prefix import PrefixIndex
from router.request import BYTES_PER_TOKEN, RouteRequest

# The weights of the terms below, found on simulated engines. Without OWN mean TTFT is 11 % higher and P99 45 %; without
# FLEET, STALL, CONTEXT, ROOM and attention mean TTFT is 6, 5, 2, 4 and 4 % higher (four workloads, loads 0.7 and 1.0).
OWN: Final = 1.0  # of a prefill on the same worker
FLEET: Final = 2.0  # of a prefill on the average worker, lately
STALL: Final = 0.01  # of a request being decoded there
CONTEXT: Final = 0.02  # of a token of their context
SPARE: Final = 0.2  # the same while somebody has nothing to do
ROOM: Final = 0.05  # of a token of their context that is in nobody else's

# Tokens of prompt after which attention has doubled what a token costs: 524,288 operations a pair of tokens against
# 1.4e10 a token, for a model of 8 billion weights. Between 20,000 and 55,000 for models of 1 to 70 billion.
PAIRS: Final = 30_000

# Of a fleet larger than SMALL a decision looks at so many workers, the next in turn, and at so many that hold the most
# of the prompt. With 256 and 1,024 simulated replicas TTFT and TPOT are within 2 % of those of looking at all.
SMALL: Final = 64
IN_TURN: Final = 32
HOLDERS: Final = 16

# Seconds over which the fleet's load is averaged: as long as what is sent now is felt.
LATELY: Final = 10.0

# Engines cache whole blocks, of 16 tokens where they are smallest. What is less is no hit: all chats begin with the
# same few bytes of JSON.
BLOCK: Final = 16 * BYTES_PER_TOKEN

# How a worker's pace is learnt, in tokens of prefill. A step has a price of its own, whatever it computes: 7 to 25 ms,
# at 30 us a token. What is remembered fades over some REMEMBERED answers, and weighs as much as PRIOR tokens at the
# others' pace when nothing is known.
STEP: Final = 1024
REMEMBERED: Final = 50
PRIOR: Final = 4096
# Seconds per token where nothing is known: between an H100 and an A100 with a model of 8 billion weights.
USUAL: Final = 50e-6
# What is learnt varies by itself, more so where engines are full: only a clear difference counts.
CLEAR: Final = 1.4


class Pace:
    """How fast one worker computes prompts. Told by the requests that found none waiting: their time is all theirs."""

    __slots__ = ("alone", "seconds", "since", "tokens")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0.0
        self.alone: RouteRequest | None = None  # the request that is being timed
        self.since = 0.0  # when it was sent


class Paces:
    """All workers' paces, and which of them are clearly slower or faster than the others."""

    def __init__(self) -> None:
        self.slowness: dict[
            str, float
        ] = {}  # by worker id: its seconds per token over the others', where that is clear
        self._paces: dict[str, Pace] = {}
        self._seconds = 0.0  # of all
        self._tokens = 0.0

    @property
    def usual(self) -> float:
        """Seconds per token, of all workers."""
        return self._seconds / self._tokens if self._tokens > STEP else USUAL

    def started(self, worker: Worker, request: RouteRequest, now: float) -> None:
        """A request is sent to a worker that has no prompt to compute."""
        pace = self._paces.get(worker.id)
        if pace is None:
            pace = self._paces[worker.id] = Pace()
        pace.alone, pace.since = request, now

    def answered(self, worker: Worker, request: RouteRequest, now: float) -> None:
        pace = self._paces.get(worker.id)
        if pace is None or pace.alone is not request:
            return
        pace.alone = None
        seconds = now - pace.since - pace.seconds / REMEMBERED
        tokens = request.uncached_tokens + STEP - pace.tokens / REMEMBERED
        pace.seconds += seconds
        pace.tokens += tokens
        self._seconds += seconds
        self._tokens += tokens
        self._judge(worker.id, pace)

    def forget(self, worker: Worker) -> None:
        pace = self._paces.pop(worker.id, None)
        if pace is not None:
            self._seconds -= pace.seconds
            self._tokens -= pace.tokens
            self.slowness.pop(worker.id, None)

    def _judge(self, id: str, pace: Pace) -> None:
        others, tokens = self._seconds - pace.seconds, self._tokens - pace.tokens
        factor = 1.0
        if others > 0 and tokens > STEP:
            usual = others / tokens
            factor = (pace.seconds + usual * PRIOR) / (usual * (pace.tokens + PRIOR))
        if 1 / CLEAR < factor < CLEAR:
            self.slowness.pop(id, None)
        else:
            self.slowness[id] = factor


class Lately:
    """A mean over time of what holds from one look to the next, older times counting ever less."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._value = 0.0  # since the last look
        self._at = -math.inf

    def now(self, value: float, now: float) -> float:
        """`value` holds from now on; the mean until now."""
        self.mean += (1 - math.exp((self._at - now) / LATELY)) * (self._value - self.mean)
        self._value, self._at = value, now
        return self.mean


class LeastWork:
    """Argmin over the candidates of

        slowness * (Q + a * (1 + OWN * p + FLEET * mean p + STALL * b) + CONTEXT * K + ROOM * k)

    in tokens of prefill, ties at random, where for a worker

    - a: what it has to compute of this prompt: the u tokens that it does not hold, each dearer for those before it that
      attention reads. With h tokens held, a = u * (1 + (h + u / 2) / PAIRS). That is what a cache hit saves.
    - Q: uncached tokens that were sent to it and are not computed: an engine prefills in order of arrival, so this
      request waits for all of them.
    - p: requests of it that wait for their prefill. Work that is added delays those who come next, and where many wait
      more will come before it is done: so a weighs more than once, the more so the busier the worker.
    - mean p: the same of the fleet, over the last LATELY seconds: how many will come and wait meanwhile. When
      everyone is busy, a hit is worth more: it is capacity. When nobody is, a request had better go where it is
      computed at once. Taken of this moment alone it lets a short lull throw hits away: mean TTFT +1 to +7 %, in an
      overload that is short of memory +8 to +50 %.
    - b: requests that it decodes. Each stalls while a prompt's chunk is computed beside it.
    - K: tokens of their context, prompts and answers. Each is read at every step, so this request's steps are longer:
      an answer of 200 tokens takes as much longer as 0.27 tokens of prefill. That price (SPARE) is paid while a worker
      is idle. Else a hit is capacity, which all are short of, and counts for more than the pace of one answer.
    - k: what of that context was computed for its request alone: the memory that an answer takes from the cache, in
      which another's prefix would be found, and which lets the next one begin.
    - slowness: its seconds per token of prefill over the others', learnt from the times of first bytes.

    Q is not decayed while a prompt is computed: tried, mean TTFT -1 to +2 %.

    Q and p fall when the first byte of an answer comes. An answer that comes whole has none before its end: its prompt
    is taken for computed when at the usual pace it should be. Else requests that are being decoded would count as
    waiting, a hit would seem to spare them all, and one worker would get every prompt of a common beginning.

    What a worker holds is told by an index that is its KV cache in miniature (router/prefix.py): it holds what the
    requests in flight refer to and, as far as its capacity goes, what earlier ones left, in the order of their ends.
    Where all engines together tell of more room than `max_tree_size`, that is how large it is.
    The form is that of `Q + u` (least work left) with the externalities priced in; LMetric's product and Dynamo's sum
    are corners of it. `scripts/simulate` compares them.

    Beside other routers, `shared`, it knows less: of what they have sent it sees neither the queues nor the caches. So
    engines are asked how many requests are with them (router/neighbours.py), and a prompt is taken to be held, in part,
    where all routers would send it first (hearsay.py). The waiting requests of others are taken to be as long as ours,
    their decodes to have as much context.

    In a large fleet some of the candidates are looked at, not all, so that a decision takes no longer.

    Sets request.matched to what the picked worker held before.
    """

    def __init__(self, max_tree_size: int, shared: bool = False):
        self.index = PrefixIndex(max_tree_size)
        self._rooms = Rooms(max_tree_size)
        self._paces = Paces()
        self._hearsay = Hearsay() if shared else None
        self._waiting = Lately()  # requests in prefill, per worker
        self._candidates: tuple[Worker, ...] = ()
        self._by_id: dict[str, Worker] = {}  # of a large fleet
        self._turn = 0  # where in the candidates the next look begins

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        if candidates is not self._candidates:  # the fleet gives the same tuple until something changes
            self._candidates = candidates
            self._by_id = {worker.id: worker for worker in candidates} if len(candidates) > SMALL else {}
            self._rooms.among(candidates)
            self.index.grow(self._rooms.total)
        worker = self._least(request, candidates, now, rng)
        before = worker.prefill_outstanding
        if request.stream and not worker.prefills:
            self._paces.started(worker, request, now)
        self._rooms.sent(request.size)
        request.stay = self.index.enter(request.key, worker.id, self._rooms.of(worker))
        request.matched = request.stay.held
        if self._hearsay is not None:
            self._hearsay.learn(request)
        if not request.stream:
            request.computed_by = now + (before + request.uncached_tokens + STEP) * self._paces.usual
        return worker

    def answered(self, request: RouteRequest, worker: Worker, now: float) -> None:
        self._paces.answered(worker, request, now)

    def done(self, request: RouteRequest, worker: Worker) -> None:
        stay, request.stay = request.stay, None
        if stay is None:
            return
        self.index.leave(stay)
        if request.usage is not None:
            self._rooms.told(worker, request.size, stay.held, request.usage)
            self.index.grow(self._rooms.total)

    def forget(self, worker: Worker) -> None:
        """A worker that was started anew may be another machine."""
        self.index.forget(worker.id)
        self._paces.forget(worker)
        if self._hearsay is not None:
            self._hearsay.forget(worker)
        self._rooms.forget(worker)

    def upkeep(self, now: float) -> None:
        self.index.upkeep()

    def _some(self, key: bytes) -> tuple[tuple[Worker, ...], dict[str, int]]:
        """Of a large fleet those whose turn it is, and others that hold the most of the prompt; and what these hold."""
        fleet, start = self._candidates, self._turn % len(self._candidates)
        self._turn = start + IN_TURN
        some = fleet[start : start + IN_TURN]
        some += fleet[: IN_TURN - len(some)]
        ids = {worker.id for worker in some}
        held = self.index.matches_of(ids, key, HOLDERS)
        return some + tuple(self._by_id[id] for id in held if id not in ids and id in self._by_id), held

    def _least(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        """One loop over plain numbers: at 64 workers it is most of what a decision costs."""
        size, slowness = len(request.key), self._paces.slowness
        if self._by_id:
            candidates, held = self._some(request.key)
        else:
            held = self.index.matches(request.key)
        hearsay, usual = self._hearsay, 0.0
        if hearsay is not None:
            hearsay.add(request, candidates, held)
            usual = context_of_a_decode(candidates)
        prefills, price = 0.0, CONTEXT
        for worker in candidates:
            prefills += worker.prefills + worker.others_waiting
            if not (worker.inflight or worker.others_waiting or worker.others_running):
                price = SPARE
        weight = 1 + FLEET * self._waiting.now(prefills / len(candidates), now)
        best, least, ties = candidates[0], math.inf, 0
        for worker in candidates:
            hit = held.get(worker.id, 0)
            hit -= hit % BLOCK
            uncached = (size - hit) / BYTES_PER_TOKEN
            attended = uncached * (1 + (size + hit) / (2 * BYTES_PER_TOKEN * PAIRS))
            waiting, decoding = float(worker.prefills), float(worker.inflight - worker.prefills)
            queue, context = float(worker.prefill_outstanding), float(worker.context)
            if hearsay is not None:
                waiting, decoding = waiting + worker.others_waiting, decoding + worker.others_running
                queue += worker.others_waiting * hearsay.uncached
                context += worker.others_running * usual
            work = attended * (weight + OWN * waiting + STALL * decoding)
            cost = queue + work + price * context + ROOM * (worker.context - worker.shared)
            if slowness:
                cost *= slowness.get(worker.id, 1.0)
            if cost < least:
                best, least, ties = worker, cost, 1
            elif cost == least:
                ties += 1
                if rng.random() * ties < 1:
                    best = worker
        return best


def context_of_a_decode(workers: tuple[Worker, ...]) -> float:
    """Tokens, on average; 0 where nothing is decoded."""
    context = decodes = 0
    for worker in workers:
        context += worker.context
        decodes += worker.inflight - worker.prefills
    return context / decodes if decodes else 0.0
