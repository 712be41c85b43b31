"""Workers that die."""

from __future__ import annotations

import re
import time

from tests.chaos.load import End, shoot, spread
from tests.chaos.world import Server, World, case, kill

REQUEST = {"wait": 0.15}
STREAM = {"wait": 0.05, "tokens": 40, "pause": 0.04}


@case(short=True)
async def one_of_four(world: World) -> None:
    """SIGKILL of 1 worker of 4 under 64 requests and 64 streams"""
    server = await world.launch(4, "--log-level", "debug")
    await world.warm(server)
    load = world.load(server).clients(64, REQUEST).clients(64, STREAM, stream=True)
    await load.more(world.size(100, 600))
    heard = attempts(server)
    killed = kill((await server.worker())["pid"])
    back = await server.until(lambda workers: workers[0]["state"] == "ready" and workers[0]["restarts"] == 1)
    await load.more(world.size(100, 600))
    await load.stop()
    broken = load.some(End.BROKEN)
    world.at_most("requests without a byte that failed", len(load.unserved()), 0)
    world.at_most("answers that ended wrong", len(load.bad()), 0)
    world.at_least("streams that were broken", len(broken), 1)
    world.at_most("a broken stream ends within", max((s.ended - killed for s in broken), default=0), 1.0, "s")
    world.at_most("last try of the dead worker", last(heard, killed, back) - killed, 0.1, "s")
    world.at_most("serves again, its start time taken off, within", back - killed - server.ready_after, 2.0, "s")
    world.note(spread(load.shots))


def attempts(server: Server) -> list[float]:
    """From now on, when a request failed for want of w0."""
    times: list[float] = []
    lines = server.command.lines

    class Watched(list[str]):
        def append(self, line: str) -> None:
            if re.search(r"request \S+: \w+ on w0:", line):
                times.append(time.monotonic())
            super().append(line)

    server.command.lines = Watched(lines)
    return times


def last(times: list[float], since: float, until: float) -> float:
    return max((t for t in times if since <= t < until), default=since)


@case()
async def all_of_them(world: World) -> None:
    """SIGKILL of all workers: 503 and Retry-After meanwhile, recovery by itself"""
    server = await world.launch(world.size(2, 4))
    await world.warm(server)
    load = world.load(server).clients(32, REQUEST, rest=0.05).clients(16, STREAM, stream=True, rest=0.05)
    await load.more(100)
    for worker in await server.command.workers():
        killed = kill(worker["pid"])
    back = await server.until(lambda workers: all(w["state"] == "ready" for w in workers))
    await load.more(100)
    await load.stop()
    told = load.some(End.TOLD)
    new = [shot for shot in told if shot.began > killed + 0.1]
    world.at_least("requests told to come again", len(new), 1)
    world.at_most("of them without 503 and Retry-After", sum(not (s.status == 503 and s.retry_after) for s in new), 0)
    world.at_most("answers that ended wrong", len(load.bad()), 0)
    world.at_most("longest wait for a refusal", max((s.took for s in told), default=0), 3.0, "s")
    world.at_most("all serve again, start time taken off, within", back - killed - server.ready_after, 2.0, "s")
    world.note(spread(load.shots))


@case()
async def poison(world: World) -> None:
    """A request that kills every worker it meets: 2 workers die of it, nobody else is hurt"""
    server = await world.launch(4)
    await world.warm(server)
    load = world.load(server).clients(32, REQUEST).clients(32, STREAM, stream=True)
    await load.more(200)
    poison = []
    for stream in world.size((False,), (False, True)):
        poison.append(await shoot(server.url, {"die": True}, stream))
        await server.until(lambda workers: all(w["state"] == "ready" for w in workers))
        await load.more(200)  # who meets two deaths is given up, be they of two poisons
    await load.stop()
    world.at_most(
        "workers that died, of 1 or 2 such requests",
        sum(w["restarts"] for w in await server.command.workers()),
        2 * len(poison),
    )
    world.at_most("what the client was told, other than 502", sum(shot.status != 502 for shot in poison), 0)
    world.at_most("requests of others that failed without a byte", len(load.unserved()), 0)
    world.at_most("answers that ended wrong", len(load.bad()), 0)
    world.note(spread(load.shots))
