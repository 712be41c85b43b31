"""What load means: how much of the fleet's engine time a workload takes, and arrivals that take a given share. Pure.

A load of 1.0 is the rate at which engine time is used up if all caches were one: the prefill of what a pooled LRU does
not hold, the decode of the answers, and the base time of the steps, shared by as large a batch as fits.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from scripts.simulation.costs import Costs
from scripts.simulation.ideal import Pool
from scripts.simulation.job import Job, Workload
from scripts.simulation.sessions import flowing

Order = list[tuple[float, Job]]

ROUNDS = 3  # until the order of sessions' requests and the time they take agree; they hardly move after two


@dataclass(frozen=True)
class Demand:
    """Engine seconds that all requests take together."""

    prefill: float  # of what a pooled LRU does not hold
    cold: float  # of all prompts: what `prefill` would be without a cache
    decode: float  # what each answer adds to the steps it is in
    base: float  # its share of the steps' own time

    @property
    def total(self) -> float:
        return self.prefill + self.decode + self.base


@dataclass(frozen=True)
class Offer:
    """A workload at a load. `order`: all requests by when they would arrive if engines were half full."""

    workload: Workload
    order: Order
    demand: Demand
    span: float  # s, until the last session begins
    load: float
    cold_load: float  # the load if nothing were cached


def scale(workload: Workload, load: float, costs: Costs, workers: int, power: float) -> Offer:
    """The workload, its sessions closer or further apart and in full flow; think times stay as they are.

    `workers` is the number of caches, `power` that of engines at full speed.
    """
    asked, of_sessions = workload, any(job.then for job in workload.jobs)
    for _ in range(ROUNDS if of_sessions else 1):
        demand = take(plan(workload, costs), workload.block, costs, workers)
        span = demand.total / (load * power)
        workload = _stretched(asked, span / asked.jobs[-1].arrival)
    if of_sessions:
        workload = flowing(workload, {job: at for at, job in plan(workload, costs)}, span)
    cold = demand.cold + demand.decode + demand.base
    return Offer(workload, plan(workload, costs), demand, span, load, cold / (span * power))


def _stretched(workload: Workload, factor: float) -> Workload:
    jobs = [dataclasses.replace(job, arrival=job.arrival * factor) for job in workload.jobs]
    return dataclasses.replace(workload, jobs=jobs)


def plan(workload: Workload, costs: Costs) -> Order:
    """When each request would arrive if the engines ran half of the largest batch, and did not queue."""
    batch, context = _batch(workload.all(), costs)
    pace = costs.step(round(batch / 2), round(batch * context / 2))
    due = [(job.arrival, serial, job) for serial, job in enumerate(workload.jobs)]
    heapq.heapify(due)
    order: Order = []
    while due:
        at, serial, job = heapq.heappop(due)
        order.append((at, job))
        if job.then is not None:
            answered = at + costs.prefill(job.prompt, 0) + job.output * pace
            heapq.heappush(due, (answered + job.think, serial, job.then))
    return order


def take(order: Order, block: int, costs: Costs, workers: int) -> Demand:
    """The engine time of requests that come in this order."""
    pool = Pool(block, workers * costs.kv_tokens)
    base = costs.step(0, 0)
    batch, _ = _batch((job for _, job in order), costs)
    prefill = cold = decode = 0.0
    tokens = 0
    for _, job in order:
        cached = pool.take(job)
        prefill += costs.prefill(job.prompt - cached, cached)
        cold += costs.prefill(job.prompt, 0)
        decode += job.output * (costs.step(1, job.prompt + job.output // 2) - base)
        tokens += job.output
    return Demand(prefill, cold, decode, tokens * base / batch)


def _batch(jobs: Iterable[Job], costs: Costs) -> tuple[float, float]:
    """The largest batch that an engine can run of such requests, and how many tokens each has in it on average."""
    weight = tokens = 0.0
    for job in jobs:
        weight += job.output  # the steps that it takes part in
        tokens += job.output * (job.prompt + job.output / 2)
    context = tokens / weight
    return min(float(costs.max_running), max(1.0, costs.kv_tokens / context)), context
