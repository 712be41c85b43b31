"""What is missing for a replica to have a place."""

from __future__ import annotations

import pytest

from launcher.placement import Need, Node, missing, need, room


def node(gpus: int = 0, free: int = 0, cpus: int = 4, free_cpus: int = 4) -> Node:
    return Node("n", gpus, free, cpus, free_cpus)


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([], "needs 2 GPUs on one node; the largest node has 0 GPUs"),
        ([node()], "needs 2 GPUs on one node; the largest node has 0 GPUs"),
        ([node(1, 1), node(1, 1)], "needs 2 GPUs on one node; the largest node has 1 GPU"),
        ([node(2, 1), node(4, 1)], "needs 2 GPUs on one node; the largest free is 1"),
        ([node(8, 0)], "needs 2 GPUs on one node; none is free"),
        ([node(4, 0), node(4, 2)], None),
    ],
)
def test_what_is_missing_is_told_in_words(nodes: list[Node], told: str | None):
    assert missing(Need(gpus=2, cpus=0), nodes) == told


def test_one_gpu_is_called_so():
    assert missing(Need(1, 0), [node(8, 0)]) == "needs 1 GPU on one node; none is free"


def test_without_gpus_a_replica_needs_a_cpu():
    nodes = [node(cpus=2, free_cpus=0), node(cpus=1, free_cpus=0)]
    assert need(1, nodes) == Need(gpus=0, cpus=1)
    assert room(Need(0, 1), nodes) == 3
    assert missing(Need(0, 1), nodes) == "needs 1 CPU on one node; none is free"


def test_gpus_of_different_nodes_make_no_room_for_a_replica():
    nodes = [node(3), node(1), node(4), node()]
    assert need(2, nodes) == Need(gpus=2, cpus=0)
    assert room(Need(2, 0), nodes) == 3
