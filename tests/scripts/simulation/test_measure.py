"""Figures from outcomes."""

from __future__ import annotations

import math

import pytest

from scripts.simulation import measure
from scripts.simulation.costs import H100_8B as COSTS
from scripts.simulation.job import Job, Workload
from scripts.simulation.load import Demand, Offer
from scripts.simulation.measure import Window, figures, quantile, window
from scripts.simulation.world import Change, Outcome, Scene

SCENE = Scene(2, COSTS, seed=1)


def job(number: int, prompt: int = 1000, output: int = 11) -> Job:
    blocks = tuple(range(100 * number, 100 * number + prompt // 10))
    return Job(float(number), blocks, prompt, output, blocks)


def outcome(of: Job, ttft: float = 0.5, tpot: float = 0.01, worker: str = "w0", cached: int = 0) -> Outcome:
    first = of.arrival + ttft
    end = first + tpot * (of.output - 1)
    return Outcome(of, of.arrival, of.arrival, worker, first, end, cached, cached, 1, False)


def lost(of: Job) -> Outcome:
    return Outcome(of, of.arrival, of.arrival, "w0", None, None, 0, 0, 2, True)


def told(outcomes: list[Outcome], scene: Scene = SCENE) -> dict[str, float]:
    return figures(outcomes, Window(frozenset(o.job for o in outcomes), 10.0, 0.5, 0.8), scene)


def test_times_are_counted_from_the_arrival():
    found = told([outcome(job(1), ttft=1.0), outcome(job(2), ttft=3.0, tpot=0.03)])
    assert found["ttft_mean"] == pytest.approx(2)
    assert found["ttft_p50"] == pytest.approx(2)
    assert found["ttft_p99"] == pytest.approx(2.98)
    assert found["tpot_mean"] == pytest.approx(0.02)
    assert found["e2e_mean"] == pytest.approx(2.2)


def test_hits_are_shares_of_all_prompt_tokens_and_of_what_was_to_be_had():
    found = told([outcome(job(1), cached=900), outcome(job(2, prompt=3000), cached=100)])
    assert found["hit"] == pytest.approx(0.25)
    assert found["of_lru"] == pytest.approx(0.5)
    assert found["of_infinite"] == pytest.approx(0.25 / 0.8)


def test_a_request_that_does_not_count_does_not_count():
    early, counted = outcome(job(1), ttft=9.0), outcome(job(2), ttft=1.0)
    found = figures([early, counted], Window(frozenset({counted.job}), 10.0, 1.0, 1.0), SCENE)
    assert (found["ttft_mean"], found["requests"]) == (pytest.approx(1), 1)


@pytest.mark.parametrize(
    ("ttft", "tpot", "kept"), [(2.06, 0.05, True), (2.07, 0.01, False), (0.1, 0.051, False), (0.1, 0.0, True)]
)
def test_the_objective_is_2_s_and_twice_the_own_cold_prefill_and_50_ms_a_token(ttft: float, tpot: float, kept: bool):
    assert 2 * COSTS.prefill(1000, 0) == pytest.approx(0.064, abs=0.001)
    assert measure.within(outcome(job(1), ttft, tpot - 1e-9), COSTS) is kept
    good = told([outcome(job(1), ttft, tpot - 1e-9), outcome(job(2))])
    assert good["slo"] == (1.0 if kept else 0.5)
    assert good["goodput"] == pytest.approx(0.2 if kept else 0.1)


def test_an_answer_of_one_token_has_no_pace():
    found = told([outcome(job(1, output=1))])
    assert math.isnan(found["tpot_mean"])
    assert found["slo"] == 1


def test_a_lost_request_failed_and_missed_the_objective():
    found = told([outcome(job(1)), lost(job(2))])
    assert (found["failed"], found["slo"]) == (1, 0.5)
    assert found["ttft_mean"] == pytest.approx(0.5)


def test_a_request_without_an_outcome_has_failed():
    found = figures([lost(job(1))], Window(frozenset({job(2), job(3)}), 10.0, 1.0, 1.0), SCENE)
    assert (found["failed"], found["requests"], found["slo"]) == (2, 2, 0)


def test_imbalance_is_that_of_the_prompts_computed():
    even = [outcome(job(1), worker="w0"), outcome(job(2), worker="w1")]
    assert told(even)["imbalance"] == pytest.approx(1)
    assert told([outcome(job(1)), outcome(job(2))])["imbalance"] == pytest.approx(2)
    assert told([outcome(job(1)), outcome(job(2), worker="w1", cached=999)])["imbalance"] > 1.9


def test_a_slow_worker_is_as_busy_with_half_of_the_work():
    slow = Scene(2, COSTS, (0.5,), (), 1)
    even = [outcome(job(1, 1000), worker="w0"), outcome(job(2, 1000), worker="w1"), outcome(job(3, 1000), worker="w1")]
    assert told(even, slow)["imbalance"] == pytest.approx(1)


def test_imbalance_counts_the_workers_that_are_there_in_the_end():
    gone = Scene(3, COSTS, (), (Change(1.0, 2, "lose"),), 1)
    assert told([outcome(job(1), worker="w0"), outcome(job(2), worker="w1")], gone)["imbalance"] == pytest.approx(1)


def test_a_quantile_lies_between_the_nearest_values():
    assert [quantile([1.0, 2.0, 4.0], share) for share in (0, 0.25, 0.5, 0.75, 1)] == [1, 1.5, 2, 3, 4]
    assert math.isnan(quantile([], 0.5))


def offer(*jobs: Job, span: float) -> Offer:
    order = [(one.arrival, one) for one in jobs]
    return Offer(Workload("test", 10, list(jobs)), order, Demand(1, 1, 1, 1), span, 0.7, 0.9)


def counted_after(room: int) -> list[float]:
    """Arrivals that count when the fleet's caches hold `room` tokens, of 20 requests of 1,011 new ones each."""
    small = Scene(1, COSTS.__class__(1e-5, 0.0, 1e-3, 0.0, 0.0, kv_tokens=room)).costs
    jobs = [job(number) for number in range(1, 21)]
    return sorted(one.arrival for one in window(offer(*jobs, span=20.0), small, 1).jobs)


def test_the_warm_up_ends_when_the_caches_are_full():
    assert counted_after(room=5 * 1011)[0] == 5


def test_the_warm_up_is_at_least_a_tenth_and_at_most_a_third():
    assert counted_after(room=10)[0] == 2
    assert counted_after(room=10**6)[0] == 7


def test_what_comes_after_the_last_session_began_does_not_count():
    jobs = [job(number) for number in range(1, 10)]
    found = window(offer(*jobs, span=8.0), COSTS, 1, begin=4.0)
    assert sorted(one.arrival for one in found.jobs) == [4, 5, 6, 7, 8]
    assert found.seconds == 4


def test_the_ideal_is_that_of_the_requests_that_count():
    one = job(1)
    jobs = [one, job(2), Job(3.0, one.blocks, 1000, 11, one.held)]
    found = window(offer(*jobs, span=3.0), COSTS, 1, begin=1.5)
    assert found.lru == found.infinite == pytest.approx(0.4995)
