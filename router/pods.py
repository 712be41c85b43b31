"""What pods that come, change and go mean for the fleet. Pure.

             ready and not ending    ending (has a deletionTimestamp)    gone
    unknown  join                    -                                   -
    serving  stays                   drain                               drop
    leaving  stays                   stays                               drop

A pod that stops being ready stays: the router probes it itself, and an engine may be too busy to answer a readiness
probe. A pod is its uid: a new one that got the address of an old one is another worker, whose cache is empty.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pod:
    """What matters of a pod. `url` is None until it has an address."""

    uid: str
    name: str
    url: str | None
    ready: bool
    ending: bool


def read(pod: dict[str, Any], port: int) -> Pod:
    """A pod as Kubernetes' API has it: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/

    Raises KeyError when it has no uid or name.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP") or ""
    host = f"[{address}]" if ":" in address else address
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    return Pod(
        metadata["uid"],
        metadata["name"],
        f"http://{host}:{port}" if host else None,
        conditions.get("Ready") == "True",
        bool(metadata.get("deletionTimestamp")) or status.get("phase") in ("Succeeded", "Failed"),
    )


class Do(enum.Enum):
    JOIN = "join"
    DRAIN = "drain"  # no new requests; those under way go on
    DROP = "drop"  # it is not there any more


@dataclass(frozen=True)
class Action:
    do: Do
    pod: Pod  # as it was when it joined


class Pods:
    """The pods that are workers, by what was last heard of them. Its methods return what is to be done, in order."""

    def __init__(self) -> None:
        self._serving: dict[str, Pod] = {}  # by uid
        self._leaving: dict[str, Pod] = {}

    def changed(self, pod: Pod) -> list[Action]:
        """It is as told here; telling it again changes nothing."""
        if pod.uid in self._leaving:
            return []
        if pod.uid in self._serving:
            return self._ends(pod.uid) if pod.ending else []
        return self._joins(pod) if pod.ready and pod.url and not pod.ending else []

    def gone(self, uid: str) -> list[Action]:
        """It has been deleted."""
        known = self._serving.pop(uid, None) or self._leaving.pop(uid, None)
        return [Action(Do.DROP, known)] if known else []

    def listed(self, pods: Iterable[Pod]) -> list[Action]:
        """These are all there are: whatever was missed meanwhile is made good."""
        found = {pod.uid: pod for pod in pods}
        lost = [uid for uid in (*self._serving, *self._leaving) if uid not in found]
        actions = [action for uid in lost for action in self.gone(uid)]
        return actions + [action for pod in found.values() for action in self.changed(pod)]

    def _joins(self, pod: Pod) -> list[Action]:
        before = [each.uid for each in (*self._serving.values(), *self._leaving.values()) if each.url == pod.url]
        actions = [action for uid in before for action in self.gone(uid)]
        self._serving[pod.uid] = pod
        return [*actions, Action(Do.JOIN, pod)]

    def _ends(self, uid: str) -> list[Action]:
        self._leaving[uid] = pod = self._serving.pop(uid)
        return [Action(Do.DRAIN, pod)]
