"""Observed latencies, and the two traps of them: the herd and the black hole."""

from __future__ import annotations

from collections import Counter

from router.policies.min_observed_latency import MAX_WAIT, MinObservedLatency
from tests.router.policies.worlds import Router, request, workers


def router_with(*latencies: list[float]) -> Router:
    fleet = workers(*[0] * len(latencies))
    for worker, seen in zip(fleet, latencies, strict=True):
        worker.latencies.extend(seen)
    return Router(MinObservedLatency(), *fleet)


def test_the_lowest_mean_is_picked() -> None:
    router = router_with([1.0, 9.0], [2.0, 2.0, 2.0], [3.0])
    assert {router.send(request()) for _ in range(20)} == {"w1"}


def test_equal_means_share_at_random() -> None:
    router = router_with([1.0, 3.0], [2.0], [9.0])
    assert {router.start(request()).worker.id for _ in range(50)} == {"w0", "w1"}


def test_a_worker_that_has_shown_nothing_is_tried_first() -> None:
    assert router_with([0.001], []).send(request()) == "w1"


def test_a_burst_does_not_herd_onto_the_untried() -> None:
    router = router_with([0.5], [2.0], [])
    picks = [router.start(request()).worker.id for _ in range(20)]
    assert picks == ["w2"] + ["w0"] * 19


def test_a_burst_at_the_start_spreads_by_load() -> None:
    router = router_with([], [], [], [])
    assert Counter(router.start(request()).worker.id for _ in range(12)) == {"w0": 3, "w1": 3, "w2": 3, "w3": 3}


def test_a_worker_that_answers_nothing_but_quick_errors_is_no_black_hole() -> None:
    router = router_with([5.0], [])
    picks = []
    for _ in range(1000):
        lease = router.start(request())
        lease.release(5.0, latency=lease.worker.id == "w0")
        picks.append(lease.worker.id)
    tries = [number for number, id in enumerate(picks) if id == "w1"]
    assert tries == [0, 2, 6, 14, 30, 62, 126, 254, 510]


def test_a_failing_worker_is_tried_again_for_ever() -> None:
    router = router_with([5.0], [])
    picks = [router.send(request()) for _ in range(6 * MAX_WAIT)]
    assert "w1" in picks[-MAX_WAIT:]


def test_a_restarted_worker_without_a_sample_is_tried_at_once() -> None:
    router = router_with([5.0], [])
    for _ in range(100):
        router.send(request())
    assert router.send(request()) == "w0"
    router.fleet.forget(router.fleet.workers["w1"])
    assert router.send(request()) == "w1"
