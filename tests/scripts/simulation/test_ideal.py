"""The pooled cache that hit rates are measured against."""

from __future__ import annotations

from scripts.simulation.ideal import Pool
from scripts.simulation.job import Job


def job(*blocks: int, prompt: int | None = None) -> Job:
    return Job(0.0, blocks, prompt or 10 * len(blocks), 10, blocks)


def test_only_a_prefix_without_a_gap_is_a_hit():
    pool = Pool(block=10)
    assert pool.take(job(1, 2, 3, 4)) == 0
    assert pool.take(job(1, 2, 9, 4)) == 20


def test_a_block_that_is_full_in_part_is_no_hit_and_one_token_is_always_computed():
    pool = Pool(block=10)
    pool.take(job(1, 2))
    assert pool.take(job(1, 2, prompt=15)) == 10
    assert pool.take(job(1, 2)) == 19


def test_the_least_recently_used_goes_first_and_a_prefix_outlives_its_end():
    pool = Pool(block=10, tokens=40)
    pool.take(job(1, 2))
    pool.take(job(3, 4))
    pool.take(job(1))  # used again
    pool.take(job(5))  # room for four: 2 goes, then 4
    pool.take(job(6))
    assert pool.take(job(1, 2)) == 10
    pool = Pool(block=10, tokens=40)
    pool.take(job(1, 2, 3))
    pool.take(job(4, 5))
    assert pool.take(job(1, 2, 3)) == 20


def test_an_answer_is_a_hit_in_the_next_turn():
    pool = Pool(block=10)
    pool.take(Job(0.0, (1,), 10, 10, (1, 2)))
    assert pool.take(job(1, 2, 3)) == 20
