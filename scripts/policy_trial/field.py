"""Who takes part, by label: a policy of ours (`least_work`), or of another router (`sglang-router:cache_aware`).

`pinned` is no router: the load generator sends each prefix to an engine of its own, by turns. Where prefixes are alike
in size and use, that is the ideal that a router could reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from router.policies import POLICIES
from scripts.benchmark import contestants
from scripts.benchmark.contestants import PEERS, Contestant
from scripts.benchmark.program import Program

PINNED = "pinned"

# Ours, and each peer with the policy that it is known for.
USUAL = ("least_work", "cache_aware", "round_robin", *(f"{peer}:cache_aware" for peer in PEERS))


def wrong(label: str) -> str | None:
    """What is wrong with a label; None: nothing that can be told before it is started."""
    router, found, policy = label.rpartition(":")
    if not found:
        ours = (*POLICIES, PINNED)
        return None if policy in ours else f"{label} is none of {', '.join(ours)}, nor ROUTER:POLICY"
    return None if router in PEERS and policy else f"{label}: give ROUTER:POLICY, ROUTER one of {', '.join(PEERS)}"


def field(
    labels: Sequence[str], program: Program, peers: str | None, folder: Path
) -> tuple[dict[str, Contestant | None], list[str]]:
    """Those that can be started, by label, and a line on each that cannot. None is nobody to be started: PINNED."""
    found: dict[str, Contestant | None] = {}
    notes = []
    for label in labels:
        if label == PINNED:
            found[label] = None
            continue
        router, _, policy = label.rpartition(":")
        contestant = contestants.peer(peers, router, policy) if router else contestants.ours(program, folder, policy)
        if contestant is None:
            notes.append(f"{label}: does not take part; {contestants.how_to_install(router)}")
        else:
            found[label] = contestant
    return found, notes
