"""What the policies share."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from router.policies.base import lowest, one_of, speeds
from tests.router.policies.worlds import workers


def test_the_lowest_cost_wins_and_ties_are_shared_evenly() -> None:
    rng = random.Random(0)
    fleet = workers(0, 0, 0, 0)
    assert lowest(fleet, [3, 1, 2, 4], rng) is fleet[1]
    wins = Counter(lowest(fleet, [1, 0, 1, 0], rng).id for _ in range(1000))
    assert set(wins) == {"w1", "w3"}
    assert min(wins.values()) > 400


def test_any_worker_can_be_the_one() -> None:
    rng = random.Random(0)
    assert {one_of(workers(0, 0, 0), rng).id for _ in range(100)} == {"w0", "w1", "w2"}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ((None, None), [1.0, 1.0]),
        ((2.0, 6.0), [2.0, 6.0]),
        ((2.0, None, 6.0), [2.0, 4.0, 6.0]),
        ((0.0, 5.0), [5.0, 5.0]),
        ((-1.0, math.nan, math.inf), [1.0, 1.0, 1.0]),
    ],
)
def test_an_unknown_or_impossible_speed_is_the_mean_of_the_known(
    given: tuple[float | None, ...], used: list[float]
) -> None:
    assert speeds(workers(*[0] * len(given), speeds=given)) == used
