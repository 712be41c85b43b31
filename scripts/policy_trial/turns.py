"""The workload of real engines on CPUs: questions about a few long texts, each in its turn. Pure.

Prompts that share long prefixes, sized by what llama.cpp keeps: the last prompt of each of its slots. As many texts
as all engines have slots: they fit into the engines together, and half of them into one of two. Each client has texts
of its own and asks about all of them, in random order, and again, as soon as it has an answer: who chooses better gets
more done. No two ask about the same text at once, which would take two slots.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
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
CLIENTS = 2  # for each engine, which leaves it slots to choose from
BLOCK = 8  # tokens
TEXT = 576  # tokens
QUESTION = 24
ANSWER = 8
CONTEXT = 8192  # tokens of an engine's KV cache: more than its slots need

# Gemma 3 270M on one core of this kind, roughly; only the table's SLO hangs on it.
COSTS = Costs(token=5e-3, pair=0.0, base=0.03, running=0.0, context=0.0, kv_tokens=SLOTS * (TEXT + QUESTION + ANSWER))


def stage(replicas: int, requests: int, seed: int) -> Stage:
    """At least two rounds of all texts. All requests count, the first ones too."""
    rounds = max(2, requests // (SLOTS * replicas))
    rng, ids = random.Random(seed), itertools.count(seed * 1_000_000)  # other texts for other seeds
    workload = Workload(NAME, BLOCK, [_client(rng, ids, rounds) for _ in range(CLIENTS * replicas)])
    order = _order(workload)
    hit = _ideal(order)
    counted = Window(frozenset(job for _, job in order), nan, hit, hit)
    offer = Offer(workload, order, Demand(0.0, 0.0, 0.0, 0.0), span=0.0, load=1.0, cold_load=nan)
    return Stage(offer, counted, Scene(replicas, COSTS), time_scale=1.0)


def _client(rng: random.Random, ids: Iterator[int], rounds: int) -> Job:
    """Its first question, the others hanging at it."""
    texts = [tuple(itertools.islice(ids, TEXT // BLOCK)) for _ in range(SLOTS // CLIENTS)]
    asked = [text for _ in range(rounds) for text in rng.sample(texts, len(texts))]
    prompts = [(*text, *itertools.islice(ids, QUESTION // BLOCK)) for text in asked]
    return _chain([Job(0.0, blocks, TEXT + QUESTION, ANSWER, blocks) for blocks in prompts])


def _chain(jobs: list[Job]) -> Job:
    """The first of them, each of the others hanging at the one before."""
    for job, following in itertools.pairwise(jobs):
        job.then = following
    return jobs[0]


def _order(workload: Workload) -> Order:
    """As they would be asked if all answers took as long."""
    jobs = workload.jobs
    order: Order = []
    while jobs:
        order += [(float(len(order)), job) for job in jobs]
        jobs = [job.then for job in jobs if job.then is not None]
    return order


def _ideal(order: Order) -> float:
    """The hit rate if each text is computed once."""
    pool = Pool(BLOCK)
    return sum(pool.take(job) for _, job in order) / sum(job.prompt for _, job in order)
