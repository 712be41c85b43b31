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


# -- streams


def paced(figures: Figures) -> Iterator[Row]:
    if OURS not in figures:
        return
    share = {name: mid(figures[name], "share") for name in figures if name != "direct"}
    added = {name: _added(figures, name, "p99") / 1e6 for name in share}
    middle = _added(figures, OURS, "p50") / 1e6
    peers = _peers(figures)
    whole = _whole(figures[OURS])
    yield Row(
        "256 streams of 50 events/s: CPU of the router",
        "below every peer's",
        f"{share[OURS]:.1%} of a core{whole}",
        "; ".join(f"{name} {value:.1%}{_whole(figures[name])}" for name, value in share.items() if name != OURS),
        (not whole and all(share[OURS] < share[name] for name in peers)) if peers else None,
    )
    yield Row(
        "256 streams of 50 events/s: p99 delay added to an event",
        "<= 5 ms",
        f"{added[OURS]:.2f} ms (p50 {middle:.2f})",
        "; ".join(f"{name} {value:.2f}" for name, value in added.items() if name != OURS),
        added[OURS] <= 5,
    )


def _whole(runs: Sequence[Figures]) -> str:
    """Nothing, or how many streams did not come whole."""
    lost = sum(run["refused"] + run["broken"] for run in runs)
    return f" ({lost} streams lost)" if lost else ""


def open_streams(figures: Figures) -> Iterator[Row]:
    if OURS not in figures:
        return
    run = figures[OURS]
    others = {name: other for name, other in figures.items() if name != OURS}
    yield Row(
        f"{run['streams']:,} open streams: refused or broken",
        "none",
        f"{run['refused']} and {run['broken']}",
        "; ".join(f"{name} {other['refused']} and {other['broken']}" for name, other in others.items()),
        run["refused"] + run["broken"] == 0,
    )
    yield Row(
        f"{run['streams']:,} open streams: resident memory of each",
        "<= 64 KB",
        f"{run['per_stream'] / 1024:.1f} KB",
        "; ".join(f"{name} {other['per_stream'] / 1024:.1f}" for name, other in others.items()),
        run["per_stream"] <= 64 * 1024,
    )


# -- memory, growth, pauses

MB_PER_100K = 100_000 / 1e6  # from bytes per request


def soak(figures: Figures) -> Iterator[Row]:
    for run in figures.values():
        slope = run["slope"] * MB_PER_100K
        lost = run["failed"] + run["refused"]
        yield Row(
            f"{run['requests']:,} requests with unique 1 KB prompts: growth of resident memory in the last quarter",
            "< 1 MB per 100,000 requests",
            f"{slope:+.2f} MB" + (f", {lost} requests failed" if lost else ""),
            "",
            slope < 1 and not lost,
        )


def workers(figures: Figures) -> Iterator[Row]:
    if not figures:
        return
    factors = {kind: ratio(runs["256"], runs["4"], "cpu_us") for kind, runs in figures.items()}
    names = {"small": "prompts seen before", "fresh-80": "new ones"}
    yield Row(
        "CPU of a small request, from 4 to 256 workers",
        "<= 1.3x",
        "; ".join(f"{names[kind]} {factor:.2f}x" for kind, factor in factors.items()),
        "",
        max(factors.values()) <= 1.3,
    )


STEPS = ((65_536, 262_144), (262_144, 1_048_576))  # bytes


def prompts(figures: Figures) -> Iterator[Row]:
    if OURS not in figures:
        return
    speeds = {name: {kind: _speeds(runs) for kind, runs in kinds.items()} for name, kinds in figures.items()}
    yield Row(
        "CPU of a request beyond a 64 KB prompt: bytes per CPU second, to 256 KB and from there to 1 MB",
        ">= 1 GB/s each",
        "; ".join(f"{kind} {_gigabytes(found)}" for kind, found in speeds[OURS].items()),
        "; ".join(f"nginx, {kind} {_gigabytes(found)}" for kind, found in speeds.get(NGINX, {}).items()),
        min(speed for found in speeds[OURS].values() for speed in found) >= 1e9,
    )


def _speeds(runs: Figures) -> list[float]:
    """Bytes per second of CPU time that each step in size costs; equal ones: the cost is linear."""
    cost = {size: mid(of_size, "cpu_us") / 1e6 for size, of_size in runs.items()}
    return [(high - low) / max(1e-9, cost[str(high)] - cost[str(low)]) for low, high in STEPS]


def _gigabytes(speeds: Sequence[float]) -> str:
    return " and ".join(f"{speed / 1e9:.2f}" for speed in speeds) + " GB/s"


SCENARIOS = {"full_of_long_prompts": "full of 16 KB prompts", "full_of_short_prompts": "full of 80-byte prompts"}


def pauses(figures: Figures) -> Iterator[Row]:
    for scenario, words in SCENARIOS.items():
        runs = [run[scenario] for run in figures["runs"]]
        if runs:
            worst = mid(runs, "worst")
            collected = median(max(c["worst"] for c in run["collections"].values()) for run in runs)
            yield Row(
                f"longest turn of the loop, index {words}",
                "<= 5 ms",
                f"{worst:.1f} ms (garbage collection {collected:.1f}; 99.9 % within {mid(runs, 'p999'):.2f})",
                "",
                worst <= 5,
            )


Maker = Callable[[Figures], Iterable[Row]]
ROWS: tuple[tuple[str, Maker], ...] = (
    ("throughput", throughput),
    ("latency", latency),
    ("paced", paced),
    ("open", open_streams),
    ("soak", soak),
    ("workers", workers),
    ("prompts", prompts),
    ("pauses", pauses),
)
