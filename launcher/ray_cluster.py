"""A Ray cluster as the place where engines run: which node, what is missing, and an engine there as a process of ours.

The seam to one node is launcher.supervisor.Running: what there is a process beside the launcher is here an actor that
has one (launcher/ray_seat.py). Everything that decides, probes, restarts, drains or shows stays in the launcher's
process, the same code as on one node, and so a launcher still knows all of a replica whose node is gone. The other way
round, a supervisor in each actor, would need its states, its restart budget and its rolling restart told and asked over
the network, a second time.

Each replica has a placement group of its own, kept from start to start, so that nobody else gets its GPUs meanwhile. It
is given up with its node: a new one is placed where there is room. Actors belong to the launcher's Ray job: Ray ends
them with it, whatever ended it. Calls of Ray's that block are made in threads; its answers are awaited.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from launcher import __version__, engines, placement
from launcher.config import LaunchConfig
from launcher.engines import Command, Engine
from launcher.errors import BadConfig, NoGpu
from launcher.lifecycle import Lost, NotStarted
from launcher.placement import Node
from launcher.plan import Gpu, WorkerSpec
from launcher.ray_seat import Job, Seat
from launcher.supervisor import Ended
from launcher.threads import unawaited
from router.config import RouterConfig
from router.fleet import Cause

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK = 1.0  # seconds between two looks at why a replica has no place
RETRY = 1.0  # seconds between two calls to an actor that is out of reach
REACH = 3.0  # seconds in which a head node, or a node's Ray, answers a connection
PATIENCE = 10.0  # seconds in which the head answers what it is asked
LONGEST = 400  # characters of an error of Ray's that are told
STUCK = 15.0  # seconds beyond an engine's own time in which its end must have been told
LAST_LINES = 5.0  # seconds for the rest of a log

# Ray kills an actor's children with it: the guardian first, and nobody would be left to find the engine's.
ENVIRONMENT = {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "0"}}


class Cluster:
    """The cluster, for one launch."""

    def __init__(self, config: LaunchConfig):
        """Join it. Raises BadConfig when there is none at that address; blocks."""
        self._config = config
        _join(config.ray_address)
        self._groups: dict[int, PlacementGroup] = {}  # by replica; written by _seat and leave()
        self._last: dict[int, tuple[str, frozenset[int]]] = {}  # the node and the processes of its last engine
        self._engine: Engine
        self._need: placement.Need

    def prepare(self) -> tuple[Engine, list[WorkerSpec]]:
        """What runs, and how often. Raises LaunchError; blocks."""
        nodes, config = _nodes(), self._config
        gpus = sum(node.gpus for node in nodes)
        self._engine = engines.choose(config, [Gpu(n, "", "GPU", 0) for n in range(gpus)])
        self._need = placement.need(config.tp_size, nodes)
        dp = config.dp_size or placement.room(self._need, nodes)
        if not dp:
            raise NoGpu(f"no node of the cluster has {self._need}: give a smaller --tp-size, or --dp-size to wait")
        key = secrets.token_urlsafe(32)
        return self._engine, [WorkerSpec(r, config.worker_base_port, key=key).unplaced() for r in range(dp)]

    def close(self) -> None:
        """Leave the cluster: what is still held there is given back. A head that is gone is not waited for."""
        leaving = threading.Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(REACH)
        if leaving.is_alive():
            atexit.unregister(ray.shutdown)

    # -- launcher.supervisor.Tools

    async def spawn(self, make: Callable[[WorkerSpec], Command], spec: WorkerSpec, log: Path) -> Remote:
        check = functools.partial(self._engine.check, replace(self._config, router=RouterConfig()))
        node, dead = self._last.pop(spec.replica, ("", frozenset()))
        return Remote(self, Job(__version__, spec, make, check, node, dead), log)

    async def leave(self, spec: WorkerSpec) -> None:
        """Give the replica's place back."""
        group = self._groups.pop(spec.replica, None)
        if group is not None:
            with contextlib.suppress(RayError, asyncio.TimeoutError):
                await _ask(lambda: remove_placement_group(group))

    async def memory_freed(self, pids: set[int]) -> None:
        """The next engine's actor sees to that, on the node."""

    # -- for Remote

    async def seat(self, replica: int) -> Any:
        """An actor in the replica's place; it starts when there is one."""
        return await unawaited(lambda: self._seat(replica))

    def _seat(self, replica: int) -> Any:
        need = self._need
        if replica not in self._groups:
            bundle = {"GPU": need.gpus} if need.gpus else {"CPU": need.cpus}
            self._groups[replica] = placement_group([bundle], strategy="STRICT_PACK")
        place = PlacementGroupSchedulingStrategy(self._groups[replica])
        options = {"num_gpus": need.gpus, "num_cpus": need.cpus, "max_restarts": 0, "runtime_env": ENVIRONMENT}
        return ray.remote(Seat).options(scheduling_strategy=place, **options).remote()

    async def missing(self, replica: int) -> str | None:
        """Why the replica has no place; None when it has."""
        try:
            return await _ask(lambda: self._missing(replica))
        except asyncio.TimeoutError:
            return "the cluster's head does not answer"

    def _missing(self, replica: int) -> str | None:
        group = self._groups.get(replica)
        if group is not None and placement_group_table(group)["state"] == "CREATED":
            return None
        return placement.missing(self._need, _nodes())

    def ended(self, replica: int, node: str, pids: frozenset[int]) -> None:
        self._last[replica] = (node, pids)


class Remote:
    """An engine on some node of the cluster. A launcher.supervisor.Running."""

    def __init__(self, cluster: Cluster, job: Job, log: Path):
        self.spec = job.spec.unplaced()
        self.pid: int | None = None
        self.members: set[int] = set()
        self._cluster = cluster
        self._job = job
        self._log = log
        self._actor: Any = None
        self._node: str = ""  # Ray's id of it, once the engine has been started there
        self._begun = asyncio.Event()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def settled(self, waits: Callable[[str], None]) -> None:
        begun = asyncio.ensure_future(self._begun.wait())
        try:
            while not (await asyncio.wait([begun], timeout=LOOK))[0]:
                if (reason := await self._cluster.missing(self.spec.replica)) is not None:
                    waits(reason)
        finally:
            begun.cancel()

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, timeout: float) -> None:
        """As Process.stop. An actor that does not answer in time is given up with its place: Ray ends both."""
        if self._begun.is_set() and not self._gone():
            try:
                pids = await asyncio.wait_for(self._actor.stop.remote(timeout), timeout + STUCK)
                self._cluster.ended(self.spec.replica, self._node, pids)
            except (RayError, asyncio.TimeoutError):
                await self._cluster.leave(self.spec)
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._actor is not None:
            actor, self._actor = self._actor, None
            with contextlib.suppress(RayError, asyncio.TimeoutError):
                await _ask(lambda: ray.kill(actor))

    async def cpu(self) -> float:
        with contextlib.suppress(RayError, AttributeError):
            return float(await self._actor.cpu.remote())
        return 0.0

    async def outsider(self, port: int) -> str | None:
        with contextlib.suppress(RayError, AttributeError):
            return cast("str | None", await self._actor.outsider.remote(port))
        return None

    def _gone(self) -> bool:
        return self._exit.done() and self._exit.exception() is not None

    async def _run(self) -> None:
        """From its place to its end."""
        try:
            outcome: int | Ended = await self._live()
        except Ended as end:
            outcome = end
        except Exception as error:  # Ray's, most likely
            outcome = await self._lost(error)
        if isinstance(outcome, int):
            self._exit.set_result(outcome)
        else:
            self._exit.set_exception(outcome)
            self._exit.exception()  # it may be that nobody asks

    async def _live(self) -> int:
        self._actor = await self._cluster.seat(self.spec.replica)
        started = await self._actor.start.remote(self._job)
        if isinstance(started, str):
            raise Ended(NotStarted(started))
        self._node, self.pid = started.node, started.pid
        self.spec = replace(started.spec, node=await _ask(lambda: _name(started.node)))
        self.members = {started.pid}
        self._begun.set()
        copying = asyncio.create_task(self._copy())
        try:
            code = await self._outcome()
            await asyncio.wait([copying], timeout=LAST_LINES)
            return code
        finally:
            copying.cancel()

    async def _outcome(self) -> int:
        while True:
            try:
                return int(await self._actor.wait.remote())
            except ActorUnavailableError:
                if await _lost(self._node):
                    raise
                await asyncio.sleep(RETRY)

    async def _lost(self, error: Exception) -> Ended:
        """What the end of the actor was; a lost node's place is given up."""
        if self._node and await _lost(self._node):
            await self._cluster.leave(self.spec)
            return Ended(Lost(Cause.NODE_LOST, f"its node {self.spec.node} is lost"))
        return Ended(Lost(Cause.ACTOR_DIED, f"its actor ended: {_told(error)}"))

    async def _copy(self) -> None:
        """The engine's log, as it grows, into the launcher's file: it is to be read when the node is gone."""
        with contextlib.suppress(RayError), self._log.open("ab") as file:
            offset = 0
            while data := await self._actor.read.remote(offset):
                file.write(data)
                file.flush()
                offset += len(data)


def _join(address: str) -> None:
    if address != "auto":
        _reach(address)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # it tells on the terminal what is told here
    try:
        ray.init(address, configure_logging=False, log_to_driver=False)
    except ConnectionError:
        raise BadConfig(_NONE if address == "auto" else f"--ray-address {address} is no Ray cluster's") from None
    except (RayError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:LONGEST]
        raise BadConfig(f"the Ray cluster at {address} cannot be joined: {reason}") from None
    # A thread of Ray's that prints what tasks report; when the head is gone it asks without a pause, and takes a core.
    ray_worker.global_worker.threads_stopped.set()


_NONE = "no Ray cluster runs on this machine: ray start --head begins one, --ray-address HOST:PORT names another's head"


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()) or "//" in host:
        raise BadConfig(f"--ray-address {address} is not HOST:PORT of a Ray cluster's head, or 'auto'")
    try:
        socket.create_connection((host, int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadConfig(f"--ray-address {address}: no Ray cluster answers there ({reason})") from None


def _nodes() -> list[Node]:
    free = ray_state.available_resources_per_node()
    return [
        Node(
            _called(node),
            *(int(node["Resources"].get("GPU", 0)), int(free.get(node["NodeID"], {}).get("GPU", 0))),
            *(int(node["Resources"].get("CPU", 0)), int(free.get(node["NodeID"], {}).get("CPU", 0))),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _name(id: str) -> str:
    return next((_called(node) for node in ray.nodes() if node["NodeID"] == id), id)


def _called(node: dict[str, Any]) -> str:
    """The name that it was given; else its host's."""
    name = str(node["NodeName"])
    return str(node["NodeManagerHostname"]) if name == node["NodeManagerAddress"] else name


async def _ask(call: Callable[[], T]) -> T:
    """What a call of Ray's that blocks returns. Raises TimeoutError: without its head it may block for ever."""
    return await asyncio.wait_for(unawaited(call), PATIENCE)


async def _lost(id: str) -> bool:
    """Whether a node is gone: Ray says so, or nobody listens any more where its own Ray did.

    One that does not answer at all is Ray's to judge, which gives it up after some 20 seconds: for less it would be
    wrong to load a model elsewhere. If the head is silent, too, there is nobody to judge, and nothing to be had there.
    """
    try:
        return await _ask(lambda: _looks_lost(id))
    except asyncio.TimeoutError:
        return True


def _looks_lost(id: str) -> bool:
    node = next((node for node in ray.nodes() if node["NodeID"] == id), None)
    if node is None or not node["Alive"]:
        return True
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), REACH).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _told(error: BaseException) -> str:
    """Its first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = next((line for line in lines if "No module named" in line), None)
    return missing or (lines[0] if lines else type(error).__name__)
