"""One replica's place on a node of a Ray cluster: the actor that starts its engine there, and tells how it is.

It is to the launcher what launcher/process.py is on one node, and uses just that: the guardian sees the actor's end, by
whatever signal, as it sees a launcher's, and ends the engine's whole tree. When the replica is started again, and when
it is given up, is decided in the launcher, as on one node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import ray

from launcher import __version__, plan
from launcher.engines import Command
from launcher.errors import LaunchError
from launcher.plan import WorkerSpec
from launcher.ports import Ports, ephemeral
from launcher.process import Process

logger = logging.getLogger(__name__)

CHUNK = 64 * 1024  # bytes of log in one answer, which Ray sends along with it up to 100 KiB
LOOK = 0.2  # seconds between two looks at whether the log has grown

# Ray's own settings of this actor, and the one thread it allows it, are none of the engine's.
RAYS = ("OMP_NUM_THREADS", "RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_CLIENT_MODE", "RAY_LD_PRELOAD_ON_WORKERS")


@dataclass(frozen=True)
class Job:
    """What is to be started; made in the launcher."""

    version: str  # the launcher's
    spec: WorkerSpec
    make: Callable[[WorkerSpec], Command]
    check: Callable[[], None]  # raises LaunchError
    node: str  # of its last engine, and which processes that had: on the same node their device memory has to be free
    dead: frozenset[int]


@dataclass(frozen=True)
class Started:
    """Where the engine runs."""

    node: str  # Ray's id
    spec: WorkerSpec
    pid: int


class Seat:
    """The actor. All of its methods run on one event loop, on a thread that lives as long as its process."""

    def __init__(self) -> None:
        for name in RAYS:
            os.environ.pop(name, None)
        self._process: Process
        self._log: IO[bytes]

    async def start(self, job: Job) -> Started | str:
        """Start the engine on this node's address and the devices that Ray has given; or say why that cannot be."""
        if job.version != __version__:
            return f"llm-launch {__version__} is installed there, and {job.version} in the launcher"
        try:
            await asyncio.to_thread(job.check)
            spec = self._place(job.spec)
            node = ray.get_runtime_context().get_node_id()
            await _memory_freed(job.dead if job.node == node else frozenset())
            await self._spawn(job.make(spec), spec)
        except (LaunchError, OSError) as error:
            return str(error)
        return Started(node, spec, self._process.pid)

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, timeout: float) -> frozenset[int]:
        """As Process.stop; returns the processes that there were."""
        await self._process.stop(timeout)
        return frozenset(self._process.members)

    async def cpu(self) -> float:
        return await self._process.cpu()

    async def outsider(self, port: int) -> str | None:
        return await self._process.outsider(port)

    async def read(self, offset: int) -> bytes:
        """What the engine wrote from there on, as soon as there is some; nothing once it has ended."""
        ended = asyncio.ensure_future(self._process.wait())
        while not (data := os.pread(self._log.fileno(), CHUNK, offset)) and not ended.done():
            await asyncio.wait([ended], timeout=LOOK)
        ended.cancel()
        return data or os.pread(self._log.fileno(), CHUNK, offset)

    def _place(self, spec: WorkerSpec) -> WorkerSpec:
        host = ray.util.get_node_ip_address()
        devices = tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get("GPU", ())))
        self._ports = Ports(host)
        base = spec.port
        port = plan.next_port(base - 1, lambda p: (p - base) % plan.PORT_STEP == 0 and self._ports.free(p), ephemeral())
        return replace(spec, host=host, port=port, devices=devices)

    async def _spawn(self, command: Command, spec: WorkerSpec) -> None:
        """Its log has no name: it is read here, kept by the launcher, and gone with whoever writes it."""
        number, name = tempfile.mkstemp(prefix="llm-launch-")
        self._log = os.fdopen(number, "rb")
        try:
            self._process = await Process.start(command, spec, Path(name), home=threading.current_thread())
        finally:
            os.unlink(name)


async def _memory_freed(pids: frozenset[int]) -> None:
    if pids:
        from launcher.run import memory_freed  # half a second of imports, for those that start again

        await memory_freed(set(pids))
