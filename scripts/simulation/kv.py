"""An engine's KV memory and its prefix cache: blocks, least recently used out first. Pure.

A block is computed once and shared from then on. While a request refers to it, it stays; when nobody does, it may go, a
request's last block before its first, so that a prefix outlives what followed it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class Kv:
    """`capacity` and `private` in tokens. Invariant: used <= capacity; used + spare blocks <= capacity."""

    def __init__(self, capacity: int, block: int):
        self.capacity = capacity
        self.block = block
        self.private = 0  # tokens that belong to one request each: not computed yet, answers, the end of a prompt
        self._refs: dict[int, int] = {}  # cached blocks, by how many requests refer to them
        self._spare: OrderedDict[int, None] = OrderedDict()  # cached and referred to by none, the next to go first

    @property
    def used(self) -> int:
        """Tokens that cannot be had now."""
        return self.private + self.block * (len(self._refs) - len(self._spare))

    @property
    def room(self) -> int:
        """Tokens that can be had now, spare blocks included."""
        return self.capacity - self.used

    def depth(self, blocks: Iterable[int]) -> int:
        """How many of the first blocks are cached."""
        refs, count = self._refs, 0
        for block in blocks:
            if block not in refs:
                break
            count += 1
        return count

    def spare(self, blocks: Iterable[int]) -> int:
        """How many of these cached blocks nobody refers to."""
        return sum(block in self._spare for block in blocks)

    def refer(self, blocks: Iterable[int]) -> None:
        """A request uses these cached blocks."""
        for block in blocks:
            self._refs[block] += 1
            self._spare.pop(block, None)

    def take(self, tokens: int) -> None:
        """Have `tokens` of memory; there must be room. Spare blocks go where nothing is free."""
        self.private += tokens
        over = self.private + self.block * len(self._refs) - self.capacity
        while over > 0:
            block, _ = self._spare.popitem(last=False)
            del self._refs[block]
            over -= self.block

    def give(self, tokens: int) -> None:
        self.private -= tokens

    def computed(self, blocks: Iterable[int]) -> None:
        """Blocks of one request's private memory are cached now; the request refers to them."""
        refs = self._refs
        for block in blocks:
            if block in refs:  # another request computed it meanwhile: this copy is not needed
                refs[block] += 1
                self._spare.pop(block, None)
            else:
                refs[block] = 1
            self.private -= self.block

    def release(self, blocks: Sequence[int]) -> None:
        """A request is done with these blocks, given from the first to the last."""
        refs, spare = self._refs, self._spare
        for block in reversed(blocks):
            refs[block] -= 1
            if not refs[block]:
                spare[block] = None
