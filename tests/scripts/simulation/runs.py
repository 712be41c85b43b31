"""Results made up for the tests of what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.simulation.compare import Runs
from scripts.simulation.grid import Cell, Result, Run
from scripts.simulation.report import COLUMNS

NAMES = [figure for _, figure, _, _ in COLUMNS]


def result(cell: Cell, policy: str, seed: int, **figures: float | None) -> Result:
    rest = {"load": cell.load, "cold_load": 1.0, "lru": 0.5, "infinite": 0.6, "requests": 100.0}
    return Result(Run(cell, seed, policy), {**dict.fromkeys(NAMES, 1.0), **rest, **figures}, "code")


def runs(figures: Mapping[Cell, Mapping[str, Sequence[float]]], name: str = "ttft_mean") -> Runs:
    """Every seed's value of one figure; all others are 1."""
    return {
        cell: {
            policy: [result(cell, policy, seed, **{name: value}) for seed, value in enumerate(values, 1)]
            for policy, values in policies.items()
        }
        for cell, policies in figures.items()
    }
