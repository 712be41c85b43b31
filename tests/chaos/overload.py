"""More than the fleet can do, and workers that say no."""

from __future__ import annotations

import asyncio
import time

import psutil

from tests.chaos.load import End, Load, Shot, spread
from tests.chaos.world import World, case, seen

PLACES = 8  # requests that a worker works on at once
REQUEST = {"wait": 0.2}  # seconds each: two workers can do 80/s


@case(short=True)
async def five_times_too_much(world: World) -> None:
    """5x overload with admission limits: the capacity is still delivered, the surplus told at once to come again"""
    limits = ("--max-concurrent-requests", str(2 * PLACES), "--queue-size", "32")
    server = await world.launch(2, *limits, "--policy", "least_requests", engine=("--places", str(PLACES)))
    await world.warm(server)
    seconds = world.size(1.0, 10.0)
    alone = world.load(server).clients(2 * PLACES, REQUEST)
    capacity = await rate(alone, seconds)
    await alone.stop()
    before = memory(server.pid)
    load = world.load(server).steady(5 * capacity, REQUEST)
    await asyncio.sleep(0.5)  # until the queue is full
    delivered = await rate(load, seconds)
    grown = memory(server.pid) - before
    await load.stop()
    shed = load.some(End.TOLD)
    world.at_least("of the capacity delivered", round(100 * delivered / capacity, 1), 95, "%")
    world.at_least("requests shed", len(shed), 3 * capacity * seconds)
    world.at_most("of them without 429 or 503 and Retry-After", sum(not proper(shot) for shot in shed), 0)
    world.at_most("told so within, 99 % of them", at_share(0.99, [1000 * shot.took for shot in shed]), 50.0, "ms")
    world.at_most("memory more under overload", round(grown, 1), 10.0, "MiB")
    world.at_most("other endings", len(load.bad()), 0)
    world.note(spread(load.shots))


async def rate(load: Load, seconds: float) -> float:
    """Good answers a second from now on."""
    before, began = load.count(End.GOOD), time.monotonic()
    await asyncio.sleep(seconds)
    return (load.count(End.GOOD) - before) / (time.monotonic() - began)


def proper(shot: Shot) -> bool:
    return shot.status in (429, 503) and shot.retry_after


def at_share(share: float, values: list[float]) -> float:
    return round(sorted(values)[int(share * len(values))], 1) if values else 0.0


def memory(pid: int) -> float:
    """MiB"""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


@case()
async def all_say_503(world: World) -> None:
    """All workers answer 503 at 200 requests/s: no storm of retries, and recovery by itself"""
    server = await world.launch(4)
    await world.warm(server)
    urls = [worker["url"] for worker in await server.command.workers()]
    for number in range(4):
        await server.mood(number, status=503)
    before = [await seen(url) for url in urls]
    load = world.load(server).steady(200, {})
    await asyncio.sleep(10)
    upstream = sum([await seen(url) for url in urls]) - sum(before)
    asked = len(load.shots)
    for number in range(4):
        await server.mood(number)
    since = time.monotonic()
    good = await server.until(lambda workers: all(w["state"] == "ready" for w in workers)) - since
    await load.more(20)
    await load.stop()
    world.at_least("requests", asked, 1900)
    world.at_most("upstream requests for each", round((upstream - 3) / asked, 2), 1.2)
    world.at_most("all serve again after the end of it within", good, 5.0, "s")
    world.at_most("other endings", len(load.bad()), 0)
    world.note(spread(load.shots))
