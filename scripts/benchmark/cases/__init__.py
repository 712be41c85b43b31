"""The cases by name, in the order in which they run. Each takes a Bench and returns its raw figures, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.cases import growth, latency, pauses, soak, streams, throughput

Case = Callable[[Bench], dict[str, Any]]

CASES: dict[str, Case] = {
    "throughput": throughput.throughput,
    "latency": latency.latency,
    "paced": streams.paced,
    "prompts": growth.prompts,
    "open": streams.open_streams,
    "soak": soak.soak,
    "workers": growth.workers,
    "pauses": pauses.pauses,
}
