"""Fixtures of the end-to-end tests: the real commands, stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.e2e.commands import Command, gone, state_folder

Start = Callable[..., Awaitable[Command]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """`await start("launch", "--dp-size", "2", ...)`; the port is a free one unless given."""
    commands: list[Command] = []

    async def make(program: str, *args: str, files: int = 0, **environ: str) -> Command:
        port = () if "--port" in args else ("--port", "0")
        commands.append(await Command.start(program, *port, *args, files=files, **state_folder(tmp_path), **environ))
        return commands[-1]

    yield make
    for command in commands:
        family = command.family() if command.process.returncode is None else []
        await command.stop()
        await gone(family)


@pytest.fixture
async def sim(start: Start) -> Callable[..., Awaitable[Command]]:
    """`await sim(4)`: a launch of sim engines that answer at once."""

    async def make(replicas: int, *options: str, engine: tuple[str, ...] = ()) -> Command:
        launch = ("--engine", "sim", "--model-path", "any", "--dp-size", str(replicas))
        return await start("launch", *launch, *options, "--", "--time-scale", "0", *engine)

    return make
