"""Runs the event loop of a process that routes, with nothing in it that holds requests up."""

from __future__ import annotations

import gc
from collections.abc import Coroutine
from typing import Any

import uvloop

# How many objects the two young generations of the garbage collector take, and how rarely it looks at all there are.
# With Python's defaults a full prefix index (65,536 prompts in 140,000 objects) costs a pause of 13 to 30 ms while it
# fills. Nothing depends on the collector: 300 requests of each kind, their connections included, leave it no cycle to
# find. So it looks at what is young, at most 30,000 objects or 3 ms, and at everything should millions pile up.
GC_THRESHOLDS = (5_000, 5, 1_000)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` to its end on uvloop."""
    hold_collector()
    return uvloop.run(main)


def hold_collector() -> None:
    """Keep garbage collections short, for the life of this process."""
    gc.collect()
    gc.freeze()  # modules and settings stay as long as the process
    gc.set_threshold(*GC_THRESHOLDS)
