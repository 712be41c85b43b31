"""The cases by name, in the order in which they run. Each takes a Bench and returns its raw figures, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.cases import growth, latency, pauses, soak, streams, throughput


@dataclass(frozen=True)
class Case:
    """`tools`: the programs without which it cannot be measured."""

    measure: Callable[[Bench], dict[str, Any]]
    tools: tuple[str, ...]


CASES: dict[str, Case] = {
    "throughput": Case(throughput.throughput, ("wrk", "cc", "taskset")),
    "latency": Case(latency.latency, ("wrk", "cc", "taskset")),
    "paced": Case(streams.paced, ("cc", "taskset")),
    "prompts": Case(growth.prompts, ("wrk", "cc", "taskset")),
    "open": Case(streams.open_streams, ("cc", "taskset")),
    "soak": Case(soak.soak, ("wrk", "cc", "taskset")),
    "workers": Case(growth.workers, ("wrk", "cc", "taskset")),
    "pauses": Case(pauses.pauses, ("taskset",)),
}
