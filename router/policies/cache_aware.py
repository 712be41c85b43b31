"""Prefer the worker that holds the prompt's beginning, unless the fleet is out of balance. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable
from math import isqrt
from typing import Final

from router.fleet import Worker
from router.policies.base import lowest
from router.prefix import PrefixIndex
from router.request import RouteRequest

# Workers among which the emptiest is looked for. Of 32 neighbours in a large fleet the emptiest is on average among the
# emptiest thirtieth of all, which is as good, and a request does not become dearer with every worker.
LOOKED_AT: Final = 32


class CacheAware:
    """SGLang's rule, over the candidates only; load is requests in flight.

    1. No prompt: fewest in flight.
    2. Out of balance (max - min > abs and max > rel * min): fewest in flight, of those the one with the least cached.
    3. Match rate above the threshold: the least loaded of those that hold the longest match.
    4. Else the most free cache, ties by load, among those that are not clearly busier than the least busy one.

    In 4, the smallest tree alone would be a death spiral: a worker too slow to keep up has cached little, so it would
    get every new prompt. Clearly busier is more than sqrt(min) above min: a count of n requests varies by sqrt(n) by
    itself, and an idle worker is never passed over for a busy one.

    The match rate is taken of the prompt's text: the JSON before a chat's first text is the same for all of them.
    Sets request.matched to what the picked worker held before.
    """

    def __init__(
        self, cache_threshold: float, balance_abs_threshold: int, balance_rel_threshold: float, max_tree_size: int
    ):
        self.index = PrefixIndex(max_tree_size)
        self._threshold = cache_threshold
        self._abs = balance_abs_threshold
        self._rel = balance_rel_threshold
        self._candidates: tuple[Worker, ...] = ()
        self._by_id: dict[str, Worker] = {}  # of those candidates

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        request.matched = 0
        key = request.key
        if not key:
            return lowest(candidates, [worker.inflight for worker in candidates], rng)
        worker = self._choose(key, candidates, rng)
        request.matched = self.index.insert(key, worker.id)
        return worker

    def answered(self, request: RouteRequest, worker: Worker, now: float) -> None: ...

    def done(self, request: RouteRequest, worker: Worker) -> None: ...

    def forget(self, worker: Worker) -> None:
        self.index.forget(worker.id)

    def upkeep(self, now: float) -> None:
        self.index.upkeep()

    def _choose(self, key: bytes, candidates: tuple[Worker, ...], rng: random.Random) -> Worker:
        low = high = candidates[0].inflight
        for worker in candidates:
            low, high = min(low, worker.inflight), max(high, worker.inflight)
        if high - low > self._abs and high > self._rel * low:
            return self._emptiest(candidates, low, rng)
        holders = self._holders(key, candidates)
        if holders:
            return lowest(holders, [worker.inflight for worker in holders], rng)
        return self._emptiest(candidates, low + isqrt(low), rng)

    def _holders(self, key: bytes, candidates: tuple[Worker, ...]) -> list[Worker]:
        """The candidates that hold the longest match any candidate holds; none where that is no hit."""
        longest, ids = self.index.match(key)
        if not self._is_hit(key, longest):
            return []
        holders = self._among(candidates, ids)
        if holders:
            return holders
        held = self.index.matches(key)
        longest = max((held.get(worker.id, 0) for worker in candidates), default=0)
        if not self._is_hit(key, longest):
            return []
        return self._among(candidates, [id for id, length in held.items() if length == longest])

    def _among(self, candidates: tuple[Worker, ...], ids: Iterable[str]) -> list[Worker]:
        """The candidates of these ids. The fleet gives the same tuple until something changes."""
        if candidates is not self._candidates:
            self._candidates = candidates
            self._by_id = {worker.id: worker for worker in candidates}
        by_id = self._by_id
        return [by_id[id] for id in ids if id in by_id]

    def _is_hit(self, key: bytes, matched: int) -> bool:
        length = min(len(key), self.index.max_key)  # nobody holds more of a key than that
        skeleton = _skeleton(key)
        return matched - skeleton > self._threshold * (length - skeleton)

    def _emptiest(self, workers: tuple[Worker, ...], limit: int, rng: random.Random) -> Worker:
        """Of those with at most `limit` in flight the one with the smallest share of the index, ties by load."""
        start = int(rng.random() * max(1, len(workers) - LOOKED_AT + 1))
        found = self._smallest(workers[start : start + LOOKED_AT], limit, rng) or self._smallest(workers, limit, rng)
        assert found is not None  # the least loaded one is within any limit
        return found

    def _smallest(self, workers: tuple[Worker, ...], limit: int, rng: random.Random) -> Worker | None:
        """One loop over plain numbers: with lists of pairs, it was a third of what a decision costs."""
        best, least, ties = None, 0, 0
        for worker in workers:
            if worker.inflight > limit:
                continue
            share = self.index.share(worker.id)
            if best is None or share < least or (share == least and worker.inflight < best.inflight):
                best, least, ties = worker, share, 1
            elif share == least and worker.inflight == best.inflight:
                ties += 1
                if rng.random() * ties < 1:
                    best = worker
        return best


def _skeleton(key: bytes) -> int:
    """How many bytes of JSON stand before a chat's first text: about `[{"role":"user","content":"`; 0 if it is no chat.

    In a JSON string the quotes would be escaped, so neither name can be found inside a text.
    """
    content = key.find(b'"content":', 0, 64)
    if content < 0:
        return 0
    start = content + len(b'"content":"')
    part = key.find(b'"text":', start, start + 32)  # content may be a list of parts
    return start if part < 0 else part + len(b'"text":"')
