"""The order of turns, and what becomes of those who were not in all rounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from scripts.policy_trial.cell import Result, Run
from scripts.policy_trial.trial import arrange, base, runs
from scripts.simulation import kept
from tests.scripts.policy_trial.runs import CELL, results


def test_another_contestant_begins_each_round():
    turns = runs([CELL], 3, ["a", "b"])
    assert [(run.seed, run.policy) for run in turns] == [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")]


def test_results_are_in_the_order_of_the_rounds_whatever_that_of_the_turns():
    found = [*reversed(results("b", 1.0, 2.0)), *results("a", 3.0, 4.0)]
    arranged = arrange(found, ["a", "b"])[CELL]
    assert list(arranged) == ["a", "b"]
    assert [result.figures["ttft_mean"] for result in arranged["b"]] == [1.0, 2.0]


def test_who_was_not_in_all_rounds_is_left_out():
    assert list(arrange([*results("a", 1.0, 2.0), *results("b", 1.0)], ["a", "b"])[CELL]) == ["a"]


def test_a_turn_that_was_kept_is_not_taken_again(tmp_path: Path):
    path = tmp_path / "runs"
    (made,) = results("a", 1.0)
    kept.complete(Result, [made.run], path, lambda missing: iter([made]), lambda done: None)
    known = kept.load(Result, path)
    assert known == {Run(CELL, 1, "a"): made}
    assert dataclasses.replace(CELL, time_scale=9.0) not in {run.cell for run in known}


def test_all_are_compared_with_the_first_that_was_in_every_cell():
    other = dataclasses.replace(CELL, load=0.9)
    arranged = arrange([*results("a", 1.0), *results("b", 1.0), *results("b", 1.0, cell=other)], ["a", "b"])
    assert base(arranged, ["a", "b"]) == "b"
    assert base(arranged, ["a"]) is None
