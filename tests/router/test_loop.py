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


class Cycle:
    def __init__(self) -> None:
        self.me = self


def alive() -> int:
    return sum(isinstance(thing, Cycle) for thing in gc.get_objects(generation=0))


def test_a_sweep_frees_the_cycles_that_were_made_since_the_last_one(collections: list[int]) -> None:
    gc.disable()
    loop.sweep()
    kept = Cycle()
    Cycle()
    assert alive() == 2
    loop.sweep()
    assert alive() == 0  # what is kept is not looked at again
    assert gc.is_tracked(kept)
    assert collections == [0, 0]


def test_a_process_that_collects_by_itself_is_left_alone(collections: list[int]) -> None:
    loop.sweep()
    assert gc.get_freeze_count() == 0
