"""What a peer believes the workers' caches hold: block ids by worker, least recently sent first. Pure.

The peers' own indexes are radix trees over characters or tables of block hashes. Here a prompt is its block ids: an id
stands for a block and all before it, and the texts of different ids differ from their first byte on. So a walk over ids
finds the match that any of those indexes would, to within one block, at a fraction of the time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from router.request import BYTES_PER_TOKEN, RouteRequest

if TYPE_CHECKING:
    from scripts.simulation.job import Job
    from scripts.simulation.world import World


class Held:
    """Who was sent which blocks. A worker that holds a block holds all those before it in the prompt.

    That is because a prompt's blocks are noted last one first: its end is always older than its beginning.
    """

    def __init__(self) -> None:
        self.size = 0  # blocks, all workers together
        self._workers: dict[str, OrderedDict[int, float]] = {}  # block -> when it was sent last, oldest first
        self._holders: dict[int, dict[str, None]] = {}  # block -> workers, the one that got it first first

    def size_of(self, worker: str) -> int:
        """Blocks of one worker."""
        return len(self._workers.get(worker, ()))

    # -- reading

    def depth(self, worker: str, blocks: Sequence[int]) -> int:
        """How many of the first blocks this worker holds."""
        own = self._workers.get(worker)
        if not own:
            return 0
        return next((i for i, block in enumerate(blocks) if block not in own), len(blocks))

    def depths(self, blocks: Sequence[int]) -> dict[str, int]:
        """The same for each worker that holds any of them."""
        found: dict[str, int] = {}
        for i, block in enumerate(blocks):
            holders = self._holders.get(block)
            if not holders:
                break
            for worker in holders:
                found[worker] = i + 1
        return found

    def deepest(self, blocks: Sequence[int]) -> tuple[int, Collection[str]]:
        """How many of the first blocks anybody holds, and who holds them, in the order in which they got the last."""
        depth, found = 0, {}
        for block in blocks:
            holders = self._holders.get(block)
            if not holders:
                break
            depth, found = depth + 1, holders
        return depth, found

    # -- writing

    def send(self, worker: str, blocks: Sequence[int], now: float) -> None:
        """`worker` holds these from now on."""
        own = self._workers.setdefault(worker, OrderedDict())
        for block in reversed(blocks):
            if block in own:
                own.move_to_end(block)
            else:
                self.size += 1
                self._holders.setdefault(block, {})[worker] = None
            own[block] = now

    def forget(self, worker: str) -> None:
        """`worker` holds nothing any more."""
        for block in self._workers.pop(worker, ()):
            self._release(worker, block)

    def trim(self, worker: str, blocks: int) -> None:
        """Keep the `blocks` of a worker that were sent last."""
        while self.size_of(worker) > blocks:
            self._drop(worker)

    def trim_all(self, blocks: int) -> None:
        """Keep the `blocks` of all workers together that were sent last."""
        excess = self.size - blocks
        if excess > 0:
            sent = [(when, worker) for worker, own in self._workers.items() for when in own.values()]
            for _, worker in sorted(sent)[:excess]:
                self._drop(worker)

    def expire(self, before: float) -> None:
        """Drop what was sent before that time and not since."""
        for worker in self._workers:
            while self._oldest(worker) < before:
                self._drop(worker)

    def _oldest(self, worker: str) -> float:
        return next(iter(self._workers[worker].values()), float("inf"))

    def _drop(self, worker: str) -> None:
        block, _ = self._workers[worker].popitem(last=False)
        self._release(worker, block)

    def _release(self, worker: str, block: int) -> None:
        self.size -= 1
        holders = self._holders[block]
        del holders[worker]
        if not holders:
            del self._holders[block]


def full(world: World, depth: int) -> int:
    """The tokens of so many blocks of the prompt that is being placed; an engine reuses full blocks only."""
    block = world.workload.block
    return min(depth, world.job.prompt // block) * block


def believe(request: RouteRequest, job: Job, tokens: int) -> None:
    """Tell the router how many tokens of the prompt the picked worker holds, in the bytes that it counts in."""
    request.matched = len(request.key) * min(tokens, job.prompt) // job.prompt


def uncached(world: World, request: RouteRequest, depths: dict[str, int]) -> dict[str, int]:
    """The tokens left to compute by worker, estimated as those of Worker.prefill_outstanding are; absent: all."""
    job, size = world.job, len(request.key)
    return {
        worker: (size - size * full(world, depth) // job.prompt) // BYTES_PER_TOKEN for worker, depth in depths.items()
    }
