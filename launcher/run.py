"""One launch from start to end: the order in which things start, what signals do, the order in which things stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from launcher import __version__, console, engines, gpus, logs, plan, preview
from launcher.config import LaunchConfig
from launcher.engines import Command, Engine
from launcher.errors import BadConfig
from launcher.plan import WorkerSpec
from launcher.ports import Ports, ephemeral
from launcher.process import Process
from launcher.supervisor import Supervisor, Tools
from launcher.threads import unawaited
from router import health, loop
from router.app import Router
from router.ask import TimedOut
from router.cli import announce, drained, greet, own_url
from router.errors import RouterError
from router.fleet import Worker
from router.signals import Signals

if TYPE_CHECKING:
    from launcher.ray_cluster import Cluster

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY_PATIENCE = 30.0  # seconds; the driver takes a context down within a few, or something is wrong
MEMORY_POLL = 0.25  # seconds


def run(config: LaunchConfig) -> int:
    """Serve until a signal comes. Returns the exit code; raises LaunchError, ConfigError or RouterError."""
    return loop.run(serve(config))


async def serve(config: LaunchConfig, say: Callable[[str], None] = announce) -> int:
    """Listen, start the workers, obey signals; no engine process is left when this returns or raises."""
    signals = Signals()  # before the first process: a signal that came in between would leave it behind
    router = Router(config.router)
    ports = Ports()
    site: Ports | Cluster = ports
    await router.start()
    try:
        found = await unless_told(signals, lambda: look(config, ports))
        if found is None:
            return 0
        engine, specs, site = found
        if site is ports:
            router.parts.devices = gpus.usage
        else:
            signals.renew()
        folder = log_folder(config, router.port)
        supervisor = Supervisor(config, engine, specs, router.fleet, folder, tools(config, router, site))
        greet(title(config, engine, specs), config.router, router.port, say)
        return await supervise(config, router, supervisor, signals)
    finally:
        await router.close()
        site.close()


async def unless_told(signals: Signals, search: Callable[[], T]) -> T | None:
    """What `search` finds; None when a signal ends the launch meanwhile. Raises what it raises.

    NVML and other interpreters take their time, and a driver that hangs takes for ever.
    """
    found = unawaited(search)
    told = asyncio.ensure_future(signals.end())
    await asyncio.wait({found, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if found.done():
        return found.result()
    found.cancel()
    return None


def rehearse(config: LaunchConfig) -> str:
    """What would be started, for people; nothing is. Raises LaunchError."""
    engine, specs, site = look(config, Ports())
    site.close()
    router = f"router  {own_url(config.router, config.router.port)}, policy {config.router.policy}"
    return f"{title(config, engine, specs)}\n{router}\n{preview.text(config, engine, specs, os.environ)}"


def look(config: LaunchConfig, ports: Ports) -> tuple[Engine, list[WorkerSpec], Ports | Cluster]:
    """Join the cluster if there is one to be joined, and decide what runs where. Raises LaunchError."""
    if config.cluster is None:
        return *prepare(config, ports), ports
    cluster = join(config)
    try:
        return *cluster.prepare(), cluster
    except BaseException:
        cluster.close()
        raise


def join(config: LaunchConfig) -> Cluster:
    """Raises BadConfig."""
    try:
        from launcher.ray_cluster import Cluster  # an extra, and half a second of import
    except ImportError:
        raise BadConfig("--cluster ray needs an extra: pip install 'llm-launch[ray]'") from None
    return Cluster(config)


def prepare(config: LaunchConfig, ports: Ports) -> tuple[Engine, list[WorkerSpec]]:
    """Look around, and decide what runs where. Raises LaunchError."""
    visible = gpus.visible(os.environ)
    engine = engines.choose(config, visible)
    engine.check(config)
    cores = sorted(os.sched_getaffinity(0))
    specs = plan.plan(config, visible, engine, cores, ports.free, ephemeral())
    if specs[0].port != config.worker_base_port:
        low, high = ephemeral()
        why = f"is in use, or one that outgoing connections may take ({low} to {high})"
        logger.warning("--worker-base-port %d %s: workers begin at %d", config.worker_base_port, why, specs[0].port)
    return engine, specs


async def supervise(config: LaunchConfig, router: Router, supervisor: Supervisor, signals: Signals) -> int:
    """Start the workers and stay until it is over; all of them are gone then."""
    watcher = asyncio.ensure_future(_watch(config, router, supervisor))
    try:
        supervisor.start()
        return await obey(config, router, supervisor, signals)
    finally:
        watcher.cancel()
        await asyncio.wait({watcher})
        await supervisor.stop()


async def _watch(config: LaunchConfig, router: Router, supervisor: Supervisor) -> None:
    """Show, in a terminal, how the workers come up; say once that they are up, and what to do next."""
    if not console.wanted(config.router.log_format):
        logger.info(await console.settled(supervisor, time.monotonic))
        return

    def ready(summary: str) -> None:
        announce(console.next_steps(summary, config.router, router.port))

    await console.show(supervisor, time.monotonic, ready)


async def obey(config: LaunchConfig, router: Router, supervisor: Supervisor, signals: Signals) -> int:
    """SIGHUP renews the workers one by one; SIGINT and SIGTERM end it. Raises StartFailed when nothing can come up."""
    hopeless = asyncio.ensure_future(supervisor.hopeless())
    renewal: asyncio.Future[None] | None = None
    while True:
        told = asyncio.ensure_future(signals.next())
        await asyncio.wait({hopeless, told}, return_when=asyncio.FIRST_COMPLETED)
        if hopeless.done():
            told.cancel()
            raise hopeless.result()
        if told.result() != signal.SIGHUP:
            hopeless.cancel()
            return await _leave(config, router, supervisor, signals)
        if renewal is None or renewal.done():
            renewal = asyncio.ensure_future(_renew(router))
        else:
            logger.warning("a rolling restart is under way: this SIGHUP is ignored")


async def _leave(config: LaunchConfig, router: Router, supervisor: Supervisor, signals: Signals) -> int:
    """Finish what is under way, then stop the workers; a second signal allows no more time for either."""
    code = await drained(router, config.drain_timeout, signals)
    if code == 0:
        stop = asyncio.ensure_future(supervisor.stop())
        second = asyncio.ensure_future(signals.end())
        await asyncio.wait({stop, second}, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stop.done() else 128 + second.result()
        second.cancel()
    if code:
        await supervisor.hurry()
    return code


async def _renew(router: Router) -> None:
    logger.info("rolling restart")
    try:
        restarted = await router.parts.members.restart_all()
        logger.info("rolling restart done: %d workers", len(restarted))
    except RouterError as error:
        level = logging.INFO if router.parts.draining else logging.ERROR  # the launch is ending: so does this
        logger.log(level, "rolling restart ended: %s", error.message)


def tools(config: LaunchConfig, router: Router, site: Ports | Cluster) -> Tools:
    """The supervisor's hands: real processes, here or in a cluster, real ports, the router's HTTP client."""
    session = router.parts.members.session
    timeout = config.router.health_check_timeout

    async def probe(worker: Worker) -> str | None:
        return await health.probe(session, worker.url, worker.ready_path, timeout)

    async def learn(worker: Worker) -> str | None:
        return await health.learn(session, router.fleet, worker, timeout)

    async def token(worker: Worker, patience: float) -> str | None:
        try:
            await health.generate(session, worker, patience)
        except TimedOut:
            return f"no token came within {patience:g} s"
        return None

    if not isinstance(site, Ports):  # which chooses the ports on its nodes
        return Tools(
            spawn=site.spawn,
            probe=probe,
            learn=learn,
            token=token,
            port_free=lambda port: True,
            next_port=lambda after: after + 1,
            memory_freed=site.memory_freed,
            leave=site.leave,
        )
    return Tools(
        spawn=spawn,
        probe=probe,
        learn=learn,
        token=token,
        port_free=site.free,
        next_port=lambda after: plan.next_port(after, site.free, ephemeral()),
        memory_freed=memory_freed,
    )


async def spawn(make: Callable[[WorkerSpec], Command], spec: WorkerSpec, log: Path) -> Process:
    return await Process.start(make(spec), spec, log)


async def memory_freed(pids: set[int]) -> None:
    """Wait until none of these dead processes holds GPU memory: an engine started before that would find too little."""
    deadline = time.monotonic() + MEMORY_PATIENCE
    while left := await asyncio.to_thread(gpus.holding, pids):
        if time.monotonic() > deadline:
            logger.warning("GPU memory of %s is still held after %g s: starting anyway", left, MEMORY_PATIENCE)
            return
        await asyncio.sleep(MEMORY_POLL)


def log_folder(config: LaunchConfig, port: int) -> Path:
    try:
        return logs.folder(config.log_dir, port)
    except OSError as error:
        reason = f"the log folder {error.filename} cannot be used ({error.strerror})"
        raise BadConfig(f"{reason}: give another --log-dir") from None


def title(config: LaunchConfig, engine: Engine, specs: list[WorkerSpec]) -> str:
    if config.cluster is not None:
        return f"llm-launch {__version__}: {config.model_path}, {len(specs)} x {engine.name} in a Ray cluster"
    where = "CPU" if not specs[0].devices else "GPU" if config.tp_size == 1 else f"{config.tp_size} GPUs each"
    return f"llm-launch {__version__}: {config.model_path}, {len(specs)} x {engine.name} on {where}"
