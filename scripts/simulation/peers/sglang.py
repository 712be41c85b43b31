"""SGLang's `cache_aware`: affinity by match rate, given up for all requests while the fleet is out of balance. Pure.

Source: sgl-project/sglang, sgl-router/src/policies/cache_aware.rs and tree.rs, v0.4 to 0.3.2.

    imbalanced = max - min > abs  and  max > rel * min           # requests in flight
    imbalanced:                         fewest in flight
    else matched / length > threshold:  a holder of the longest match
    else:                               smallest tree (the router of SGLang v0.4), or fewest in flight (0.3.2)

The last line, and who is taken of several, were seen at the binary of 0.3.2 before two stub workers: a miss goes where
fewer requests are in flight, however large the tree there, and in an idle fleet to the first worker; of several holders
the one that got the text first is taken, however busy it is and whoever was sent it last.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from router.fleet import Worker
from scripts.simulation.peers.tree import TreePolicy

if TYPE_CHECKING:
    from scripts.simulation.world import World


class Sglang(TreePolicy):
    """`tree` is the limit of one worker's characters; `smallest` sends a miss to the smallest tree."""

    def __init__(
        self, world: World, *, threshold: float, abs: float, rel: float, tree: float, interval: float, smallest: float
    ):
        super().__init__(world, threshold=threshold, abs=abs, rel=rel, tree=tree, interval=interval)
        self._smallest = bool(smallest)

    def _choose(self, candidates: tuple[Worker, ...], rng: random.Random) -> Worker:
        loads = [worker.inflight for worker in candidates]
        low, high = min(loads), max(loads)
        fewest = candidates[loads.index(low)]
        if high - low > self._abs and high > self._rel * low:
            return fewest
        holders = self._holders(candidates)
        if holders:
            return holders[0]
        return min(candidates, key=lambda worker: self._held.size_of(worker.id)) if self._smallest else fewest

    def _trim(self) -> None:
        for worker in self._world.fleet.workers:
            self._held.trim(worker, self._blocks)
