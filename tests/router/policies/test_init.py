"""The table of policies."""

from __future__ import annotations

import random

import pytest

from router.config import ConfigError, RouterConfig
from router.fleet import Role
from router.policies import POLICIES, make
from tests.router.policies.worlds import request, workers


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_picks_a_candidate_whatever_the_load(name: str) -> None:
    policy = make(RouterConfig(policy=name))
    rng = random.Random(0)
    fleet = workers(0, 3, 1, 50)
    for size in range(1, len(fleet) + 1):
        for number in range(20):
            asked = request(b"prompt %d" % number, session=f"s{number}")
            assert policy.pick(asked, fleet[:size], float(number), rng) in fleet[:size]
    for worker in fleet:
        policy.forget(worker)
    policy.upkeep(1.0)
    assert policy.index is None or policy.index.size == 0


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--policy is 'fastest': it must be one of cache_aware, .*consistent_hash$"):
        make(RouterConfig(policy="fastest"))


def test_each_role_has_its_own_policy_or_that_of_all() -> None:
    config = RouterConfig(policy="round_robin", pd_disaggregation=True, prefill_policy="cache_aware")
    kinds = [type(make(config, role)).__name__ for role in Role]
    assert kinds == ["RoundRobin", "CacheAware", "RoundRobin"]


def test_an_unknown_policy_of_a_role_is_refused_by_its_option() -> None:
    with pytest.raises(ConfigError, match="--decode-policy is 'fastest'"):
        make(RouterConfig(pd_disaggregation=True, decode_policy="fastest"), Role.DECODE)


def test_without_a_prompt_least_work_takes_the_one_with_the_least_context() -> None:
    policy, rng = make(RouterConfig(policy="least_work")), random.Random(0)
    fleet = workers(1, 1, 1)
    for worker, context in zip(fleet, (500, 20, 900), strict=True):
        worker.context = context
    assert {policy.pick(request(b""), fleet, float(n), rng) for n in range(20)} == {fleet[1]}


@pytest.mark.parametrize("name", ["cache_aware", "consistent_hash"])
def test_without_a_prompt_those_that_look_at_it_take_the_one_with_the_fewest_requests(name: str) -> None:
    policy, rng = make(RouterConfig(policy=name)), random.Random(0)
    fleet = workers(4, 1, 3)
    assert {policy.pick(request(b""), fleet, float(n), rng) for n in range(20)} == {fleet[1]}


def test_only_a_policy_that_looks_at_prompts_has_an_index() -> None:
    assert make(RouterConfig(policy="cache_aware")).index is not None
    assert make(RouterConfig(policy="round_robin")).index is None


def test_cache_aware_takes_its_thresholds_from_the_settings() -> None:
    thresholds = {"cache_threshold": 0.9, "balance_abs_threshold": 2, "balance_rel_threshold": 3.0, "max_tree_size": 77}
    policy = make(RouterConfig(policy="cache_aware", **thresholds))  # type: ignore[arg-type]
    assert policy.index is not None
    assert policy.index.max_size == 77
    rng = random.Random(0)
    one, two = workers(0, 0)
    policy.pick(request(b"a" * 20), (one,), 0.0, rng)
    assert policy.pick(request(b"a" * 20 + b"b" * 5), (one, two), 0.0, rng) is two  # 80 % is no hit
    one.inflight, two.inflight = 4, 1
    assert policy.pick(request(b"a" * 20), (one, two), 0.0, rng) is two  # 4 - 1 > 2 and 4 > 3 * 1
    one.inflight = 3
    assert policy.pick(request(b"c" * 20), (one,), 0.0, rng) is one
    assert policy.pick(request(b"c" * 20), (one, two), 0.0, rng) is one  # 3 is not more than 3 * 1
