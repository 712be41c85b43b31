"""Asks the engines how much is with them, when other routers send them requests, too."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from router.ask import Unreachable, ask
from router.fleet import Fleet, State, Worker
from router.queues import Queues, read

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks
TIMEOUT = 1.0  # seconds; what comes later is not true any more
STALE = 3  # looks in a row without an answer, and the last one is forgotten


class Neighbours:
    """Keeps in the fleet what other routers have on each worker. close() ends it."""

    def __init__(self, fleet: Fleet, session: aiohttp.ClientSession):
        self._fleet = fleet
        self._session = session
        self._missed: dict[Worker, int] = {}
        fleet.on_remove.append(self._left)
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            workers = [worker for worker in self._fleet.workers.values() if worker.state is State.READY]
            try:
                await asyncio.gather(*(self._look(worker) for worker in workers))
            except Exception:  # a watch must outlive its own bugs: what was told last would be believed for ever
                log.exception("asking the engines for their queues")
            await asyncio.sleep(INTERVAL)

    async def _look(self, worker: Worker) -> None:
        told = await self._ask(worker)
        if told is not None:
            self._missed.pop(worker, None)
            self._fleet.set_others(worker, told.waiting, told.running)
            return
        missed = self._missed[worker] = self._missed.get(worker, 0) + 1
        if missed >= STALE:
            self._fleet.set_others(worker, 0.0, 0.0)

    async def _ask(self, worker: Worker) -> Queues | None:
        try:
            reply = await ask(self._session, "GET", worker.url + "/metrics", timeout=TIMEOUT)
        except Unreachable:
            return None
        return read(reply.body.decode(errors="replace")) if reply.status == 200 else None

    def _left(self, worker: Worker) -> None:
        self._missed.pop(worker, None)
