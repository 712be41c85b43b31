"""What load means."""

from __future__ import annotations

import dataclasses

import pytest

from scripts.simulation import load
from scripts.simulation.costs import H100_8B as COSTS
from scripts.simulation.job import Job, Workload
from scripts.simulation.workloads import generate


def workload(*jobs: Job) -> Workload:
    return Workload("test", 10, list(jobs))


def fresh(arrival: float, number: int, then: Job | None = None, think: float = 0.0) -> Job:
    """1,000 tokens that nobody else has."""
    blocks = tuple(range(100 * number, 100 * number + 100))
    return Job(arrival, blocks, 1000, 50, blocks, think, then)


def test_the_demand_is_prefill_and_decode_and_a_share_of_the_steps():
    again = dataclasses.replace(fresh(2.0, 1))
    demand = load.take([(1.0, fresh(1.0, 1)), (2.0, again)], 10, COSTS, 1)
    assert demand.prefill == pytest.approx(COSTS.prefill(1000, 0) + COSTS.prefill(1, 999))
    assert demand.cold == pytest.approx(2 * COSTS.prefill(1000, 0))
    assert demand.decode == pytest.approx(2 * 50 * (COSTS.running + 1025 * COSTS.context))
    assert demand.base == pytest.approx(2 * 50 * COSTS.base / COSTS.max_running)


def test_a_batch_is_no_larger_than_the_cache_has_room_for():
    small = dataclasses.replace(COSTS, kv_tokens=4100)
    demand = load.take([(1.0, fresh(1.0, 1))], 10, small, 1)
    assert demand.base == pytest.approx(50 * COSTS.base / 4)


@pytest.mark.parametrize("power", [1.0, 3.5])
def test_arrivals_are_stretched_until_they_take_the_share_of_the_engines_time(power: float):
    asked = workload(*(fresh(float(number), number) for number in range(1, 9)))
    offer = load.scale(asked, 0.5, COSTS, 4, power)
    assert offer.demand.total / offer.span == pytest.approx(0.5 * power)
    arrivals = [job.arrival for job in offer.workload.jobs]
    assert arrivals == pytest.approx([offer.span * number / 8 for number in range(1, 9)])
    assert [job.arrival for job in asked.jobs] == list(range(1, 9))
    assert [job for _, job in offer.order] == offer.workload.jobs
    assert offer.cold_load == pytest.approx(0.5)


def test_what_is_cached_leaves_time_for_more_requests():
    reuse = generate("shared_prefix", 1, 500)
    offer = load.scale(reuse, 0.7, COSTS, 2, 2.0)
    assert offer.cold_load > 1.2


def test_the_turns_of_a_session_follow_its_answers_and_think_times_are_kept():
    asked = workload(fresh(1.0, 1, fresh(0.0, 3), think=30.0), fresh(2.0, 2))
    offer = load.scale(asked, 0.001, COSTS, 1, 1.0)
    assert offer.span > 80
    (_, first), (at, second), (_, third) = offer.order
    assert [first, third] == offer.workload.jobs
    assert second is first.then
    assert first.arrival + 30 < at < first.arrival + 33
