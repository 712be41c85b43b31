"""Connections that break, and workers that cannot take any more."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from urllib.parse import urlsplit

from tests.chaos.load import End, spread
from tests.chaos.world import World, case, set_mood

REQUEST = {"wait": 0.05}
STREAM = {"wait": 0.05, "tokens": 20, "pause": 0.02}


@case(short=True)
async def broken_connections(world: World) -> None:
    """RST and truncation: before the first byte served elsewhere, after it told once and cut"""
    server = await world.launch(3)
    await world.warm(server)
    await server.mood(0, cut="reset")
    load = world.load(server).clients(8, REQUEST).clients(8, STREAM, stream=True)
    broken = world.load(server)
    for how in ("reset", "close"):
        broken.clients(4, {"tokens": 10, "cut": how, "after": 3}, stream=True, rest=0.01)
        broken.clients(2, {"cut": how, "after": 1}, rest=0.01)
    await load.more(world.size(100, 1000))
    await server.mood(0, cut="close")
    await load.more(world.size(100, 1000))
    await broken.stop()
    await load.stop()
    others = [shot for shot in broken.shots if shot.end is not End.BROKEN]
    world.at_most("requests without a byte that failed", len(load.unserved()), 0)
    world.at_least("answers broken off", len(broken.shots), 50)
    world.at_most("of them not told, told twice, torn, or with a clean end", len(others), 0)
    for shot in load.unserved():
        world.note(f"{shot} {[line for line in server.command.lines if shot.id in line]}")
    world.note(spread(load.shots) + "; broken: " + spread(broken.shots))
    for shot in others[:3]:
        world.note(f"{shot} {[line for line in server.command.lines if shot.id in line]}")


@case()
async def killed_sockets(world: World) -> None:
    """ss -K of 30 % of all connections to workers each second: no request without a byte fails"""
    server = await world.launch(3)
    await world.warm(server)
    load = world.load(server).clients(32, REQUEST).clients(32, STREAM, stream=True)
    rng, killed = random.Random(3), 0
    for _ in range(10):
        for worker in await server.command.workers():
            home = urlsplit(worker["url"]).port or 0
            killed += sum(rng.random() < 0.3 and destroy(port, home) for port in clients_of(home))
        await asyncio.sleep(1)
    await load.stop()
    world.at_least("connections killed", killed, 100)
    world.at_most("requests without a byte that failed", len(load.unserved()), 0)
    world.at_most("answers that ended wrong", len(load.bad()), 0)
    for shot in load.bad()[:3]:
        world.note(f"{shot} {[line for line in server.command.lines if shot.id in line]}")
    world.note(spread(load.shots))


def clients_of(port: int) -> list[int]:
    """The local ports of the connections to a worker."""
    listed = subprocess.run(["ss", "-Htn", "dport", "=", f":{port}"], capture_output=True, text=True, check=True)
    return [int(line.split()[3].rpartition(":")[2]) for line in listed.stdout.splitlines()]


def destroy(port: int, home: int) -> bool:
    """End the connection from `port` to `home`; a client may have the same port towards the router."""
    which = ["sport", "=", f":{port}", "and", "dport", "=", f":{home}"]
    done = subprocess.run(["ss", "-K", *which], capture_output=True, text=True, check=False)
    return f":{port}" in done.stdout


@case()
async def full_queue(world: World) -> None:
    """A worker whose accept queue is full: its requests go elsewhere, and nobody waits for it again and again"""
    slow, slow_url = await world.worker("--backlog", "1")
    _, good_url = await world.worker()
    options = ("--health-check-interval", "60", "--policy", "round_robin")
    server = await world.router("--worker-urls", slow_url, good_url, *options)
    await server.command.ready(2)
    await world.warm(server)
    os.kill(slow.pid, signal.SIGSTOP)
    full = fill(slow_url)
    load = world.load(server).clients(8, REQUEST)
    await asyncio.sleep(6)
    os.kill(slow.pid, signal.SIGCONT)
    await load.stop()
    for each in full:
        each.close()
    late = [shot for shot in load.shots if shot.took > 1.0]
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)
    world.at_most("requests that waited for it", len(late), 8)

    world.at_most("longest wait (connections are given up after 5 s)", max(s.took for s in load.shots), 5.5, "s")
    world.note(spread(load.shots))


def fill(url: str) -> list[socket.socket]:
    """Take all places of a listener that accepts nothing."""
    address = urlsplit(url)
    sockets = [socket.socket() for _ in range(8)]
    for each in sockets:
        each.setblocking(False)
        each.connect_ex((address.hostname, address.port))
    time.sleep(0.1)
    return sockets


@case()
async def few_descriptors(world: World) -> None:
    """400 clients on a router with 128 descriptors: the surplus is sent away, and it serves as before afterwards"""
    _, url = await world.worker()
    server = await world.router("--worker-urls", url, files=128)
    await server.command.ready(1)
    await world.warm(server)
    crowd = world.load(server).clients(400, REQUEST, rest=0.2)
    await asyncio.sleep(5)
    await crowd.stop()
    load = world.load(server).clients(8, REQUEST)
    await load.more(200)
    await load.stop()
    world.at_least("good answers meanwhile", crowd.count(End.GOOD), 100)
    world.at_most("wrong answers", crowd.count(End.WRONG, End.BROKEN), 0)
    world.at_most("requests that failed afterwards", len(load.unserved()) + len(load.bad()), 0)
    world.note(spread(crowd.shots))


@case()
async def worker_without_descriptors(world: World) -> None:
    """A worker with 24 descriptors under 64 clients: it accepts late, and no request fails"""
    _, poor = await world.worker("--files", "24")
    _, rich = await world.worker()
    server = await world.router("--worker-urls", poor, rich, "--health-check-timeout", "30")
    await server.command.ready(2)
    load = world.load(server).clients(64, REQUEST)
    await asyncio.sleep(8)
    await load.stop()
    await set_mood(rich)
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)
    world.at_least("requests", len(load.shots), 500)
    world.note(spread(load.shots))
