"""Fewest in flight."""

from __future__ import annotations

from router.policies.least_requests import LeastRequests
from tests.router.policies.worlds import Router, request, workers


def test_the_worker_with_the_fewest_requests_is_picked() -> None:
    router = Router(LeastRequests(), *workers(3, 1, 2))
    assert [router.start(request()).worker.id for _ in range(3)] in (["w1", "w1", "w2"], ["w1", "w2", "w1"])
    assert [worker.inflight for worker in router.fleet.workers.values()] == [3, 3, 3]


def test_ties_are_random() -> None:
    router = Router(LeastRequests(), *workers(0, 0, 5))
    assert {router.send(request()) for _ in range(50)} == {"w0", "w1"}
