"""An engine that registers itself as `lmdeploy serve api_server --proxy-url` does: it joins, serves and is probed."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.e2e.fault_worker import FaultWorker

pytestmark = pytest.mark.e2e

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def register(proxy_url: str, port: int) -> int:
    """Send what an api_server sends, before it listens: its address is the wildcard, and it sends no header of its own.

    A user and password in the URL become Basic credentials, as Python's requests makes them.
    """
    told = {"url": f"http://0.0.0.0:{port}", "status": {"models": ["m"], "role": 1}}
    async with aiohttp.ClientSession() as session, session.post(f"{proxy_url}/nodes/add", json=told) as answer:
        return answer.status


async def test_a_node_that_registers_before_it_listens_joins_when_it_does_and_is_probed_from_then_on(start):
    router = await start("router", "--policy", "min_expected_latency", "--health-check-interval", "0.1")
    node = await FaultWorker.start()
    port = node.port
    await node.stop()
    assert await register(router.url, port) == 200
    assert [(w["url"], w["healthy"]) for w in await router.workers()] == [(f"http://127.0.0.1:{port}", False)]
    node = await FaultWorker.start(port)
    await router.ready(1)
    assert (await router.ask("POST", "/v1/chat/completions", json=CHAT))[0] == 200
    probes = len(node.probes)
    await router.until(lambda: len(node.probes) > probes)
    shown = json.loads((await router.ask("GET", "/nodes/status"))[1])
    assert shown[f"http://127.0.0.1:{port}"]["models"] == ["m"]
    await node.stop()
    while (await router.workers())[0]["state"] == "ready":
        await asyncio.sleep(0.02)


async def test_a_node_sends_the_admin_key_in_the_proxys_url(start):
    router = await start("router", ROUTER_ADMIN_API_KEY="sesame")
    node = await FaultWorker.start()
    assert await register(router.url, node.port) == 401
    assert await register(router.url.replace("://", "://node:sesame@"), node.port) == 200
    while (await router.ask("POST", "/v1/chat/completions", json=CHAT))[0] != 200:
        await asyncio.sleep(0.02)
    await node.stop()
