"""Workers that are there and do not answer. Probe times are shortened: the window is 0.9 s, not 15."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from tests.chaos.load import shoot, spread
from tests.chaos.world import World, case

INTERVAL, THRESHOLD = 0.3, 3  # --health-check-interval and -timeout; --health-failure-threshold has its default
WINDOW = INTERVAL * THRESHOLD  # seconds
OPTIONS = ("--health-check-interval", str(INTERVAL), "--health-check-timeout", str(INTERVAL))
FIVE_MINUTES = 300 / 15 * WINDOW  # as many windows as there are in 300 s by default
REQUEST = {"wait": 0.1}


@case()
async def stopped(world: World) -> None:
    """SIGSTOP of 1 worker of 3: out of rotation within the probe window, killed and started again, nothing lost"""
    server = await world.launch(3, *OPTIONS)
    await world.warm(server)
    load = world.load(server).clients(12, REQUEST)
    await load.more(50)
    os.kill((await server.worker())["pid"], signal.SIGSTOP)
    since = time.monotonic()
    out = await server.until(lambda workers: workers[0]["state"] != "ready")
    inflight = (await server.worker())["inflight"]
    gone = await server.until(lambda workers: workers[0]["state"] not in ("ready", "unhealthy"))
    most = max(inflight, (await server.worker())["inflight"])
    await server.until(lambda workers: workers[0]["state"] == "ready")
    await load.more(50)
    await load.stop()
    world.at_most("out of rotation within", out - since, WINDOW + 2 * INTERVAL, "s")
    world.at_most("sent to it after that", most - inflight, 0)
    world.at_most("killed within (8 windows, for it has requests)", gone - since, 8 * WINDOW + 3 * INTERVAL, "s")
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)
    world.note(spread(load.shots))


@case()
async def long_prefill(world: World) -> None:
    """A worker that computes for 5 minutes and answers no probe meanwhile is never restarted for it"""
    server = await world.launch(2, *OPTIONS)
    await world.warm(server)
    load = world.load(server).clients(4, REQUEST)
    shot = await shoot(server.url, {"burn": FIVE_MINUTES})
    await load.more(50)
    await load.stop()
    world.at_most("restarts", sum(w["restarts"] for w in await server.command.workers()), 0)
    world.at_most("its status, less 200", abs(shot.status - 200), 0)
    world.at_least("it took", shot.took, FIVE_MINUTES, "s")
    world.at_most("other requests that failed", len(load.unserved()) + len(load.bad()), 0)


@case()
async def late_answers(world: World) -> None:
    """A worker whose answers come whole after 5 minutes, and that waits meanwhile, is never restarted for it"""
    server = await world.launch(1, *OPTIONS)
    await world.warm(server)
    shots = await asyncio.gather(*(shoot(server.url, {"wait": FIVE_MINUTES}) for _ in range(4)))
    world.at_most("restarts", (await server.worker())["restarts"], 0)
    world.at_most("answers other than 200", sum(shot.status != 200 for shot in shots), 0)


@case()
async def nothing_moves(world: World) -> None:
    """A worker whose /health says 200 while nothing moves is found by forward progress, and its requests are saved"""
    server = await world.launch(3, *OPTIONS)
    await world.warm(server)
    load = world.load(server).clients(12, REQUEST)
    await load.more(50)
    await server.mood(0, stuck=True)
    since = time.monotonic()
    back = await server.until(lambda workers: workers[0]["state"] == "ready" and workers[0]["restarts"] == 1)
    await load.more(50)
    await load.stop()
    world.at_most(
        "found and started again within (10 windows)", back - since - server.ready_after, 10 * WINDOW + 1, "s"
    )
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)
    world.note(spread(load.shots))
