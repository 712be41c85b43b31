"""Requests that were on a worker when it died, one of which may have killed it: each is alone on its next worker. Pure.

A request that kills what it meets is given up after two deaths. All that were on the dead worker beside it look just as
guilty: sent on together they would be there at the second death too, and be given up with it. So a worker gets one
suspect at a time, and the others wait. Innocent ones answer and leave; of a second death there is but one suspect.

One that has been on its worker for PATIENCE has most likely not come to kill it, and the next one may come beside it:
answers that come whole may take minutes, and dozens would wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from router.fleet import Worker

T = TypeVar("T")

PATIENCE = 5.0  # seconds


class Suspects(Generic[T]):
    """Who is where, and who waits. Written through these methods alone."""

    def __init__(self) -> None:
        self._on: dict[str, tuple[T, float]] = {}  # worker id -> the latest suspect that went there, and when
        self._queue: dict[T, None] = {}  # in order of arrival

    def free(self, workers: Sequence[Worker], now: float) -> tuple[Worker, ...]:
        """Those of `workers` that may get a suspect now."""
        return tuple(w for w in workers if w.id not in self._on or now - self._on[w.id][1] >= PATIENCE)

    def take(self, item: T, worker: Worker, now: float) -> None:
        """`item` goes to the worker."""
        self._on[worker.id] = item, now

    def wait(self, item: T) -> None:
        """`item` has nowhere to go as yet."""
        self._queue[item] = None

    def leave(self, item: T) -> bool:
        """`item` is on no worker any more, and waits no longer; whether others wait."""
        self._queue.pop(item, None)
        for worker, (other, _) in list(self._on.items()):
            if other is item:
                del self._on[worker]
        return bool(self._queue)

    def waiting(self) -> list[T]:
        """All who wait, longest first; they have left the queue, and may wait again."""
        items = list(self._queue)
        self._queue.clear()
        return items
