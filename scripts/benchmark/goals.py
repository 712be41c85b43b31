"""From raw figures to the table: one row per goal, with what was measured and whether the goal is met. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.benchmark.contestants import NGINX, OURS

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """`met` is None where there was nothing to compare with."""

    what: str
    goal: str
    ours: str
    peers: str
    met: bool | None


def rows(figures: Figures) -> list[Row]:
    """The rows of the cases that were run, in the order of ROWS."""
    return [row for case, make in ROWS if case in figures for row in make(figures[case])]


def mid(runs: Sequence[Figures], key: str) -> float:
    return median(run[key] for run in runs)


def ratio(runs: Sequence[Figures], others: Sequence[Figures], key: str) -> float:
    """How many times the others' figure: the median of each round's ratio, since rounds differ more than neighbours."""
    return median(run[key] / other[key] for run, other in zip(runs, others, strict=False))


def _peers(figures: Figures) -> list[str]:
    return [name for name in figures if name not in (OURS, NGINX, "direct", "worker alone")]


# -- requests per second on one core

RIVAL = "sglang-router"
FACTORS = {"small": (3.0, 2.5), "chat": (3.0, 2.5), "long": (2.5, 2.5), "stream": (2.5, 2.5)}  # RIVAL, the others


def throughput(figures: Figures) -> Iterator[Row]:
    for kind, (rival, others) in FACTORS.items():
        runs = figures[kind]
        if OURS in runs:
            yield _faster(kind, runs, "sglang-router", [RIVAL], rival)
            yield _faster(kind, runs, "the other peers", [name for name in _peers(runs) if name != RIVAL], others)
    small = figures["small"]
    if OURS in small and NGINX in small:
        factor = ratio(small[OURS], small[NGINX], "cpu_us")
        yield Row(
            "CPU of a small request, against nginx",
            "<= 2.5x",
            f"{mid(small[OURS], 'cpu_us'):.1f} us, {factor:.2f}x",
            f"nginx {mid(small[NGINX], 'cpu_us'):.1f} us",
            factor <= 2.5,
        )


def _faster(kind: str, runs: Figures, whom: str, names: Iterable[str], factor: float) -> Row:
    factors = {name: ratio(runs[OURS], runs[name], "per_core") for name in names if name in runs}
    return Row(
        f"{kind}: requests/s per core, against {whom}",
        f">= {factor:g}x",
        _rate(runs[OURS]),
        "; ".join(f"{name} {_rate(runs[name])}: {found:.2f}x" for name, found in factors.items()),
        min(factors.values()) >= factor if factors else None,
    )


def _rate(runs: Sequence[Figures]) -> str:
    return f"{mid(runs, 'per_core'):,.0f} (busy {mid(runs, 'busy'):.2f})"


# -- latency


def latency(figures: Figures) -> Iterator[Row]:
    for key, limit in (("p50_us", 0.15), ("p99_us", 0.5)):
        added = {name: _added(figures, name, key) / 1000 for name in figures if name != "direct"}
        if OURS in added:
            peers = {name: added[name] for name in _peers(figures)}
            yield Row(
                f"one connection: latency added, {key[:3]}",
                f"<= {limit:g} ms, below every peer's",
                f"{added[OURS]:.3f} ms",
                "; ".join(f"{name} {value:.3f}" for name, value in added.items() if name != OURS),
                added[OURS] <= limit and all(added[OURS] < value for value in peers.values()),
            )


def _added(figures: Figures, name: str, key: str) -> float:
    return median(run[key] - direct[key] for run, direct in zip(figures[name], figures["direct"], strict=False))


Maker = Callable[[Figures], Iterable[Row]]
ROWS: tuple[tuple[str, Maker], ...] = (
    ("throughput", throughput),
    ("latency", latency),
)
