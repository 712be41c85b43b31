"""What contestants are compared in: the simulator's cells, played in real time. Pure, but for trace files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from scripts.simulation import grid
from scripts.simulation.load import Offer
from scripts.simulation.measure import Window
from scripts.simulation.world import Scene

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


@dataclass(frozen=True)
class Stage:
    """What all contestants are given alike. `clients`: so many take turns, whatever the arrivals (a closed loop)."""

    offer: Offer
    counted: Window
    scene: Scene
    time_scale: float
    clients: int | None = None


def simulated(cell: grid.Cell) -> grid.Cell:
    """The same in virtual time."""
    return grid.Cell(**{field.name: getattr(cell, field.name) for field in dataclasses.fields(grid.Cell)})


def stage(cell: Cell, seed: int) -> Stage:
    """Raises TraceError."""
    return Stage(*grid.stage(simulated(cell), seed), cell.time_scale)


def speeds(cell: Cell) -> list[float]:
    """Of each worker."""
    known = grid.SCENES[cell.scene].speeds
    return [known[number] if number < len(known) else 1.0 for number in range(cell.replicas)]
