"""The commands of the README and of the how-to pages: each is one the program takes, or is run against a node."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher import cli as launch
from launcher import run, survey
from launcher.config import LaunchConfig
from launcher.engines import ENGINES, sim_server
from launcher.plan import WorkerSpec
from router import cli as router
from tests.e2e.commands import Command

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
HOW_TO = sorted((ROOT / "scripts/howto").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "scripts/README.md", *HOW_TO, ROOT / "scripts/deploy/README.md"]
KEYS = "/etc/llm-launch"  # where the pages keep theirs

STARTS = ("launch --", "launch doctor", "router --")
ASKS = ("launch ", "curl ", "scripts/health_check")
INSTALLS = ("pip install ",)
NOT_OURS = ("python3 -m venv", "peers/bin/pip", "eval ", "kubectl ")
ASSIGNMENT = re.compile(r"([A-Z_]+)=(\S*) ")


def commands(page: Path) -> list[str]:
    """The indented lines of a page that are commands: how things hang together is drawn so, too."""
    return [line for line in indented(page) if begins(line, (*STARTS, *ASKS, *INSTALLS, *NOT_OURS, "scripts/"))]


def indented(page: Path) -> list[str]:
    """The indented lines of a page, less comments; those that a backslash parts are joined."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    blocks = "".join(re.findall(r"^    .*\n", text, re.MULTILINE)).replace("\\\n", " ")
    return [re.split(r"\s+# ", line.strip())[0] for line in blocks.splitlines()]


def begins(line: str, words: tuple[str, ...]) -> bool:
    return ASSIGNMENT.sub("", line).startswith(words)


def every(*words: str) -> list[Any]:
    """The commands of all pages that begin so."""
    found = [(page, line) for page in PAGES for line in commands(page) if begins(line, words)]
    return [pytest.param(line, id=f"{page.stem}: {line}") for page, line in found]


def test_the_pages_have_commands() -> None:
    assert len(PAGES) >= 9
    assert [page.name for page in PAGES if not commands(page)] == []
    assert len(every(*STARTS)) > 40


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_no_line_of_a_page_is_left_untried(page: Path) -> None:
    assert [line for line in indented(page) if not begins(line, (*STARTS, *ASKS, *INSTALLS, "scripts/"))] == []


class Taken(Exception):
    """The command line was good."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages name: keys, and node.yaml, which one-node.md shows."""
    for name in ("api-key", "admin-api-key", "cert.pem", "key.pem"):
        (tmp_path / name).write_text(name)
    settings = re.search(r"```yaml\n(.*?)```", (ROOT / "scripts/howto/one-node.md").read_text(), re.DOTALL)
    assert settings
    (tmp_path / "node.yaml").write_text(settings[1].replace(KEYS, str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", every(*STARTS))
def test_a_start_is_one_that_the_program_takes(line: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(config: object, **_: object) -> None:
        raise Taken

    for module, name in ((run, "run"), (run, "rehearse"), (survey, "look"), (router, "serve")):
        monkeypatch.setattr(module, name, take)
    for name, value in ASSIGNMENT.findall(line):
        monkeypatch.setenv(name, value)
    program, *words = shlex.split(ASSIGNMENT.sub("", line).replace(KEYS, str(files)))
    with pytest.raises(Taken):
        {"launch": launch, "router": router}[program].main(words)


@pytest.mark.timeout(180)  # rolling restarts and drains, one after the other; the machine may be busy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
async def test_what_is_asked_of_a_node_works(page: Path, sim: Any) -> None:
    """All of a page in one go, since one line builds on another."""
    asks = [line for line in commands(page) if begins(line, ASKS) and not begins(line, STARTS)]
    if not asks:
        return
    node = await sim(2, engine=("--served-model-name", "my-model"))
    other = await sim(1, "--worker-base-port", "21000", engine=("--served-model-name", "my-model"))
    await node.ready(2)
    (elsewhere,) = await other.ready(1)
    for line in asks:
        await type_in(line.replace("http://worker3:30003", elsewhere["url"]), node)
    await node.ready(2)


async def type_in(line: str, node: Command) -> None:
    """Run it in a shell. It must end well, and what curl gets must be a success."""
    line = re.sub(r"(http://)?localhost:30000", node.url, line)
    if line == "scripts/health_check":  # its default is the router's usual port
        line += f" {node.url}"
    line = re.sub("^launch", f"{sys.executable} -m launcher", line)
    line = re.sub("^curl", "curl -sS --fail-with-body", line)
    line = re.sub("^scripts/", f"{sys.executable} {ROOT}/scripts/", line)
    process = await asyncio.create_subprocess_shell(
        line,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LAUNCH_URL": node.url, "API_KEY": "none", "ADMIN_KEY": "none"},
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, f"{line}\n{said.decode()}"


@pytest.mark.parametrize("line", every(*INSTALLS))
def test_what_is_installed_is_this_with_an_extra_that_it_has(line: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found = re.fullmatch(r"(?:\.|llm-launch)(?:\[(\w+)\])?", shlex.split(line)[-1])
    assert found
    assert found[1] is None or found[1] in setup["options.extras_require"]


@pytest.mark.parametrize("line", every("scripts/"))
def test_a_script_that_is_named_is_there(line: str) -> None:
    assert os.access(ROOT / line.split()[0], os.X_OK)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "scripts/policies.md"], ids=lambda page: f"{page.parent.name}-{page.stem}"
)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    for link in links:
        file, _, place = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if place else []
        assert not place or place in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], link


# Options of other programs, which the text of the pages speaks of.
OTHERS = {
    "--address",
    "--admin-key-file",
    "--head",
    "--shm-size",
    "--max-num-seqs",
    "--max-running-requests",
    "--workload",
    "--replicas",
    "--help",
}
OPTION = re.compile(r"--[a-z][a-z0-9-]*[a-z0-9]")


OWN = [page for page in PAGES[2:] if not page.stem.startswith("from-")]


def ours() -> set[str]:
    programs = [launch.command, router.command, *launch.command.commands.values(), sim_server.main]
    return {name for program in programs for param in program.params for name in param.opts}


@pytest.mark.parametrize("page", OWN, ids=lambda page: page.stem)
def test_every_option_that_a_page_names_is_one(page: Path) -> None:
    """But in fenced blocks and indented lines, and in tables, where they stand beside those of others."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(    .*|\|.*)$", "", text, flags=re.MULTILINE)
    assert set(OPTION.findall(text)) - ours() - OTHERS == set()


@pytest.mark.parametrize("name", ["from-sglang", "from-lmdeploy"])
def test_what_an_option_of_theirs_becomes_is_one_of_ours(name: str) -> None:
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|", (ROOT / f"scripts/howto/{name}.md").read_text(), re.MULTILINE)
    same = [name for theirs, becomes in rows if "the same" in becomes for name in OPTION.findall(theirs)]
    assert len(rows) > 10
    assert {*same, *(name for _, becomes in rows for name in OPTION.findall(becomes))} - ours() == set()


MODEL_HOST_AND_PORT = {"--model", "--model-path", "--alias", "--host", "--port", "--server-name", "--server-port"}


def test_each_engine_gets_the_flags_that_are_said() -> None:
    rows = re.findall(
        r"^\| `([a-z.]+)` \|[^|]*\|([^|]*)\|", (ROOT / "scripts/howto/engines.md").read_text(), re.MULTILINE
    )
    assert {name for name, _ in rows} == set(ENGINES)
    for name, told in rows:
        template = "serve --port {port}" if name == "command" else None
        argv = (
            ENGINES[name]
            .command(
                WorkerSpec(0, 31000, threads=1), LaunchConfig(model_path="m", engine=name, engine_command=template)
            )
            .argv
        )
        flags = {word for word in argv if OPTION.fullmatch(word)} - MODEL_HOST_AND_PORT
        assert flags == set(OPTION.findall(told.partition("; `llama-server`")[0])), name


def test_every_metric_that_is_named_is_told() -> None:
    names = {name for page in PAGES for name in re.findall(r"llm_router_[a-z_]+[a-z]", page.read_text())}
    assert len(names) > 5
    source = (ROOT / "router/exposition.py").read_text()
    bare = {name.removeprefix("llm_router_").removesuffix("_total") for name in names}
    assert [name for name in bare if f'"{name}"' not in source] == []
