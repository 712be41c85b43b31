"""Who takes part: every policy of the router, the peers' rules and the oracles, by name, with their settings. Pure.

A peer's defaults are those of its own documentation; its grid is what is tried when it is tuned. The routers' own
policies are made from a RouterConfig, so their settings are its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

from router.config import RouterConfig
from router.policies import POLICIES, Policy
from scripts.simulation.peers.chwbl import Chwbl
from scripts.simulation.peers.dynamo import Dynamo
from scripts.simulation.peers.llm_d import LlmD
from scripts.simulation.peers.lmetric import LMetric
from scripts.simulation.peers.oracle import Oracle
from scripts.simulation.peers.sglang import Sglang
from scripts.simulation.peers.smg import Smg

if TYPE_CHECKING:
    from scripts.simulation.world import World

Settings = dict[str, float]


@dataclass(frozen=True)
class Contestant:
    """`make(world, settings)` gives a policy; what the settings leave out is as in `defaults`."""

    make: Callable[[World, Settings], Policy]
    defaults: Settings = field(default_factory=dict)
    grid: list[Settings] = field(default_factory=list)  # at most 20, that tuning does not favour who has more knobs


def _peer(kind: Callable[..., Policy], defaults: Settings, **tried: Iterable[float]) -> Contestant:
    return Contestant(lambda world, settings: kind(world, **{**defaults, **settings}), defaults, _grid(defaults, tried))


def _own(name: str, **tried: Iterable[float]) -> Contestant:
    """A policy of the router's: the very class that it runs, made as it makes it."""
    config = RouterConfig()

    def make(world: World, settings: Settings) -> Policy:
        chosen = {key: type(getattr(config, key))(value) for key, value in settings.items()}
        return POLICIES[name](replace(config, policy=name, router_replicas=world.scene.routers, **chosen))

    defaults = {key: getattr(config, key) for key in tried}
    return Contestant(make, defaults, _grid(defaults, tried))


def _grid(defaults: Settings, tried: Mapping[str, Iterable[float]]) -> list[Settings]:
    """The defaults, and every combination of the values; nothing where there is nothing to tune."""
    if not tried:
        return []
    usual = {key: defaults[key] for key in tried}
    combinations = [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
    return [usual, *(settings for settings in combinations if settings != usual)]


_SGLANG_TRIED: dict[str, tuple[float, ...]] = {"threshold": (0.1, 0.3, 0.5), "abs": (4, 16, 64), "rel": (1.0001, 1.5)}
_SGLANG_0_3_2: Settings = {"threshold": 0.3, "abs": 64, "rel": 1.5, "tree": 2**26, "interval": 60, "smallest": 0}
_DYNAMO: Settings = {"credit": 1, "credit_decay": 0, "prefill_scale": 1, "ttl": 120, "events": 0}
_DYNAMO_TRIED: dict[str, tuple[float, ...]] = {
    "credit": (0.75, 1, 1.5),
    "credit_decay": (0, 1),
    "prefill_scale": (0.5, 2, 8),
}
_LMETRIC_TRIED = (0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 32)

# Settings of the router's own policies that are tried when they are tuned.
_OWN_TRIED: dict[str, dict[str, tuple[float, ...]]] = {
    "cache_aware": {
        "cache_threshold": (0.1, 0.3, 0.5),
        "balance_abs_threshold": (4, 16, 64),
        "balance_rel_threshold": (1.0001, 1.5),
    },
}

CONTESTANTS: dict[str, Contestant] = {
    **{name: _own(name, **_OWN_TRIED.get(name, {})) for name in POLICIES},
    "jsq": _own("min_expected_latency"),
    # The defaults of launch_server's documentation for SGLang v0.4, and of the last sglang-router.
    "sglang_seed": _peer(
        Sglang,
        {"threshold": 0.5, "abs": 32, "rel": 1.0001, "tree": 2**24, "interval": 60, "smallest": 1},
        **_SGLANG_TRIED,
    ),
    "sglang_0_3_2": _peer(Sglang, _SGLANG_0_3_2, **_SGLANG_TRIED),
    "smg": _peer(
        Smg,
        {"threshold": 0.3, "abs": 64, "rel": 1.5, "tree": 2**26, "interval": 60},
        threshold=(0.1, 0.3, 0.5),
        abs=(1, 4, 16),
        rel=(1.1, 1.5),
    ),
    "lmetric": _peer(LMetric, {"capacity": 1, "queued": 0}, capacity=_LMETRIC_TRIED),
    "lmetric_queue": _peer(LMetric, {"capacity": 1, "queued": 1}, capacity=_LMETRIC_TRIED),
    "dynamo": _peer(Dynamo, _DYNAMO, **_DYNAMO_TRIED),
    "dynamo_events": _peer(Dynamo, {**_DYNAMO, "events": 1}, **_DYNAMO_TRIED),
    "llm_d": _peer(
        LlmD,
        {"threshold": 0.8, "penalty": 18, "requests": 0, "capacity": 1},
        threshold=(0.2, 0.5, 0.8),
        penalty=(0.5, 2, 18),
        requests=(0, 1),
    ),
    "chwbl": _peer(
        Chwbl,
        {"load_factor": 1.25, "beginning": 100},
        load_factor=(1.1, 1.25, 1.5, 2),
        beginning=(100, 1024, 8192, 32768),
    ),
    "oracle": _peer(Oracle, {"own": 1, "mean": 2, "decoding": 0.1, "context": 0.1}),
    "oracle_simple": _peer(Oracle, {"own": 2, "mean": 0, "decoding": 0.1, "context": 0.1}),
}
