"""What is shown and kept: the table in the terminal, all figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benchmark.goals import Row

VERDICTS = {True: "[green]met", False: "[red]not met", None: "[dim]not measured"}
WIDTH = 160  # columns, where it is not a terminal's
DISTURBED = 0.1  # share of the router's CPU that others may take before it is said


def console() -> Console:
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDTH)


def show(out: Console, rows: Iterable[Row], notes: Iterable[str]) -> None:
    table = Table("", "goal", "llm-launch", "peers", "", show_lines=True)
    for row in rows:
        table.add_row(row.what, row.goal, row.ours, "\n".join(row.peers), VERDICTS[row.met])
    if table.row_count:
        out.print(table)
    for note in notes:
        out.print(note, style="dim", markup=False)


def keep(
    path: Path, machine: dict[str, Any], settings: dict[str, Any], figures: dict[str, Any], rows: Sequence[Row]
) -> None:
    """Write everything that was measured."""
    whole = {"machine": machine, "settings": settings, "goals": [asdict(row) for row in rows], "figures": figures}
    path.write_text(json.dumps(whole, indent=1) + "\n")


def noise(figures: object) -> Iterator[str]:
    """A line on each thing that took the router's CPU away during a measurement, if it was much."""
    for key, words in (("others", "other processes"), ("stolen", "other machines on the same host")):
        worst = max(_found(figures, key), default=0.0)
        if worst > DISTURBED:
            yield f"noise: {words} took up to {worst:.0%} of the router's CPU during a measurement"


def _found(figures: object, key: str) -> Iterator[float]:
    """Every value of that name, however deep."""
    if isinstance(figures, dict):
        if key in figures:
            yield figures[key]
        figures = list(figures.values())
    if isinstance(figures, list):
        for figure in figures:
            yield from _found(figure, key)
