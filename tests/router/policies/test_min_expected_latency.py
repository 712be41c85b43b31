"""Queue over speed."""

from __future__ import annotations

import pytest

from router.policies.min_expected_latency import MinExpectedLatency
from tests.router.policies.worlds import Router, request, workers


@pytest.mark.parametrize(
    ("loads", "given", "picked"),
    [
        ((4, 3), (None, None), {"w1"}),
        ((4, 3), (2.0, 1.0), {"w0"}),  # 4 / 2 < 3 / 1
        ((4, 2), (2.0, 1.0), {"w0", "w1"}),  # a tie
        ((3, 3, 3), (1.0, 5.0, None), {"w1"}),  # unknown: (1 + 5) / 2
        ((3, 5, 2), (1.0, 5.0, None), {"w2"}),  # 2 / 3 < 5 / 5
        ((1, 1), (0.0, -1.0), {"w0", "w1"}),
    ],
)
def test_the_fewest_in_flight_for_the_speed_is_picked(
    loads: tuple[int, ...], given: tuple[float | None, ...], picked: set[str]
) -> None:
    router = Router(MinExpectedLatency(), *workers(*loads, speeds=given))
    assert {router.send(request()) for _ in range(50)} == picked
