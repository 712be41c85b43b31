"""A picture: a row for each cell, in it a panel for each figure, a bar for each contestant, a dot for each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import colormaps, pyplot
from matplotlib.axes import Axes

from scripts.simulation import compare
from scripts.simulation.compare import Runs
from scripts.simulation.grid import Result

PANELS = (("hit", "prompt tokens from the cache"), ("ttft_mean", "mean TTFT, s"), ("ttft_p99", "P99 TTFT, s"))
COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]


def draw(path: Path, results: Runs) -> None:
    """Write the picture; its kind is told by the file's ending."""
    figure, grid = pyplot.subplots(
        len(results), len(PANELS), figsize=(5.5 * len(PANELS), 3.2 * len(results)), squeeze=False
    )
    for row, (cell, policies) in zip(grid, results.items(), strict=True):
        for axes, (name, words) in zip(row, PANELS, strict=True):
            _panel(axes, policies, name)
            axes.set_title(words, fontsize=9)
        row[0].set_ylabel(str(cell).replace(", ", "\n"), fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Axes, policies: Mapping[str, Sequence[Result]], name: str) -> None:
    for place, (label, found) in enumerate(policies.items()):
        axes.barh(label, compare.average(found, name) or 0.0, color=COLOURS[place % len(COLOURS)], alpha=0.7)
        rounds = [result.figures[name] or 0.0 for result in found]
        axes.plot(rounds, [label] * len(rounds), "k.", markersize=4)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
