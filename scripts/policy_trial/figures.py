"""What a turn has shown: the simulator's figures, from the outcomes, and what only real processes have. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.policy_trial.counters import Counters
from scripts.policy_trial.player import Played
from scripts.policy_trial.stage import Stage
from scripts.simulation import measure


def figures(stage: Stage, played: Played, engines: Sequence[Counters], speeds: Sequence[float]) -> dict[str, float]:
    """Times in engine seconds, but `late` (real ones). `engines`: what each has counted meanwhile."""
    counted = stage.counted
    return {
        **measure.figures(played.outcomes, counted, stage.scene),
        "imbalance": imbalance(engines, speeds),
        "engines_hit": sum(e.cached for e in engines) / max(1.0, sum(e.prompts for e in engines)),
        "rate": rate(played),
        "late_p99": measure.quantile(sorted(played.late), 0.99),
        "load": stage.offer.load,
        "cold_load": stage.offer.cold_load,
        "lru": counted.lru,
        "infinite": counted.infinite,
    }


def imbalance(engines: Sequence[Counters], speeds: Sequence[float]) -> float:
    """Prompt tokens that the busiest engine computed, by the mean; those of a slow one take as much longer."""
    busy = [(engine.prompts - engine.cached) / speed for engine, speed in zip(engines, speeds, strict=True)]
    return max(busy) * len(busy) / sum(busy) if any(busy) else 1.0


def rate(played: Played) -> float:
    """Requests per engine second, from the first one's arrival to the last answer's end."""
    ends = [outcome.end for outcome in played.outcomes if outcome.end is not None and not outcome.failed]
    began = min((outcome.arrival for outcome in played.outcomes), default=0.0)
    return len(ends) / (max(ends) - began) if ends else 0.0
