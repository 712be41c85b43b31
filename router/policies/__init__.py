"""The routing policies, by name. Each is a pure class: no I/O, no clock, no logging, its own small state."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from router.config import ConfigError, RouterConfig
from router.fleet import Role, Worker
from router.policies.cache_aware import CacheAware
from router.policies.consistent_hash import ConsistentHash
from router.policies.least_requests import LeastRequests
from router.policies.least_work import LeastWork
from router.policies.min_expected_latency import MinExpectedLatency
from router.policies.min_observed_latency import MinObservedLatency
from router.policies.power_of_two import PowerOfTwo
from router.policies.round_robin import RoundRobin
from router.policies.weighted_random import WeightedRandom
from router.prefix import PrefixIndex
from router.request import RouteRequest


class Policy(Protocol):
    """Chooses a worker for a request."""

    @property
    def index(self) -> PrefixIndex | None:
        """What the policy believes the workers hold; None for a policy that does not look at prompts."""

    def pick(self, request: RouteRequest, candidates: tuple[Worker, ...], now: float, rng: random.Random) -> Worker:
        """Return one of `candidates` (never empty; all of them may be used) and note what it will hold.

        `now` is a monotonic time in seconds. A policy that predicts cache hits sets `request.matched`.
        """

    def answered(self, request: RouteRequest, worker: Worker, now: float) -> None:
        """The first byte of an answer came: the worker has computed the prompt."""

    def done(self, request: RouteRequest, worker: Worker) -> None:
        """The request is over on that worker, however it ended. Called at least once for each pick."""

    def forget(self, worker: Worker) -> None:
        """The worker's cache is gone: it restarted, was flushed, or left."""

    def upkeep(self, now: float) -> None:
        """Called every eviction interval; must return within 5 ms."""


def _cache_aware(config: RouterConfig) -> Policy:
    return CacheAware(
        cache_threshold=config.cache_threshold,
        balance_abs_threshold=config.balance_abs_threshold,
        balance_rel_threshold=config.balance_rel_threshold,
        max_tree_size=config.max_tree_size,
    )


POLICIES: dict[str, Callable[[RouterConfig], Policy]] = {
    "cache_aware": _cache_aware,
    "least_work": lambda config: LeastWork(config.max_tree_size, config.router_replicas > 1),
    "min_expected_latency": lambda config: MinExpectedLatency(),
    "min_observed_latency": lambda config: MinObservedLatency(),
    "random": lambda config: WeightedRandom(),
    "round_robin": lambda config: RoundRobin(),
    "power_of_two": lambda config: PowerOfTwo(),
    "least_requests": lambda config: LeastRequests(),
    "consistent_hash": lambda config: ConsistentHash(),
}


def make(config: RouterConfig, role: Role = Role.REGULAR) -> Policy:
    """The policy that `config` names, for workers of this role. Raises ConfigError when there is none of that name."""
    option, name = "--policy", config.policy
    own = {Role.PREFILL: config.prefill_policy, Role.DECODE: config.decode_policy}.get(role)
    if own is not None:
        option, name = f"--{role.value}-policy", own
    constructor = POLICIES.get(name)
    if constructor is None:
        raise ConfigError(f"{option} is {name!r}: it must be one of {', '.join(POLICIES)}")
    return constructor(config)
