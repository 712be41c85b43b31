"""What the HTTP handlers of the control plane are given: one object, no module globals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

if TYPE_CHECKING:
    from router.config import RouterConfig
    from router.fleet import Fleet
    from router.members import Members
    from router.metrics import Metrics
    from router.policies import Policy


class DeviceUse(NamedTuple):
    """What of a GPU is in use now; None where its driver does not tell."""

    memory_used: int | None  # bytes
    memory_total: int | None  # bytes
    utilisation: float | None  # share of the last moments in which it computed, 0..1


@dataclass
class Parts:
    """Built once by router/app.py; the application carries it under PARTS."""

    config: RouterConfig
    fleet: Fleet
    policy: Policy
    metrics: Metrics
    members: Members
    draining: bool = False  # written by Router.drain(): readiness then answers 503
    # Written by the launcher: what of these devices is in use, by their names in Worker.devices. Takes a while.
    devices: Callable[[Collection[str]], Mapping[str, DeviceUse]] | None = None


PARTS: web.AppKey[Parts] = web.AppKey("parts")
