"""The engines' servers: started fresh for each turn, and what they count themselves."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from launcher.engines.llama_cpp import DEMO
from scripts.benchmark.contestants import free_port
from scripts.benchmark.processes import LOAD_CPU, ROUTER_CPU, Child
from scripts.benchmark.program import Program
from scripts.policy_trial import counters, turns
from scripts.policy_trial.cell import LLAMA_CPP, Cell, speeds
from scripts.policy_trial.counters import Counters
from scripts.simulation import grid
from scripts.simulation.costs import Costs

STARTUP = 60.0  # s
SIM_MODEL = "sim"


@dataclass(frozen=True)
class Workers:
    """Engines that serve."""

    urls: Sequence[str]
    model: str

    def counts(self) -> list[Counters]:
        return [counters.read(_get(f"{url}/metrics")) for url in self.urls]


def sim_options(costs: Costs, speed: float, time_scale: float) -> list[str]:
    """The simulator's constants as options of the simulated engine's server. Times are FLOP at 1 FLOP/s."""
    options = {
        "peak-flops": 1, "mfu": 1, "flops-per-token": costs.token, "flops-per-pair": costs.pair,
        "seconds-per-step": costs.base, "seconds-per-request": costs.running, "seconds-per-kv-token": costs.context,
        "kv-tokens": costs.kv_tokens, "max-step-tokens": costs.chunk, "max-num-seqs": costs.max_running,
        "speed": speed, "time-scale": time_scale,
    }  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", f"{value!r}")]


def serving(program: Program, cell: Cell, folder: Path) -> AbstractContextManager[Workers]:
    """The cell's engines. Raises RuntimeError when one does not serve."""
    return _llama_cpp(program, cell, folder) if cell.engine == LLAMA_CPP else _sims(program, cell, folder)


def _llama_cpp(program: Program, cell: Cell, folder: Path) -> AbstractContextManager[Workers]:
    """Real ones, by turns on the load's CPU and the router's, that keep nothing but what their slots hold."""
    words = ["--model", DEMO, "--threads", "1", "--parallel", str(turns.SLOTS)]
    words += ["--ctx-size", str(turns.CONTEXT), "--cache-ram", "0", "--swa-full"]
    command = ["-m", "launcher.engines.llama_cpp_server", *words]
    places = [(LOAD_CPU, ROUTER_CPU)[number % 2] for number in range(cell.replicas)]
    return _serving(program, [command] * cell.replicas, places, DEMO, folder)


def _sims(program: Program, cell: Cell, folder: Path) -> AbstractContextManager[Workers]:
    """Simulated ones, all on the CPU that is not the router's."""
    costs = grid.engine(cell.engine)
    commands = [
        ["-m", "launcher.engines.sim_server", "--model", SIM_MODEL, *sim_options(costs, speed, cell.time_scale)]
        for speed in speeds(cell)
    ]
    return _serving(program, commands, [LOAD_CPU] * cell.replicas, SIM_MODEL, folder)


@contextlib.contextmanager
def _serving(
    program: Program, commands: Sequence[Sequence[str]], cpus: Sequence[int], model: str, folder: Path
) -> Iterator[Workers]:
    with contextlib.ExitStack() as stack:
        urls, children = [], []
        for command, cpu in zip(commands, cpus, strict=True):
            port = free_port()
            log = stack.enter_context((folder / f"worker-{port}.log").open("wb"))
            words = program.command(*command, "--port", str(port))
            child = Child(words, cpu, stdout=log, stderr=log, env=program.env, cwd=folder)
            stack.callback(child.stop)
            urls.append(f"http://127.0.0.1:{port}")
            children.append(child)
        for url, child in zip(urls, children, strict=True):
            _wait(url, child, folder)
        yield Workers(urls, model)


def _wait(url: str, child: Child, folder: Path) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and child.process.poll() is None:
        with contextlib.suppress(OSError):
            _get(f"{url}/health")
            return
        time.sleep(0.1)
    said = (folder / f"worker-{url.rpartition(':')[2]}.log").read_text(errors="replace").strip().splitlines()
    raise RuntimeError(f"the engine did not serve: {said[-1] if said else 'no word from it'}")


def _get(url: str) -> str:
    """Raises OSError, for a status that is not 200 as well."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return str(answer.read().decode())
