"""Two choices."""

from __future__ import annotations

from collections import Counter

from router.policies.power_of_two import PowerOfTwo
from tests.router.policies.worlds import Router, request, workers


def test_the_busiest_of_all_is_never_picked() -> None:
    """The two drawn are always distinct, so there is always someone less busy beside it."""
    router = Router(PowerOfTwo(), *workers(9, 1, 2))
    assert "w0" not in {router.send(request()) for _ in range(200)}


def test_of_two_workers_the_less_busy_one_is_picked_every_time() -> None:
    router = Router(PowerOfTwo(), *workers(1, 0))
    assert {router.send(request()) for _ in range(50)} == {"w1"}


def test_every_pair_is_drawn() -> None:
    router = Router(PowerOfTwo(), *workers(0, 1, 2, 3))
    picks = Counter(router.send(request()) for _ in range(3000))
    assert set(picks) == {"w0", "w1", "w2"}
    # Of the six pairs w0 wins three, w1 two, w2 one.
    assert abs(picks["w0"] - 1500) < 150
    assert abs(picks["w1"] - 1000) < 150


def test_one_worker_alone_is_picked() -> None:
    assert Router(PowerOfTwo(), *workers(7)).send(request()) == "w0"
