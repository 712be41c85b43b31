"""The fleet in virtual time: what the router's classes are told, what becomes of requests, workers that come and go."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from router.fleet import Worker
from router.policies.base import Stateless
from router.policies.cache_aware import CacheAware
from router.policies.consistent_hash import ConsistentHash
from router.policies.least_requests import LeastRequests
from router.policies.round_robin import RoundRobin
from router.request import RouteRequest
from scripts.simulation.costs import H100_8B
from scripts.simulation.job import Job, Workload
from scripts.simulation.world import Change, Outcome, Scene, World, run, text

BLOCK = 128
COSTS = dataclasses.replace(H100_8B, base=0.01, kv_tokens=20_000, chunk=1024)
names = itertools.count(1)


def job(arrival: float = 0.0, prompt: int = 1000, output: int = 1, known: tuple[int, ...] = ()) -> Job:
    """Its text begins with the blocks of `known`; what follows nobody else has."""
    full = prompt // BLOCK
    held = [*known[:full], *(next(names) for _ in range((prompt + output) // BLOCK - len(known[:full])))]
    rest = [next(names)] if prompt % BLOCK else []
    return Job(arrival, (*held[:full], *rest), prompt, output, tuple(held))


class Watch(RoundRobin):
    """Each worker in its turn; writes down what it is told."""

    def __init__(self, world: World):
        super().__init__()
        self.world = world
        self.told: list[tuple[str, float]] = []
        self.placed: list[Job] = []
        self.usages: list[tuple[int, int | None]] = []
        self.keys: list[int] = []
        self.fleet: list[tuple[int, int, int, int]] = []  # in flight, prefills, uncached and context of all workers

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        assert now == self.world.now
        self.placed.append(self.world.job)
        self.keys.append(len(request.key))
        self.fleet.append(loads(self.world))
        return super().pick(request, candidates, now, rng)

    def done(self, request: RouteRequest, worker: Worker) -> None:
        if request.usage is not None:
            self.usages.append((request.usage.prompt, request.usage.cached))

    def upkeep(self, now: float) -> None:
        self.told.append(("upkeep", now))

    def forget(self, worker: Worker) -> None:
        super().forget(worker)
        self.told.append((f"forget {worker.id}", self.world.now))

    def dispatched(self, job: Job, request: RouteRequest, worker: Worker, now: float) -> None:
        self.told.append((f"dispatched {worker.id}", now))

    def first_token(self, job: Job, worker: Worker, now: float) -> None:
        self.told.append((f"first_token {worker.id}", now))

    def finished(self, job: Job, worker: Worker, now: float) -> None:
        self.told.append((f"finished {worker.id}", now))


def loads(world: World) -> tuple[int, int, int, int]:
    workers = world.fleet.workers.values()
    return (
        sum(worker.inflight for worker in workers),
        sum(worker.prefills for worker in workers),
        sum(worker.prefill_outstanding for worker in workers),
        sum(worker.context for worker in workers),
    )


class Play:
    """A run that is over."""

    def __init__(
        self, *jobs: Job, replicas: int = 2, make: Callable[[World], Any] = Watch, seed: int = 0, **scene: Any
    ):
        def keep(world: World) -> Any:
            self.world, self.policy = world, make(world)
            return self.policy

        scene_ = Scene(replicas, **{"costs": COSTS, "seed": seed, **scene})
        self.outcomes = run(Workload("test", BLOCK, list(jobs)), keep, scene_)

    @property
    def workers(self) -> list[str]:
        return [outcome.worker for outcome in self.outcomes]

    def told(self, what: str) -> list[float]:
        return [at for name, at in self.policy.told if name.startswith(what)]


def begun(outcome: Outcome) -> float:
    assert outcome.first is not None
    return outcome.first


def ended(outcome: Outcome) -> float:
    assert not outcome.failed
    assert outcome.end is not None
    return outcome.end


def ttft(outcome: Outcome) -> float:
    return begun(outcome) - outcome.arrival


# -- requests


def test_a_lone_requests_times_are_the_closed_form():
    for prompt, steps in ((1000, 1), (1024, 1), (3000, 3)):
        outcome = Play(job(5.0, prompt, output=100)).outcomes[0]
        assert ttft(outcome) == pytest.approx(steps * COSTS.base + COSTS.prefill(prompt, 0))
        assert ended(outcome) - begun(outcome) == pytest.approx(COSTS.stretch(99, 1, prompt + 1))


def test_of_an_answer_that_comes_whole_the_router_sees_nothing_before_its_end():
    for streams in (True, False):
        play = Play(job(0.0, 1000, output=50), streams=streams)
        outcome = play.outcomes[0]
        assert begun(outcome) < ended(outcome)
        assert play.told("first") == [begun(outcome) if streams else ended(outcome)]


def test_engines_tell_what_they_hold_and_answers_what_their_prompts_were_where_the_scene_says_so():
    first = job(0.0, 1000)
    again = dataclasses.replace(first, arrival=5.0)
    for told, usage in ((True, False), (False, True)):
        play = Play(first, again, replicas=1, told=told, usage=usage)
        assert play.world.fleet.workers["w0"].kv_tokens == (COSTS.kv_tokens if told else None)
        assert play.policy.usages == ([(1000, 0), (1000, 896)] if usage else [])


def test_the_same_prompt_again_hits_all_but_the_last_block():
    first = job(0.0, 1000)
    again = dataclasses.replace(first, arrival=5.0)
    outcome = Play(first, again, replicas=1).outcomes[1]
    assert outcome.cached == 896  # 7 of 8 blocks
    assert ttft(outcome) == pytest.approx(COSTS.base + COSTS.prefill(104, 896))


def test_every_job_has_one_outcome_in_order_of_arrival_and_is_the_workloads_own():
    jobs = [job(i / 100, 500 + i, output=i % 7 + 1) for i in range(50)]
    play = Play(*jobs)
    assert [outcome.job for outcome in play.outcomes] == jobs
    for outcome in play.outcomes:
        assert outcome.arrival == outcome.sent < begun(outcome) <= ended(outcome)
        assert outcome.attempts == 1


def test_equal_seeds_give_equal_runs():
    def times(seed: int) -> list[float | None]:
        jobs = [job(i / 50, 1000, output=20) for i in range(40)]
        return [outcome.end for outcome in Play(*jobs, make=lambda world: LeastRequests(), seed=seed).outcomes]

    assert times(1) == times(1) != times(2)


def test_the_next_turn_comes_when_the_last_one_is_answered_and_thought_over():
    first = job(1.0, output=10)
    first.think, first.then = 2.5, job(0.0, 1400, known=first.held)
    turns = Play(first, make=lambda world: ConsistentHash()).outcomes
    assert turns[1].arrival == ended(turns[0]) + 2.5
    assert turns[1].cached == 896


def test_a_request_that_no_engine_could_hold_fails_and_its_session_goes_on():
    first = job(1.0, prompt=19_999, output=2)
    first.think, first.then = 2.0, job()
    big, small = Play(first).outcomes
    assert (big.failed, big.first, big.end) == (True, None, None)
    assert (small.failed, small.arrival) == (False, 3.0)


# -- what the router is told


def test_the_texts_of_equal_blocks_are_equal_and_those_of_others_differ_at_once():
    workload = Workload("test", BLOCK)
    one = job(prompt=1000)
    two = job(prompt=700, known=one.held[:3])
    assert len(text(workload, one)) == 4000
    assert text(workload, one) == text(workload, dataclasses.replace(one, arrival=9.0))
    pairs = zip(text(workload, one), text(workload, two), strict=False)
    assert next(i for i, (a, b) in enumerate(pairs) if a != b) == 3 * 512


def test_the_text_has_as_many_bytes_a_token_as_the_workload_says():
    assert len(text(Workload("test", BLOCK, bytes_per_token=3.7), job(prompt=1000))) == 3700


def test_what_a_policy_believes_is_told_in_tokens():
    first = job(0.0, 1000)
    play = Play(first, dataclasses.replace(first, arrival=5.0), make=lambda world: CacheAware(0.5, 32, 1.0001, 2**24))
    assert play.workers[0] == play.workers[1]
    assert [outcome.matched for outcome in play.outcomes] == [0, 1000]


def test_leases_count_the_prefill_then_the_context_and_give_all_back():
    play = Play(job(0.0, 1000, output=300), job(0.01, 600), job(2.5, 100), replicas=1)
    first, second, third = play.policy.fleet
    assert first == (0, 0, 0, 0)
    assert second == (1, 1, 1000, 0)
    inflight, prefills, outstanding, context = third
    assert (inflight, prefills, outstanding) == (1, 0, 0)  # the first one, being decoded
    tokens = (2.5 - begun(play.outcomes[0])) / COSTS.step(1, 1100)
    assert 200 < tokens < 300
    assert tokens - 66 < context - 1000 < tokens + 2
    assert loads(play.world) == (0, 0, 0, 0)


def test_a_lease_counts_what_the_policy_thinks_is_not_cached():
    seen: list[int] = []

    class Look(CacheAware):
        def dispatched(self, job: Job, request: RouteRequest, worker: Worker, now: float) -> None:
            seen.append(worker.prefill_outstanding)

    first = job(0.0, 1000)
    longer = job(5.0, 1100, known=first.held)
    Play(first, longer, replicas=1, make=lambda world: Look(0.5, 32, 1.0001, 2**24))
    assert seen == [1000, 1100 - 896]


def test_a_finished_request_leaves_its_latency_with_its_worker():
    play = Play(job(1.0, output=5), replicas=1)
    assert list(play.world.fleet.workers["w0"].latencies) == [ended(play.outcomes[0]) - 1.0]


def test_a_policy_that_wants_to_know_is_told_each_step_of_a_request():
    play = Play(job(1.0, output=5), replicas=1)
    outcome = play.outcomes[0]
    expected = [("dispatched w0", 1.0), ("first_token w0", outcome.first), ("finished w0", outcome.end)]
    assert play.policy.told[:3] == expected


def test_upkeep_is_called_every_thirty_seconds_while_anything_goes_on():
    play = Play(job(0.0), job(100.0))
    assert play.told("upkeep") == [30.0, 60.0, 90.0, 120.0]


def test_the_job_that_is_being_placed_can_be_seen():
    jobs = [job(0.0), job(1.0), job(2.0)]
    play = Play(*jobs)
    assert play.policy.placed == jobs


def test_a_policy_sees_the_truth_of_the_moment():
    seen: list[int] = []

    class Look(Stateless):
        def __init__(self, world: World):
            self.world = world

        def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
            seen.append(self.world.engines["w0"].cached(self.world.job))
            return candidates[0]

    first = job(0.0, 1000)
    Play(first, dataclasses.replace(first, arrival=0.001), dataclasses.replace(first, arrival=5.0), make=Look)
    assert seen == [0, 0, 896]


# -- a fleet that changes


def test_a_slow_worker_takes_longer():
    play = Play(job(0.0), job(0.0), speeds=(0.5,))
    slow, fast = play.outcomes
    assert (slow.worker, fast.worker) == ("w0", "w1")
    assert ttft(slow) == pytest.approx(2 * ttft(fast))


def test_a_lost_workers_jobs_without_a_token_are_sent_again_and_the_others_fail():
    jobs = [job(0.0, 100, output=500), job(0.0, 100), job(0.5, 5000), job(0.5, 100), job(0.5, 100), job(2.0)]
    play = Play(*jobs, changes=(Change(0.55, 0, "lose"),))
    decoding, _, prefilling, _, queued, later = play.outcomes
    assert (decoding.failed, decoding.end) == (True, None)
    assert begun(decoding) < 0.55
    for outcome in (prefilling, queued):
        assert (outcome.attempts, outcome.worker, outcome.sent, outcome.arrival) == (2, "w1", 0.55, 0.5)
        assert ended(outcome) >= begun(outcome) > 0.55
    assert later.worker == "w1"
    assert play.told("forget w0") == [0.55]
    assert len(play.told("dispatched")) == len(play.told("finished")) == 8
    assert len(play.world.fleet.workers["w0"].latencies) == 0
    assert loads(play.world) == (0, 0, 0, 0)


def test_a_lost_workers_jobs_keep_their_order():
    play = Play(*[job(0.0, 1000) for _ in range(8)], changes=(Change(0.01, 0, "lose"),))
    again = [outcome for outcome in play.outcomes if outcome.attempts == 2]
    assert len(again) == 4
    assert [ttft(outcome) for outcome in again] == sorted(ttft(outcome) for outcome in again)


def test_a_lost_worker_comes_back_cold():
    text = job(0.0, 1000)
    again = [dataclasses.replace(text, arrival=at) for at in (1.0, 5.0, 6.0)]
    changes = (Change(2.0, 0, "lose"), Change(3.0, 0, "join"))
    play = Play(text, *again, replicas=1, changes=changes)
    assert [outcome.cached for outcome in play.outcomes] == [0, 896, 0, 896]
    assert not any(outcome.failed for outcome in play.outcomes)


def test_without_a_worker_a_request_fails_and_its_session_goes_on():
    first = job(1.0)
    first.think, first.then = 2.0, job()
    play = Play(first, replicas=1, changes=(Change(0.5, 0, "lose"), Change(2.0, 0, "join")))
    assert [(o.arrival, o.failed, o.worker) for o in play.outcomes] == [(1.0, True, ""), (3.0, False, "w0")]


def test_the_session_of_a_broken_answer_goes_on():
    first = job(0.0, 100, output=500)
    first.think, first.then = 2.0, job()
    play = Play(first, changes=(Change(1.0, 0, "lose"),))
    assert [(o.arrival, o.failed, o.worker) for o in play.outcomes] == [(0.0, True, "w0"), (3.0, False, "w1")]


def test_a_worker_that_joins_gets_requests_from_then_on_at_its_speed():
    jobs = [job(float(i)) for i in range(6)]
    play = Play(*jobs, replicas=1, speeds=(1.0, 0.5), changes=(Change(1.5, 1, "join"),))
    assert play.workers == ["w0", "w0", "w1", "w0", "w1", "w0"]
    assert ttft(play.outcomes[2]) == pytest.approx(2 * ttft(play.outcomes[0]))


def test_a_worker_that_leaves_ends_what_it_has_and_is_gone_then():
    jobs = [job(0.0, output=300), job(1.0), job(2.0), job(3.0)]
    play = Play(*jobs, changes=(Change(0.5, 0, "leave"),))
    assert play.workers == ["w0", "w1", "w1", "w1"]
    end = ended(play.outcomes[0])
    assert end > 1.0
    assert play.told("forget w0") == [end]
    assert list(play.world.fleet.workers) == ["w1"]


def test_a_worker_that_has_left_cannot_be_lost():
    play = Play(job(1.0), changes=(Change(0.5, 0, "leave"), Change(0.6, 0, "lose")))
    assert play.told("forget w0") == [0.5]


def test_an_idle_worker_that_leaves_is_gone_at_once():
    play = Play(job(1.0), changes=(Change(0.5, 0, "leave"),))
    assert play.told("forget w0") == [0.5]
    assert play.workers == ["w1"]


# -- several routers


def test_each_router_sees_its_own_requests_only_and_they_come_to_any_of_them():
    play = Play(*(job(output=200) for _ in range(40)), routers=2, replicas=2)
    fleets = [router.fleet for router in play.world.routers]
    sent = [sum(worker.requests_total for worker in fleet.workers.values()) for fleet in fleets]
    assert sum(sent) == len(play.outcomes) == 40
    assert min(sent) > 10
    assert all(worker.inflight == 0 for fleet in fleets for worker in fleet.workers.values())


def test_a_router_hears_from_the_engines_what_the_others_have_there():
    told: list[float] = []

    class Listening(Watch):
        def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
            told.append(sum(worker.others_waiting + worker.others_running for worker in candidates))
            return candidates[0]

    first = [job(output=4000) for _ in range(8)]
    Play(*first, *(job(arrival=5.0) for _ in range(8)), routers=2, replicas=1, make=Listening)
    assert told[:8] == [0] * 8
    assert all(1 <= others <= 7 for others in told[8:])


def test_a_session_goes_on_at_any_router_and_the_end_comes():
    first = job()
    first = dataclasses.replace(first, then=job(), think=40.0)  # upkeep and looks between them must not go on for ever
    play = Play(first, routers=4)
    assert [outcome.failed for outcome in play.outcomes] == [False, False]


def test_a_lost_engine_is_lost_for_all_routers():
    jobs = [job(arrival=0.1 * number, output=2000) for number in range(20)]
    play = Play(*jobs, routers=2, replicas=2, changes=(Change(3.0, 0, "lose"),))
    states = [router.fleet.workers["w0"].state.value for router in play.world.routers]
    assert states == ["backoff", "backoff"]
    assert all(outcome.failed or outcome.end is not None for outcome in play.outcomes)
