"""The live table of workers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from launcher import console
from launcher.config import LaunchConfig
from launcher.console import duration, table
from launcher.engines.sim import Sim
from launcher.plan import WorkerSpec
from launcher.supervisor import Slot, Supervisor, Tools
from router.fleet import Fleet, State


@pytest.fixture
async def slots(tmp_path: Path) -> list[Slot]:
    async def never(*_: object) -> None: ...

    tools = Tools(never, never, never, lambda port: True, lambda port: port, never, clock=lambda: 100.0)  # type: ignore
    specs = [WorkerSpec(0, 31000, devices=("0", "1")), WorkerSpec(1, 31100)]
    return Supervisor(LaunchConfig(model_path="m"), Sim(), specs, Fleet(), tmp_path, tools).slots


def drawn(slots: list[Slot], now: float) -> list[list[str]]:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(table(slots, now))
    assert isinstance(screen.file, io.StringIO)
    return [line.split() for line in screen.file.getvalue().splitlines()]


async def test_a_row_shows_device_port_state_time_and_what_the_log_says(slots: list[Slot], tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("first\nloading [red]weights[/red]\n")
    slots[0].log = log
    slots[1].life = replace(slots[1].life, state=State.READY)
    slots[1].worker.lifecycle = State.READY
    _, first, second = drawn(slots, 112.0)
    assert first == ["w0", "GPU", "0,1", "31000", "starting", "12", "s", "loading", "[red]weights[/red]"]
    assert second == ["w1", "CPU", "31100", "ready", "12", "s"]


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (7200, "2 h")])
def test_times_are_written_for_people(seconds: float, words: str):
    assert duration(seconds) == words


def test_every_state_has_a_style():
    assert set(console.STYLES) == set(State)
