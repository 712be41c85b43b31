"""What is shown: the simulator's tables, and beside them what only real processes have; and all of it as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmark.report import DISTURBED
from scripts.policy_trial import predict
from scripts.simulation import compare
from scripts.simulation import report as simulated
from scripts.simulation.compare import Runs
from scripts.simulation.grid import Cell, Result

Predicted = Mapping[Cell, Mapping[str, Sequence[Result]]]  # none for whom the simulator does not know

LATE = 0.02  # s; requests sent later than that make the load generator part of what is measured
CROWDED = 0.8  # share of the load's CPU, above which engines and load generator may be what is measured

# Heading, figure, factor to the unit shown, decimals.
COLUMNS: tuple[tuple[str, str, float, int], ...] = (
    ("requests/s", "rate", 1, 2),
    ("hit by the engines'\ncounters, all requests, %", "engines_hit", 100, 1),
    ("router's CPU\nms a request", "router_ms", 1, 2),
    ("sent late\nP99, ms", "late_p99", 1000, 1),
    ("load's CPU\nbusy, %", "load_busy", 100, 0),
)
FORETOLD = (("hit\n%", "hit", 100, 1), ("TTFT\nmean s", "ttft_mean", 1, 3), ("\nP99", "ttft_p99", 1, 3))


def predictions(results: Runs) -> Predicted:
    return {
        cell: {label: predict.predicted(found) for label, found in policies.items()}
        for cell, policies in results.items()
    }


def show(out: Console, results: Runs, base: str, foretold: Predicted, notes: Sequence[str]) -> None:
    simulated.show(out, results, base)
    for cell, policies in results.items():
        out.print(f"{cell}: the processes, and what the simulator says", style="bold", markup=False)
        out.print(_processes(policies, foretold.get(cell, {})))
    for note in [*notes, *doubts(results)]:
        out.print(note, style="dim", markup=False, soft_wrap=True)


def _processes(policies: Mapping[str, Sequence[Result]], foretold: Mapping[str, Sequence[Result]]) -> Table:
    table = Table("\npolicy")
    for heading, *_ in COLUMNS:
        table.add_column(heading, justify="right")
    for heading, *_ in FORETOLD:
        table.add_column(f"simulated\n{heading}", justify="right")
    for label, found in policies.items():
        ran = (_number(found, column) for column in COLUMNS)
        table.add_row(label, *ran, *(_number(foretold.get(label, ()), column) for column in FORETOLD))
    return table


def _number(found: Sequence[Result], column: tuple[str, str, float, int]) -> str:
    _, figure, factor, decimals = column
    value = compare.average(found, figure) if found else None
    return "-" if value is None else f"{value * factor:.{decimals}f}"


def doubts(results: Runs) -> Iterator[str]:
    """A line on each thing that makes the figures those of the machine."""
    told = [result.figures for policies in results.values() for found in policies.values() for result in found]

    def worst(figure: str) -> float:
        return max((figures.get(figure) or 0.0 for figures in told), default=0.0)

    if worst("late_p99") > LATE:
        yield f"doubt: requests were sent up to {worst('late_p99'):.3f} s late (P99 of a turn)"
    if worst("load_busy") > CROWDED:
        yield f"doubt: the CPU of load and engines was {worst('load_busy'):.0%} busy in a turn: raise --time-scale"
    for figure, who in (("others", "other processes"), ("stolen", "other machines on the same host")):
        if worst(figure) > DISTURBED:
            yield f"doubt: {who} took {worst(figure):.0%} of the router's CPU in a turn"


def keep(path: Path, machine: dict[str, Any], results: Runs, base: str, foretold: Predicted) -> None:
    """Write every figure and run, the machine and the predictions."""
    simulated.keep(path, results, base)
    whole = msgspec.json.decode(path.read_bytes())
    said = [result for policies in foretold.values() for found in policies.values() for result in found]
    whole = {"machine": machine, **whole, "predicted": said, "doubts": list(doubts(results))}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
