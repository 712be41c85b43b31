"""What event streams cost: their events' delay and the router's CPU while they flow, and memory when there are many."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.contestants import Running
from scripts.benchmark.load import Streams
from scripts.benchmark.processes import Meter, file_limit

DIRECT = "direct"
STREAMS, PER_SECOND = 256, 50
SETTLE = 0.5  # seconds of the streams' life that are not measured
OPEN, OPEN_QUICK = 8000, 500
EVENTS, EVENTS_QUICK = 10, 2  # events on each
EVENT_EVERY = 2.0  # seconds between two of them
LOOK = 0.2  # seconds between two looks at the resident memory


def paced(bench: Bench) -> dict[str, Any]:
    """256 streams of 50 events/s each, evenly spread in time: to a worker directly, then through each router.

    Each event carries the time at which the worker wrote it, so its age on arrival is known; p50 and p99 over all
    events but those of the first half second. `share` is the router's CPU time over the time of the measurement.
    Figures: {"direct" or contestant: [{"p50", "p99", ... in ns, "share", "refused", "broken"} for each round]}.
    """
    runs: dict[str, Any] = defaultdict(list)
    for number in range(bench.settings.rounds):
        runs[DIRECT].append(_flow(bench, bench.worker_port, None))
        for router in bench.serving():
            runs[router.name].append(_flow(bench, router.port, router))
            run = runs[router.name][-1]
            bench.say(
                f"paced {number + 1} {router.name:14} CPU {run['share']:.3f}  age p50 {run['p50'] / 1e6:.3f} ms"
                f"  p99 {run['p99'] / 1e6:.3f} ms  refused {run['refused']}  broken {run['broken']}"
            )
    return runs


def _flow(bench: Bench, port: int, router: Running | None) -> dict[str, Any]:
    secs = bench.settings.secs
    events, skip = round(PER_SECOND * (secs + 2 * SETTLE)), round(PER_SECOND * SETTLE)
    header = router.header if router else None
    with bench.streams(port, STREAMS, events, 1 / PER_SECOND, skip=skip, header=header) as streams:
        streams.wait_open()
        time.sleep(SETTLE)
        meter = Meter(router.child) if router else None
        time.sleep(secs)
        used = meter.read() if meter else {"cpu": 0.0, "wall": secs}
        return {**streams.result(), **used, "share": used["cpu"] / used["wall"]}


def open_streams(bench: Bench) -> dict[str, Any]:
    """8,000 streams at once through one freshly started router, an event every 2 s on each, until all have ended.

    Refused: no connection or no status 200. Broken: any event missing, or no proper end. Memory: the highest resident
    size of the router's process tree while they were open, less what it was before the first.
    Figures: {contestant: {"streams", "opened", "refused", "broken", "before", "peak" in bytes, "per_stream" in bytes}}.
    """
    wanted, events = (OPEN_QUICK, EVENTS_QUICK) if bench.settings.quick else (OPEN, EVENTS)
    count = min(wanted, (file_limit() - 200) // 2)  # a router needs two descriptors for each
    if count < wanted:
        bench.say(f"open streams: {count} instead of {wanted}, for the limit on open files is {file_limit()}")
    runs: dict[str, Any] = {}
    for contestant in list(bench.field):
        try:
            with bench.alone(contestant) as router:
                run = runs[router.name] = {"streams": count, **_hold(bench, router, count, events)}
        except RuntimeError as error:
            bench.say(str(error))
            continue
        bench.say(
            f"open {contestant.name:14} {run['opened']} of {count} opened, refused {run['refused']},"
            f" broken {run['broken']}, {run['per_stream'] / 1024:.1f} KB each"
        )
    return runs


def _hold(bench: Bench, router: Running, count: int, events: int) -> dict[str, Any]:
    with bench.streams(router.port, count, events, EVENT_EVERY, header=router.header) as streams:
        return _watch(router, streams)


def _watch(router: Running, streams: Streams) -> dict[str, Any]:
    before = peak = router.child.resident_bytes()
    while streams.child.process.poll() is None:
        peak = max(peak, router.child.resident_bytes())
        time.sleep(LOOK)
    told = streams.result()
    return {**told, "before": before, "peak": peak, "per_stream": (peak - before) / max(1, told["opened"])}
