"""Who takes part."""

from __future__ import annotations

import pytest

from router.policies import POLICIES
from router.policies.cache_aware import CacheAware
from router.policies.min_expected_latency import MinExpectedLatency
from scripts.simulation.contestants import CONTESTANTS
from tests.scripts.simulation.peers.stage import Stage, job

PEERS = {
    "sglang_seed", "sglang_0_3_2", "smg", "lmetric", "lmetric_queue", "dynamo", "dynamo_events", "llm_d", "chwbl",
    "oracle", "oracle_simple", "jsq",
}  # fmt: skip


def test_every_policy_of_the_router_and_every_peer_takes_part():
    assert set(CONTESTANTS) == set(POLICIES) | PEERS


@pytest.mark.parametrize("name", CONTESTANTS)
def test_each_places_requests_with_its_defaults_and_with_every_setting_of_its_grid(name: str):
    for settings in [{}, CONTESTANTS[name].defaults, *CONTESTANTS[name].grid]:
        stage = Stage(name, 0, 0, 0, **{key: float(value) for key, value in settings.items()})
        assert stage.send(job(1, 2, 3)) in stage.fleet.workers
        stage.policy.upkeep(30.0)


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_grid_is_small_holds_the_defaults_and_nothing_twice(name: str):
    contestant = CONTESTANTS[name]
    found = [tuple(sorted(settings.items())) for settings in contestant.grid]
    assert len(found) == len(set(found)) <= 20
    if found:
        assert contestant.grid[0].items() <= contestant.defaults.items()


def test_the_routers_own_classes_are_used():
    assert isinstance(Stage("jsq", 0).policy, MinExpectedLatency)
    own = Stage("cache_aware", 0, cache_threshold=0.25, balance_abs_threshold=4.0).policy
    assert isinstance(own, CacheAware)
    assert (own._threshold, own._abs, own._rel) == (0.25, 4, 1.0001)
    assert isinstance(own._abs, int)


def test_a_peers_grid_changes_its_policy():
    policy = Stage("smg", 0, **CONTESTANTS["smg"].grid[1]).policy
    assert (policy._threshold, policy._abs, policy._rel) == (0.1, 1, 1.1)
