"""Very many requests and very many changes: what is counted comes back to zero, and memory stays flat."""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp

from tests.chaos.load import Ask, End, Load, spread
from tests.chaos.world import Server, World, case

REQUESTS, CYCLES = 200_000, 10_000


@case()
async def mixed_requests(world: World) -> None:
    """200,000 requests of mixed outcome: counters at 0, memory flat"""
    urls = [(await world.worker())[1] for _ in range(2)]
    server = await world.router("--worker-urls", *urls, "--log-level", "warning")
    await server.command.ready(2)
    draw = Drawn(7)
    load = world.load(server).mixed(48, draw)
    await drawn(load, draw, 20_000)
    await load.stop()
    await world.remember(server)
    load = world.load(server).mixed(48, draw)
    began = time.monotonic()
    await drawn(load, draw, REQUESTS + draw.count)
    await load.stop()
    world.at_least("requests", draw.count - 20_000, REQUESTS)
    world.at_least("kinds of ending", len({(shot.status, shot.end) for shot in load.shots}), 6)
    world.at_most("wrong answers", load.count(End.WRONG), 0)
    world.note(f"{draw.count / (time.monotonic() - began):.0f}/s; " + spread(load.shots))


class Drawn:
    """Requests of every fate."""

    def __init__(self, seed: int) -> None:
        self.count = 0
        self._rng = random.Random(seed)
        self._kinds = (
            (70, Ask({})),
            (12, Ask({"tokens": 3}, stream=True)),
            (5, Ask({"status": 400})),
            (2, Ask({"status": 429})),
            (2, Ask({"status": 500})),
            (1, Ask({"status": 503})),
            (1, Ask({"cut": "reset"})),
            (1, Ask({"cut": "close", "after": 1})),
            (2, Ask({"cut": "reset", "after": 2, "tokens": 4}, stream=True)),
            (2, Ask({"wait": 0.05}, leaves=0.001)),
            (2, Ask({"tokens": 20, "pause": 0.01}, stream=True, leaves=0.01)),
        )
        self._weights = [weight for weight, _ in self._kinds]

    def __call__(self) -> Ask:
        self.count += 1
        return self._rng.choices(self._kinds, self._weights)[0][1]


async def drawn(load: Load, draw: Drawn, count: int) -> None:
    while draw.count < count:
        await asyncio.sleep(0.1)


@case()
async def many_changes(world: World) -> None:
    """10,000 workers added and removed: counters at 0, memory flat"""
    _, home = await world.worker()
    guests = [(await world.worker())[1] for _ in range(2)]
    server = await world.router("--worker-urls", home, "--log-level", "warning")
    await server.command.ready(1)
    await world.warm(server)
    load = world.load(server).clients(2, {"wait": 0.02})
    await asyncio.gather(*(cycles(server, url, 500) for url in guests))
    await world.remember(server)
    bad = await asyncio.gather(*(cycles(server, url, CYCLES // 2) for url in guests))
    await load.stop()
    world.at_most("changes refused", sum(bad), 0)
    world.at_most("workers left", len(await server.command.workers()) - 1, 0)
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)


async def cycles(server: Server, url: str, count: int) -> int:
    """Add a worker, wait until it is healthy, and remove it, so many times; how often that failed."""
    bad = 0
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            for change in ("add", "remove"):
                async with session.post(f"{server.url}/{change}_worker?url={url}") as answer:
                    bad += answer.status != 200
    return bad
