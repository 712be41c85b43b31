"""The process's event loop, and the garbage collector beside it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from router import loop
from router.loop import BUSY_EVERY, IDLE_EVERY, Garbage
from router.prefix import PrefixIndex


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generation of each garbage collection; the collector is as before afterwards."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.unfreeze()
    gc.enable()


async def fill_an_index() -> int:
    index = PrefixIndex(1 << 24)
    for number in range(2 * index.max_entries):
        index.insert(b"%x" % (number * 2654435761 % (1 << 32)), f"w{number % 4}")
    return index.evictions


def test_no_collection_holds_up_requests_while_the_index_fills_and_turns_over(collections: list[int]) -> None:
    assert loop.run(fill_an_index()) > 0
    assert collections == [2]  # the one before the loop runs


async def which_loop() -> int:
    return int(type(asyncio.get_running_loop()).__module__.startswith("uvloop"))


def test_the_loop_is_uvloops(collections: list[int]) -> None:
    assert loop.run(which_loop()) == 1


def test_garbage_is_collected_when_nobody_waits(collections: list[int]) -> None:
    gc.disable()
    garbage = Garbage(now=100.0)
    garbage.tick(100.0 + IDLE_EVERY, busy=False)
    garbage.tick(101.0 + IDLE_EVERY, busy=True)
    assert collections == []
    garbage.tick(101.0 + IDLE_EVERY, busy=False)
    garbage.tick(102.0 + IDLE_EVERY, busy=False)
    assert collections == [2]


def test_where_somebody_always_waits_garbage_is_collected_all_the_same(collections: list[int]) -> None:
    gc.disable()
    garbage = Garbage(now=100.0)
    garbage.tick(100.0 + BUSY_EVERY, busy=True)
    assert collections == []
    garbage.tick(101.0 + BUSY_EVERY, busy=True)
    assert collections == [2]


def test_a_process_that_collects_by_itself_is_left_alone(collections: list[int]) -> None:
    Garbage(now=100.0).tick(100.0 + 2 * BUSY_EVERY, busy=False)
    assert 2 not in collections
