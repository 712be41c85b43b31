"""What the HTTP handlers of the control plane are given: one object, no module globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from router.config import RouterConfig
    from router.fleet import Fleet
    from router.members import Members
    from router.metrics import Metrics
    from router.policies import Policy


@dataclass
class Parts:
    """Built once by router/app.py; the application carries it under PARTS."""

    config: RouterConfig
    fleet: Fleet
    policy: Policy
    metrics: Metrics
    members: Members
    draining: bool = False  # written by Router.drain(): readiness then answers 503


PARTS: web.AppKey[Parts] = web.AppKey("parts")
