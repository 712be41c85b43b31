"""How many requests one core routes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.load import measure, wrk

WORKLOADS = ("small", "long", "chat", "stream")
DIRECT = "worker alone"


def throughput(bench: Bench) -> dict[str, Any]:
    """64 connections send one kind of request as fast as they are answered; the kinds are described in load.lua.

    All contestants are measured with one kind before the next kind comes, and again in each round, so that a machine
    that grows slower meanwhile is slower for all. What the load generator gets from a worker without a router between
    shows whether it could have been the limit.
    Figures: {kind: {contestant: [one of load.measure() for each round]}}.
    """
    settings = bench.settings
    runs: dict[str, Any] = {kind: defaultdict(list) for kind in WORKLOADS}
    for number in range(settings.rounds):
        for kind in WORKLOADS:
            runs[kind][DIRECT].append({"rate": wrk(bench.worker_port, kind, 1).rate})
            for router in bench.serving():
                run = measure(router, kind, settings.secs, warmup=settings.warmup)
                run["resident_mb"] = router.child.resident_bytes() / 1e6
                runs[kind][router.name].append(run)
                bench.say(
                    f"throughput {number + 1} {kind:7} {router.name:14} {run['rate']:7,.0f}/s"
                    f"  {run['cpu_us']:6.1f} us CPU  {run['per_core']:7,.0f}/s per core  busy {run['busy']:.2f}"
                )
    return runs
