"""What a run has shown: figures of the requests that count, from their outcomes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, nan
from statistics import fmean

from scripts.simulation.costs import Costs
from scripts.simulation.ideal import Pool
from scripts.simulation.job import Job
from scripts.simulation.load import Offer
from scripts.simulation.world import Outcome, Scene

# Within the objective: TTFT <= SLO_TTFT + SLO_PREFILL x its own cold prefill, and TPOT <= SLO_TPOT.
SLO_TTFT = 2.0  # s
SLO_PREFILL = 2.0
SLO_TPOT = 0.050  # s

# The warm-up, as shares of the span: it ends when the fleet's caches are full, but not before nor after these.
SHORTEST, LONGEST = 0.1, 1 / 3


@dataclass(frozen=True)
class Window:
    """The requests that count, and what was to be had. The same for all policies, whatever their sessions do."""

    jobs: frozenset[Job]
    seconds: float
    lru: float  # token hit rate of a pooled LRU
    infinite: float  # and of a boundless cache


def window(offer: Offer, costs: Costs, workers: int, begin: float | None = None) -> Window:
    """Those that would arrive after the warm-up, or after `begin` (s), and until the last session begins.

    The warm-up lasts until as many new tokens have come as the fleet's caches hold. What is left of sessions when no
    new ones begin does not count: the load fades then.
    """
    block = offer.workload.block
    pooled, boundless = Pool(block, workers * costs.kv_tokens), Pool(block)
    hits = [(at, job, pooled.take(job), boundless.take(job)) for at, job in offer.order]
    if begin is None:
        begin = _warm(hits, offer.span, workers * costs.kv_tokens)
    counted = [hit for hit in hits if begin <= hit[0] <= offer.span]
    prompts = sum(job.prompt for _, job, _, _ in counted)
    return Window(
        frozenset(job for _, job, _, _ in counted),
        offer.span - begin,
        sum(cached for _, _, cached, _ in counted) / prompts,
        sum(cached for _, _, _, cached in counted) / prompts,
    )


def _warm(hits: Iterable[tuple[float, Job, int, int]], span: float, room: int) -> float:
    """When the caches are full, within the bounds."""
    new = 0
    for at, job, _, known in hits:
        new += job.prompt + job.output - known
        if new >= room:
            return min(max(at, SHORTEST * span), LONGEST * span)
    return LONGEST * span


def figures(outcomes: Sequence[Outcome], counted: Window, scene: Scene) -> dict[str, float]:
    """The figures by name; times in seconds, nan where no request has one.

    A request that counts and has no outcome has failed.
    """
    costs, requests = scene.costs, len(counted.jobs)
    done = [outcome for outcome in outcomes if outcome.job in counted.jobs]
    whole = [outcome for outcome in done if not outcome.failed]
    hit = _ratio(sum(o.cached for o in whole), sum(o.job.prompt for o in whole))
    good = sum(within(outcome, costs) for outcome in whole)
    waits = sorted(o.first - o.arrival for o in done if o.first is not None)
    paces = sorted(pace for o in whole if (pace := tpot(o)) is not None)
    totals = sorted(o.end - o.arrival for o in whole if o.end is not None)
    return {
        "hit": hit,
        "of_lru": _ratio(hit, counted.lru),
        "of_infinite": _ratio(hit, counted.infinite),
        **_spread("ttft", waits, mean=None, p50=0.5, p90=0.9, p99=0.99),
        **_spread("tpot", paces, mean=None, p99=0.99),
        **_spread("e2e", totals, mean=None, p99=0.99),
        "slo": _ratio(good, requests),
        "goodput": good / counted.seconds,
        "imbalance": imbalance(whole, scene),
        "failed": float(requests - len(whole)),
        "requests": float(requests),
    }


def within(outcome: Outcome, costs: Costs) -> bool:
    """Whether it kept to the objective."""
    if outcome.first is None:
        return False
    limit = SLO_TTFT + SLO_PREFILL * costs.prefill(outcome.job.prompt, 0)
    return outcome.first - outcome.arrival <= limit and (tpot(outcome) or 0.0) <= SLO_TPOT


def tpot(outcome: Outcome) -> float | None:
    """Seconds per token after the first; None for an answer of one token."""
    if outcome.first is None or outcome.end is None or outcome.job.output < 2:
        return None
    return (outcome.end - outcome.first) / (outcome.job.output - 1)


def imbalance(outcomes: Iterable[Outcome], scene: Scene) -> float:
    """Time that the busiest worker computed prompts, by the mean of all that are there in the end."""
    busy: dict[str, float] = {}
    for outcome in outcomes:
        work = scene.costs.prefill(outcome.job.prompt - outcome.cached, outcome.cached)
        busy[outcome.worker] = busy.get(outcome.worker, 0.0) + work / _speed(scene, outcome.worker)
    workers = scene.replicas + sum(1 if change.what == "join" else -1 for change in scene.changes)
    return _ratio(max(busy.values(), default=0.0) * workers, sum(busy.values()))


def _speed(scene: Scene, worker: str) -> float:
    number = int(worker.lstrip("w"))
    return scene.speeds[number] if number < len(scene.speeds) else 1.0


def _spread(name: str, values: Sequence[float], **shares: float | None) -> dict[str, float]:
    """The mean (None) and quantiles of sorted values."""
    return {
        f"{name}_{what}": quantile(values, share) if share is not None else fmean(values) if values else nan
        for what, share in shares.items()
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, between the two nearest; nan of none."""
    if not values:
        return nan
    place = share * (len(values) - 1)
    below = floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else nan
