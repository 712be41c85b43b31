"""The launcher itself is killed; its workers crash in a loop, lose their ports, leave GPU memory behind."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
import time

from tests.chaos.load import spread
from tests.chaos.world import MARKER, World, case, kill, marked, within
from tests.gpu.driver import StandIn

REQUEST = {"wait": 0.05}


@case()
async def killed_launcher(world: World) -> None:
    """SIGKILL of the launcher at 20 random moments, startup included: nothing lives 5 s later, setsid or not"""
    rng = random.Random(20)
    worst = left = 0.0
    for moment in range(20):
        delay = (moment + rng.random()) * 0.125  # the launcher listens after 1 s, its workers after 1.5
        marker = f"{world.marker}-{moment}"
        launcher = await launch(world, marker)
        await asyncio.sleep(delay)
        family = len(marked(marker))
        killed = kill(launcher.pid)
        await launcher.wait()
        gone = await within(5.0, lambda marker=marker: not marked(marker))
        worst = max(worst, time.monotonic() - killed)
        left += 0 if gone else len(marked(marker))
        world.note(f"after {delay:.2f} s: {family} processes, the last gone {time.monotonic() - killed:.2f} s later")
    world.at_most("processes left after 5 s", left, 0)
    world.at_most("the last one gone within", worst, 5.0, "s")


async def launch(world: World, marker: str) -> asyncio.subprocess.Process:
    worker = f"{sys.executable} -m tests.chaos.worker --child --stubborn --port {{port}}"
    options = ("--engine", "command", "--engine-command", worker, "--model-path", "any", "--dp-size", "2")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "launcher", *options, "--port", "0", "--log-level", "error"),
        env={**world.environ(), MARKER: marker},
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


@case()
async def crash_loop(world: World) -> None:
    """A worker that dies again and again is failed after its limit, the rest serves; POST restart revives it"""
    server = await world.launch(3, "--max-restarts", "2")
    await world.warm(server)
    load = world.load(server).clients(12, REQUEST)
    began = time.monotonic()
    deaths = 0
    while (state := (await server.worker())["state"]) != "failed":
        if state == "ready":
            kill((await server.worker())["pid"])
            deaths += 1
            await server.until(lambda workers: workers[0]["state"] != "ready")
        await asyncio.sleep(0.02)
    await load.more(100)
    told = (await server.worker())["last_error"]
    status, _ = await server.command.ask("POST", "/workers/w0/restart")
    revived = await server.worker()
    await load.more(100)
    await load.stop()
    world.at_most("deaths until it was failed", deaths, 3)
    world.at_most("last_error without SIGKILL", "SIGKILL" not in told, 0)
    world.at_most("status of POST /workers/w0/restart", status, 200)
    world.at_most("not ready after it", revived["state"] != "ready", 0)
    world.at_most("requests that failed meanwhile", len(load.unserved()) + len(load.bad()), 0)
    world.at_most("all of it took", time.monotonic() - began, 20, "s")
    world.note(spread(load.shots))


@case()
async def port_taken(world: World) -> None:
    """The port of a dead worker is taken 100 ms later: the next port, and no request to the stranger"""
    server = await world.launch(2)
    await world.warm(server)
    load = world.load(server).clients(12, REQUEST)
    await load.more(50)
    worker = await server.worker()
    port = int(worker["url"].rpartition(":")[2])
    killed = kill(worker["pid"])
    await asyncio.sleep(0.1)  # resends after keep-alive drops, which may be just that, are over by then
    stranger = await Stranger.listen(port)
    back = await server.until(lambda workers: workers[0]["state"] == "ready" and workers[0]["restarts"] == 1)
    moved = (await server.worker())["url"]
    await load.more(50)
    await load.stop()
    stranger.close()
    world.at_most("still at the taken port", moved == worker["url"], 0)
    world.at_most("requests that the stranger got", stranger.requests, 0)
    world.at_most("serves again, its start time taken off, within", back - killed - server.ready_after, 2.0, "s")
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)


@case()
async def stranger_while_loading(world: World) -> None:
    """Another server takes the port while the engine loads, and answers its probes: it is not taken for the worker"""
    server = await world.begin_launch(1, engine=("--startup", "2"))
    worker = (await server.command.workers())[0]
    await server.command.until(lambda: world.said(server, r"w0 starting") != [])
    stranger = await Stranger.listen(int(worker["url"].rpartition(":")[2]))
    await server.until(lambda workers: workers[0]["state"] == "ready" and workers[0]["url"] != worker["url"])
    load = world.load(server).clients(4, REQUEST)
    await load.more(50)
    await load.stop()
    stranger.close()
    world.at_most("requests that the stranger got", stranger.requests, 0)
    world.at_most("times it counted as a crash", (await server.worker())["restarts"], 0)
    world.at_most("times it was ready before it was", len(world.said(server, r"w0 ready")) - 1, 0)


class Stranger:
    """Another HTTP server, that answers everything with 200."""

    def __init__(self) -> None:
        self.requests = 0
        self._server: asyncio.Server

    @classmethod
    async def listen(cls, port: int) -> Stranger:
        """As soon as the port is free."""
        stranger = cls()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                listener.bind(("127.0.0.1", port))
                break
            except OSError:
                await asyncio.sleep(0)
        stranger._server = await asyncio.start_server(stranger._serve, sock=listener)
        return stranger

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        self.requests += line.startswith(b"POST")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    def close(self) -> None:
        self._server.close()


@case()
async def gpu_memory(world: World) -> None:
    """GPU memory that the dead process still holds is waited for, and when it is never given back, that is said"""
    driver = StandIn(world.folder / "driver", ["GPU-0", "GPU-1"])
    server = await world.launch(2, **driver.environ)
    await world.warm(server)
    load = world.load(server).clients(8, REQUEST)
    worker = await server.worker()
    driver.hold("GPU-0", worker["pid"])
    kill(worker["pid"])
    await asyncio.sleep(world.size(2.0, 4.0))
    early = (await server.worker())["pid"]
    driver.give_back()
    await server.until(lambda workers: workers[0]["state"] == "ready")
    world.at_most("started while the memory was held", early not in (None, worker["pid"]), 0)
    worker = await server.worker()
    driver.hold("GPU-0", worker["pid"])
    killed = kill(worker["pid"])
    back = await server.until(lambda workers: workers[0]["state"] == "ready" and workers[0]["restarts"] == 2)
    await load.stop()
    world.at_least("memory never given back: started after", back - killed, 30.0, "s")
    world.at_least("warnings that say so", len(world.said(server, r"GPU memory of \{\d+\} is still held")), 1)
    world.at_most("requests that failed", len(load.unserved()) + len(load.bad()), 0)


@case()
async def told_twice(world: World) -> None:
    """SIGTERM twice under 64 streams, with workers that ignore it: over at once, and nothing is left"""
    server = await world.launch(2, engine=("--stubborn", "--child"))
    load = world.load(server).clients(64, {"tokens": 400, "pause": 0.05}, stream=True)
    await asyncio.sleep(0.5)
    began = time.monotonic()
    server.command.process.send_signal(signal.SIGTERM)
    await server.command.said("once more")
    server.command.process.send_signal(signal.SIGTERM)
    code = await server.command.end()
    took = time.monotonic() - began
    load.stop_now()
    await within(5.0, lambda: not marked(world.marker))
    world.at_most("over within", took, 3.0, "s")
    world.at_most("exit code, less 143", abs(code - 143), 0)
    world.at_most("processes left", len(marked(world.marker)), 0)
    world.at_most("streams with a clean-looking end", sum(b"[DONE]" in shot.body for shot in load.shots), 0)
