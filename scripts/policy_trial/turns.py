"""The workload of real engines on CPUs: clients that each ask about a long text of their own, again and again. Pure.

The seed's headline shape, prompts that share long prefixes, sized by what llama.cpp keeps: the last prompt of each of
its slots. As many texts as all engines have slots: all of them fit into the engines together, half of them into one
of two. Each client sends its next question when it has its answer, so that the faster router gets more done.
"""

from __future__ import annotations

import itertools
from math import nan

from scripts.policy_trial.stage import Stage
from scripts.simulation.costs import Costs
from scripts.simulation.ideal import Pool
from scripts.simulation.job import Job, Workload
from scripts.simulation.load import Demand, Offer, Order
from scripts.simulation.measure import Window
from scripts.simulation.world import Scene

NAME = "turns"
SLOTS = 4  # of an engine: requests at once, and prompts kept
BLOCK = 8  # tokens
TEXT = 640  # tokens; gemma's window is 512, and of shorter prompts llama.cpp finds nothing again
QUESTION = 24
ANSWER = 8

# Gemma 3 270M on one core of this kind, roughly; only the table's SLO hangs on it.
COSTS = Costs(token=5e-3, pair=0.0, base=0.03, running=0.0, context=0.0, kv_tokens=SLOTS * (TEXT + QUESTION + ANSWER))


def stage(replicas: int, requests: int, seed: int) -> Stage:
    """At least two turns of SLOTS clients for each engine. All requests count, the first ones too."""
    clients = SLOTS * replicas
    ids = itertools.count(seed * 1_000_000)
    turns = max(2, requests // clients)
    workload = Workload(NAME, BLOCK, [_client(ids, turns) for _ in range(clients)])
    order = _order(workload)
    hit = _hit(order, replicas * COSTS.kv_tokens)
    demand = Demand(0.0, 0.0, 0.0, 0.0)
    counted = Window(frozenset(job for _, job in order), nan, hit, _hit(order, None))
    return Stage(Offer(workload, order, demand, 0.0, 1.0, nan), counted, Scene(replicas, COSTS), 1.0)


def _client(ids: itertools.count[int], turns: int) -> Job:
    """Its first question, the others hanging at it."""
    text = tuple(itertools.islice(ids, TEXT // BLOCK))
    following: Job | None = None
    for _ in range(turns):
        blocks = (*text, *itertools.islice(ids, QUESTION // BLOCK))
        following = Job(0.0, blocks, TEXT + QUESTION, ANSWER, blocks, then=following)
    assert following is not None
    return following


def _order(workload: Workload) -> Order:
    """All clients' first questions, then their second ones."""
    jobs = workload.jobs
    order: Order = []
    while jobs:
        order += [(float(len(order)), job) for job in jobs]
        jobs = [job.then for job in jobs if job.then is not None]
    return order


def _hit(order: Order, tokens: int | None) -> float:
    pool = Pool(BLOCK, tokens)
    return sum(pool.take(job) for _, job in order) / sum(job.prompt for _, job in order)
