"""Who takes part, by label: a policy of ours (`least_work`), or of another router (`sglang-router:cache_aware`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from router.policies import POLICIES
from scripts.benchmark import contestants
from scripts.benchmark.contestants import PEERS, Contestant
from scripts.benchmark.program import Program

# Ours, and each peer with the policy that it is known for.
USUAL = ("least_work", "cache_aware", "round_robin", *(f"{peer}:cache_aware" for peer in PEERS))


def wrong(label: str) -> str | None:
    """What is wrong with a label; None: nothing that can be told before it is started."""
    router, found, policy = label.rpartition(":")
    if not found:
        return None if policy in POLICIES else f"{label} is none of {', '.join(POLICIES)}, nor ROUTER:POLICY"
    return None if router in PEERS and policy else f"{label}: give ROUTER:POLICY, ROUTER one of {', '.join(PEERS)}"


def field(
    labels: Sequence[str], program: Program, peers: str | None, folder: Path
) -> tuple[dict[str, Contestant], list[str]]:
    """Those that can be started, by label, and a line on each that cannot."""
    found: dict[str, Contestant] = {}
    notes = []
    for label in labels:
        router, _, policy = label.rpartition(":")
        contestant = contestants.peer(peers, router, policy) if router else contestants.ours(program, folder, policy)
        if contestant is None:
            notes.append(f"{label}: does not take part; {contestants.how_to_install(router)}")
        else:
            found[label] = contestant
    return found, notes
