"""smg's `cache_aware`: the least loaded holder, unless that one worker is overloaded. Pure.

Source: smg-project/smg, model_gateway/src/policies/cache_aware.rs of August 2026, for workers reached over HTTP.

    matched / length > threshold:  the least loaded of the holders of the longest match, at most 8 of them
    else:                          the least loaded of all
    spill to the least loaded of all if  load > rel * mean  and  load > mean + abs

Load is requests in flight; equal loads are told apart at random, as by the binary of 1.13.0 before two idle stub
workers. The tree's limit is one for all workers. What needs the engines' own figures (token usage, decay of the overlap
by their waiting prefill) is off by default there, and left out here.
"""

from __future__ import annotations

import random

from router.fleet import Worker
from router.policies.base import lowest
from scripts.simulation.peers.tree import TreePolicy

HOLDERS = 8  # looked at


class Smg(TreePolicy):
    """`tree` is the limit of all workers' characters together."""

    def _choose(self, candidates: tuple[Worker, ...], rng: random.Random) -> Worker:
        loads = [worker.inflight for worker in candidates]
        holders = self._holders(candidates)[:HOLDERS]
        if holders:
            worker = lowest(holders, [worker.inflight for worker in holders], rng)
            mean = sum(loads) / len(loads)
            if not (worker.inflight > self._rel * mean and worker.inflight > mean + self._abs):
                return worker
        return lowest(candidates, loads, rng)

    def _trim(self) -> None:
        self._held.trim_all(self._blocks)
