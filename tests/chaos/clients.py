"""Clients that do harm: bad requests without end, connections that are left."""

from __future__ import annotations

import asyncio
import json
import random

from tests.chaos.load import Caller, Shot, spread
from tests.chaos.world import World, case

REQUEST = {"wait": 0.05}
STREAM = {"wait": 0.05, "tokens": 20, "pause": 0.02}


@case(short=True)
async def bad_clients(world: World) -> None:
    """Clients that send only 400s, or always leave: no worker is ejected for it"""
    server = await world.launch(2, "--max-worker-retries", "0")
    await world.warm(server)
    load = world.load(server).clients(4, REQUEST).clients(4, STREAM, stream=True)
    refused = world.load(server).clients(8, {"status": 400}).clients(4, {"status": 422}).clients(4, {"what": 1})
    leaving = [asyncio.create_task(leave(server.url, world.size(40, 400))) for _ in range(8)]
    await asyncio.gather(*leaving)
    await load.more(world.size(50, 500))
    await refused.stop()
    await load.stop()
    world.at_least("bad requests", len(refused.shots), world.size(100, 3000))
    world.at_most("bad requests answered other than as the worker did", count_other(refused.shots), 0)
    world.at_most("requests of others that failed", len(load.unserved()) + len(load.bad()), 0)
    world.at_most("failures counted against workers", await server.metrics("worker_failures_total"), 0)
    world.at_most(
        "times a worker was out", len(world.said(server, r"w\d is unhealthy|w\d unhealthy|starting again")), 0
    )
    world.note(spread(load.shots))


def count_other(shots: list[Shot]) -> int:
    return sum(shot.status not in (400, 422) for shot in shots)


async def leave(url: str, times: int) -> None:
    """Ask, and leave at some moment: at once, in the prefill, in the middle of the stream."""
    rng = random.Random(times)
    for _ in range(times):
        caller = await Caller.connect(url)
        script = {"wait": 0.02, "tokens": 20, "pause": 0.01}
        caller.send(json.dumps({"text": "hi " * 50, "stream": rng.random() < 0.7, "chaos": script}).encode())
        await asyncio.sleep(rng.choice((0, 0.001, 0.01, 0.05, 0.1)))
        caller.close()
