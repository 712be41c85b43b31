"""TTFT and goodput against load in one picture: a row for each sweep of loads, a line for each policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import colormaps, pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scripts.simulation import compare
from scripts.simulation.compare import Runs
from scripts.simulation.measure import SLO_PREFILL, SLO_TPOT, SLO_TTFT

PANELS = (("ttft_mean", "mean TTFT, s"), ("ttft_p99", "P99 TTFT, s"), ("goodput", "requests/s in SLO"))
BASE = {"color": "#d62728", "linewidth": 2.5, "zorder": 3}
COLOURS = colormaps["tab20"].colors  # type: ignore[attr-defined]
MARKERS = "osv^D<>pPX*h"


def draw(path: Path, runs: Runs, base: str) -> None:
    """Write the picture; its kind is told by the file's ending."""
    sweeps = compare.sweeps(runs)
    labels = list(dict.fromkeys(label for policies in runs.values() for label in policies))
    looks = {label: _look(place, label == base) for place, label in enumerate(labels)}
    figure, grid = pyplot.subplots(
        len(sweeps), len(PANELS), figsize=(5.5 * len(PANELS), 3.8 * len(sweeps) + 1), squeeze=False
    )
    for row, sweep in zip(grid, sweeps, strict=True):
        for axes, (name, unit) in zip(row, PANELS, strict=True):
            _panel(axes, sweep, name, unit, looks)
    objective = f"TTFT <= {SLO_TTFT:g} s + {SLO_PREFILL:g} x own cold prefill, TPOT <= {SLO_TPOT * 1000:g} ms"
    lines = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    height = figure.get_figheight()
    figure.suptitle(f"in SLO: {objective}", fontsize=9, y=1 - 0.1 / height, verticalalignment="top")
    figure.legend(handles=lines, loc="lower center", ncols=7, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.25 * (1 + len(lines) // 7) / height, 1, 1 - 0.25 / height))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _look(place: int, base: bool) -> dict[str, Any]:
    look: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4, "linewidth": 1.0}
    return {**look, "color": COLOURS[place % len(COLOURS)], **(BASE if base else {})}


def _panel(axes: Axes, sweep: Runs, figure: str, unit: str, looks: dict[str, dict[str, Any]]) -> None:
    first = next(iter(sweep))
    for label in sweep[first]:
        points = [(cell.load, compare.average(policies[label], figure)) for cell, policies in sweep.items()]
        known = [(load, value) for load, value in points if value is not None]
        axes.plot([load for load, _ in known], [value for _, value in known], **looks[label])
    if figure.startswith("ttft"):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(f"{first.workload}, {first.replicas} replicas, {first.engine}, {first.scene}", fontsize=9)
    axes.set(xlabel="load", ylabel=unit)
    axes.grid(alpha=0.3)
