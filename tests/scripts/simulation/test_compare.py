"""What the runs say together."""

from __future__ import annotations

from math import inf

import pytest

from scripts.simulation import compare
from scripts.simulation.grid import Cell
from tests.scripts.simulation.runs import result, runs

ONE, TWO = Cell("agents", 8, 0.7), Cell("no_reuse", 8, 0.7)


def test_results_are_arranged_by_cell_and_label_and_seed():
    field = {"jsq": ("jsq", {}), "smg": ("smg", {})}
    shuffled = [result(ONE, "smg", 2), result(TWO, "jsq", 1), result(ONE, "smg", 1)]
    arranged = compare.arrange(shuffled, field)
    assert [found.run.seed for found in arranged[ONE]["smg"]] == [1, 2]
    assert list(arranged[TWO]) == ["jsq"]


def test_a_mean_is_of_the_runs_that_have_the_figure():
    assert compare.average([result(ONE, "jsq", 1, hit=0.2), result(ONE, "jsq", 2, hit=None)], "hit") == 0.2
    assert compare.average([result(ONE, "jsq", 1, hit=None)], "hit") is None


def test_cells_count_alike_in_a_difference():
    made = runs({ONE: {"a": [1.0, 1.0], "b": [2.0, 2.0]}, TWO: {"a": [100.0], "b": [50.0]}})
    by = compare.difference(made, "ttft_mean", "b", "a")
    assert by is not None
    assert by.value == pytest.approx(0)


def test_a_loss_is_a_cell_in_which_another_one_is_better():
    made = runs({ONE: {"ours": [1.0, 1.0, 1.0], "a": [0.9, 0.9, 0.9], "b": [1.1, 1.1, 1.1]}})
    (loss,) = compare.losses(made, "ours")
    assert (loss.policy, loss.figure, loss.sure) == ("a", "ttft_mean", True)


def test_of_goodput_less_is_worse():
    made = runs({ONE: {"ours": [1.0, 1.0], "a": [0.9, 0.9], "b": [1.1, 1.1]}}, "goodput")
    assert [loss.policy for loss in compare.losses(made, "ours")] == ["b"]


def test_hardly_anything_is_no_loss():
    made = runs({ONE: {"ours": [1.0, 1.0], "a": [0.9999, 0.9999]}})
    assert compare.losses(made, "ours") == []


def test_a_loss_whose_interval_holds_0_is_not_sure_and_comes_last():
    unsure = [0.7, 1.3, 0.5, 1.2, 0.9]
    made = runs({ONE: {"ours": [1.0] * 5, "a": unsure, "b": [0.99] * 5}})
    assert [(loss.policy, loss.sure) for loss in compare.losses(made, "ours")] == [("b", True), ("a", False)]


def test_to_lose_to_an_oracle_is_no_loss():
    made = runs({ONE: {"ours": [1.0, 1.0], "oracle": [0.5, 0.5], "oracle_simple": [0.5, 0.5]}})
    assert compare.losses(made, "ours") == []


def test_several_workloads_are_shown_apart_too():
    assert list(compare.groups(runs({ONE: {"a": [1.0]}, TWO: {"a": [1.0]}}))) == [compare.ALL, "agents", "no_reuse"]
    assert list(compare.groups(runs({ONE: {"a": [1.0]}}))) == [compare.ALL]


def test_a_sweep_is_of_cells_that_differ_in_load_only():
    high, slow = Cell("agents", 8, 0.9), Cell("agents", 8, 0.9, scene="slow")
    sweeps = compare.sweeps(runs({high: {"a": [1.0]}, slow: {"a": [1.0]}, ONE: {"a": [1.0]}}))
    assert [list(sweep) for sweep in sweeps] == [[ONE, high], [slow]]


@pytest.mark.parametrize(("share", "limit"), [(0.9, 0.7), (0.85, 0.75), (0.99, 0.0), (0.5, inf)])
def test_the_limit_lies_between_the_loads(share: float, limit: float):
    loads = {0.5: 0.95, 0.7: 0.9, 0.8: 0.8}
    (sweep,) = compare.sweeps(runs({Cell("agents", 8, load): {"a": [good]} for load, good in loads.items()}, "slo"))
    assert compare.limit(sweep, "a", share) == pytest.approx(limit)
