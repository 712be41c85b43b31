"""All figures in one picture: a panel for each case that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import ScalarFormatter

from scripts.benchmark.contestants import NAMES, OURS
from scripts.benchmark.goals import PAUSE, added, mid

Figures = dict[str, Any]
COLOURS = dict(zip(NAMES, ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#999999"), strict=True))
SHADES = {"fresh": "-", "repeated": "--", "fresh-80": "-", "small": "--"}
COLUMNS = 3


def draw(path: Path, title: str, names: Sequence[str], figures: Figures) -> None:
    """Write the picture of the cases that were run by these contestants; its kind is told by the file's ending."""
    panels = [(panel, figures[case]) for case, panel in PANELS if figures.get(case)]
    if not panels:
        return
    lines = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(lines, COLUMNS, figsize=(6 * COLUMNS, 4 * lines), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (panel, raw) in zip(grid.flat, panels, strict=False):
        panel(axes, raw)
    figure.suptitle(title, fontsize=10)
    swatches = [Patch(color=COLOURS[name], label=name) for name in NAMES if name in names]
    figure.legend(handles=swatches, loc="lower center", ncols=len(swatches), frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 0.99))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _groups(axes: Axes, groups: Sequence[str], values: dict[str, Sequence[float]], form: str) -> None:
    """A group of bars for each of `groups`, in it one bar for each contestant."""
    width = 0.8 / len(values)
    for place, (name, heights) in enumerate(values.items()):
        left = [group + (place - (len(values) - 1) / 2) * width for group in range(len(groups))]
        axes.bar_label(axes.bar(left, heights, width, color=COLOURS[name]), fmt=form, fontsize=6)
    axes.set_xticks(range(len(groups)), groups)


def _bars(axes: Axes, values: dict[str, float], form: str) -> None:
    """One bar for each contestant."""
    bars = axes.bar(list(values), list(values.values()), color=[COLOURS[name] for name in values])
    axes.bar_label(bars, fmt=form, fontsize=7)


def _names(figures: Figures) -> list[str]:
    return [name for name in NAMES if name in figures]


def _throughput(axes: Axes, figures: Figures) -> None:
    names = _names(next(iter(figures.values())))
    rates = {name: [mid(runs[name], "per_core") / 1000 for runs in figures.values()] for name in names}
    _groups(axes, list(figures), rates, "%.1f")
    axes.set(title="requests per second and core (higher is better)", ylabel="thousands/s")


def _latency(axes: Axes, figures: Figures) -> None:
    names = _names(figures)
    both = {name: [added(figures, name, key) / 1000 for key in ("p50_us", "p99_us")] for name in names}
    _groups(axes, ["p50", "p99"], both, "%.2f")
    axes.set(title="latency added at one connection", ylabel="ms")


def _paced_cpu(axes: Axes, figures: Figures) -> None:
    names = _names(figures)
    _bars(axes, {name: mid(figures[name], "share") * 100 for name in names}, "%.1f")
    axes.set(title="256 streams of 50 events/s: CPU of the router", ylabel="% of a core")


def _paced_delay(axes: Axes, figures: Figures) -> None:
    names = _names(figures)
    both = {name: [added(figures, name, key) / 1e6 for key in ("p50", "p99")] for name in names}
    _groups(axes, ["p50", "p99"], both, "%.2f")
    axes.set(title="256 streams of 50 events/s: delay added to an event", ylabel="ms")


def _open(axes: Axes, figures: Figures) -> None:
    names = _names(figures)
    lost = {name: figures[name]["refused"] + figures[name]["broken"] for name in names}
    labels = {name: f"{name}\n{lost[name]:,} lost" if lost[name] else name for name in names}
    _bars(axes, {name: figures[name]["per_stream"] / 1024 for name in names}, "%.1f")
    axes.set_xticks(range(len(names)), list(labels.values()))
    axes.set(title=f"{figures[names[0]]['streams']:,} open streams: resident memory of each", ylabel="KB")


def _soak(axes: Axes, figures: Figures) -> None:
    for name in _names(figures):
        samples = figures[name]["samples"]
        axes.plot([x / 1000 for x, _ in samples], [y / 1e6 for _, y in samples], color=COLOURS[name], label=name)
    axes.set(title="resident memory, unique 1 KB prompts", xlabel="thousand requests", ylabel="MB")
    axes.set_ylim(bottom=0)


def _workers(axes: Axes, figures: Figures) -> None:
    for kind, runs in figures.items():
        counts = [int(count) for count in runs]
        costs = [mid(of_count, "cpu_us") for of_count in runs.values()]
        label = "new prompts" if kind.startswith("fresh") else "prompts seen before"
        axes.plot(counts, costs, SHADES[kind], marker="o", color=COLOURS[OURS], label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set(title="CPU of a small request", xlabel="workers", ylabel="us")
    axes.legend(fontsize=7)


def _prompts(axes: Axes, figures: Figures) -> None:
    for name in _names(figures):
        for kind, runs in figures[name].items():
            sizes = [int(size) / 1024 for size in runs]
            costs = [mid(of_size, "cpu_us") for of_size in runs.values()]
            axes.loglog(sizes, costs, SHADES[kind], marker="o", color=COLOURS[name], label=f"{name}, {kind}", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    axes.set(title="CPU of a request by its prompt", xlabel="KB", ylabel="us")
    axes.legend(fontsize=7)


def _pauses(axes: Axes, figures: Figures) -> None:
    last = figures["runs"][-1]
    calls = {
        f"{what} ({scenario.split('_')[2]})": ms for scenario in last for what, ms in last[scenario]["by_call"].items()
    }
    longest = sorted(calls.items(), key=lambda call: call[1])[-12:]
    axes.barh(range(len(longest)), [ms for _, ms in longest], color=COLOURS[OURS], alpha=0.5)
    for place, (what, ms) in enumerate(longest):
        axes.text(0, place, f" {ms:.2f} {what}", fontsize=7, verticalalignment="center")
    axes.axvline(PAUSE, color="black", linewidth=0.8)
    axes.set_yticks([])
    axes.set(title="longest turns of the loop (index full of prompts: long, short)", xlabel="ms of CPU")


PANELS: tuple[tuple[str, Callable[[Axes, Figures], None]], ...] = (
    ("throughput", _throughput),
    ("latency", _latency),
    ("paced", _paced_cpu),
    ("paced", _paced_delay),
    ("open", _open),
    ("soak", _soak),
    ("workers", _workers),
    ("prompts", _prompts),
    ("pauses", _pauses),
)
