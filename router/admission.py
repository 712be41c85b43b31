"""How many requests may be under way at once, and who waits for a place. Pure: `now` is an argument."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from router.errors import QueueFull

T = TypeVar("T")


class Admission(Generic[T]):
    """A counter of places and a first-in-first-out queue for them. `limit` 0: no limit.

    Invariant: nobody waits while a place is free, since leave() hands the place to the next in line.
    """

    def __init__(self, limit: int, queue_size: int, queue_timeout: float):
        self.limit = limit
        self.queue_size = queue_size
        self.queue_timeout = queue_timeout
        self.taken = 0
        self._queue: OrderedDict[T, float] = OrderedDict()  # -> deadline; equal timeouts keep it sorted by deadline

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def enter(self, item: T, now: float) -> bool:
        """True: go on. False: wait until leave() returns you. Raises QueueFull."""
        if not self.limit or self.taken < self.limit:
            self.taken += 1
            return True
        if len(self._queue) >= self.queue_size:
            raise QueueFull(f"{self.limit} requests are under way and {self.queue_size} wait: try again later")
        self._queue[item] = now + self.queue_timeout
        return False

    def leave(self) -> T | None:
        """Give a place back. The one returned has it now."""
        if self._queue:
            return self._queue.popitem(last=False)[0]
        self.taken -= 1
        return None

    def give_up(self, item: T) -> bool:
        """`item` no longer waits; False when it did not."""
        return self._queue.pop(item, None) is not None

    def expired(self, now: float) -> list[T]:
        """Those who waited too long; they have left the queue."""
        out: list[T] = []
        while self._queue and next(iter(self._queue.values())) <= now:
            out.append(self._queue.popitem(last=False)[0])
        return out
