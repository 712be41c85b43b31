"""Chance in proportion to speed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from router.policies.weighted_random import WeightedRandom
from tests.router.policies.worlds import Router, request, workers


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ((1.0, 3.0), (0.25, 0.75)),
        ((1.0, 3.0, None), (1 / 6, 3 / 6, 2 / 6)),
        ((None, None, None, None), (0.25, 0.25, 0.25, 0.25)),
        ((-1.0, 0.0), (0.5, 0.5)),
    ],
)
def test_shares_follow_the_speeds(given: tuple[float | None, ...], shares: tuple[float, ...]) -> None:
    router = Router(WeightedRandom(), *workers(*[0] * len(given), speeds=given))
    picks = Counter(router.send(request()) for _ in range(4000))
    for number, share in enumerate(shares):
        assert abs(picks[f"w{number}"] / 4000 - share) < 0.03


@pytest.mark.parametrize("given", [(1e308, 1e308), (5e-324, 5e-324), (5e-324, 1e308)])
def test_extreme_speeds_do_no_harm(given: tuple[float, ...]) -> None:
    fleet = workers(0, 0, speeds=given)
    assert WeightedRandom().pick(request(), fleet, 0.0, random.Random(0)) in fleet
