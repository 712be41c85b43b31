"""The process's event loop, and the garbage collector beside it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from router import loop
from router.prefix import PrefixIndex


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generation of each garbage collection; what was set is as before afterwards."""
    thresholds, seen = gc.get_threshold(), []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


async def fill_an_index() -> int:
    index = PrefixIndex(1 << 24)
    for number in range(2 * index.max_entries):
        index.insert(b"%x" % (number * 2654435761 % (1 << 32)), f"w{number % 4}")
    return index.evictions


def test_no_full_collection_holds_up_requests_while_the_index_fills_and_turns_over(collections: list[int]) -> None:
    assert loop.run(fill_an_index()) > 0
    assert collections[0] == 2  # the one before the loop runs
    assert 0 in collections
    assert 2 not in collections[1:]


async def which_loop() -> int:
    return int(type(asyncio.get_running_loop()).__module__.startswith("uvloop"))


def test_the_loop_is_uvloops(collections: list[int]) -> None:
    assert loop.run(which_loop()) == 1
