"""What is shown and kept: a table for each cell, the differences over all of them, the losses; everything as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from math import inf, isinf
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.simulation import compare
from scripts.simulation.compare import JUDGED, Loss, Runs
from scripts.simulation.grid import Cell
from scripts.simulation.intervals import Estimate

WIDTH = 200  # columns
WORDS = {
    "ttft_mean": "mean TTFT",
    "ttft_p99": "P99 TTFT",
    "tpot_mean": "mean TPOT",
    "e2e_mean": "mean end to end",
    "goodput": "goodput",
}
# Heading, figure, factor to the unit shown, decimals.
COLUMNS: tuple[tuple[str, str, float, int], ...] = (
    ("hit\n%", "hit", 100, 1),
    ("of\nLRU", "of_lru", 100, 0),
    ("of\ninf.", "of_infinite", 100, 0),
    ("TTFT\nmean s", "ttft_mean", 1, 3),
    ("\nP50", "ttft_p50", 1, 3),
    ("\nP90", "ttft_p90", 1, 3),
    ("\nP99", "ttft_p99", 1, 3),
    ("TPOT\nmean ms", "tpot_mean", 1000, 1),
    ("\nP99", "tpot_p99", 1000, 1),
    ("end to end\nmean s", "e2e_mean", 1, 2),
    ("\nP99", "e2e_p99", 1, 2),
    ("in SLO\n%", "slo", 100, 1),
    ("goodput\n1/s", "goodput", 1, 2),
    ("max/\nmean", "imbalance", 1, 2),
    ("\nfailed", "failed", 1, 1),
)
IN_TABLE = ("ttft_mean", "ttft_p99")  # differences beside the figures
# Seeds that a 95 % interval needs: all n runs lie on one side of the true mean in one of 2^(n-1) cases.
ENOUGH = 5
SHARES = (0.9, 0.99)  # of requests that keep to the objective


def console() -> Console:
    """As wide as the tables, if need be wider than the terminal: figures cut off are worse than wrapped ones."""
    out = Console(highlight=False)
    return Console(highlight=False, width=max(out.width, WIDTH))


def show(out: Console, runs: Runs, base: str) -> None:
    for title, table in _tables(runs, base):
        out.print(title, style="bold", markup=False)
        out.print(table)
    for line in _said(compare.losses(runs, base), base):
        out.print(line, markup=False, soft_wrap=True)
    for note in notes(runs):
        out.print(note, style="dim", markup=False)


def _tables(runs: Runs, base: str) -> Iterator[tuple[str, Table]]:
    for cell in runs:
        yield f"{cell}: {_about(runs, cell)}", _cell(cell, runs, base)
    if len(runs) > 1:
        for name, group in compare.groups(runs).items():
            yield f"{name} ({len(group)}): geometric mean of the ratio to {base}, less 1", _overall(group, base)
    for sweep in compare.sweeps(runs):
        if len(sweep) > 1:
            yield f"{_title(sweep)}: the load up to which so many are in SLO", _limits(sweep)


def notes(runs: Runs) -> Iterator[str]:
    results = [result for policies in runs.values() for found in policies.values() for result in found]
    versions = {result.code for result in results}
    if len(versions) > 1:
        yield f"note: these runs were made by {len(versions)} versions of the program"
    seeds = len({result.run.seed for result in results})
    if seeds == 1:
        yield "note: one seed only, so nothing says how sure a difference is"
    elif seeds < ENOUGH:
        yield f"note: {seeds} seeds only: no interval goes beyond the seeds' own figures, so these are too narrow"


def _cell(cell: Cell, runs: Runs, base: str) -> Table:
    policies = runs[cell]
    table = Table()
    table.add_column("\npolicy", no_wrap=True)
    for heading, *_ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in IN_TABLE:
        table.add_column(f"{WORDS[figure]}\nto {base}", justify="right", no_wrap=True)
    for label, results in policies.items():
        values = (_number(compare.average(results, figure), by, to) for _, figure, by, to in COLUMNS)
        table.add_row(label, *values, *(_compared({cell: policies}, figure, label, base) for figure in IN_TABLE))
    return table


def _about(runs: Runs, cell: Cell) -> str:
    """What is the same for all policies of the cell."""
    results = next(iter(runs[cell].values()))

    def percent(figure: str) -> str:
        return f"{compare.average(results, figure) or 0.0:.1%}"

    hits = f"ideal hits {percent('lru')} pooled LRU, {percent('infinite')} infinite"
    return f"cold load {compare.average(results, 'cold_load') or 0.0:.2f}, {hits}, {len(results)} seeds"


def _overall(runs: Runs, base: str) -> Table:
    table = Table()
    table.add_column("policy", no_wrap=True)
    for figure in JUDGED:
        table.add_column(WORDS[figure], justify="right", no_wrap=True)
    for label in next(iter(runs.values())):
        table.add_row(label, *(_compared(runs, figure, label, base) for figure in JUDGED))
    return table


def _limits(sweep: Runs) -> Table:
    first = next(iter(sweep))
    loads = [cell.load for cell in sweep]
    table = Table("policy")
    for share in SHARES:
        table.add_column(f"{share:.0%}", justify="right")
    for label in sweep[first]:
        table.add_row(label, *(_load(compare.limit(sweep, label, share), loads) for share in SHARES))
    return table


def _title(sweep: Runs) -> str:
    first = next(iter(sweep))
    return str(first).replace(f"load {first.load:g}", f"loads {', '.join(f'{cell.load:g}' for cell in sweep)}")


def _load(limit: float, loads: list[float]) -> str:
    if isinf(limit):
        return f"> {loads[-1]:g}"
    return f"{limit:.2f}" if limit else f"< {loads[0]:g}"


def _said(losses: Iterable[Loss], base: str) -> Iterator[str]:
    found = list(losses)
    sure = [loss for loss in found if loss.sure]
    cells = len({loss.cell for loss in found})
    yield f"losses of {base}: {len(found)} in {cells} cells, {len(sure)} of them with an interval that excludes 0"
    for loss in found:
        mark = "sure" if loss.sure else "unsure"
        yield f"  {mark:6} {loss.cell}: {loss.policy} has {change(loss.by)} {WORDS[loss.figure]}"


def _number(value: float | None, factor: float, decimals: int) -> str:
    return "-" if value is None else f"{value * factor:.{decimals}f}"


def _compared(runs: Runs, figure: str, label: str, base: str) -> str:
    if label == base:
        return ""
    by = compare.difference(runs, figure, label, base)
    return "-" if by is None else change(by)


def change(by: Estimate) -> str:
    """+12.3% [+10.0, +14.0]; from twice as much on, 2.5x [2.3, 2.6]."""
    ends = [] if by.low is None or by.high is None else [by.low, by.high]
    if by.value >= 1:
        return f"{by.value + 1:.1f}x" + (" [{:.1f}, {:.1f}]".format(*(end + 1 for end in ends)) if ends else "")
    return f"{by.value:+.1%}" + (" [{:+.1f}, {:+.1f}]".format(*(end * 100 for end in ends)) if ends else "")


def keep(path: Path, runs: Runs, base: str) -> None:
    """Write every figure, difference, loss and run."""
    whole = {
        "base": base,
        "cells": [_cell_kept(cell, policies, base) for cell, policies in runs.items()],
        "overall": {name: _differences(group, base) for name, group in compare.groups(runs).items()},
        "limits": [_limits_kept(sweep) for sweep in compare.sweeps(runs) if len(sweep) > 1],
        "losses": compare.losses(runs, base),
        "notes": list(notes(runs)),
        "runs": [result for policies in runs.values() for results in policies.values() for result in results],
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")


def _cell_kept(cell: Cell, policies: Any, base: str) -> dict[str, Any]:
    figures = list(next(iter(policies.values()))[0].figures)
    means = {name: {fig: compare.average(found, fig) for fig in figures} for name, found in policies.items()}
    return {"cell": cell, "figures": means, "differences": _differences({cell: policies}, base)}


def _differences(runs: Runs, base: str) -> dict[str, dict[str, Estimate | None]]:
    labels = [label for label in next(iter(runs.values())) if label != base]
    return {label: {figure: compare.difference(runs, figure, label, base) for figure in JUDGED} for label in labels}


def _limits_kept(sweep: Runs) -> dict[str, Any]:
    """Limits that lie beyond the loads are null, those below them 0."""
    first = next(iter(sweep))
    found = {
        label: {f"{share:g}": None if (at := compare.limit(sweep, label, share)) == inf else at for share in SHARES}
        for label in sweep[first]
    }
    return {"cell": dataclasses.replace(first, load=0.0), "loads": [cell.load for cell in sweep], "limits": found}
