"""Turns."""

from __future__ import annotations

import random
from collections import Counter

from router.fleet import Worker
from router.policies.round_robin import RoundRobin
from tests.router.policies.worlds import Router, request, workers


def test_each_worker_has_its_turn() -> None:
    router = Router(RoundRobin(), *workers(0, 0, 0))
    assert [router.send(request()) for _ in range(6)] == ["w0", "w1", "w2"] * 2


def test_turns_stay_fair_when_the_candidates_change_every_time() -> None:
    policy, rng = RoundRobin(), random.Random(0)
    fleet = workers(0, 0, 0)
    pairs = [(fleet[0], fleet[1]), (fleet[1], fleet[2]), (fleet[0], fleet[2])]
    picks = Counter(policy.pick(request(), pairs[turn % 3], 0.0, rng).id for turn in range(300))
    assert picks == {"w0": 100, "w1": 100, "w2": 100}


def test_a_new_worker_gets_one_turn_at_once_and_no_more_than_the_others_then() -> None:
    router = Router(RoundRobin(), *workers(0, 0))
    for _ in range(10):
        router.send(request())
    router.fleet.add(Worker("w9", "http://10.0.0.9:31000", lifecycle=router.fleet.workers["w0"].lifecycle))
    picks = [router.send(request()) for _ in range(6)]
    assert picks[0] == "w9"
    assert Counter(picks) == {"w0": 2, "w1": 2, "w9": 2}


def test_a_worker_that_left_is_not_remembered() -> None:
    policy = RoundRobin()
    router = Router(policy, *workers(0, 0))
    for _ in range(4):
        router.send(request())
    router.fleet.remove(router.fleet.workers["w0"])
    assert list(policy._last) == ["w1"]
