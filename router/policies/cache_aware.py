"""Prefer the worker that holds the prompt's beginning, unless the fleet is out of balance. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from math import isqrt

from router.fleet import Worker
from router.policies.base import lowest
from router.prefix import PrefixIndex
from router.request import RouteRequest


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

    def pick(self, request: RouteRequest, candidates: Sequence[Worker], now: float, rng: random.Random) -> Worker:
        request.matched = 0
        key = request.key
        loads = [worker.inflight for worker in candidates]
        if not key:
            return lowest(candidates, loads, rng)
        worker = self._choose(key, candidates, loads, rng)
        request.matched = self.index.insert(key, worker.id)
        return worker

    def forget(self, worker: Worker) -> None:
        self.index.forget(worker.id)

    def upkeep(self, now: float) -> None:
        self.index.upkeep()

    def _choose(self, key: bytes, candidates: Sequence[Worker], loads: list[int], rng: random.Random) -> Worker:
        low, high = min(loads), max(loads)
        if high - low > self._abs and high > self._rel * low:
            return self._emptiest([worker for worker in candidates if worker.inflight == low], rng)
        holders = self._holders(key, candidates)
        if holders:
            return lowest(holders, [worker.inflight for worker in holders], rng)
        limit = low + isqrt(low)
        return self._emptiest([worker for worker in candidates if worker.inflight <= limit], rng)

    def _holders(self, key: bytes, candidates: Sequence[Worker]) -> list[Worker]:
        """The candidates that hold the longest match any candidate holds; none where that is no hit."""
        longest, ids = self.index.match(key)
        if not self._is_hit(key, longest):
            return []
        holders = _among(candidates, ids)
        if holders:
            return holders
        held = self.index.matches(key)
        longest = max((held.get(worker.id, 0) for worker in candidates), default=0)
        if not self._is_hit(key, longest):
            return []
        return _among(candidates, [id for id, length in held.items() if length == longest])

    def _is_hit(self, key: bytes, matched: int) -> bool:
        length = min(len(key), self.index.max_key)  # nobody holds more of a key than that
        skeleton = _skeleton(key)
        return matched - skeleton > self._threshold * (length - skeleton)

    def _emptiest(self, workers: list[Worker], rng: random.Random) -> Worker:
        """The smallest share of the index, ties by load, then at random."""
        share = self.index.share
        return lowest(workers, [(share(worker.id), worker.inflight) for worker in workers], rng)


def _among(candidates: Sequence[Worker], ids: Collection[str]) -> list[Worker]:
    return [worker for worker in candidates if worker.id in ids]


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
