"""Sessions in full flow."""

from __future__ import annotations

import itertools

import pytest

from scripts.simulation import load
from scripts.simulation.costs import H100_8B as COSTS
from scripts.simulation.job import Job, Workload
from scripts.simulation.sessions import flowing
from scripts.simulation.workloads import generate


def session(arrival: float, shared: int, *own: int) -> tuple[Job, dict[Job, float]]:
    """A turn for each of `own`, 10 s apart; each adds a block to those before it."""
    turns = [
        Job(arrival, (shared, *own[: turn + 1]), 20 + 10 * turn, 10, (shared, *own[: turn + 1]), think=9.0)
        for turn in range(len(own))
    ]
    for job, then in itertools.pairwise(turns):
        job.then = then
    turns[-1].think = 0.0
    return turns[0], {job: arrival + 10 * turn for turn, job in enumerate(turns)}


def made() -> tuple[Workload, dict[Job, float]]:
    early, its = session(5.0, 0, 1, 2)
    late, others = session(90.0, 0, 3, 4, 5, 6)  # at 90, 100, 110 and 120 s
    return Workload("test", 10, [early, late]), its | others


def test_what_would_come_after_the_end_comes_in_the_beginning():
    workload, arrivals = made()
    found = flowing(workload, arrivals, 105.0)
    assert [(job.arrival, job.prompt) for job in found.jobs] == [(5, 20), (5, 40), (90, 20)]
    first, moved, cut = found.jobs
    assert first.then is not None
    assert moved.then is not None
    assert [moved.prompt, moved.then.prompt, moved.then.then] == [40, 50, None]
    assert cut.then is not None
    assert cut.then.then is None
    assert (moved.think, moved.then.think, cut.think, cut.then.think) == (9, 0, 9, 0)


def test_its_own_text_is_another_one_and_shared_text_the_same():
    workload, arrivals = made()
    _, moved, cut = flowing(workload, arrivals, 105.0).jobs
    assert moved.then is not None
    assert cut.then is not None
    assert moved.blocks[0] == cut.blocks[0] == 0
    assert set(moved.blocks[1:]).isdisjoint(range(7))
    assert moved.then.blocks[: len(moved.blocks)] == moved.blocks
    assert moved.held == moved.blocks


def test_the_workload_itself_stays_as_it_was():
    workload, arrivals = made()
    before = [(job.arrival, job.prompt, job.think, job.then) for job in workload.all()]
    flowing(workload, arrivals, 105.0)
    assert [(job.arrival, job.prompt, job.think, job.then) for job in workload.all()] == before


def test_the_load_of_the_first_half_is_that_of_the_second():
    halves = [0, 0]
    for seed in (1, 2, 3, 4):
        offer = load.scale(generate("agents", seed, 3000), 0.7, COSTS, 2, 2.0)
        for at, _ in offer.order:
            halves[at > offer.span / 2] += 1
    assert halves[0] == pytest.approx(halves[1], rel=0.1)


def test_a_session_that_begins_a_rounding_error_after_the_end_begins_then():
    workload, arrivals = made()
    found = flowing(workload, arrivals, 89.99999999999999)
    assert [(job.arrival, job.prompt) for job in found.jobs][-1] == (90, 20)
