"""Who belongs to the fleet, on request: add, remove, drain, restart, terminate, flush. Sole writer of `draining`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import aiohttp
import psutil

from router.ask import TimedOut, Unreachable, ask
from router.config import RouterConfig
from router.errors import BadRequest, NotFound, WorkersFailed, WorkerTimeout
from router.fleet import Fleet, Role, Worker
from router.health import Prober
from router.urls import MAX_LENGTH, normalise

log = logging.getLogger(__name__)

IDLE_POLL = 0.05  # seconds between looks at a draining worker's in-flight count
FLUSH_TIMEOUT = 30.0  # seconds; an engine flushes between two batches
TERMINATE_TIMEOUT = 10.0  # seconds

T = TypeVar("T")


class Members:
    """The fleet's membership service. Long operations go on when the one who asked for them leaves."""

    def __init__(self, config: RouterConfig, fleet: Fleet, session: aiohttp.ClientSession):
        self.session = session
        self._config = config
        self._fleet = fleet
        self._own = own_addresses(config.host, config.port, own_names())
        self._prober = Prober(config, fleet, session)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._restarting = asyncio.Lock()
        self._reasons: dict[Worker, set[str]] = {}  # why each of these is drained

    async def start(self) -> None:
        """Begin watching, and add the configured workers without waiting for them. Raises BadRequest."""
        self._prober.start()
        config = self._config
        for url in dict.fromkeys(self.normalise(url) for url in config.worker_urls):
            self.admit(url)
        for url, port in config.prefill:
            self.admit(url, role=Role.PREFILL, bootstrap_port=port)
        for url in config.decode:
            self.admit(url, role=Role.DECODE)

    async def close(self) -> None:
        """Stop watching and give up what is still being done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._prober.close()

    def normalise(self, url: str) -> str:
        """The one spelling of a URL that may become a worker's. Raises BadRequest."""
        return normalise(url, self._own)

    def find(self, name: str) -> Worker:
        """The worker with this id or URL, however the URL is spelt. Raises NotFound."""
        worker = self._fleet.workers.get(name)
        if worker is None and "://" in name:
            with contextlib.suppress(BadRequest):
                worker = self._fleet.by_url(normalise(name))
        if worker is None:
            raise NotFound(f"Worker {name[:MAX_LENGTH]} not found")
        return worker

    def admit(
        self,
        url: str,
        models: tuple[str, ...] = (),
        speed: float | None = None,
        role: Role = Role.REGULAR,
        bootstrap_port: int | None = None,
    ) -> Worker:
        """Add a worker and watch it, without waiting for it. Raises BadRequest (bad URL or role, already there)."""
        url = self.normalise(url)
        check_role(url, role, bootstrap_port, self._config.pd_disaggregation)
        if self._fleet.by_url(url):
            raise BadRequest(f"Worker {url} already exists", param="url")
        worker = Worker(
            self._fleet.next_id(), url, models=models, speed=speed, role=role, bootstrap_port=bootstrap_port
        )
        self._fleet.add(worker)
        return worker

    async def add(
        self,
        url: str,
        *,
        wait: bool = True,
        timeout: float | None = None,
        models: Iterable[str] = (),
        speed: float | None = None,
        role: Role = Role.REGULAR,
        bootstrap_port: int | None = None,
    ) -> Worker:
        """Add a worker; with `wait`, return once it is healthy, or remove it again after `timeout` seconds.

        Raises BadRequest (bad URL or role, already there, not an inference server) or WorkerTimeout.
        """
        check_speed(speed)
        worker = self.admit(url, tuple(models), speed, role, bootstrap_port)
        if wait:
            await self._until_up(worker, self._config.worker_startup_timeout if timeout is None else timeout)
        return worker

    def update(self, worker: Worker, models: Iterable[str], speed: float | None) -> None:
        """A worker that restarted elsewhere has registered once more: take what it says; its cache is gone."""
        check_speed(speed)
        if models:
            self._fleet.set_models(worker, models)
        worker.speed = speed
        self._fleet.forget(worker)

    async def remove(self, worker: Worker, *, force: bool = False) -> None:
        """Drain the worker (not with `force`), stop its process if it was launched here, and take it out."""
        await self._carry(self._remove(worker, force))

    def drop(self, worker: Worker) -> None:
        """Take out a worker started elsewhere that is not there any more; returns at once."""
        self._take_out(worker)

    def drain(self, worker: Worker) -> None:
        """Send it no new requests; returns at once."""
        self._hold(worker, "asked for")

    def undrain(self, worker: Worker) -> None:
        """Take back a drain that was asked for; a worker that is leaving or being restarted stays drained meanwhile."""
        self._let_go(worker, "asked for")

    async def restart(self, worker: Worker) -> None:
        """Drain, restart, serve again. Raises BadRequest (not launched here) or WorkersFailed (did not come back)."""
        if worker.handle is None:
            raise BadRequest(f"worker {worker.url} was not launched here: restart it where it was started")
        await self._carry(self._restart(worker))

    async def restart_all(self) -> list[Worker]:
        """Restart every worker launched here, one at a time; returns them.

        Raises WorkersFailed at the first that does not come back: the rest goes on serving, not restarted.
        """
        return await self._carry(self._restart_all())

    async def terminate(self, worker: Worker) -> None:
        """Ask the engine to stop, without draining, and take it out. Raises WorkersFailed when it would not stop."""
        await self._carry(self._terminate(worker))

    async def flush(self) -> dict[str, str | None]:
        """Have all workers drop their caches; returns for each URL None or why it did not. The index is cleared too."""
        workers = list(self._fleet.workers.values())
        reasons = await asyncio.gather(*(self._flush(worker) for worker in workers))
        for worker in workers:
            self._fleet.forget(worker)
        return {worker.url: reason for worker, reason in zip(workers, reasons, strict=True)}

    async def _until_up(self, worker: Worker, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._prober.up(worker), timeout)
        except asyncio.TimeoutError:
            self._fleet.remove(worker)
            why = worker.last_error or "no answer yet"
            raise WorkerTimeout(f"worker {worker.url} did not become healthy within {timeout:g} s: {why}") from None
        except BaseException:  # refused, or the one who asked has left
            self._fleet.remove(worker)
            raise

    async def _carry(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the one who awaits it is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _hold(self, worker: Worker, reason: str) -> None:
        self._reasons.setdefault(worker, set()).add(reason)
        self._fleet.set_draining(worker, True)

    def _let_go(self, worker: Worker, reason: str) -> None:
        """One reason less to drain it; the others stand."""
        reasons = self._reasons.pop(worker, set()) - {reason}
        if reasons:
            self._reasons[worker] = reasons
        self._fleet.set_draining(worker, bool(reasons))

    async def _remove(self, worker: Worker, force: bool) -> None:
        self._hold(worker, "leaving")
        if not force:
            await self._idle(worker)
        if worker.handle is not None:
            await worker.handle.stop()
        self._take_out(worker)

    def _take_out(self, worker: Worker) -> None:
        self._fleet.remove(worker)
        self._reasons.pop(worker, None)

    async def _idle(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.drain_timeout
        while worker.inflight and loop.time() < deadline:  # noqa: ASYNC110 - a lease tells nobody when it ends
            await asyncio.sleep(IDLE_POLL)
        if worker.inflight:
            log.warning("worker %s still has %d requests in flight after the drain time", worker.url, worker.inflight)

    async def _restart(self, worker: Worker) -> None:
        async with self._restarting:
            await self._restart_one(worker)

    async def _restart_all(self) -> list[Worker]:
        restarted = []
        async with self._restarting:
            for worker in list(self._fleet.workers.values()):
                if worker.handle is not None and worker.id in self._fleet.workers:
                    try:
                        await self._restart_one(worker)
                    except WorkersFailed:
                        if worker.id in self._fleet.workers:
                            raise
                    else:
                        restarted.append(worker)
        return restarted

    async def _restart_one(self, worker: Worker) -> None:
        assert worker.handle is not None
        self._hold(worker, "restarting")
        try:
            await self._idle(worker)
            await worker.handle.restart()
        except RuntimeError as error:
            raise WorkersFailed(f"worker {worker.url} did not come back: {error}") from None
        finally:
            self._let_go(worker, "restarting")

    async def _terminate(self, worker: Worker) -> None:
        self._hold(worker, "leaving")
        try:
            if worker.handle is not None:
                await worker.handle.stop()
            else:
                await self._ask_to_stop(worker)
        finally:
            self._take_out(worker)

    async def _ask_to_stop(self, worker: Worker) -> None:
        """LMDeploy's servers stop on GET /terminate; one that dies before it has answered has done as asked."""
        try:
            status = (await ask(self.session, "GET", worker.url + "/terminate", timeout=TERMINATE_TIMEOUT)).status
        except TimedOut as error:
            raise WorkersFailed(f"Failed to terminate node {worker.url}: {error}; it was removed") from None
        except Unreachable:
            return
        if status != 200:
            raise WorkersFailed(f"Failed to terminate node {worker.url}: HTTP {status}; it was removed")

    async def _flush(self, worker: Worker) -> str | None:
        status = 405
        try:
            for method in ("POST", "GET"):
                if status == 405:
                    reply = await ask(self.session, method, worker.url + "/flush_cache", timeout=FLUSH_TIMEOUT)
                    status = reply.status
        except Unreachable as error:
            return str(error)
        return None if status == 200 else f"HTTP {status}"


def own_names() -> set[str]:
    """What this machine is called: its name, and the addresses of its network interfaces."""
    found = (entry for entries in psutil.net_if_addrs().values() for entry in entries)
    addresses = {entry.address for entry in found if entry.family in (socket.AF_INET, socket.AF_INET6)}
    return {socket.gethostname(), *addresses}


def own_addresses(host: str, port: int, names: Iterable[str]) -> frozenset[str]:
    """The router's listener as "host:port"; on a wildcard address also under each of the machine's `names`."""
    hosts = {host}
    if host in ("", "0.0.0.0", "::"):
        hosts |= {"0.0.0.0", *names}
    return frozenset(f"[{host}]:{port}" if ":" in host else f"{host.lower()}:{port}" for host in hosts)


def check_speed(speed: float | None) -> None:
    """Raise BadRequest for a speed that cannot be routed by."""
    if speed is not None and not (math.isfinite(speed) and speed > 0):
        raise BadRequest(
            f"speed is {speed:g}: it must be above zero, in any unit that all workers share", param="speed"
        )


def check_role(url: str, role: Role, bootstrap_port: int | None, pairs: bool) -> None:
    """Raise BadRequest for a worker that has no place in this router; `pairs`: it pairs prefill with decode workers."""
    if pairs and role is Role.REGULAR:
        raise BadRequest(
            f"worker {url} needs a worker_type here, prefill or decode: this router has --pd-disaggregation",
            param="worker_type",
        )
    if role is not Role.REGULAR and not pairs:
        raise BadRequest(
            f"worker {url} is a {role.value} worker: those need a router with --pd-disaggregation", param="worker_type"
        )
    if bootstrap_port is None:
        return
    if role is not Role.PREFILL:
        raise BadRequest(f"worker {url} is no prefill worker: only those have a bootstrap_port", param="bootstrap_port")
    if not 1 <= bootstrap_port <= 65_535:
        raise BadRequest(f"bootstrap_port is {bootstrap_port}: it must lie between 1 and 65535", param="bootstrap_port")
