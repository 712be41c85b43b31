"""A fleet that changes under load: rolling restarts, workers that come and go."""

from __future__ import annotations

import signal

from tests.chaos.load import End, Load, spread
from tests.chaos.world import Server, World, case

RATE = 50  # requests/s
REQUEST = {"wait": 0.1}
STREAM = {"wait": 0.05, "tokens": 30, "pause": 0.04}


def traffic(world: World, server: Server) -> Load:
    stream = STREAM | {"pause": world.size(0.01, STREAM["pause"])}
    return world.load(server).steady(RATE, REQUEST).clients(world.size(16, 64), stream, stream=True)


def judge(world: World, load: Load, least: int) -> None:
    errors = [shot for shot in load.shots if shot.end is not End.GOOD]
    world.at_most("requests and streams that met an error", len(errors), 0)
    world.at_least("requests and streams in all", len(load.shots), least)
    world.note(spread(load.shots))
    for shot in errors[:3]:
        world.note(f"{shot.worker} {shot.body[-150:]!r}")


@case(short=True)
async def rolling_restart(world: World) -> None:
    """Rolling restart by SIGHUP and by POST under 50 requests/s and 64 streams"""
    server = await world.launch(world.size(2, 4))
    before = {worker["pid"] for worker in await server.command.workers()}
    await world.warm(server)
    load = traffic(world, server)
    await load.more(50)
    server.command.process.send_signal(signal.SIGHUP)
    await server.command.said("rolling restart done")
    renewed = {worker["pid"] for worker in await server.command.workers()}
    status, _ = await server.command.ask("POST", "/workers/restart")
    again = {worker["pid"] for worker in await server.command.workers()}
    await load.more(50)
    await load.stop()
    world.at_most("workers that are still the old ones", len(before & renewed | renewed & again), 0)
    world.at_most("status of the POST", status, 200)
    judge(world, load, world.size(100, 1000))


@case(short=True)
async def add_and_remove(world: World) -> None:
    """Workers added and removed under 50 requests/s and 64 streams"""
    server = await world.launch(2)
    await world.warm(server)
    load = traffic(world, server)
    await load.more(50)
    for _ in range(world.size(1, 10)):
        process, url = await world.worker()
        assert await server.command.ask("POST", f"/add_worker?url={url}") == (200, f"Successfully added worker: {url}")
        await load.more(world.size(100, 200))
        removed = await server.command.ask("POST", f"/remove_worker?url={url}")
        assert removed == (200, f"Successfully removed worker: {url}")
        process.kill()
    await load.more(50)
    await load.stop()
    judge(world, load, world.size(100, 2000))


@case()
async def drained_end(world: World) -> None:
    """SIGTERM under 64 streams: readiness 503 at once, all streams complete, exit code 0"""
    server = await world.launch(2)
    load = world.load(server).clients(64, STREAM | {"tokens": 60}, stream=True)
    await load.more(32)
    family = server.command.family()
    server.command.process.send_signal(signal.SIGTERM)
    await server.command.said("draining")
    status, _ = await server.command.ask("GET", "/readiness")
    await load.stop()
    code = await server.command.end()
    world.at_most("status of /readiness, less 503", abs(status - 503), 0)
    world.at_most("exit code", code, 0)
    judge(world, load, 64)
    world.at_most("processes left", sum(process.is_running() for process in family), 0)
