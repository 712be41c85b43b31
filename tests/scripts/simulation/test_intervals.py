"""Bootstrap intervals of few runs."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from scripts.simulation.intervals import Estimate, estimate, relative


def test_the_interval_holds_the_true_mean_in_most_of_the_cases():
    rng = random.Random(1)
    samples = [tuple(rng.gauss(10, 1) for _ in range(5)) for _ in range(100)]
    found = [estimate((sample,)) for sample in samples]
    assert all(e.low is not None and e.high is not None and e.low <= e.value <= e.high for e in found)
    assert 88 <= sum(e.low < 10 < e.high for e in found) <= 99  # type: ignore[operator]


def test_a_single_run_has_no_interval():
    assert estimate(((3.0,),)) == Estimate(3.0)


def test_strata_count_alike_and_do_not_widen_each_others_interval():
    apart = estimate(((1.0, 1.0, 1.0), (9.0, 9.0, 9.0)))
    assert (apart.value, apart.low, apart.high) == (5, 5, 5)
    assert estimate(((1.0,), (9.0, 9.0))).value == 5


def test_more_runs_narrow_the_interval():
    rng = random.Random(1)
    few, many = (tuple(rng.gauss(10, 1) for _ in range(count)) for count in (5, 50))
    widths = [found.high - found.low for found in (estimate((few,)), estimate((many,)))]  # type: ignore[operator]
    assert widths[1] < widths[0] / 2
    assert estimate((many,)).value == pytest.approx(mean(many))


def test_a_difference_is_that_of_pairs():
    pairs = [(1.1, 1.0), (2.2, 2.0), (11.0, 10.0)]  # runs differ far more than policies do
    by = relative([pairs])
    assert by is not None
    assert (by.value, by.low, by.high) == pytest.approx((0.1, 0.1, 0.1))


def test_half_and_double_cancel_out():
    by = relative([[(1.0, 2.0)], [(2.0, 1.0)]])
    assert by is not None
    assert by.value == pytest.approx(0)


@pytest.mark.parametrize("figure", [0.0, float("nan")])
def test_nothing_is_said_of_figures_that_have_no_ratio(figure: float):
    assert relative([[(figure, 1.0), (1.0, 1.0)]]) is None
    assert relative([[(1.0, figure)]]) is None
