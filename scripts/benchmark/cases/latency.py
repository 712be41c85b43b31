"""What a router adds to the latency of a request when nothing else is under way."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.load import wrk

DIRECT = "direct"


def latency(bench: Bench) -> dict[str, Any]:
    """One connection, one small request at a time: to a worker directly, then through each router, in turn.

    Figures: {"direct" or contestant: [{"p50_us", "p99_us"} for each round]}. What is added is the difference to the
    direct run of the same round.
    """
    runs: dict[str, Any] = defaultdict(list)
    for number in range(bench.settings.rounds):
        targets = [(DIRECT, bench.worker_port, None)]
        targets += [(router.name, router.port, router.header) for router in bench.serving()]
        for name, port, header in targets:
            load = wrk(port, "small", bench.settings.secs, connections=1, header=header)
            runs[name].append({"p50_us": load.p50_us, "p99_us": load.p99_us})
            bench.say(f"latency {number + 1} {name:14} p50 {load.p50_us} us  p99 {load.p99_us} us")
    return runs
