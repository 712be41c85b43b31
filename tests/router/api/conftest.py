"""The control plane on a real socket, over a fleet that the test lays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from router import api
from router.config import RouterConfig
from router.fleet import Fleet, State, Worker
from router.members import Members
from router.metrics import Metrics
from router.parts import Parts
from tests.router.world import InOrder


class Control:
    """`parts`, a client that talks to them over HTTP, and the two requests that tests make most."""

    def __init__(self, parts: Parts, client: TestClient):
        self.parts = parts
        self.fleet = parts.fleet
        self.client = client

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send a request; returns the status, and the body as JSON or as text."""
        async with self.client.request(method, path, **options) as response:
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, **options)

    def lay(self, url: str = "http://worker1:30001", **told: Any) -> Worker:
        """Put a ready worker into the fleet; it counts as launched here unless `handle` says otherwise."""
        told.setdefault("handle", object())
        worker = Worker(self.fleet.next_id(), url, lifecycle=State.READY, **told)
        self.fleet.add(worker)
        return worker


@pytest.fixture
async def control() -> AsyncIterator[Callable[..., Awaitable[Control]]]:
    """`await control(api_key="k")`: a control plane with these settings."""
    opened: list[Any] = []

    async def make(**settings: Any) -> Control:
        quick = {"health_check_interval": 0.01, "health_check_timeout": 1.0, "worker_startup_timeout": 10.0}
        config = RouterConfig(**{**quick, **settings})
        fleet, session = Fleet(), aiohttp.ClientSession()
        members = Members(config, fleet, session)
        parts = Parts(config, fleet, InOrder(), Metrics(), members)
        client = TestClient(TestServer(api.build(parts)))
        opened.extend([session, members, client])
        await client.start_server()
        await members.start()
        return Control(parts, client)

    yield make
    for thing in reversed(opened):
        await thing.close()


def message(body: Any) -> str:
    """The text of an OpenAI-shaped error, and nothing but such an error."""
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "code", "param"}
    return body["error"]["message"]
