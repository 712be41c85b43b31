"""A small world for one case: the real commands over scripted workers, load, faults, and the look afterwards.

A case is a sentence (its docstring), a coroutine that makes the fault happen, and figures. In the short form sizes are
small and times are only shown; in the whole they are judged as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import psutil

from tests.chaos.load import Load
from tests.e2e.commands import Command, gone, state_folder

T = TypeVar("T")
MARKER = "CHAOS_CASE"  # in the environment of all that a case starts
MEMORY = 10.0  # MiB that a process may keep
SLACK = 2  # descriptors and tasks that may come and go by themselves
SETTLES = 8.0  # seconds at most
TROUBLE = ("Traceback", "was never retrieved", "was never awaited", "Unclosed", "Impossible", "Exception in callback")


@dataclass
class Figure:
    """One measured value beside its goal."""

    what: str
    value: float
    goal: float
    unit: str = ""
    least: bool = False  # the goal is a lower bound
    judged: bool = True
    rest: bool = False  # of the look afterwards

    @property
    def met(self) -> bool:
        return not self.judged or (self.value >= self.goal if self.least else self.value <= self.goal)


@dataclass
class Rest:
    """What a process has when nothing is going on."""

    fds: int
    tasks: int
    names: list[str]
    memory: float  # MiB


@dataclass
class Server:
    """`launch` or `router` under way, and how it was when it was idle."""

    command: Command
    window: str
    before: Rest | None = None
    ready_after: float = 0.0  # seconds that its slowest worker took to start
    cold: bool = False  # memory is not compared: it had no load before

    @property
    def url(self) -> str:
        return self.command.url

    @property
    def pid(self) -> int:
        return self.command.process.pid

    async def look(self) -> Rest:
        reader, writer = await asyncio.open_unix_connection(self.window)
        writer.write(b"settle\n")
        told = json.loads(await reader.read())
        writer.close()
        process = psutil.Process(self.pid)
        return Rest(process.num_fds(), told["tasks"], told["names"], process.memory_info().rss / 2**20)

    async def metrics(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = (await self.command.ask("GET", "/metrics"))[1]
        found = re.findall(rf"^llm_router_{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    async def worker(self, number: int = 0) -> dict[str, Any]:
        return (await self.command.workers())[number]

    async def mood(self, number: int, **mood: Any) -> None:
        """Change how worker `number` takes its requests; see tests/chaos/worker.py."""
        await set_mood((await self.worker(number))["url"], **mood)

    async def until(self, holds: Callable[[list[dict[str, Any]]], bool], poll: float = 0.02) -> float:
        """Wait for something that GET /workers shows; returns when it was, monotonic seconds."""
        while not holds(await self.command.workers()):
            await asyncio.sleep(poll)
        return time.monotonic()


class World:
    """What a case is given. `full` is false in the short form."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.marker = self.folder.name
        self.servers: list[Server] = []
        self.loads: list[Load] = []
        self.resting = False  # the case itself is over
        self._processes: list[asyncio.subprocess.Process] = []

    def size(self, short: T, whole: T) -> T:
        return whole if self.full else short

    # -- figures

    def at_most(self, what: str, value: float, goal: float, unit: str = "") -> None:
        """A figure; seconds are judged in the whole suite only: in the short form the machine does much else."""
        judged = self.full or unit not in ("s", "ms")
        self.figures.append(Figure(what, value, goal, unit, judged=judged, rest=self.resting))

    def at_least(self, what: str, value: float, goal: float, unit: str = "") -> None:
        self.figures.append(Figure(what, value, goal, unit, least=True, judged=self.full or unit not in ("s", "%")))

    def note(self, text: str) -> None:
        """Something for people, shown below a case that failed."""
        self.notes.append(text)

    # -- things

    async def launch(self, workers: int, *options: str, engine: tuple[str, ...] = (), **environ: str) -> Server:
        """`launch` with so many scripted workers, all of them ready."""
        server = await self.begin_launch(workers, *options, engine=engine, **environ)
        await server.command.ready(workers)
        for number in range(workers):
            await server.command.until(lambda n=number: self.said(server, rf"w{n} ready after ([\d.]+) s") != [])
            server.ready_after = max(
                server.ready_after, float(self.said(server, rf"w{number} ready after ([\d.]+)")[0])
            )
        return server

    async def begin_launch(self, workers: int, *options: str, engine: tuple[str, ...] = (), **environ: str) -> Server:
        """The same, not waiting for the workers."""
        command = f"{sys.executable} -m tests.chaos.worker --host {{host}} --port {{port}}"
        base = ("--engine", "command", "--engine-command", command, "--model-path", "any", "--dp-size", str(workers))
        return await self._start("launch", *base, *options, "--", *engine, **environ)

    async def router(self, *options: str, files: int = 0) -> Server:
        return await self._start("router", *options, files=files)

    async def _start(self, program: str, *args: str, files: int = 0, **environ: str) -> Server:
        window = str(self.folder / f"window{len(self.servers)}")
        environ = {**self.environ(), **environ}
        through = ("tests.chaos.observed", window)
        command = await Command.start(program, "--port", "0", *args, files=files, through=through, **environ)
        if not command.url:
            raise AssertionError(f"{program} did not start: " + " / ".join(command.lines))
        self.servers.append(Server(command, window))
        return self.servers[-1]

    def environ(self) -> dict[str, str]:
        """What everything of this case has in its environment."""
        return {**os.environ, **state_folder(self.folder), MARKER: self.marker}

    async def worker(self, *options: str) -> tuple[asyncio.subprocess.Process, str]:
        """A scripted worker of its own, listening; its process and URL."""
        port = free_port()
        argv = (sys.executable, "-m", "tests.chaos.worker", "--port", str(port), *options)
        with (self.folder / f"worker-{port}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*argv, env=self.environ(), stderr=log)
        self._processes.append(process)
        while not listens(port):
            await asyncio.sleep(0.02)
        return process, f"http://127.0.0.1:{port}"

    def load(self, server: Server) -> Load:
        self.loads.append(Load(server.url))
        return self.loads[-1]

    async def warm(self, server: Server) -> None:
        """Some load of every kind, then remember the process as it is when idle."""
        load = self.load(server)
        load.clients(16, {}).clients(16, {"tokens": 8}, stream=True)
        await load.more(self.size(300, 2000))
        await load.stop()
        await self.remember(server)

    async def remember(self, server: Server) -> None:
        await asyncio.sleep(0.2)
        server.before = await server.look()

    def said(self, server: Server, pattern: str) -> list[str]:
        """All matches in what it has printed."""
        return re.findall(pattern, "\n".join(server.command.lines))

    # -- the look afterwards

    async def quiet(self) -> None:
        """Nothing in flight, nothing left open, no zombie, no error that nobody saw, no memory kept."""
        self.resting = True
        for load in self.loads:
            await load.stop()
        for number, server in enumerate(self.servers):
            if server.command.process.returncode is None:
                await self._quiet(server, "" if number == 0 else f" ({number + 1})")
        trouble = [line for s in self.servers for line in s.command.lines if any(word in line for word in TROUBLE)]
        self.at_most("errors in the log that nobody expected", len(trouble), 0)
        self.notes += trouble[:5]

    async def _quiet(self, server: Server, suffix: str) -> None:
        await self._settled(lambda: self._inflight(server))
        self.at_most("in flight afterwards" + suffix, await self._inflight(server), 0)
        zombies = [p for p in server.command.family() if p.status() == psutil.STATUS_ZOMBIE]
        self.at_most("zombies" + suffix, len(zombies), 0)
        if server.before is None:
            return
        before = server.before

        async def kept() -> float:
            now = await server.look()
            return max(now.fds - before.fds - SLACK, now.tasks - before.tasks - SLACK)

        await self._settled(kept)
        now = await server.look()
        self.at_most("descriptors more than before" + suffix, now.fds - before.fds, SLACK)
        self.at_most("tasks more than before" + suffix, now.tasks - before.tasks, SLACK)
        self.at_most("memory kept" + suffix, round(now.memory - before.memory, 1), MEMORY, "MiB")
        if now.tasks > before.tasks + SLACK:
            self.note(f"tasks now: {now.names}; before: {before.names}")

    async def _inflight(self, server: Server) -> float:
        return await server.metrics("inflight") + sum(w["inflight"] for w in await server.command.workers())

    async def _settled(self, kept: Callable[[], Awaitable[float]]) -> None:
        """Give it time to come to rest."""
        until = time.monotonic() + SETTLES
        while time.monotonic() < until and await kept() > 0:
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """End whatever is still there."""
        for server in self.servers:
            family = server.command.family() if server.command.process.returncode is None else []
            await server.command.stop()
            await gone(family)
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for other in marked(self.marker):
            other.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Case:
    """A sentence, and what makes it true or false."""

    run: Callable[[World], Awaitable[None]]
    short: bool  # belongs to the short form too

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def title(self) -> str:
        return (self.run.__doc__ or "").strip().split("\n")[0]


def case(short: bool = False) -> Callable[[Callable[[World], Awaitable[None]]], Case]:
    """Make a case of a coroutine whose docstring is its sentence."""
    return lambda run: Case(run, short)


async def run(case: Case, full: bool, patience: float = 280.0) -> World:
    """Run one case to its end; an exception in it is a figure that was not met."""
    world = World(full)
    try:
        await asyncio.wait_for(case.run(world), patience)
        await asyncio.wait_for(world.quiet(), 60)
    except Exception as error:  # the table goes on
        why = f"{type(error).__name__}: {error}"
        world.at_most(f"it went through ({why[:100]})", 1, 0)
        world.notes += [line for server in world.servers for line in server.command.lines[-15:]]
    finally:
        await world.close()
    return world


# -- faults and other hands


def kill(pid: int) -> float:
    """SIGKILL; returns when, monotonic seconds."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


async def set_mood(url: str, **mood: Any) -> None:
    async with aiohttp.ClientSession() as session, session.post(url + "/mood", json=mood) as answer:
        await answer.read()


async def seen(url: str) -> int:
    """How many requests have arrived at a worker."""
    async with aiohttp.ClientSession() as session, session.get(url + "/seen") as answer:
        return int((await answer.json())["seen"])


def marked(marker: str) -> list[psutil.Process]:
    """The living processes that a case started, however they have left their parents."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER, "").startswith(marker) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether it holds before the time is over."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.02)
    return True
