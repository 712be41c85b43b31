"""The simulated KV cache: blocks of tokens, shared by prefix, evicted least recently used first. Pure.

A block is in one of three places: free, private to one request (being computed, or not shareable), or cached under its
key. A cached block that no request references stays until room is needed. free + private + cached == capacity, always.

Keys are chained: the key of a block stands for all tokens up to its end, so equal keys mean equal prefixes. A request
releases its blocks deepest first; a block is therefore always evicted before the ones it builds on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KVCache:
    """Counts blocks; who holds which private block does not matter, so private ones have no identity."""

    __slots__ = ("_idle", "_references", "capacity", "private")

    def __init__(self, capacity: int):
        self.capacity = capacity  # blocks
        self.private = 0  # blocks held by requests and not (yet) in the cache
        self._references: dict[int, int] = {}  # key -> requests that use the cached block now
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached and unreferenced, least recently used first

    def __repr__(self) -> str:
        return f"<KVCache {self.free} free, {self.private} private, {self.cached} cached ({len(self._idle)} idle)>"

    @property
    def cached(self) -> int:
        return len(self._references)

    @property
    def free(self) -> int:
        return self.capacity - self.private - len(self._references)

    @property
    def available(self) -> int:
        """Blocks that can be had: free, or cached and unreferenced."""
        return self.free + len(self._idle)

    @property
    def usage(self) -> float:
        """Share of the blocks that running requests hold, 0..1."""
        return 1 - self.available / self.capacity

    def references(self, key: int) -> int:
        """How many requests use the cached block now; -1 when it is not cached."""
        return self._references.get(key, -1)

    def match(self, keys: Sequence[int], limit: int) -> tuple[int, int]:
        """How many leading blocks of `keys[:limit]` are cached, and how many of those are idle. Changes nothing."""
        count = idle = 0
        references = self._references
        for key in keys[:limit]:
            users = references.get(key)
            if users is None:
                break
            count += 1
            idle += not users
        return count, idle

    def acquire(self, keys: Sequence[int]) -> None:
        """Reference cached blocks, so that they stay."""
        for key in keys:
            if not self._references[key]:
                del self._idle[key]
            self._references[key] += 1

    def allocate(self, count: int) -> None:
        """Turn `count` available blocks into private ones, evicting idle cached blocks where none is free."""
        if count > self.available:
            raise ValueError(f"{count} blocks wanted, {self.available} available")
        for _ in range(count - self.free):
            del self._references[self._idle.popitem(last=False)[0]]
        self.private += count

    def commit(self, key: int) -> None:
        """A private block has been computed: it becomes the cached block `key`, referenced by its request.

        Where another request has computed the same block meanwhile, that one is shared and this one is freed.
        """
        self.private -= 1
        users = self._references.get(key)
        if users is None:
            self._references[key] = 1
            return
        if not users:
            del self._idle[key]
        self._references[key] = users + 1

    def release(self, keys: Sequence[int], private: int) -> None:
        """A request gives up its blocks: `keys` stay cached, the private ones are free."""
        self.private -= private
        for key in reversed(keys):
            users = self._references[key] - 1
            self._references[key] = users
            if not users:
                self._idle[key] = None

    def flush(self) -> None:
        """Forget every cached block that no request references."""
        for key in self._idle:
            del self._references[key]
        self._idle.clear()
