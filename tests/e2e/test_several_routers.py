"""Two `router` commands over the same workers: they place alike, and each minds what the other has there."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.commands import Command
from tests.e2e.fault_worker import FaultWorker, Status

pytestmark = pytest.mark.e2e

COMMON = "the same long beginning of many prompts " * 100


def told(running: int) -> Status:
    return Status(200, body=b"vllm:num_requests_running %d\nvllm:num_requests_waiting 0\n" % running)


@pytest.fixture
async def pair(start):
    workers = [await FaultWorker.start() for _ in range(4)]
    for worker in workers:
        worker.gets["/metrics"] = told(0)
    options = ("--worker-urls", *(worker.url for worker in workers), "--router-replicas", "2")
    routers = [await start("router", *options) for _ in range(2)]
    for router in routers:
        await router.ready(4)
    yield routers, workers
    for worker in workers:
        await worker.stop()


async def place(router: Command, workers: list[FaultWorker], prompt: str) -> int:
    """Which worker gets it."""
    before = [len(worker.requests) for worker in workers]
    assert (await router.ask("POST", "/v1/completions", json={"model": "m", "prompt": prompt}))[0] == 200
    (taken,) = [i for i, worker in enumerate(workers) if len(worker.requests) > before[i]]
    return taken


async def test_a_prefix_that_is_new_to_both_goes_to_the_same_worker(pair):
    routers, workers = pair
    for number in range(200):  # prompts come again, here
        for router in routers:
            await place(router, workers, f"group {number % 4} " + COMMON)
    alike = [
        len({await place(router, workers, f"new group {number} " + COMMON) for router in routers}) == 1
        for number in range(20)
    ]
    assert sum(alike) >= 18  # by chance a quarter


async def test_a_worker_that_the_other_router_keeps_busy_is_spared(pair):
    routers, workers = pair
    for number in range(20):
        await place(routers[0], workers, f"{number} some prompt")
    workers[0].gets["/metrics"] = told(40)
    probes = workers[0].probes.count("/metrics")
    while workers[0].probes.count("/metrics") < probes + 4:  # two looks of each router
        await asyncio.sleep(0.02)
    assert 0 not in {await place(router, workers, f"{n} another prompt") for n in range(20) for router in routers}
