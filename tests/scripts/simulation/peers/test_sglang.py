"""SGLang's rule in both releases, on prompts of blocks of 10 tokens (40 characters)."""

from __future__ import annotations

import pytest

from tests.scripts.simulation.peers.stage import Stage, job

BOTH = pytest.mark.parametrize("name", ["sglang_seed", "sglang_0_3_2"])


@BOTH
def test_a_hit_goes_to_the_holder_however_busy_it_is(name: str):
    stage = Stage(name, 0, 0, 0)
    assert stage.answer(job(1, 2)) == "w0"
    stage.load(30, 0, 1)
    assert stage.send(job(1, 2, 3)) == "w0"
    assert stage.request.matched == 80


def test_the_match_rate_must_be_above_the_threshold():
    stage = Stage("sglang_seed", 0, 0)
    assert stage.answer(job(1, 2)) == "w0"
    assert stage.answer(job(1, 2, 3, 4)) == "w1"  # 0.5 is not above 0.5: the smallest tree
    newer = Stage("sglang_0_3_2", 0, 0)
    assert newer.answer(job(1, 2)) == "w0"
    newer.load(9, 0)
    assert newer.answer(job(1, 2, 3, 4)) == "w0"  # 0.5 is above 0.3


def test_a_partial_last_block_counts_as_far_as_it_goes():
    stage = Stage("sglang_seed", 0, 0)
    short = job(1, 2, prompt=11)
    stage.answer(short)
    assert (stage.answer(short), stage.request.matched) == ("w0", 44)


def test_a_miss_goes_to_the_smallest_tree_in_the_older_release():
    stage = Stage("sglang_seed", 0, 0)
    assert [stage.answer(job(1, 2, 3)), stage.answer(job(4))] == ["w0", "w1"]
    stage.load(0, 9)
    assert stage.answer(job(5)) == "w1"


def test_a_miss_goes_to_the_fewest_requests_in_the_newer_release_and_to_the_first_of_equals():
    stage = Stage("sglang_0_3_2", 0, 0)
    assert [stage.answer(job(block, block + 1)) for block in (1, 3, 5)] == ["w0"] * 3
    stage.load(1, 0)
    assert stage.answer(job(7)) == "w1"


@BOTH
def test_of_several_holders_the_one_that_got_the_text_first_is_taken(name: str):
    stage = Stage(name, 0, 0, abs=0, rel=1)
    assert stage.answer(job(1, 2)) == "w0"
    stage.load(1, 0)
    assert stage.answer(job(1, 2)) == "w1"  # out of balance
    stage.load(0, 0)
    assert stage.answer(job(1, 2)) == "w0"


@pytest.mark.parametrize(("name", "low", "high"), [("sglang_seed", 5, 37), ("sglang_0_3_2", 200, 264)])
def test_out_of_balance_everything_goes_to_the_fewest_requests(name: str, low: int, high: int):
    stage = Stage(name, 0, 0, 0)
    holder = stage.answer(job(1, 2))
    others = [worker.id for worker in stage.workers if worker.id != holder]

    def loads(most: int) -> list[int]:
        return [{holder: most, others[0]: low + 1, others[1]: low}[worker.id] for worker in stage.workers]

    stage.load(*loads(high))  # a difference of exactly the absolute threshold
    assert stage.answer(job(1, 2)) == holder
    stage.load(*loads(high + 1))
    far_apart = high + 1 > (1.5 if name == "sglang_0_3_2" else 1.0001) * low
    assert stage.answer(job(1, 2)) == (others[1] if far_apart else holder)


def test_what_is_sent_while_out_of_balance_is_remembered():
    stage = Stage("sglang_seed", 40, 0)
    assert stage.answer(job(1, 2)) == "w1"
    stage.load(0, 0)
    assert stage.answer(job(1, 2, 3)) == "w1"


def test_each_workers_tree_is_trimmed_only_when_the_interval_is_over():
    stage = Stage("sglang_seed", 0, tree=80, interval=60)  # two blocks
    for blocks in ((1, 2), (3, 4)):
        stage.answer(job(*blocks))
    stage.policy.upkeep(59.0)
    stage.send(job(1, 2))
    assert stage.request.matched == 80
    stage.policy.upkeep(60.0)
    stage.send(job(3, 4))
    assert stage.request.matched == 0


@BOTH
def test_a_worker_whose_cache_is_gone_is_no_holder(name: str):
    stage = Stage(name, 0, 0)
    holder = stage.answer(job(1, 2))
    stage.fleet.forget(stage.fleet.workers[holder])
    stage.send(job(1, 2))
    assert stage.request.matched == 0


def test_a_holder_that_is_no_candidate_is_passed_over():
    stage = Stage("sglang_0_3_2", 0, 0)
    assert stage.answer(job(1, 2)) == "w0"
    stage.fleet.set_draining(stage.workers[0], True)
    assert stage.answer(job(1, 2)) == "w1"
