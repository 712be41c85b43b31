"""Consistent hashing with bounded load."""

from __future__ import annotations

from collections import Counter

from router.request import RouteRequest
from tests.scripts.simulation.peers.stage import Stage


def pick(stage: Stage, key: bytes) -> str:
    request = RouteRequest("/v1/completions", key)
    return stage.policy.pick(request, stage.fleet.candidates(None), 0.0, stage.rng).id


def test_the_same_beginning_goes_to_the_same_worker():
    stage = Stage("chwbl", 0, 0, 0, 0)
    assert len({pick(stage, b"s" * 100 + bytes([end])) for end in range(50)}) == 1
    assert len({pick(stage, bytes([first]) + b"s" * 99) for first in range(50)}) == 4


def test_the_beginning_is_as_long_as_the_setting_says():
    stage = Stage("chwbl", 0, 0, 0, 0, beginning=101)
    assert len({pick(stage, b"s" * 100 + bytes([end])) for end in range(50)}) > 1


def test_keys_spread_evenly():
    stage = Stage("chwbl", 0, 0, 0, 0)
    picks = Counter(pick(stage, b"%d" % number) for number in range(2000))
    assert all(400 < count < 600 for count in picks.values())


def test_a_worker_at_its_bound_is_passed_over_for_the_next_on_the_ring():
    stage = Stage("chwbl", 0, 0)
    home = pick(stage, b"key")
    (other,) = {"w0", "w1"} - {home}
    for mine, its, picked in ((12, 8, home), (13, 7, other)):  # 1.25 * 21 / 2 = 13.1
        stage.load(*[mine if worker.id == home else its for worker in stage.workers])
        assert pick(stage, b"key") == picked, (mine, its)


def test_where_nobody_is_below_the_bound_the_first_on_the_ring_is_taken():
    stage = Stage("chwbl", 0, 0, 0, 0)
    home = pick(stage, b"key")
    stage.load(*[int(worker.id == home) for worker in stage.workers])  # 1.25 * 2 / 4 < 1
    assert pick(stage, b"key") == home


def test_a_worker_that_leaves_moves_only_its_own_keys():
    stage = Stage("chwbl", 0, 0, 0, 0)
    before = {key: pick(stage, key) for key in (b"%d" % number for number in range(200))}
    stage.fleet.set_draining(stage.workers[2], True)
    after = {key: pick(stage, key) for key in before}
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "w2"}
