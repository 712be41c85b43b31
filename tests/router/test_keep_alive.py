"""The keep-alive race: a worker closes an idle connection just as a request is sent on it. No client may notice.

Each lane is a client with a worker of its own, so that it is always the same connection that waits: the pool takes the
warmest one, and with many clients on one worker hardly any connection would ever grow old.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from router import retry, sockets, upstream
from router.fleet import State, Worker
from router.retry import Fault, Rule, Where
from tests.e2e.fault_worker import CloseIdleKeepAlive, counted, take_request
from tests.router.world import World

PLAIN = {"text": "hi"}


class Impatient(asyncio.Protocol):
    """A worker's connection, closed when nothing has come for `idle` seconds after an answer, as uvicorn does."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._drive.open += 1

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._buffer += data
        while take_request(self._buffer):
            self._transport.write(counted(200, {}, b"fine"))
            self._timer = asyncio.get_running_loop().call_later(self._drive.idle, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._drive.open -= 1


class BySession:
    """The worker whose number the client names."""

    index = None

    def pick(self, request: Any, candidates: Any, now: float, rng: random.Random) -> Worker:
        return candidates[int(request.session) % len(candidates)]

    def answered(self, request: Any, worker: Worker, now: float) -> None: ...

    def done(self, request: Any, worker: Worker) -> None: ...

    def forget(self, worker: Worker) -> None: ...

    def upkeep(self, now: float) -> None: ...


@dataclass
class Drive:
    """`lanes` clients that ask `times` each, at gaps of 0.98 to 1.04 times what the workers wait: what they got."""

    lanes: int
    times: int
    idle: float
    open: int = 0  # connections at the workers

    async def __call__(self, w: World) -> Counter[int]:
        loop, self._got = asyncio.get_running_loop(), Counter()
        w.plane.policy = BySession()
        servers = [await loop.create_server(lambda: Impatient(self), "127.0.0.1", 0) for _ in range(self.lanes)]
        for server in servers:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            w.fleet.add(Worker(w.fleet.next_id(), url, lifecycle=State.READY, native_generate=True))
        await asyncio.gather(*(self._lane(w, number) for number in range(self.lanes)))
        for server in servers:
            server.close()
        w.plane.pool.close()
        await w.until(lambda: self.open == 0)
        return self._got

    async def _lane(self, w: World, number: int) -> None:
        rng = random.Random(number)
        client = await w.connect()
        for _ in range(self.times):
            client.post("/generate", PLAIN, {"x-session-id": str(number)})
            self._got[(await client.answer()).status] += 1
            await asyncio.sleep(self.idle * rng.uniform(0.98, 1.04))
        client.close()


@pytest.fixture(autouse=True)
def many_files() -> None:
    sockets.raise_limit()


async def test_no_client_notices_that_workers_close_idle_connections(world):
    w = await world(0)
    assert await Drive(lanes=200, times=25, idle=0.2)(w) == {200: 5000}
    assert w.metrics.retries["stale"] > 0  # it has happened
    assert [worker.failures_total for worker in w.fleet.workers.values()] == [0] * 200


async def test_without_the_resend_clients_would_notice(world, monkeypatch):
    never = Rule(Where.NOWHERE, counts_worker=False, error=retry.WorkersFailed)
    monkeypatch.setitem(retry.RULES, Fault.STALE, never)
    w = await world(0)
    got = await Drive(lanes=200, times=10, idle=0.2)(w)
    assert got[502] > 0
    assert got[200] + got[502] == 2000


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_client_notices_that_workers_close_after_five_seconds(world, monkeypatch):
    monkeypatch.setattr(upstream, "IDLE_AT_MOST", 60.0)  # else the pool would be done with them first
    w = await world(0)
    assert await Drive(lanes=500, times=10, idle=5.0)(w) == {200: 5000}


async def test_the_pool_is_done_with_a_connection_before_a_worker_would_be(world):
    w = await world(1)
    for _ in range(2):
        assert (await w.post()).status == 200
    assert w.workers[0].connections == 1
    clock = w.plane.pool.clock
    w.plane.pool.clock = lambda: clock() + upstream.IDLE_AT_MOST + 0.1
    assert upstream.IDLE_AT_MOST < 5.0  # uvicorn's, the shortest of the engines' servers
    assert (await w.post()).status == 200
    assert w.workers[0].connections == 2
    await w.workers[0].until(lambda: w.workers[0].open_connections == 1)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_long_request_that_meets_a_closed_connection_is_sent_again_whole(world, how):
    w = await world(1)
    w.workers[0].script(CloseIdleKeepAlive("next request", how))
    assert (await w.post()).status == 200
    body = b'{"text":"' + b"x" * 4_000_000 + b'"}'
    assert (await w.post(body)).status == 200
    assert w.workers[0].requests[-1].body == body
    assert w.metrics.retries == {"stale": 1}
