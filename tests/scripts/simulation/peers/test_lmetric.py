"""LMetric's product in both readings."""

from __future__ import annotations

from tests.scripts.simulation.peers.stage import Stage, job


def test_the_lowest_product_of_uncached_tokens_and_batch_wins():
    for blocks, picked, matched in (((1, 2, 3, 4), "w0", 120), ((1, 2, 5, 6), "w1", 0), ((1, 7, 8, 9), "w1", 0)):
        stage = Stage("lmetric", 0, 9)
        assert stage.answer(job(1, 2, 3)) == "w0"
        stage.load(1, 0)
        # 10 * 2 < 40 * 1; 20 * 2 = 40 * 1, so the lower load; 30 * 2 > 40 * 1
        assert (stage.send(job(*blocks)), stage.request.matched) == (picked, matched)


def test_of_full_hits_the_less_loaded_wins():
    stage = Stage("lmetric", 0, 5)
    stage.answer(job(1, 2))
    stage.load(5, 0)
    stage.policy._held.send("w1", (1, 2), 0.0)
    assert stage.send(job(1, 2)) == "w1"


def test_queued_tokens_count_in_the_second_reading_only():
    for name, picked in (("lmetric", "w0"), ("lmetric_queue", "w1")):
        stage = Stage(name, 0, 9)
        stage.answer(job(1, 2, 3))
        stage.load(1, 1)
        stage.queue(31, 0)
        assert stage.send(job(1, 2, 3, 4)) == picked  # 10 * 2 < 40 * 2; (31 + 10) * 2 > 40 * 2


def test_the_index_is_as_large_as_the_engines_cache_times_the_setting():
    for capacity, matched in ((1.0, 0), (2.0, 40)):
        stage = Stage("lmetric", 0, capacity=capacity)
        for block in range(9):  # the engine holds 8
            stage.answer(job(block))
        stage.send(job(0))
        assert stage.request.matched == matched


def test_a_worker_whose_cache_is_gone_is_cold():
    stage = Stage("lmetric", 0, 1)
    stage.answer(job(1, 2))
    stage.fleet.forget(stage.workers[0])
    stage.load(1, 0)
    assert stage.send(job(1, 2)) == "w1"
