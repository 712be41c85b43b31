"""smg's rule: its gate on the one worker that was picked."""

from __future__ import annotations

from tests.scripts.simulation.peers.stage import Stage, job


def held_by(stage: Stage, *numbers: int) -> None:
    """Have these workers hold blocks 1 and 2."""
    for number in numbers:
        stage.policy._held.send(f"w{number}", (1, 2), 0.0)


def test_the_least_loaded_of_all_holders_gets_a_hit():
    stage = Stage("smg", 0, 0, 0)
    held_by(stage, 0, 1)
    stage.load(5, 4, 0)
    assert stage.answer(job(1, 2, 3)) == "w1"
    assert stage.request.matched == 80


def test_a_miss_goes_to_the_least_loaded():
    stage = Stage("smg", 0, 0, 0)
    held_by(stage, 0)
    stage.load(0, 3, 1)
    assert stage.answer(job(7)) == "w0"
    stage.load(2, 3, 1)
    assert stage.answer(job(1, 2, 3, 4, 5, 6, 7)) == "w2"  # 2 of 7 blocks are no more than 0.3


def test_equals_are_told_apart_at_random():
    stage = Stage("smg", 0, 0, 0)
    assert {stage.answer(job(block)) for block in range(30)} == {"w0", "w1", "w2"}


def test_a_hit_spills_only_if_that_worker_is_above_both_bounds():
    stage = Stage("smg", 0, 0, abs=5, rel=1.5)
    held_by(stage, 0)
    stage.load(30, 10)  # mean 20: above 25, not above 30
    assert stage.answer(job(1, 2)) == "w0"
    stage.load(7, 1)  # mean 4: above 6, not above 9
    assert stage.answer(job(1, 2)) == "w0"
    stage.load(31, 9)  # mean 20: above 25 and above 30
    assert stage.answer(job(1, 2)) == "w1"
    stage.load(9, 0)
    assert stage.answer(job(1, 2)) == "w1"  # it holds the prompt since the spill


def test_imbalance_elsewhere_does_not_end_affinity():
    stage = Stage("smg", 0, 0, 0)
    held_by(stage, 0)
    stage.load(20, 500, 0)
    assert stage.answer(job(1, 2)) == "w0"


def test_the_limit_of_the_tree_is_one_for_all_workers():
    stage = Stage("smg", 0, 0, tree=120, interval=30)  # three blocks
    for number, now in ((0, 1.0), (1, 2.0)):
        stage.policy._held.send(f"w{number}", (1, 2), now)
    stage.policy.upkeep(30.0)
    assert [stage.policy._held.size_of(id) for id in ("w0", "w1")] == [1, 2]
