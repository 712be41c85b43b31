"""The yardstick of hit rates: all caches as one, least recently used first, knowing each prompt at once. Pure."""

from __future__ import annotations

from collections import OrderedDict

from scripts.simulation.job import Job


class Pool:
    """A cache of `tokens`, or a boundless one (None). It is no upper bound: who evicts more wisely may do better."""

    def __init__(self, block: int, tokens: int | None = None):
        self._block = block
        self._room = None if tokens is None else tokens // block
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, job: Job) -> int:
        """How many of its prompt's tokens are there; then all its text is. At least one token is always computed."""
        blocks = self._blocks
        known = 0
        for block in job.blocks[: job.prompt // self._block]:
            if block not in blocks:
                break
            known += self._block
        for block in reversed(job.held):  # so that a prefix outlives what follows it
            blocks[block] = None
            blocks.move_to_end(block)
        while self._room is not None and len(blocks) > self._room:
            blocks.popitem(last=False)
        return min(known, job.prompt - 1)
