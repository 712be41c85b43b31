"""All turns: the contestants one after the other, in another order each round, with what a file has left out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmark.contestants import Contestant
from scripts.benchmark.program import Program
from scripts.policy_trial import cell, turn, workers
from scripts.policy_trial.cell import Cell, Result, Run
from scripts.simulation import grid, kept
from scripts.simulation.compare import Runs


@dataclass
class Trial:
    """Who takes part, and where. `notes` are written here: what went wrong, in lines for a person."""

    contestants: Mapping[str, Contestant | None]
    program: Program  # whose engines' servers are used
    code: str
    folder: Path
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)

    def results(self, cells: Sequence[Cell], rounds: int, path: Path | None) -> list[Result]:
        """Of all runs, those of the file `path` included; it keeps the new ones. Raises GridError, TraceError."""
        planned = runs(cells, rounds, list(self.contestants))
        return kept.complete(Result, planned, path, self._perform, lambda done: None)

    def _perform(self, missing: Sequence[Run]) -> Iterator[Result]:
        out: set[tuple[Cell, str]] = set()
        for number, run in enumerate(missing, 1):
            if (run.cell, run.policy) in out:
                continue
            self.say(f"turn {number} of {len(missing)}: {run.policy}, round {run.seed}, {run.cell}")
            try:
                yield self._turn(run)
            except RuntimeError as error:
                out.add((run.cell, run.policy))
                self.notes.append(f"{run.policy}, {run.cell}: left out; {error}")

    def _turn(self, run: Run) -> Result:
        fleet = functools.partial(workers.serving, self.program, run.cell, self.folder)
        seen = turn.take(self.contestants[run.policy], cell.stage(run.cell, run.seed), fleet, self.folder)
        self.notes += [f"{run.policy}, {run.cell}, round {run.seed}: {error}" for error in seen.errors]
        return Result(run, {name: _known(value) for name, value in seen.figures.items()}, self.code)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def runs(cells: Sequence[Cell], rounds: int, labels: Sequence[str]) -> list[Run]:
    """Each round all cells, each cell all contestants, who begins with the next of them in the next round."""
    return [
        Run(cell, seed, label)
        for seed in range(1, rounds + 1)
        for cell in cells
        for label in [*labels[(seed - 1) % len(labels) :], *labels[: (seed - 1) % len(labels)]]
    ]


def arrange(results: Sequence[Result], labels: Sequence[str]) -> Runs:
    """Each cell's results by label, in the order of the rounds; without those who were not in all of its rounds."""
    cells: dict[grid.Cell, dict[str, list[Result]]] = {}
    for result in sorted(results, key=lambda result: (labels.index(result.run.policy), result.run.seed)):
        cells.setdefault(result.run.cell, {}).setdefault(result.run.policy, []).append(result)
    return {cell: _complete(policies) for cell, policies in cells.items()}


def _complete(policies: dict[str, list[Result]]) -> dict[str, list[Result]]:
    rounds = max(map(len, policies.values()))
    return {label: found for label, found in policies.items() if len(found) == rounds}


def base(results: Runs, labels: Sequence[str]) -> str | None:
    """The first that is in every cell; None if nobody is."""
    return next((label for label in labels if all(label in policies for policies in results.values())), None)
