"""Which pods become workers, and when they stop being so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.pods import Do, Pod, Pods, read

POD = Pod("u1", "w-1", "http://10.0.0.1:8000", ready=True, ending=False)
OTHER = Pod("u2", "w-2", "http://10.0.0.2:8000", ready=True, ending=False)
LOADING = replace(POD, ready=False)
UNBORN = replace(POD, url=None, ready=False)
ENDING = replace(POD, ready=False, ending=True)


def told(actions: list[Any]) -> list[tuple[Do, str]]:
    return [(action.do, action.pod.uid) for action in actions]


def with_pods(*pods: Pod) -> Pods:
    made = Pods()
    made.listed(pods)
    return made


@pytest.mark.parametrize(
    ("before", "now", "actions"),
    [
        ([], POD, [Do.JOIN]),
        ([], LOADING, []),
        ([], UNBORN, []),
        ([], ENDING, []),
        ([LOADING], POD, [Do.JOIN]),
        ([POD], POD, []),
        ([POD], LOADING, []),
        ([POD], ENDING, [Do.DRAIN]),
        ([POD, LOADING], ENDING, [Do.DRAIN]),
    ],
)
def test_a_pod_joins_when_it_is_ready_and_is_drained_when_it_ends(before: list[Pod], now: Pod, actions: list[Do]):
    pods = Pods()
    for pod in before:
        pods.changed(pod)
    assert [action.do for action in pods.changed(now)] == actions


def test_what_is_told_again_changes_nothing():
    pods = with_pods(POD)
    assert pods.changed(POD) == []
    assert told(pods.changed(ENDING)) == [(Do.DRAIN, "u1")]
    assert pods.changed(ENDING) == []
    assert pods.changed(POD) == []
    assert told(pods.gone("u1")) == [(Do.DROP, "u1")]
    assert pods.gone("u1") == []
    assert pods.gone("never seen") == []


def test_a_list_makes_good_what_was_missed():
    pods = with_pods(POD, OTHER)
    third = replace(OTHER, uid="u3", name="w-3", url="http://10.0.0.3:8000")
    assert told(pods.listed([replace(OTHER, ending=True), third])) == [
        (Do.DROP, "u1"),
        (Do.DRAIN, "u2"),
        (Do.JOIN, "u3"),
    ]
    assert told(pods.listed([])) == [(Do.DROP, "u3"), (Do.DROP, "u2")]
    assert pods.listed([]) == []


def test_a_new_pod_with_an_old_ones_address_is_another_worker():
    pods = with_pods(POD)
    heir = replace(POD, uid="u9", name="w-9")
    assert told(pods.changed(heir)) == [(Do.DROP, "u1"), (Do.JOIN, "u9")]
    assert pods.gone("u1") == []


def answer(**parts: Any) -> dict[str, Any]:
    """A pod as the API has it."""
    status = {"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    metadata = {"uid": "u1", "name": "w-1", **parts.get("metadata", {})}
    return {"metadata": metadata, "status": {**status, **parts.get("status", {})}}


@pytest.mark.parametrize(
    ("parts", "pod"),
    [
        ({}, POD),
        ({"status": {"podIP": "fd00::1"}}, replace(POD, url="http://[fd00::1]:8000")),
        ({"status": {"podIP": None, "conditions": None}}, UNBORN),
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, LOADING),
        ({"status": {"conditions": [{"type": "Initialized", "status": "True"}]}}, LOADING),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, replace(POD, ending=True)),
        ({"status": {"phase": "Failed"}}, replace(POD, ending=True)),
    ],
)
def test_a_pod_is_read_as_kubernetes_has_it(parts: dict[str, Any], pod: Pod):
    assert read(answer(**parts), 8000) == pod


def test_a_pod_without_a_status_is_not_there_yet():
    assert read({"metadata": {"uid": "u1", "name": "w-1"}}, 8000) == UNBORN
