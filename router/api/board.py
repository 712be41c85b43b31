"""What the dashboard shows, while somebody looks: server-sent events, the last minutes first, then a snapshot a second.

One task takes the samples, whoever looks or not; a snapshot is made, and GPUs are asked, only while somebody does. All
who look get the same bytes. One that reads slowly misses snapshots and makes nobody wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress

import msgspec
from aiohttp import web

from router import exposition
from router.api import workers
from router.fleet import Worker
from router.history import PERIOD, History, Sample
from router.parts import DeviceUse, Parts

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds in which one who looks must have read something
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect events before it passes them on
}


class Board:
    """The newest snapshot, and how to wait for the next one. Sole writer of all it holds: its own task."""

    def __init__(self, parts: Parts):
        self.history = History()
        self.watchers = 0  # written by watched()
        self.closed = False
        self._parts = parts
        self._latest = b""
        self._news = asyncio.Event()  # set once, when there is a newer snapshot, and then replaced
        self._devices: Mapping[str, DeviceUse] = {}
        self._asking: asyncio.Task[None] | None = None  # the driver is being asked

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            try:
                self._tick()
            except Exception:  # one error must not leave those who look with a picture that no longer moves
                log.exception("the dashboard's snapshot")
            await asyncio.sleep(PERIOD)

    def close(self) -> None:
        """Send those who look away."""
        self.closed = True
        if self._asking is not None:
            self._asking.cancel()
        self._publish()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody looks."""
        self.watchers += 1
        self._ask_devices()
        try:
            yield
        finally:
            self.watchers -= 1

    def beginning(self) -> bytes:
        """The first event: what does not change, and the last minutes."""
        parts = self._parts
        data = {
            "version": exposition.version(),
            "policy": parts.config.policy,
            "first_byte_bounds": parts.metrics.first_byte.bounds,  # seconds
            "samples": list(self.history.samples),
        }
        return _event("history", data) + self._snapshot(self.history.samples[-1])

    async def next(self) -> bytes:
        """The next snapshot, as an event."""
        await self._news.wait()
        return self._latest

    def _tick(self) -> None:
        sample = self.history.add(self._parts.fleet, self._parts.metrics, time.time())
        if self.watchers:
            self._ask_devices()
            self._latest = self._snapshot(sample)
            self._publish()

    def _publish(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _snapshot(self, sample: Sample) -> bytes:
        parts = self._parts
        rows = [self._row(worker) for worker in parts.fleet.workers.values()]
        return _event("snapshot", {"sample": sample, "draining": parts.draining, "workers": rows})

    def _row(self, worker: Worker) -> dict[str, object]:
        """As GET /workers has it, and whether it was launched here, and its devices' use."""
        use = {name: self._devices[name] for name in worker.devices if name in self._devices}
        return {**workers.describe(worker), "launched": worker.handle is not None, "device_use": use}

    def _ask_devices(self) -> None:
        """In a thread and without waiting: a driver in trouble may take its time, or never answer."""
        if self._parts.devices is None or (self._asking is not None and not self._asking.done()):
            return
        names = {name for worker in self._parts.fleet.workers.values() for name in worker.devices}
        if names:
            self._asking = asyncio.get_running_loop().create_task(self._learn_devices(names))

    async def _learn_devices(self, names: set[str]) -> None:
        assert self._parts.devices is not None
        self._devices = await asyncio.to_thread(self._parts.devices, names)


BOARD: web.AppKey[Board] = web.AppKey("board")


def attach(app: web.Application, parts: Parts) -> None:
    """Give the application a board that lives as long as it does."""
    app[BOARD] = Board(parts)
    app.cleanup_ctx.append(_live)
    app.on_shutdown.append(_close)


async def _live(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(app[BOARD].run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _close(app: web.Application) -> None:
    app[BOARD].close()


async def events(request: web.Request) -> web.StreamResponse:
    """Until whoever looks leaves, or the router ends."""
    board = request.app[BOARD]
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    try:
        with board.watched():
            event = board.beginning()
            while not board.closed:
                await asyncio.wait_for(response.write(event), PATIENCE)
                event = await board.next()
    except (asyncio.TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    return response


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


ROUTES = [web.get("/events", events, allow_head=False)]
