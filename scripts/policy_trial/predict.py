"""What the simulator says of the same cells and arrivals, for the policies that it knows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.policy_trial.cell import LLAMA_CPP, simulated
from scripts.simulation import grid
from scripts.simulation.contestants import CONTESTANTS

PEERS = {"sglang-router:cache_aware": "sglang_0_3_2", "smg:cache_aware": "smg"}


def known_as(label: str) -> str | None:
    """The policy's name in the simulator."""
    name = PEERS.get(label, label)
    return name if name in CONTESTANTS else None


def predicted(results: Sequence[grid.Result]) -> list[grid.Result]:
    """For each of one contestant's results; none if the simulator does not know it, or its engine."""
    name = known_as(results[0].run.policy)
    if name is None or results[0].run.cell.engine == LLAMA_CPP:
        return []
    return [grid.simulate(grid.Run(simulated(result.run.cell), result.run.seed, name)) for result in results]
