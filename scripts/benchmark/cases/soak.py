"""Whether memory stays where it is when every prompt is a new one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.contestants import Running
from scripts.benchmark.load import wrk

TOTAL, TOTAL_QUICK = 1_000_000, 20_000  # requests
KIND = "fresh-1024"  # bytes of a prompt; the index of 16,777,216 is full after 16,384 of them
LOOK = 0.25  # seconds between two looks at the resident memory

Sample = tuple[float, float]


def soak(bench: Bench) -> dict[str, Any]:
    """One million requests with prompts of 1 KB of which no two begin alike, over 64 connections.

    Runs of wrk follow each other until there are enough; the resident size is looked at four times a second, and the
    number of requests at that moment is interpolated within the run.
    Figures: {contestant: {"samples": [[requests, bytes], ...], "slope": bytes per request over the last quarter,
    "requests", "failed", "refused"}}; ours alone.
    """
    contestant = bench.ours()
    if contestant is None:
        return {}
    total = TOTAL_QUICK if bench.settings.quick else TOTAL
    with bench.alone(contestant) as router:
        return {router.name: _soak(bench, router, total)}


def _soak(bench: Bench, router: Running, total: int) -> dict[str, Any]:
    samples: list[Sample] = [(0, router.child.resident_bytes())]
    done = failed = refused = salt = 0
    while done < total:
        salt += 1
        with _sizes(router) as sizes:
            began = time.monotonic()
            load = wrk(router.port, KIND, bench.settings.secs, header=router.header, salt=salt)
            took = time.monotonic() - began
        samples += [(done + load.requests * (when - began) / took, size) for when, size in sizes]
        done, failed, refused = done + load.requests, failed + load.failed, refused + load.refused
        bench.say(f"soak {done:9,} of {total:,} requests, {samples[-1][1] / 1e6:.1f} MB resident")
    slope = least_squares([sample for sample in samples if sample[0] >= 0.75 * done])
    return {"samples": samples, "slope": slope, "requests": done, "failed": failed, "refused": refused}


@contextmanager
def _sizes(router: Running) -> Iterator[list[Sample]]:
    """(time, resident bytes), several times a second until the end of the block."""
    sizes: list[Sample] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            sizes.append((time.monotonic(), router.child.resident_bytes()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def least_squares(points: Sequence[Sample]) -> float:
    """The slope of the line through (x, y) with the least sum of squared distances in y; 0 for a single x."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
