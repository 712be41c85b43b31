"""Results as a trial makes them, without running anything."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.policy_trial.cell import Cell, Result, Run

CELL = Cell("no_reuse", 2, 0.7, requests=20, time_scale=0.1)
USUAL = {
    "hit": 0.5, "of_lru": 1.0, "of_infinite": 1.0, "ttft_mean": 1.0, "ttft_p50": 1.0, "ttft_p90": 1.0, "ttft_p99": 1.0,
    "tpot_mean": 0.01, "tpot_p99": 0.01, "e2e_mean": 2.0, "e2e_p99": 2.0, "slo": 1.0, "goodput": 1.0, "imbalance": 1.0,
    "failed": 0.0, "requests": 20.0, "engines_hit": 0.5, "rate": 3.0, "router_ms": 5.0, "late_p99": 0.001,
    "load_busy": 0.3, "others": 0.0, "stolen": 0.0, "lru": 0.5, "infinite": 0.5, "load": 0.7, "cold_load": 0.9,
}  # fmt: skip


def results(label: str, *ttfts: float, cell: Cell = CELL, **figures: float) -> Sequence[Result]:
    """One of each round."""
    return [
        Result(Run(cell, seed, label), {**USUAL, "ttft_mean": ttft, **figures}, "code")
        for seed, ttft in enumerate(ttfts, 1)
    ]
