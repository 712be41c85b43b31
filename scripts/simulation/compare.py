"""What the runs say together: means of each cell, differences to a base policy, and where the base loses. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from scripts.simulation.grid import Cell, Result
from scripts.simulation.intervals import Estimate, relative

# The figures by which policies are compared, and whether less of it is better.
JUDGED: dict[str, bool] = {
    "ttft_mean": True,
    "ttft_p99": True,
    "tpot_mean": True,
    "e2e_mean": True,
    "goodput": False,
}
CEILING = "oracle"  # what names begin with that see what no router can: to lose to one is no loss
ALL = "all cells"
LEAST = 0.0005  # a smaller difference, which would be printed as 0.0 %, is none

# Every cell's results by the policy's label, one for each seed, in the order of the seeds.
Runs = Mapping[Cell, Mapping[str, Sequence[Result]]]
Field = Mapping[str, tuple[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Loss:
    """A cell in which `policy` did better than the base by `by`, a share. `sure`: so does all of its interval."""

    cell: Cell
    figure: str
    policy: str
    by: Estimate
    sure: bool


def arrange(results: Iterable[Result], field: Field) -> Runs:
    """`field`: label -> the policy's name and its settings."""
    labels = {(policy, tuple(sorted(settings.items()))): label for label, (policy, settings) in field.items()}
    cells: dict[Cell, dict[str, list[Result]]] = {}
    for result in results:
        run = result.run
        cells.setdefault(run.cell, {}).setdefault(labels[run.policy, run.settings], []).append(result)
    for policies in cells.values():
        for found in policies.values():
            found.sort(key=lambda result: result.run.seed)
    return cells


def average(results: Iterable[Result], figure: str) -> float | None:
    """The mean over the seeds; None when no run has that figure."""
    values = [value for result in results if (value := result.figures[figure]) is not None]
    return fmean(values) if values else None


def difference(runs: Runs, figure: str, label: str, base: str) -> Estimate | None:
    """By how much `label` has more of it than the base with the same arrivals: a share, over all the cells."""
    strata = [
        [
            (ours.figures[figure] or 0.0, theirs.figures[figure] or 0.0)
            for ours, theirs in zip(policies[label], policies[base], strict=True)
        ]
        for policies in runs.values()
    ]
    return relative(strata)


def groups(runs: Runs) -> dict[str, Runs]:
    """All cells, and those of each workload if there are several."""
    apart: dict[str, dict[Cell, Mapping[str, Sequence[Result]]]] = {}
    for cell, policies in runs.items():
        apart.setdefault(cell.workload, {})[cell] = policies
    return {ALL: runs, **(apart if len(apart) > 1 else {})}


def losses(runs: Runs, base: str) -> list[Loss]:
    """Wherever the base is beaten, the worst first; by hardly anything is not beaten."""
    found = []
    for cell, policies in runs.items():
        for figure, less in JUDGED.items():
            for label in policies:
                by = difference({cell: policies}, figure, label, base) if label != base else None
                if by is None or label.startswith(CEILING) or not _better(by.value, less):
                    continue
                sure = by.low is not None and by.high is not None and _better(by.high if less else by.low, less)
                found.append(Loss(cell, figure, label, by, sure))
    return sorted(found, key=lambda loss: (not loss.sure, -abs(loss.by.value)))


def _better(change: float, less: bool) -> bool:
    return change < -LEAST if less else change > LEAST


def sweeps(runs: Runs) -> list[Runs]:
    """Cells that differ in their load only, by load."""
    found: dict[Cell, list[Cell]] = {}
    for cell in runs:
        found.setdefault(dataclasses.replace(cell, load=0.0), []).append(cell)
    return [{cell: runs[cell] for cell in sorted(cells, key=lambda cell: cell.load)} for cells in found.values()]


def limit(sweep: Runs, label: str, share: float) -> float:
    """The load up to which at least `share` of the requests keep to the objective, between the loads that were run.

    0 if that is so at none of them, inf if at all.
    """
    before: tuple[float, float] | None = None
    for cell, policies in sweep.items():
        good = average(policies[label], "slo") or 0.0
        if good < share:
            return 0.0 if before is None else before[0] + (cell.load - before[0]) * _part(before[1], good, share)
        before = (cell.load, good)
    return inf


def _part(high: float, low: float, share: float) -> float:
    """How far from `high` to `low` it is to `share`."""
    return (high - share) / (high - low)
