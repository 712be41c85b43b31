"""How the cost of a request grows with the fleet and with the prompt."""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.contestants import NGINX, OURS, Running
from scripts.benchmark.load import measure

FLEETS = (4, 16, 64, 256, 1024)  # workers
SHORT = ("small", "fresh-80")
SIZES = tuple(1024 * 4**power for power in range(6))  # bytes: 1 KB to 1 MB
SIZES_QUICK = SIZES[3:]
CONNECTIONS = 16  # more of them, with 1 MB each under way, measure the machine's caches


def workers(bench: Bench) -> dict[str, Any]:
    """CPU time of an 80-byte request with 4 to 1,024 workers: prompts seen before, and prompts never seen.

    Five routers of ours run at once and take turns. The probes of all those workers are part of what is measured.
    Figures: {"small" or "fresh-80": {number of workers: [one of load.measure() for each round, and "choice_us": what
    the policy took for a request, by the router's own metrics, us]}}.
    """
    runs: dict[str, Any] = {kind: defaultdict(list) for kind in SHORT}
    contestant, settings = bench.ours(), bench.settings
    if contestant is None:
        return {}
    with ExitStack() as stack:
        routers = {count: stack.enter_context(bench.alone(contestant, count)) for count in FLEETS}
        for number in range(settings.rounds):
            for kind in SHORT:
                for count, router in routers.items():
                    before = _choices(router)
                    run = measure(router, kind, settings.short, warmup=settings.warmup, salt=number + 1)
                    seconds, choices = (new - old for new, old in zip(_choices(router), before, strict=True))
                    run["choice_us"] = seconds / choices * 1e6
                    runs[kind][str(count)].append(run)
                    bench.say(
                        f"workers {number + 1} {kind:8} {count:4} workers {run['cpu_us']:6.1f} us CPU, "
                        f"{run['choice_us']:.1f} to choose"
                    )
    return runs


def _choices(router: Running) -> tuple[float, float]:
    """The seconds that the policy has taken, and for how many choices."""
    request = urllib.request.Request(f"http://127.0.0.1:{router.port}/metrics")
    name, _, value = (router.header or "").partition(": ")
    if name:
        request.add_header(name, value)
    text = urllib.request.urlopen(request, timeout=10).read().decode()
    found = dict(re.findall(r"^llm_router_policy_decision_seconds_(sum|count) (\S+)$", text, re.MULTILINE))
    return float(found["sum"]), float(found["count"])


def prompts(bench: Bench) -> dict[str, Any]:
    """CPU time of a request with a prompt of 1 KB to 1 MB: prompts never seen, and prompts seen before.

    nginx shows what the kernel takes for the same bytes: they are received once and sent once.
    Figures: {contestant: {"fresh" or "repeated": {size: [one of load.measure() for each round]}}}.
    """
    runs: dict[str, Any] = {
        router.name: {"fresh": defaultdict(list), "repeated": defaultdict(list)}
        for router in bench.serving()
        if router.name in (OURS, NGINX)
    }
    for number in range(bench.settings.rounds):
        for size in SIZES_QUICK if bench.settings.quick else SIZES:
            for kind in ("fresh", "repeated"):
                for router in bench.serving():
                    if router.name in runs:
                        run = _at(bench, router, f"{kind}-{size}", number)
                        runs[router.name][kind][str(size)].append(run)
    return runs


def _at(bench: Bench, router: Any, kind: str, number: int) -> dict[str, Any]:
    settings = bench.settings
    run = measure(router, kind, settings.short, warmup=settings.warmup, salt=number + 1, connections=CONNECTIONS)
    bench.say(f"prompts {number + 1} {router.name:14} {kind:16} {run['cpu_us']:7.1f} us CPU  busy {run['busy']:.2f}")
    return run
