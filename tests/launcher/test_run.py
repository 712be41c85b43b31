"""One launch as a whole: what signals do with parts of paper, and real launches of simulated engines."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from launcher import gpus, run
from launcher.config import LaunchConfig
from launcher.errors import BadConfig, StartFailed
from router.config import RouterConfig
from router.errors import WorkersFailed

CONFIG = LaunchConfig(model_path="m", engine="sim", drain_timeout=60)


class Stage:
    """Router, supervisor and signals of paper, and a record of what is asked of them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self.drained = asyncio.Event()
        self.stopped = asyncio.Event()
        self.doomed: asyncio.Future[StartFailed] = asyncio.get_running_loop().create_future()
        self.renewed: Callable[[], Awaitable[list[object]]] = self._renew
        self.signals = SimpleNamespace(next=self.queue.get, end=self.queue.get)
        members = SimpleNamespace(restart_all=lambda: self.renewed())
        self.router = SimpleNamespace(drain=self._drain, parts=SimpleNamespace(members=members, draining=False))
        self.supervisor = SimpleNamespace(stop=self._stop, hurry=self._hurry, hopeless=self._hopeless)

    async def _drain(self, timeout: float) -> None:
        self.done.append(f"drain {timeout:g}")
        await self.drained.wait()

    async def _stop(self) -> None:
        self.done.append("stop")
        await self.stopped.wait()

    async def _hurry(self) -> None:
        self.done.append("hurry")

    async def _hopeless(self) -> StartFailed:
        return await asyncio.shield(self.doomed)

    async def _renew(self) -> list[object]:
        self.done.append("renew")
        return []

    def play(self) -> asyncio.Task[int]:
        work = run.obey(CONFIG, self.router, self.supervisor, self.signals)  # type: ignore[arg-type]
        return asyncio.get_running_loop().create_task(work)

    async def gets(self, number: signal.Signals) -> None:
        self.queue.put_nowait(number)
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_then_stops_the_workers(number: signal.Signals):
    stage = Stage()
    play = stage.play()
    await stage.gets(number)
    assert stage.done == ["drain 60"]
    stage.drained.set()
    stage.stopped.set()
    assert await play == 0
    assert stage.done == ["drain 60", "stop"]


async def test_a_second_signal_during_the_drain_stops_now():
    stage = Stage()
    play = stage.play()
    await stage.gets(signal.SIGTERM)
    await stage.gets(signal.SIGINT)
    assert await play == 128 + signal.SIGINT
    assert stage.done == ["drain 60", "hurry"]


async def test_a_second_signal_during_the_stop_stops_now():
    stage = Stage()
    stage.drained.set()
    play = stage.play()
    await stage.gets(signal.SIGTERM)
    assert stage.done == ["drain 60", "stop"]
    await stage.gets(signal.SIGTERM)
    assert await play == 128 + signal.SIGTERM
    assert stage.done == ["drain 60", "stop", "hurry"]
    stage.stopped.set()


async def test_sighup_restarts_the_workers_and_goes_on():
    stage = Stage()
    play = stage.play()
    await stage.gets(signal.SIGHUP)
    await stage.gets(signal.SIGHUP)
    assert stage.done == ["renew", "renew"]
    assert not play.done()
    play.cancel()


async def test_a_rolling_restart_under_way_is_not_begun_again():
    stage = Stage()
    begun = []

    async def slow() -> list[object]:
        begun.append(1)
        await asyncio.Event().wait()
        return []

    stage.renewed = slow
    play = stage.play()
    await stage.gets(signal.SIGHUP)
    await stage.gets(signal.SIGHUP)
    assert begun == [1]
    play.cancel()


async def test_a_rolling_restart_that_fails_is_told_and_the_rest_serves(caplog: pytest.LogCaptureFixture):
    stage = Stage()

    async def fails() -> list[object]:
        raise WorkersFailed("worker w0 did not come back")

    stage.renewed = fails
    play = stage.play()
    await stage.gets(signal.SIGHUP)
    assert "w0 did not come back" in caplog.text
    assert not play.done()
    play.cancel()


async def test_a_rolling_restart_that_the_end_cuts_short_is_no_error(caplog: pytest.LogCaptureFixture):
    stage = Stage()
    cut = asyncio.Event()

    async def fails() -> list[object]:
        await cut.wait()
        raise WorkersFailed("worker w0 did not come back: stopped")

    stage.renewed = fails
    play = stage.play()
    await stage.gets(signal.SIGHUP)
    stage.router.parts.draining = True
    cut.set()
    await stage.gets(signal.SIGTERM)
    assert "ERROR" not in caplog.text
    play.cancel()


async def test_a_launch_that_cannot_come_up_ends_with_the_reason():
    stage = Stage()
    play = stage.play()
    stage.doomed.set_result(StartFailed("no worker ever became ready"))
    with pytest.raises(StartFailed, match="no worker ever"):
        await play


async def test_memory_is_waited_for_until_the_driver_has_let_go(monkeypatch: pytest.MonkeyPatch):
    answers = [{7}, {7}, set()]
    monkeypatch.setattr(run, "MEMORY_POLL", 0)
    monkeypatch.setattr(gpus, "holding", lambda pids: answers.pop(0))
    await run.memory_freed({7, 8})
    assert answers == []


async def test_memory_that_is_never_let_go_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(run, "MEMORY_POLL", 0)
    monkeypatch.setattr(run, "MEMORY_PATIENCE", 0)
    monkeypatch.setattr(gpus, "holding", lambda pids: {7})
    await run.memory_freed({7})
    assert "still held" in caplog.text


def test_a_log_folder_that_cannot_be_made_is_one_line():
    with pytest.raises(BadConfig, match="--log-dir"):
        run.log_folder(LaunchConfig(model_path="m", log_dir="/dev/null/logs"), 30000)


# -- real launches


class Launch:
    """A launch of simulated engines, as a process."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.url = ""
        self.said = ""

    @classmethod
    async def start(cls, folder: Path, *options: str, engine: tuple[str, ...] = ()) -> Launch:
        argv = ["--model-path", "m", "--engine", "sim", "--port", "0", "--log-dir", str(folder), *options]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "launcher", *argv, "--", "--time-scale", "0", *engine),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def says(self, pattern: str) -> re.Match[str]:
        """Read on until the launch has said it."""
        assert self.process.stdout is not None
        while not (found := re.search(pattern, self.said)):
            line = await asyncio.wait_for(self.process.stdout.readline(), 30)
            assert line, f"it ended without saying {pattern}: {self.said}"
            self.said += line.decode()
        return found

    async def is_ready(self, workers: int) -> None:
        self.url = (await self.says(r"(http://127.0.0.1:\d+)/v1"))[1]
        for number in range(workers):
            await self.says(rf"w{number} ready")

    async def ends(self) -> int:
        assert self.process.stdout is not None
        self.said += (await self.process.stdout.read()).decode()
        return await self.process.wait()

    async def get(self, path: str) -> dict[str, object]:
        def fetch() -> dict[str, object]:
            with urllib.request.urlopen(self.url + path, timeout=10) as reply:
                return json.load(reply)

        return await asyncio.to_thread(fetch)

    def tree(self) -> list[psutil.Process]:
        """All processes below it: guardians, engines, and what those started."""
        return psutil.Process(self.process.pid).children(recursive=True)


Begin = Callable[..., Awaitable[Launch]]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Begin]:
    launches: list[Launch] = []

    async def launch(*options: str, engine: tuple[str, ...] = ()) -> Launch:
        launches.append(await Launch.start(tmp_path, *options, engine=engine))
        return launches[-1]

    yield launch
    for each in launches:
        if each.process.returncode is None:
            each.process.kill()
        await each.ends()


async def gone(tree: list[psutil.Process], seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while left := [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert asyncio.get_running_loop().time() < deadline, f"left: {left}"
        await asyncio.sleep(0.05)


async def test_a_launch_serves_and_ends_on_sigterm_without_a_trace(launch: Begin):
    it = await launch("--dp-size", "2", engine=("--spawn-child",))
    await it.is_ready(2)
    workers = (await it.get("/workers"))["workers"]
    assert isinstance(workers, list)
    assert [worker["state"] for worker in workers] == ["ready", "ready"]
    tree = it.tree()
    assert {worker["pid"] for worker in workers} < {process.pid for process in tree}
    it.process.terminate()
    assert await it.ends() == 0
    await gone(tree, 0)


async def test_nothing_is_left_when_a_launch_is_killed(launch: Begin):
    it = await launch("--dp-size", "2", engine=("--spawn-child",))
    await it.is_ready(2)
    tree = it.tree()
    assert len(tree) >= 4
    it.process.kill()
    await it.process.wait()
    await gone(tree, 5)


async def test_a_killed_worker_comes_back(launch: Begin):
    it = await launch("--dp-size", "1")
    await it.is_ready(1)
    workers = (await it.get("/workers"))["workers"]
    assert isinstance(workers, list)
    it.said = ""
    os.kill(workers[0]["pid"], signal.SIGKILL)
    await it.says("w0 killed by SIGKILL")
    await it.says("w0 ready")
    workers = (await it.get("/workers"))["workers"]
    assert isinstance(workers, list)
    assert (workers[0]["state"], workers[0]["restarts"]) == ("ready", 1)


async def test_sighup_renews_every_worker(launch: Begin):
    it = await launch("--dp-size", "2")
    await it.is_ready(2)
    it.process.send_signal(signal.SIGHUP)
    await it.says("rolling restart done: 2 workers")
    workers = (await it.get("/workers"))["workers"]
    assert isinstance(workers, list)
    assert [worker["restarts"] for worker in workers] == [1, 1]


async def test_an_engine_that_cannot_start_ends_the_launch_with_its_log(launch: Begin):
    it = await launch("--dp-size", "2", engine=("--no-such-option",))
    assert await it.ends() == 5
    assert "launch: no worker ever became ready" in it.said
    assert "No such option" in it.said
    assert "Traceback" not in it.said


async def test_a_signal_while_the_workers_load_stops_them(launch: Begin):
    it = await launch("--dp-size", "1", engine=("--startup-delay", "600"))
    await it.says("w0 starting")
    it.process.terminate()
    assert await it.ends() == 0


async def test_the_router_listens_while_the_workers_load(launch: Begin):
    it = await launch("--dp-size", "1", engine=("--startup-delay", "600"))
    it.url = (await it.says(r"(http://127.0.0.1:\d+)/v1"))[1]
    await it.says("w0 starting")
    workers = (await it.get("/workers"))["workers"]
    assert isinstance(workers, list)
    assert [worker["state"] for worker in workers] == ["starting"]


@pytest.mark.parametrize(("base", "first"), [(31_000, None), (33_000, 61_000)])
def test_workers_that_begin_at_another_port_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, base: int, first: int | None
):
    monkeypatch.setattr(run, "ephemeral", lambda: (32_768, 60_999))
    ports = SimpleNamespace(free=lambda port: True)
    config = dataclasses.replace(CONFIG, dp_size=1, worker_base_port=base)
    run.prepare(config, ports)  # type: ignore[arg-type]
    told = f"--worker-base-port {base} is in use, or one that outgoing connections may take (32768 to 60999)"
    assert (f"{told}: workers begin at {first}" in caplog.text) == (first is not None)


async def test_the_router_answers_while_the_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    """Asking another interpreter what it holds may take half a minute."""
    loop, seen = asyncio.get_running_loop(), threading.Event()

    def slow(*_: object) -> object:
        loop.call_soon_threadsafe(seen.set)
        assert seen.wait(5), "the event loop stands still"
        raise BadConfig("enough seen")

    monkeypatch.setattr(run, "prepare", slow)
    with pytest.raises(BadConfig, match="enough seen"):
        await run.serve(dataclasses.replace(CONFIG, router=RouterConfig(port=0)))


async def test_a_signal_while_the_machine_is_looked_at_ends_it_at_once(monkeypatch: pytest.MonkeyPatch):
    over, loop = threading.Event(), asyncio.get_running_loop()

    def hangs(*_: object) -> object:
        loop.call_soon_threadsafe(os.kill, os.getpid(), signal.SIGTERM)
        over.wait()
        raise BadConfig("too late")

    monkeypatch.setattr(run, "prepare", hangs)
    try:
        assert await run.serve(dataclasses.replace(CONFIG, router=RouterConfig(port=0))) == 0
    finally:
        over.set()


async def test_the_dashboard_is_told_what_the_gpus_do(monkeypatch: pytest.MonkeyPatch):
    given = []

    def title(*_: object) -> str:
        given.append(router.parts.devices)
        raise BadConfig("enough seen")

    router = run.Router(RouterConfig(port=0))
    monkeypatch.setattr(run, "Router", lambda config: router)
    monkeypatch.setattr(run, "title", title)
    with pytest.raises(BadConfig, match="enough seen"):
        await run.serve(dataclasses.replace(CONFIG, dp_size=1, router=RouterConfig(port=0)))
    assert given == [gpus.usage]
