"""The commands that ask and change a node that runs, against one that does, and as the README has them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from launcher import cli
from tests.e2e.commands import Command

pytestmark = pytest.mark.e2e

README = (Path(__file__).parents[2] / "README.md").read_text()


class Seat:
    """What a person at the terminal types, and reads."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self._capsys = capsys
        self._env = monkeypatch

    def at(self, node: Command) -> None:
        self._env.setenv("LAUNCH_URL", node.url)

    async def types(self, line: str, code: int = 0) -> str:
        """Run `launch LINE`, which must end with this code; returns what it printed."""
        self._capsys.readouterr()
        got = await asyncio.to_thread(cli.main, shlex.split(line))
        said = self._capsys.readouterr()
        assert got == code, said.err
        return said.out if code == 0 else said.out + said.err

    async def reads(self, line: str) -> object:
        return json.loads(await self.types(line + " --json"))


@pytest.fixture
def seat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Seat:
    return Seat(capsys, monkeypatch)


async def test_a_node_is_watched_and_changed_from_the_command_line(sim, seat: Seat, monkeypatch, capsys):
    node = await sim(2)
    seat.at(node)
    await node.said("2 of 2 workers ready after")
    assert f"{node.url} is ready: 2 of 2 workers" in await seat.types("status")
    first, second = await seat.reads("workers")
    assert (first["id"], second["state"]) == ("w0", "ready")
    assert str(first["pid"]) in await seat.types("workers")

    assert "w0 is draining" in await seat.types("drain w0")
    assert "w1 is draining" in await seat.types(f"drain {second['url']}")
    assert "is not ready: no healthy worker" in await seat.types("status", code=1)
    assert (await seat.types("undrain w0 w1")).splitlines() == ["w0 is ready", "w1 is ready"]

    assert await asyncio.to_thread(completed, "launch drain w", monkeypatch, capsys) == ["w0", "w1"]
    assert await seat.types("drain w7", code=1) == "launch: Worker w7 not found\n"
    assert "already exists" in await seat.types(f"add {first['url']}", code=1)

    status = await seat.reads("status")
    assert (status["ready"], status["healthy_workers"], len(status["workers"])) == (True, 2, 2)
    assert await seat.types("remove w1") == f"Successfully removed worker: {second['url']}\n"
    assert len(await seat.reads("workers")) == 1


async def test_what_an_engine_writes_is_shown_and_followed(sim, seat: Seat):
    node = await sim(1)
    seat.at(node)
    await node.ready(1)
    assert "sim: loading any" in await seat.types("logs w0")
    assert "loading" not in await seat.types("logs w0 -n 1")
    assert (await seat.reads("logs w0"))["worker"] == "w0"
    reader = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "launcher", "logs", "w0", "-f"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "LAUNCH_URL": node.url},
    )
    assert reader.stdout is not None
    try:
        seen = [await reader.stdout.readline() for _ in range(2)]
        restarted = await seat.reads("restart w0")
        assert (restarted["state"], restarted["restarts"]) == ("ready", 1)
        seen += [await reader.stdout.readline() for _ in range(2)]
    finally:
        reader.kill()
        await reader.wait()
    assert seen[0] == seen[2] == b"sim: loading any\n"


async def test_the_key_comes_from_the_environment_or_a_file(start, seat: Seat, tmp_path: Path, monkeypatch):
    node = await start("launch", "--engine", "sim", "--model-path", "any", LAUNCH_ADMIN_API_KEY="adm1n")
    seat.at(node)
    assert "wants its admin key: give it in LAUNCH_ADMIN_API_KEY" in await seat.types("workers", code=1)
    (tmp_path / "key").write_text("adm1n\n")
    assert "w0" in await seat.types(f"workers --admin-api-key-file {tmp_path / 'key'}")
    monkeypatch.setenv("LAUNCH_ADMIN_API_KEY", "adm1n")
    assert "w0" in await seat.types("workers")
    monkeypatch.setenv("LAUNCH_ADMIN_API_KEY", "guess")
    said = await seat.types("workers", code=1)
    assert "refuses this admin key" in said
    assert "guess" not in said


async def test_the_commands_of_the_readme_do_what_it_says(sim, seat: Seat):
    node, other = await sim(2), await sim(1, "--worker-base-port", "21000")
    seat.at(node)
    await node.ready(2)
    (elsewhere,) = await other.ready(1)
    lines = commands("While it runs")
    assert len(lines) > 6
    for line in lines:
        await seat.types(line.replace("http://worker3:30003", elsewhere["url"]))
    assert [worker["state"] for worker in await seat.reads("workers")] == ["ready", "ready"]


async def test_what_the_readme_does_before_the_start_starts_nothing(seat: Seat, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LAUNCH_PORT", "0")
    lines = commands("Before it starts")
    assert len(lines) == 3
    said = [await seat.types(line.replace("--model-path demo", "--engine sim --model-path any")) for line in lines]
    assert "free for the router" in said[0]
    assert all("launcher.engines.sim_server" in text for text in said[1:])


def commands(section: str) -> list[str]:
    """What follows `launch` in the indented lines of a section of the README."""
    text = re.split(r"^#+ ", README.split(f"# {section}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [line.split("#")[0] for line in re.findall(r"^    launch (.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("launch sta", "status"),
        ("launch --pol", "--policy"),
        ("launch --policy ran", "random"),
        ("launch drain --u", "--url"),
    ],
)
def test_the_shell_completes_commands_options_and_values(
    words: str, offers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert offers in completed(words, monkeypatch, capsys)


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the shell offers after these words."""
    asked = {"_LAUNCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    with monkeypatch.context() as patch:
        for name, value in asked.items():
            patch.setenv(name, value)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main([])
    return [line.removeprefix("plain,") for line in capsys.readouterr().out.splitlines()]
