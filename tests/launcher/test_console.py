"""The live table of workers."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from launcher import console
from launcher.config import LaunchConfig
from launcher.console import duration, next_steps, settled, show, table
from launcher.engines.sim import Sim
from launcher.plan import WorkerSpec
from launcher.supervisor import Slot, Supervisor, Tools
from router.config import RouterConfig
from router.fleet import Fleet, State


@pytest.fixture
async def supervisor(tmp_path: Path) -> Supervisor:
    async def never(*_: object) -> None: ...

    tools = Tools(never, never, never, never, lambda port: True, lambda port: port, never, clock=lambda: 100.0)  # type: ignore
    specs = [WorkerSpec(0, 31000, devices=("0", "1")), WorkerSpec(1, 31100)]
    return Supervisor(LaunchConfig(model_path="m"), Sim(), specs, Fleet(), tmp_path, tools)


@pytest.fixture
def slots(supervisor: Supervisor) -> list[Slot]:
    return supervisor.slots


def becomes(slot: Slot, state: State, reason: str = "") -> None:
    slot.life = replace(slot.life, state=state, reason=reason)
    slot.worker.lifecycle = state


def drawn(slots: list[Slot], now: float) -> list[list[str]]:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(table(slots, now))
    assert isinstance(screen.file, io.StringIO)
    return [line.split() for line in screen.file.getvalue().splitlines()]


async def test_a_row_shows_device_port_state_time_and_what_the_log_says(slots: list[Slot], tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("first\nloading [red]weights[/red]\n")
    slots[0].log = log
    becomes(slots[1], State.READY)
    _, first, second = drawn(slots, 112.0)
    assert first == ["w0", "GPU", "0,1", "31000", "starting", "12", "s", "loading", "[red]weights[/red]"]
    assert second == ["w1", "CPU", "31100", "ready", "12", "s"]


async def test_a_row_shows_why_a_worker_has_no_place_in_its_cluster(slots: list[Slot]):
    slots[0].spec = slots[0].spec.unplaced()
    slots[0].worker.waiting = "needs 2 GPUs on one node"
    slots[1].spec = replace(slots[1].spec, host="10.0.0.2", node="gpu-2", devices=("0",))
    _, first, second = drawn(slots, 112.0)
    assert first == ["w0", "starting", "12", "s", "needs", "2", "GPUs", "on", "one", "node"]
    assert second[:6] == ["w1", "GPU", "0", "of", "gpu-2", "31100"]


async def test_a_row_shows_how_far_the_engine_is(slots: list[Slot], tmp_path: Path):
    slots[0].log = tmp_path / "log"
    slots[0].log.write_text("Loading safetensors checkpoint shards:  56% Completed | 5/9\nsomething else\n")
    becomes(slots[1], State.FAILED, "exited with code 3 while starting")
    _, first, second = drawn(slots, 101.0)
    assert first[7:] == ["weights", "56", "%", "something", "else"]
    assert second[3:] == ["failed", "1", "s", "exited", "with", "code", "3", "while", "starting"]


async def test_a_long_line_of_the_log_gives_way_to_the_rest(slots: list[Slot], tmp_path: Path):
    slots[0].log = tmp_path / "log"
    slots[0].log.write_text("Load weight begin " + "x" * 500 + "\n")
    head, first, second = drawn(slots, 100.0)
    assert head[:6] == ["worker", "device", "port", "state", "for", "progress"]
    assert first[:8] == ["w0", "GPU", "0,1", "31000", "starting", "0", "s", "weights"]
    assert first[-1].endswith("…")
    assert second[0] == "w1"


async def test_what_is_up_is_told_once_all_are_ready_or_given_up(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(console, "FRAME", 0.0)
    seconds = iter((100.0, 104.4))
    telling = asyncio.ensure_future(settled(supervisor, lambda: next(seconds)))
    becomes(supervisor.slots[0], State.READY)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not telling.done()
    becomes(supervisor.slots[1], State.FAILED)
    assert await telling == "1 of 2 workers ready after 4 s"


async def test_what_stays_on_the_screen_is_how_it_ended(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]):
    showing = asyncio.ensure_future(show(supervisor, lambda: 100.0, pytest.fail))
    await asyncio.sleep(0)
    for slot in supervisor.slots:
        becomes(slot, State.STOPPED)
    showing.cancel()
    await asyncio.wait([showing])
    last = capsys.readouterr().out.splitlines()[-2:]
    assert ["stopped" in line for line in last] == [True, True]


async def test_the_terminal_is_told_what_to_do_next_once(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console, "FRAME", 0.0)
    told: list[str] = []
    for slot in supervisor.slots:
        becomes(slot, State.READY)
    showing = asyncio.ensure_future(show(supervisor, lambda: 100.0, told.append))
    for _ in range(5):
        await asyncio.sleep(0)
    showing.cancel()
    assert told == ["2 of 2 workers ready after 0 s"]


def test_the_next_steps_say_how_to_ask_with_a_key_and_where_to_look():
    text = next_steps("2 of 2", RouterConfig(host="0.0.0.0", api_key="s3cret", admin_api_key="adm1n"), 8000)
    assert 'curl http://127.0.0.1:8000/generate -H "authorization: Bearer $API_KEY"' in text
    assert "launch status --url http://127.0.0.1:8000 " in text
    assert "with LAUNCH_ADMIN_API_KEY set" in text
    assert "s3cret" not in text
    assert "adm1n" not in text
    assert "Ctrl-C" in text
    assert "--url" not in next_steps("2 of 2", RouterConfig(), 30000)


@pytest.mark.parametrize(
    ("log_format", "both", "drawn"), [("text", True, True), ("json", True, False), ("text", False, False)]
)
def test_the_table_is_for_terminals_and_text(log_format: str, both: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: both))
    assert console.wanted(log_format) is drawn


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (7200, "2 h")])
def test_times_are_written_for_people(seconds: float, words: str):
    assert duration(seconds) == words


def test_every_state_has_a_style():
    assert set(console.STYLES) == set(State)
