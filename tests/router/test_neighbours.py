"""What other routers have on a worker, from what its engine says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from router import neighbours
from router.fleet import Fleet, State, Worker
from router.neighbours import Neighbours
from tests.e2e.fault_worker import FaultWorker, Hang, Status

RUNNING = b"vllm:num_requests_running 6\nvllm:num_requests_waiting 2\n"


@pytest.fixture
async def engine() -> AsyncIterator[FaultWorker]:
    made = await FaultWorker.start()
    made.gets["/metrics"] = Status(200, body=RUNNING)
    yield made
    await made.stop()


@pytest.fixture
async def watched(engine: FaultWorker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Fleet, Worker]]:
    monkeypatch.setattr(neighbours, "INTERVAL", 0.005)
    monkeypatch.setattr(neighbours, "TIMEOUT", 0.05)
    fleet, worker = Fleet(), Worker("w0", engine.url, lifecycle=State.READY)
    fleet.add(worker)
    async with aiohttp.ClientSession() as session:
        watch = Neighbours(fleet, session)
        yield fleet, worker
        await watch.close()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def others(worker: Worker) -> tuple[float, float]:
    return worker.others_waiting, worker.others_running


async def test_what_is_there_and_not_ours_is_that_of_others(watched):
    fleet, worker = watched
    await until(lambda: others(worker) == (2, 6))
    leases = [fleet.lease(worker, 10, 0.0) for _ in range(4)]
    await until(lambda: others(worker) == (1, 3))  # half of each
    for lease in leases:
        lease.release(1.0)
    await until(lambda: others(worker) == (2, 6))


@pytest.mark.parametrize("silence", [Status(500), Status(200, body=b"something else 1\n"), Hang()])
async def test_an_engine_that_does_not_tell_any_more_is_believed_for_a_while_only(watched, engine, silence):
    _, worker = watched
    await until(lambda: others(worker) == (2, 6))
    engine.gets["/metrics"] = silence
    await until(lambda: others(worker) == (0, 0))


async def test_workers_that_are_not_ready_are_not_asked(watched, engine):
    fleet, worker = watched
    await until(lambda: engine.probes != [])
    fleet.set_lifecycle(worker, State.UNHEALTHY)
    asked = len(engine.probes)
    other = await FaultWorker.start()
    fleet.add(Worker("w1", other.url, lifecycle=State.READY))
    await until(lambda: len(other.probes) >= 5)
    assert len(engine.probes) <= asked + 1
    await other.stop()


async def test_the_watch_outlives_what_breaks_in_it(watched, monkeypatch, caplog):
    _, worker = watched
    await until(lambda: others(worker) == (2, 6))
    reads = neighbours.read
    monkeypatch.setattr(neighbours, "read", lambda metrics: 1 / 0)
    await until(lambda: "ZeroDivisionError" in caplog.text)
    monkeypatch.setattr(neighbours, "read", reads)
    worker.others_waiting = 0.0
    await until(lambda: others(worker) == (2, 6))
