"""One contestant's turn: fresh engines, a fresh router, the workload, and what came of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import nan
from pathlib import Path

import msgspec
import psutil
import uvloop

from scripts.benchmark import contestants
from scripts.benchmark.contestants import Contestant, Probe, Running
from scripts.benchmark.processes import LOAD_CPU, Child, Meter
from scripts.policy_trial import figures, player
from scripts.policy_trial.counters import Counters
from scripts.policy_trial.player import Played, Target
from scripts.policy_trial.stage import Stage
from scripts.policy_trial.workers import Workers

PATH = "/v1/completions"
GREETINGS = 20  # volleys of short prompts at most, until each engine has had one


@dataclass(frozen=True)
class Seen:
    """A turn's figures, and a line on each kind of error."""

    figures: dict[str, float]
    errors: list[str]


def take(
    contestant: Contestant | None,
    stage: Stage,
    fleet: Callable[[], AbstractContextManager[Workers]],
    folder: Path,
) -> Seen:
    """Without a contestant engines are asked directly. Raises RuntimeError when one or the router does not serve."""
    with fleet() as workers:
        if contestant is None:
            return _measured(_direct(workers), workers, stage, None)
        running = contestants.start(contestant, workers.urls, folder, _greeting(workers.model, "first"))
        try:
            _greet(running, workers)
            return _measured(_target(running, workers), workers, stage, running.child)
        finally:
            running.child.stop()


def _measured(target: Target, workers: Workers, stage: Stage, router: Child | None) -> Seen:
    before, load = workers.counts(), _Busy()
    meter = Meter(router) if router else None
    played: Played = uvloop.run(player.play(stage, target))
    engines = [now.since(then) for now, then in zip(workers.counts(), before, strict=True)]
    seen = figures.figures(stage, played, engines, _speeds(stage, engines))
    seen |= {"load_busy": load.share(), **_router(meter, len(played.outcomes))}
    return Seen(seen, sorted(set(played.errors)))


def _router(meter: Meter | None, requests: int) -> dict[str, float]:
    if meter is None:
        return {"router_ms": nan, "others": 0.0, "stolen": 0.0}
    used = meter.read()
    return {"router_ms": 1000 * used["cpu"] / max(1, requests), "others": used["others"], "stolen": used["stolen"]}


def _speeds(stage: Stage, engines: list[Counters]) -> list[float]:
    told = stage.scene.speeds
    return [told[number] if number < len(told) else 1.0 for number in range(len(engines))]


def _target(running: Running, workers: Workers) -> Target:
    headers = {"content-type": "application/json"}
    if running.header:
        name, _, value = running.header.partition(": ")
        headers[name] = value
    return Target([f"http://127.0.0.1:{running.port}{PATH}"], headers, workers.model)


def _direct(workers: Workers) -> Target:
    urls = [url + PATH for url in workers.urls]
    return Target(urls, {"content-type": "application/json"}, workers.model)


def _greeting(model: str, word: str) -> Probe:
    body = {"model": model, "prompt": f"{word} is the word", "max_tokens": 8, "ignore_eos": True}
    return Probe(PATH, msgspec.json.encode(body))


def _greet(running: Running, workers: Workers) -> None:
    """Short prompts at once until every engine has had one: the router knows them all then. Raises RuntimeError."""
    size = 2 * len(workers.urls)
    with ThreadPoolExecutor(size) as pool:
        for volley in range(GREETINGS):
            probes = [_greeting(workers.model, f"{volley}.{number}") for number in range(size)]
            list(pool.map(functools.partial(contestants.answers, running), probes))
            if all(engine.prompts for engine in workers.counts()):
                return
    raise RuntimeError(f"{running.name} did not send anything to some of its workers")


class _Busy:
    """How busy the load's CPU is, from the making on: load generator, engines, anybody."""

    def __init__(self) -> None:
        self._began, self._idle = time.monotonic(), self._now()

    @staticmethod
    def _now() -> float:
        times = psutil.cpu_times(percpu=True)[LOAD_CPU]
        return float(times.idle + times.iowait)

    def share(self) -> float:
        return 1 - (self._now() - self._idle) / (time.monotonic() - self._began)
