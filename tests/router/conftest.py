"""Fixtures of the router's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from router.config import RouterConfig
from tests.router.world import World


@pytest.fixture
async def world() -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """`await world(2, max_total_retries=1)`: a data plane over two workers, with these settings."""
    made: list[World] = []

    async def make(workers: int = 1, **settings: Any) -> World:
        made.append(World(RouterConfig(**settings)))
        return await made[-1].start(workers)

    yield make
    for each in made:
        await each.stop()
