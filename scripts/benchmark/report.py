"""What is shown and kept: the table in the terminal, all figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benchmark.goals import Row

VERDICTS = {True: "[green]met", False: "[red]not met", None: "[dim]not measured"}


def show(console: Console, rows: Iterable[Row], notes: Iterable[str]) -> None:
    table = Table("what", "goal", "llm-launch", "peers", "", title="Goals", expand=False)
    for row in rows:
        table.add_row(row.what, row.goal, row.ours, row.peers, VERDICTS[row.met])
    console.print(table)
    for note in notes:
        console.print(f"[dim]{note}")


def keep(
    path: Path, machine: dict[str, Any], settings: dict[str, Any], figures: dict[str, Any], rows: Sequence[Row]
) -> None:
    """Write everything that was measured."""
    whole = {"machine": machine, "settings": settings, "goals": [asdict(row) for row in rows], "figures": figures}
    path.write_text(json.dumps(whole, indent=1) + "\n")
