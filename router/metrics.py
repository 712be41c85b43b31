"""Counters: plain numbers on the hot path. router/exposition.py makes text of them. Pure."""

from __future__ import annotations

from bisect import bisect_left

from router.request import INFERENCE_PATHS
from router.usage import Usage

_PATHS = frozenset(INFERENCE_PATHS)

# Upper bounds, seconds. Requests run from a cached embedding (ms) to a long reasoning chain (half an hour).
_REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_FIRST_BYTE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DECISION = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
_LAG = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1)


class Histogram:
    """How many values fell into each of len(bounds) + 1 buckets, the last being unbounded. A bound is inclusive."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """What the router counts. Written by the exchange, but for `lag`, which the loop's watcher writes. Seconds."""

    __slots__ = (
        "cached_tokens",
        "decision",
        "first_byte",
        "hits",
        "inflight",
        "lag",
        "matched",
        "misses",
        "offered",
        "prompt_tokens",
        "queue_depth",
        "request",
        "requests",
        "retries",
    )

    def __init__(self) -> None:
        self.inflight = 0  # requests taken and not yet answered, queued ones included
        self.queue_depth = 0
        self.requests: dict[tuple[str, int], int] = {}  # by path and status code
        self.retries: dict[str, int] = {}  # by reason
        self.request = Histogram(_REQUEST)
        self.first_byte = Histogram(_FIRST_BYTE)
        self.decision = Histogram(_DECISION)
        self.lag = Histogram(_LAG)
        self.hits = 0
        self.misses = 0
        self.matched = 0  # bytes of prompts that the picked worker was predicted to hold
        self.offered = 0  # bytes of prompts
        self.prompt_tokens = 0  # of prompts of which the engine told what was cached
        self.cached_tokens = 0  # of those, cached by the engine's word

    def finished(self, path: str, code: int, seconds: float, ttfb: float | None) -> None:
        """A request is over, `seconds` after it came; `ttfb` is None when not one byte of an answer came."""
        key = (path if path in _PATHS else "other", code)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.request.observe(seconds)
        if ttfb is not None:
            self.first_byte.observe(ttfb)

    def retried(self, reason: str) -> None:
        """A request goes to a worker once more; `reason` comes from a fixed list."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def picked(self, seconds: float, matched: int, length: int) -> None:
        """A policy chose within `seconds` a worker predicted to hold `matched` of the prompt's `length` bytes."""
        self.decision.observe(seconds)
        if matched:
            self.hits += 1
            self.matched += matched
        else:
            self.misses += 1
        self.offered += length

    def told(self, usage: Usage) -> None:
        """An engine said what a prompt was to it."""
        if usage.cached is not None:
            self.prompt_tokens += usage.prompt
            self.cached_tokens += usage.cached

    def lagged(self, seconds: float) -> None:
        """The event loop ran a timer `seconds` late."""
        self.lag.observe(seconds)

    @property
    def hit_ratio(self) -> float:
        """Share of all prompt bytes that was predicted to be cached where it was sent, 0..1; 0 before any came."""
        return self.matched / self.offered if self.offered else 0.0
