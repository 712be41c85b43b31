"""What contestants are compared in: the simulator's cells, played in real time. Pure, but for trace files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from scripts.policy_trial import turns
from scripts.policy_trial.stage import Stage
from scripts.simulation import grid

LLAMA_CPP = "llama_cpp"  # as a cell's engine: the real one, with the demo weights
SCENES = ("steady", "slow", "whole")  # of the simulator's; nobody joins or dies here


@dataclass(frozen=True)
class Cell(grid.Cell):
    """A cell of the simulator's, which takes `time_scale` seconds for each second of the engines'."""

    time_scale: float = 1.0

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.time_scale:g} s a second"


@dataclass(frozen=True)
class Run(grid.Run):
    """One contestant's turn. `policy` is its label."""

    cell: Cell


@dataclass(frozen=True)
class Result(grid.Result):
    """A line of the file of results. `code`: the version of the router."""

    run: Run


def simulated(cell: grid.Cell) -> grid.Cell:
    """The same in virtual time."""
    return grid.Cell(**{field.name: getattr(cell, field.name) for field in dataclasses.fields(grid.Cell)})


def stage(cell: Cell, seed: int) -> Stage:
    """Raises TraceError."""
    if cell.engine == LLAMA_CPP:
        return turns.stage(cell.replicas, cell.requests, seed)
    return Stage(*grid.stage(simulated(cell), seed), cell.time_scale)


def speeds(cell: Cell) -> list[float]:
    """Of each worker."""
    known = grid.SCENES[cell.scene].speeds
    return [known[number] if number < len(known) else 1.0 for number in range(cell.replicas)]
