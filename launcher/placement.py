"""What a replica needs of a cluster's nodes, and what is missing, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One living node of a cluster, and what of it nobody has reserved."""

    name: str
    gpus: int
    free_gpus: int
    cpus: int
    free_cpus: int


@dataclass(frozen=True)
class Need:
    """What one replica reserves, all of it on one node: GPUs, or where a cluster has none a CPU."""

    gpus: int
    cpus: int

    def __str__(self) -> str:
        return _count(self.gpus, "GPU") if self.gpus else _count(self.cpus, "CPU")


def need(tp_size: int, nodes: Sequence[Node]) -> Need:
    """What a replica reserves here. A simulated engine reserves GPUs too: it shows what would be placed where."""
    return Need(tp_size, 0) if any(node.gpus for node in nodes) else Need(0, 1)


def room(need: Need, nodes: Sequence[Node]) -> int:
    """How many replicas an empty cluster has room for."""
    return sum(node.gpus // need.gpus if need.gpus else node.cpus // need.cpus for node in nodes)


def missing(need: Need, nodes: Sequence[Node]) -> str | None:
    """Why a replica has no place; None when it could have one, and has only to be given it."""
    kind = "GPU" if need.gpus else "CPU"
    wanted = need.gpus or need.cpus
    sizes = [(node.gpus, node.free_gpus) if need.gpus else (node.cpus, node.free_cpus) for node in nodes]
    largest = max((size for size, _ in sizes), default=0)
    free = max((free for _, free in sizes), default=0)
    if free >= wanted:
        return None
    if largest < wanted:
        return f"needs {need} on one node; the largest node has {_count(largest, kind)}"
    return f"needs {need} on one node; {f'the largest free is {free}' if free else 'none is free'}"


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}" if number == 1 else f"{number} {kind}s"
