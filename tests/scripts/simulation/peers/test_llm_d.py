"""llm-d's filter and score. One chunk of 100 tokens takes 2 s here: a peak of 50 tokens/s."""

from __future__ import annotations

from tests.scripts.simulation.peers.stage import Stage, job


def stage(**settings: float) -> Stage:
    """Worker 0 holds blocks 1 to 4."""
    made = Stage("llm_d", 0, 0, 0, **settings)
    made.policy._held.send("w0", (1, 2, 3, 4), 0.0)
    return made


def test_a_worker_that_holds_four_fifths_is_kept_to():
    here = stage()
    here.queue(100, 0, 0)
    assert here.send(job(1, 2, 3, 4, 5)) == "w0"
    assert here.request.matched == 160


def test_below_the_threshold_the_least_token_load_wins():
    for ahead, picked in ((39, "w0"), (41, "w1")):  # ahead + 20 against 60
        here = stage()
        here.queue(ahead, 0, 100)
        assert here.send(job(1, 2, 3, 4, 5, 6)) == picked


def test_affinity_ends_when_it_costs_more_than_the_penalty():
    here = stage(penalty=2)
    here.queue(130, 30, 60)
    assert here.send(job(1, 2, 3, 4)) == "w0"  # 100 tokens ahead: 2 s
    here.queue(131, 30, 60)
    assert here.send(job(1, 2, 3, 4)) == "w1"  # 131 > 30 + 40


def test_without_a_penalty_it_never_ends():
    here = stage(penalty=0)
    here.queue(10_000, 0, 0)
    assert here.send(job(1, 2, 3, 4)) == "w0"


def test_the_least_loaded_of_several_that_hold_it_wins():
    here = stage()
    here.policy._held.send("w2", (1, 2, 3, 4), 0.0)
    here.queue(50, 0, 20)
    assert here.send(job(1, 2, 3, 4)) == "w2"


def test_scored_by_requests_the_fewest_wins_among_those_left():
    here = stage(requests=1)
    here.policy._held.send("w2", (1, 2, 3, 4), 0.0)
    here.load(4, 0, 3)
    here.queue(0, 0, 50)
    assert here.send(job(1, 2, 3, 4)) == "w2"
    assert here.send(job(7, 8)) == "w1"


def test_load_is_given_back_at_the_first_token():
    here = stage()
    first = job(*range(10, 30))
    assert here.send(first) in {"w0", "w1", "w2"}
    worker = here.leases[first].worker
    assert worker.prefill_outstanding == 200
    here.first_token(first)
    assert worker.prefill_outstanding == 0


def test_a_worker_whose_cache_is_gone_is_not_kept_to():
    here = stage()
    here.fleet.forget(here.workers[0])
    here.queue(1, 0, 1)
    assert here.send(job(1, 2, 3, 4)) == "w1"


def test_equal_loads_are_told_apart_at_random():
    here = Stage("llm_d", 0, 0)
    assert {here.answer(job(block)) for block in range(30)} == {"w0", "w1"}


def test_the_index_holds_what_an_engine_holds():
    here = Stage("llm_d", 0)
    for block in range(9):  # the engine holds 8
        here.answer(job(block))
    here.send(job(0))
    assert here.request.matched == 0
