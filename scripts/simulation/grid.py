"""The grid: which runs there are, and running those that a file of results does not have yet, on all processors."""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from router.request import BYTES_PER_TOKEN
from scripts.simulation import kept, load, measure, world
from scripts.simulation.contestants import CONTESTANTS
from scripts.simulation.costs import ENGINES, Costs
from scripts.simulation.job import Workload
from scripts.simulation.kept import GridError
from scripts.simulation.load import Offer
from scripts.simulation.trace import Part
from scripts.simulation.workloads import generate, trace
from scripts.simulation.world import Change, Scene

CHANGE_AT = 1 / 3  # of the span, where the fleet changes; the warm-up is over then
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Incident:
    """What is special about a fleet. Load is that of the smaller fleet, before or after a change."""

    speeds: tuple[float, ...] = ()  # of the first workers; the rest have full speed
    change: Literal["join", "lose"] | None = None  # one more, cold; or the first one is gone
    streams: bool = True  # else answers come whole
    told: bool = True  # engines tell what they hold
    usage: bool = False  # answers tell what their prompts were: all whole ones do, streams where they are asked to
    bytes_per_token: float = BYTES_PER_TOKEN
    routers: int = 1  # side by side; each asks the engines how much is with them

    def workers(self, replicas: int) -> int:
        """How many there are in the end, where everything is measured."""
        return replicas + {None: 0, "join": 1, "lose": -1}[self.change]

    def power(self, replicas: int) -> float:
        """In engines of full speed."""
        return min(replicas, self.workers(replicas)) - sum(1 - speed for speed in self.speeds)

    def changes(self, replicas: int, span: float) -> tuple[Change, ...]:
        if self.change is None:
            return ()
        return (Change(span * CHANGE_AT, replicas if self.change == "join" else 0, self.change),)


SCENES: dict[str, Incident] = {
    "steady": Incident(),
    "slow": Incident(speeds=(0.5,)),
    "join": Incident(change="join"),
    "lost": Incident(change="lose"),
    "whole": Incident(streams=False, usage=True),
    "untold": Incident(told=False, usage=True),
    "two_routers": Incident(routers=2),
    "four_routers": Incident(routers=4),
    "wide": Incident(usage=True, bytes_per_token=6.0),  # as of prompts that are lists of token ids
}


@dataclass(frozen=True)
class Cell:
    """What all policies are compared in. `engine`: a name of ENGINES, then changes of constants: `a100_8b,chunk*2`."""

    workload: str
    replicas: int
    load: float
    engine: str = "h100_8b"
    scene: str = "steady"
    requests: int = 12_000
    part: Part = Part.WHOLE
    path: str | None = None  # of a trace

    def __str__(self) -> str:
        parts = [self.workload, f"{self.replicas} replicas", f"load {self.load:g}", self.engine, self.scene]
        return ", ".join([*parts, *([] if self.part is Part.WHOLE else [f"{self.part.value} of it"])])


@dataclass(frozen=True)
class Run:
    """One simulation. `settings`: the policy's, where they are not its defaults."""

    cell: Cell
    seed: int
    policy: str
    settings: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Result:
    """A line of the file of results."""

    run: Run
    figures: dict[str, float | None]  # None: no request had one
    code: str  # what the program's files were, in short


def engine(spec: str) -> Costs:
    """The constants that `spec` names. Raises GridError."""
    name, *factors = spec.split(",")
    if name not in ENGINES:
        raise GridError(f"engine {name} is none of {', '.join(ENGINES)}")
    costs = ENGINES[name]
    for factor in factors:
        match = re.fullmatch(r"(\w+)\*(\d+|\d*\.\d+)", factor)
        known = [field.name for field in dataclasses.fields(costs)]
        if match is None or match[1] not in known or not float(match[2]):
            raise GridError(f"engine constant {factor}: give NAME*FACTOR, NAME one of {', '.join(known)}")
        value = getattr(costs, match[1])
        costs = dataclasses.replace(costs, **{match[1]: type(value)(value * float(match[2]))})
    return costs


def workload(cell: Cell, seed: int) -> Workload:
    """The cell's requests, not yet at its load. Raises TraceError."""
    if cell.path is not None:
        found = trace(cell.workload, Path(cell.path), seed, cell.requests, cell.part)
    else:
        found = generate(cell.workload, seed, cell.requests, cell.part)
    return dataclasses.replace(found, bytes_per_token=SCENES[cell.scene].bytes_per_token)


@functools.lru_cache(maxsize=2)
def stage(cell: Cell, seed: int) -> tuple[Offer, measure.Window, Scene]:
    """What all policies of a cell are given alike."""
    costs, incident = engine(cell.engine), SCENES[cell.scene]
    workers = incident.workers(cell.replicas)
    offer = load.scale(workload(cell, seed), cell.load, costs, workers, incident.power(cell.replicas))
    changes = incident.changes(cell.replicas, offer.span)
    counted = measure.window(offer, costs, workers, changes[0].at if changes else None)
    scene = Scene(
        cell.replicas, costs, incident.speeds, changes, seed, incident.streams, incident.told, incident.usage,
        incident.routers,
    )  # fmt: skip
    return offer, counted, scene


def simulate(run: Run) -> Result:
    """Run it, in this process."""
    offer, counted, scene = stage(run.cell, run.seed)
    contestant = CONTESTANTS[run.policy]
    settings = contestant.defaults | {name: _whole(value) for name, value in run.settings}
    gc.collect()
    gc.disable()  # the world is one large web of objects that all stay until the end
    try:
        outcomes = world.run(offer.workload, lambda here: contestant.make(here, settings), scene)
    finally:
        gc.enable()
    figures = measure.figures(outcomes, counted, scene)
    figures |= {"load": offer.load, "cold_load": offer.cold_load, "lru": counted.lru, "infinite": counted.infinite}
    return Result(run, {name: None if value != value else value for name, value in figures.items()}, code())


def _whole(value: float) -> float:
    """JSON has 1.0 for 1, and some settings are counts."""
    return int(value) if value == int(value) else value


def complete(runs: Sequence[Run], path: Path | None, processes: int, say: Callable[[int], None]) -> list[Result]:
    """The results of all runs, in their order; see kept.complete. Raises GridError."""
    return kept.complete(Result, runs, path, lambda missing: _simulated(missing, min(processes, len(missing))), say)


def _simulated(runs: Sequence[Run], processes: int) -> Iterator[Result]:
    """In the order in which they end; of equal arrivals one after the other, so that each process makes them once."""
    if processes < 2:
        yield from map(simulate, runs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _undisturbed) as pool:
        yield from pool.imap_unordered(simulate, runs)


def _undisturbed() -> None:
    """A Ctrl-C is the parent's to handle: it ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@functools.lru_cache(maxsize=1)
def code() -> str:
    """A hash of all files that a run depends on."""
    files = [*ROOT.glob("scripts/simulation/**/*.py"), *ROOT.glob("router/policies/*.py")]
    files += [ROOT / "router" / name for name in ("fleet.py", "prefix.py", "request.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


def runs(cells: Iterable[Cell], seeds: int, field: Mapping[str, tuple[str, Mapping[str, float]]]) -> list[Run]:
    """Every policy of `field` (label -> name and settings) in every cell with every seed."""
    return [
        Run(cell, seed, policy, tuple(sorted(settings.items())))
        for cell in cells
        for seed in range(1, seeds + 1)
        for policy, settings in field.values()
    ]
