"""From raw figures to the table: one row per goal, with what was measured and whether the goal is met. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.benchmark.contestants import NGINX, OURS, PEERS

Figures = dict[str, Any]
DIRECT = "direct"


@dataclass(frozen=True)
class Row:
    """One line for each peer. `met` is None where there was nothing to compare with."""

    what: str
    goal: str
    ours: str
    peers: tuple[str, ...]
    met: bool | None


def rows(figures: Figures) -> list[Row]:
    """The rows of the cases that were run, in the order of ROWS."""
    return [row for case, make in ROWS if figures.get(case) for row in make(figures[case])]


# -- how figures are summed up


def mid(runs: Sequence[Figures], key: str) -> float:
    return float(median(run[key] for run in runs))


def ratio(runs: Sequence[Figures], others: Sequence[Figures], key: str) -> float:
    """How many times the others' figure: the median of each round's ratio, since rounds differ more than neighbours."""
    return float(median(run[key] / other[key] for run, other in zip(runs, others, strict=False)))


def added(figures: Figures, name: str, key: str) -> float:
    """How much more than the direct run of the same round: the median."""
    return float(median(run[key] - direct[key] for run, direct in zip(figures[name], figures[DIRECT], strict=False)))


def _others(figures: Figures) -> list[str]:
    return [name for name in (*PEERS, NGINX) if name in figures]


def _below_every_peer(values: dict[str, float], limit: float) -> bool | None:
    """Whether our value is within the limit and below each peer's; nginx, which reads no content, is none."""
    peers = [value for name, value in values.items() if name in PEERS]
    if values[OURS] > limit or any(values[OURS] >= value for value in peers):
        return False
    return True if peers else None


# -- requests per second on one core

RIVAL = "sglang-router"
FACTORS = {"small": (3.0, 2.5), "chat": (3.0, 2.5), "long": (2.5, 2.5), "stream": (2.5, 2.5)}  # RIVAL, the other peers
NGINX_FACTOR = 2.5


def throughput(figures: Figures) -> Iterator[Row]:
    for kind, (rival, others) in FACTORS.items():
        if OURS in figures[kind]:
            yield _faster(kind, figures[kind], RIVAL, [RIVAL], rival)
            yield _faster(kind, figures[kind], "the others", [name for name in PEERS if name != RIVAL], others)
    small = figures["small"]
    if OURS in small and NGINX in small:
        factor = ratio(small[OURS], small[NGINX], "cpu_us")
        yield Row(
            "CPU of a small request, against nginx",
            f"<= {NGINX_FACTOR:g}x",
            f"{mid(small[OURS], 'cpu_us'):.1f} us: {factor:.2f}x",
            (f"nginx {mid(small[NGINX], 'cpu_us'):.1f} us",),
            factor <= NGINX_FACTOR,
        )


def _faster(kind: str, runs: Figures, whom: str, names: Iterable[str], factor: float) -> Row:
    factors = {name: ratio(runs[OURS], runs[name], "per_core") for name in names if name in runs}
    return Row(
        f"requests/s per core, {kind}, against {whom}",
        f">= {factor:g}x",
        _rate(runs[OURS]),
        tuple(f"{name} {_rate(runs[name])}: {found:.2f}x" for name, found in factors.items()),
        min(factors.values()) >= factor if factors else None,
    )


def _rate(runs: Sequence[Figures]) -> str:
    return f"{mid(runs, 'per_core'):,.0f} ({mid(runs, 'rate'):,.0f}/s at busy {mid(runs, 'busy'):.2f})"


# -- latency

LATENCIES = (("p50_us", 0.15), ("p99_us", 0.5))  # ms


def latency(figures: Figures) -> Iterator[Row]:
    for key, limit in LATENCIES:
        values = {name: added(figures, name, key) / 1000 for name in figures if name != DIRECT}
        if OURS in values:
            yield Row(
                f"latency added at one connection, {key[:3]}",
                f"<= {limit:g} ms, below every peer's",
                f"{values[OURS]:.3f} ms",
                tuple(f"{name} {values[name]:.3f} ms" for name in _others(values)),
                _below_every_peer(values, limit),
            )


# -- streams

EVENT_DELAY = 5.0  # ms
OPEN = 8000
STREAM_KB = 64


def paced(figures: Figures) -> Iterator[Row]:
    if OURS not in figures:
        return
    share = {name: mid(figures[name], "share") for name in figures if name != DIRECT}
    delay = {name: added(figures, name, "p99") / 1e6 for name in share}
    middle = {name: added(figures, name, "p50") / 1e6 for name in share}
    lost = _lost(figures[OURS])
    yield Row(
        "256 streams of 50 events/s: CPU of the router",
        "below every peer's",
        f"{share[OURS]:.1%} of a core{lost}",
        tuple(f"{name} {share[name]:.1%}{_lost(figures[name])}" for name in _others(share)),
        False if lost else _below_every_peer(share, 1.0),
    )
    yield Row(
        "256 streams of 50 events/s: delay added to an event, p99",
        f"<= {EVENT_DELAY:g} ms",
        f"{delay[OURS]:.2f} ms (p50 {middle[OURS]:.3f})",
        tuple(f"{name} {delay[name]:.2f} ms (p50 {middle[name]:.3f})" for name in _others(delay)),
        not lost and delay[OURS] <= EVENT_DELAY,
    )


def _lost(runs: Sequence[Figures]) -> str:
    """Nothing, or how many streams did not come whole."""
    lost = sum(run["refused"] + run["broken"] for run in runs)
    return f", {lost} streams lost" if lost else ""


def open_streams(figures: Figures) -> Iterator[Row]:
    if OURS not in figures:
        return
    run, others = figures[OURS], _others(figures)
    yield Row(
        f"{run['streams']:,} open streams: refused, broken",
        "none",
        f"{run['refused']}, {run['broken']}",
        tuple(f"{name} {figures[name]['refused']}, {figures[name]['broken']}" for name in others),
        run["refused"] + run["broken"] == 0 if run["streams"] >= OPEN else None,
    )
    yield Row(
        f"{run['streams']:,} open streams: resident memory of each",
        f"<= {STREAM_KB} KB",
        f"{run['per_stream'] / 1024:.1f} KB",
        tuple(f"{name} {figures[name]['per_stream'] / 1024:.1f} KB" for name in others),
        run["per_stream"] <= STREAM_KB * 1024 if run["streams"] >= OPEN else None,
    )


# -- memory, growth, pauses

SOAK = 1_000_000  # requests
MB_PER_100K = 100_000 / 1e6  # from bytes per request
GROWTH = 1.3
FEWEST, MANY, MOST = "4", "64", "256"  # workers
CHOICE = 30.0  # us
STEPS = ((65_536, 262_144), (262_144, 1_048_576))  # bytes
GB_PER_SECOND = 1.0
PAUSE = 5.0  # ms
SCENARIOS = {"full_of_long_prompts": "full of 16 KB prompts", "full_of_short_prompts": "full of 80-byte prompts"}


def soak(figures: Figures) -> Iterator[Row]:
    run = figures[OURS]
    slope = run["slope"] * MB_PER_100K
    lost = run["failed"] + run["refused"]
    yield Row(
        f"{run['requests']:,} unique 1 KB prompts: growth of resident memory over the last quarter",
        "< 1 MB per 100,000 requests",
        f"{slope:+.2f} MB" + (f", {lost} requests failed" if lost else ""),
        (),
        slope < 1 and not lost if run["requests"] >= SOAK else None,
    )


def workers(figures: Figures) -> Iterator[Row]:
    for kind, words in (("small", "prompts seen before"), ("fresh-80", "new prompts")):
        factor = ratio(figures[kind][MOST], figures[kind][FEWEST], "cpu_us")
        cost = {count: mid(figures[kind][count], "cpu_us") for count in (FEWEST, MOST)}
        yield Row(
            f"CPU of a small request, from {FEWEST} to {MOST} workers, {words}",
            f"<= {GROWTH:g}x",
            f"{cost[FEWEST]:.1f} us to {cost[MOST]:.1f} us: {factor:.2f}x",
            (),
            factor <= GROWTH,
        )
    choice = mid(figures["fresh-80"][MANY], "choice_us")
    yield Row(
        f"time to choose among {MANY} workers, new prompts",
        f"<= {CHOICE:g} us",
        f"{choice:.1f} us",
        (),
        choice <= CHOICE,
    )


def prompts(figures: Figures) -> Iterator[Row]:
    if OURS not in figures:
        return
    for kind, words in (("repeated", "seen before"), ("fresh", "new")):
        speeds = {name: _speeds(figures[name][kind]) for name in figures}
        yield Row(
            f"bytes per CPU second beyond a 64 KB prompt, {words}: to 256 KB, from there to 1 MB",
            f">= {GB_PER_SECOND:g} GB/s each",
            _gigabytes(speeds[OURS]),
            tuple(f"{name} {_gigabytes(speeds[name])}" for name in _others(speeds)),
            min(speeds[OURS]) >= GB_PER_SECOND * 1e9,
        )


def _speeds(runs: Figures) -> list[float]:
    """Bytes per second of CPU time that each step in size costs; equal ones: the cost is linear."""
    cost = {size: mid(of_size, "cpu_us") / 1e6 for size, of_size in runs.items()}
    return [(high - low) / max(1e-9, cost[str(high)] - cost[str(low)]) for low, high in STEPS]


def _gigabytes(speeds: Sequence[float]) -> str:
    return ", ".join(f"{speed / 1e9:.2f}" for speed in speeds) + " GB/s"


def pauses(figures: Figures) -> Iterator[Row]:
    for scenario, words in SCENARIOS.items():
        runs = [run[scenario] for run in figures["runs"]]
        worst, collected = mid(runs, "worst"), mid(runs, "worst_collection")
        yield Row(
            f"longest turn of the loop, index {words}",
            f"<= {PAUSE:g} ms",
            f"{worst:.1f} ms (garbage collection {collected:.1f}, 99.9 % of turns {mid(runs, 'p999'):.2f})",
            (),
            worst <= PAUSE,
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
