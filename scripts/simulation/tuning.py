"""Settings of each policy that did best on the first part of the workloads, to be scored on the rest of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log
from pathlib import Path
from statistics import fmean

import msgspec

from scripts.simulation.contestants import CONTESTANTS
from scripts.simulation.grid import Cell, Result, Run
from scripts.simulation.kept import GridError

Settings = dict[str, float]


@dataclass(frozen=True)
class Tuned:
    """`score`: the geometric mean of mean and P99 TTFT over all cells and seeds, s."""

    settings: Settings
    score: float
    default_score: float
    tried: int


@dataclass(frozen=True)
class Tuning:
    """What is kept: the settings by policy, and the cells and seeds that they were found in."""

    policies: dict[str, Tuned]
    cells: list[Cell] = field(default_factory=list)
    seeds: int = 0


def candidates(policy: str) -> list[Settings]:
    """The settings to be tried: the defaults first, then the policy's grid."""
    contestant = CONTESTANTS[policy]
    full = [{**contestant.defaults, **settings} for settings in ({}, *contestant.grid)]
    return [settings for place, settings in enumerate(full) if settings not in full[:place]]


def runs(cells: Iterable[Cell], seeds: int, policies: Sequence[str]) -> list[Run]:
    """Everything to be tried; policies without a grid are not."""
    tried = [(policy, settings) for policy in policies for settings in candidates(policy)]
    return [
        Run(cell, seed, policy, tuple(sorted(settings.items())))
        for cell in cells
        for seed in range(1, seeds + 1)
        for policy, settings in tried
        if len(candidates(policy)) > 1
    ]


def best(results: Iterable[Result]) -> dict[str, Tuned]:
    """The settings with the lowest score of each policy; its defaults, which come first, where nothing is better."""
    logs: dict[str, dict[tuple[tuple[str, float], ...], list[float]]] = {}
    for result in results:
        logs.setdefault(result.run.policy, {}).setdefault(result.run.settings, []).append(_log(result))
    return {policy: _best(policy, tried) for policy, tried in logs.items()}


def _best(policy: str, tried: dict[tuple[tuple[str, float], ...], list[float]]) -> Tuned:
    scores = {settings: exp(fmean(found)) for settings, found in tried.items()}
    default = scores[tuple(sorted(CONTESTANTS[policy].defaults.items()))]
    settings = min(scores, key=lambda settings: scores[settings])  # of equals the first
    return Tuned(dict(settings), scores[settings], default, len(scores))


def _log(result: Result) -> float:
    mean, p99 = result.figures["ttft_mean"], result.figures["ttft_p99"]
    return (log(mean) + log(p99)) / 2 if mean and p99 else inf


def keep(path: Path, tuning: Tuning) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(tuning), indent=1) + b"\n")


def load(path: Path) -> dict[str, Settings]:
    """Of each policy whose best settings are not its defaults. Raises GridError."""
    try:
        tuning = msgspec.json.decode(path.read_bytes(), type=Tuning)
    except OSError as error:
        raise GridError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GridError(f"{path} has no tuned settings: {error}") from None
    return {
        name: tuned.settings
        for name, tuned in tuning.policies.items()
        if name in CONTESTANTS and tuned.settings != CONTESTANTS[name].defaults
    }
