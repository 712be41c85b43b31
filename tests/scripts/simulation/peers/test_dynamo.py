"""Dynamo's sum, and the two ways in which it knows of caches."""

from __future__ import annotations

import pytest

from scripts.simulation.job import Job
from scripts.simulation.peers.dynamo import Active
from tests.scripts.simulation.peers.stage import Engine, Stage, job


def told(stage: Stage, *holds: tuple[int, ...]) -> Stage:
    """Have the engines hold these blocks."""
    stage.engines = {worker.id: Engine(blocks) for worker, blocks in zip(stage.workers, holds, strict=True)}
    return stage


def in_flight(stage: Stage, worker: str, job: Job, prefill: int) -> None:
    """Have that worker busy with it."""
    stage.policy._active.setdefault(worker, Active(10)).add(job, prefill)


def test_shared_blocks_of_prompts_in_flight_count_once():
    active = Active(10)
    first, second = job(1, 2, 3), job(1, 2, 4, prompt=25)
    active.add(first, 30)
    assert active.beyond(second) == 5
    active.add(second, 5)
    assert (active.tokens, active.prefill) == (35, 35)
    active.first_token(first)
    active.remove(first)
    assert (active.tokens, active.prefill) == (25, 5)
    active.remove(first)  # twice does no harm
    active.remove(second)
    assert (active.tokens, active.prefill) == (0, 0)


@pytest.mark.parametrize(("context", "picked"), [(29, "w0"), (31, "w1")])
def test_uncached_prefill_and_the_context_in_flight_are_added(context: int, picked: str):
    stage = told(Stage("dynamo_events", 0, 0), (1,), ())
    in_flight(stage, "w0", job(*range(10, 15), prompt=context), prefill=0)
    in_flight(stage, "w1", job(20, 21), prefill=0)
    # w0: (20 - 10) + context + 20; w1: 20 + 20 + 20
    assert stage.send(job(1, 2)) == picked


def test_the_prefill_in_flight_is_added_too():
    for prefill, picked in ((9, "w0"), (11, "w1")):
        stage = told(Stage("dynamo_events", 0, 0), (1,), ())
        in_flight(stage, "w0", job(10, 11), prefill=prefill)
        in_flight(stage, "w1", job(20, 21), prefill=0)
        assert stage.send(job(1, 2)) == picked  # prefill + 10 against 20


def test_prefill_counts_until_the_first_token_and_context_until_the_end():
    stage = Stage("dynamo", 0, 0)
    first, second, third = job(1, 2, 3), job(4), job(5)
    where = stage.send(first)
    other = stage.send(second)
    assert where != other
    assert stage.send(third) == other  # 30 + 30 there, 10 + 10 here
    stage.finish(third)
    stage.finish(second)
    active = stage.policy._active
    assert (active[where].prefill, active[where].tokens) == (30, 30)
    stage.first_token(first)
    assert (active[where].prefill, active[where].tokens) == (0, 30)
    stage.finish(first)
    assert (active[where].prefill, active[where].tokens) == (0, 0)


def test_without_events_the_overlap_is_what_was_sent_within_the_ttl():
    stage = Stage("dynamo", 0, 0)
    stage.answer(job(1, 2))
    stage.now = 120.0
    stage.answer(job(1, 2))
    assert stage.request.matched == 80
    stage.now = 240.0  # sent again at 120
    stage.answer(job(1, 2))
    assert stage.request.matched == 80
    stage.now = 360.1
    stage.answer(job(1, 2))
    assert stage.request.matched == 0


def test_with_events_the_engines_are_believed():
    stage = told(Stage("dynamo_events", 0, 0), (), (1, 2))
    assert stage.send(job(1, 2, 3)) == "w1"
    assert stage.request.matched == 80
    assert stage.policy._active["w1"].prefill == 10
    told(stage, (), ())
    stage.answer(job(1, 2))
    assert stage.request.matched == 0


@pytest.mark.parametrize(("credit", "picked"), [(1.0, "w1"), (3.0, "w0")])
def test_the_credit_weighs_the_overlap(credit: float, picked: str):
    stage = told(Stage("dynamo_events", 0, 0, credit=credit), (1, 2, 3), ())
    in_flight(stage, "w0", job(10, 11, 12), prefill=30)
    # w0: 30 + 40 - 30 and 30 + 40, or no prefill and 70; w1: 40 + 40
    assert stage.send(job(1, 2, 3, 4)) == picked


def test_there_is_never_less_than_no_prefill():
    stage = told(Stage("dynamo_events", 0, 0, credit=3), (1, 2, 3), ())
    in_flight(stage, "w0", job(10, 11, 12, 13, 14), prefill=30)
    assert stage.send(job(1, 2, 3, 4)) == "w1"  # 0 and 50 + 40 against 40 and 40; with 30 + 40 - 90 it would be w0


def test_the_credit_decays_with_the_prefill_that_is_ahead():
    for decay, picked in ((0.0, "w0"), (5.0, "w1")):
        stage = told(Stage("dynamo_events", 0, 0, credit_decay=decay), (1, 2, 3), ())
        in_flight(stage, "w0", job(1, 2), prefill=20)
        # w0: 20 + 40 - 30 and 40, or 20 + 40 - 30 / (1 + 5 * 20 / 40) and 40; w1: 40 + 40
        assert stage.send(job(1, 2, 3, 4)) == picked


def test_the_scale_weighs_prefill_against_decode():
    for scale, picked in ((1.0, "w1"), (4.0, "w0")):
        stage = told(Stage("dynamo_events", 0, 0, prefill_scale=scale), (1, 2), ())
        in_flight(stage, "w0", job(10, 11, 12), prefill=0)
        assert stage.send(job(1, 2)) == picked  # 0 and 30 + 20 against 20 * scale and 20


def test_a_worker_whose_cache_is_gone_is_cold_and_idle():
    stage = Stage("dynamo", 0, 0)
    lost = job(1, 2)
    where = stage.send(lost)
    stage.fleet.forget(stage.fleet.workers[where])
    assert stage.policy._held.size == 0
    assert where not in stage.policy._active
    stage.finish(lost)  # does no harm
