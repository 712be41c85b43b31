"""Keeps every worker running within its limits and tells the fleet how each is: one task per worker.

What to do is decided in launcher/lifecycle.py; here it is done. Everything that happens to a worker, an exit, a probe,
a person's wish, is put into its mailbox, and only its own task reads that: lifecycle, pid, restarted, last_error and,
while it is not ready, the url of a worker are written there and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from launcher import hints, lifecycle, logs
from launcher.config import LaunchConfig
from launcher.engines import Command, Engine
from launcher.errors import BadConfig, LaunchError, StartFailed
from launcher.lifecycle import BackoffOver, Exited, Life, NotStarted, Probed, RestartAsked, StopAsked, Tried, Unplaced
from launcher.plan import WorkerSpec
from router.ask import NO_SOCKET
from router.config import RouterConfig
from router.fleet import Fleet, State, Worker

logger = logging.getLogger(__name__)

WORKS = 0.1  # share of one CPU above which an engine's processes are said to compute; idle ones take 0.01 to 0.03
STARTING_PROBE_INTERVAL = 0.2  # seconds; a refused connection costs an engine that is still loading nothing


class Running(Protocol):
    """What the supervisor needs of launcher.process.Process, or of launcher.ray_cluster.Remote."""

    spec: WorkerSpec  # where it runs, once it is settled
    pid: int | None  # the same
    members: set[int]

    async def settled(self, waits: Callable[[str], None]) -> None:
        """Return once it has a place, which is in `spec`; until then `waits` is told now and then why it has none."""

    async def wait(self) -> int:
        """Its exit code. Raises Ended when it has come to another end."""

    async def stop(self, timeout: float) -> None: ...

    async def cpu(self) -> float: ...

    async def outsider(self, port: int) -> str | None: ...


async def _nothing(spec: WorkerSpec) -> None: ...


class Ended(Exception):
    """It did not exit: `event` is what came of it."""

    def __init__(self, event: lifecycle.NotStarted | lifecycle.Lost):
        super().__init__(event.reason)
        self.event = event


@dataclass
class Tools:
    """The supervisor's hands and clock; tests bring their own."""

    # The command is made where the process is: on another machine the port is chosen there.
    spawn: Callable[[Callable[[WorkerSpec], Command], WorkerSpec, Path], Awaitable[Running]]
    probe: Callable[[Worker], Awaitable[str | None]]  # None: healthy; else why not
    learn: Callable[[Worker], Awaitable[str | None]]  # what a ready worker serves; None: done; else why not yet
    token: Callable[[Worker, float], Awaitable[str | None]]  # have it make one in so many seconds; None: it answered
    port_free: Callable[[int], bool]
    next_port: Callable[[int], int]  # a free one above this one
    memory_freed: Callable[[set[int]], Awaitable[None]]  # until these dead processes hold no device memory any more
    leave: Callable[[WorkerSpec], Awaitable[None]] = _nothing  # its place is not needed any more
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)


def rules(config: LaunchConfig) -> lifecycle.Rules:
    router: RouterConfig = config.router
    return lifecycle.Rules(
        max_restarts=config.max_restarts,
        restart_window=config.restart_window,
        startup_timeout=config.worker_startup_timeout,
        failure_threshold=router.health_failure_threshold,
        success_threshold=router.health_success_threshold,
        interval=router.health_check_interval,
    )


class Supervisor:
    """All workers of one launch."""

    def __init__(
        self,
        config: LaunchConfig,
        engine: Engine,
        specs: Sequence[WorkerSpec],
        fleet: Fleet,
        folder: Path,
        tools: Tools,
    ):
        self.config = config
        self.engine = engine
        # What engines are told is in argv and on other machines: nothing of the router's settings, keys among them.
        self.command = functools.partial(engine.command, config=replace(config, router=RouterConfig()))
        self.fleet = fleet
        self.folder = folder
        self.tools = tools
        self.rules = rules(config)
        self.stop_timeout = config.stop_timeout
        self.last_words: set[str] = set()  # the last lines of the logs that were quoted
        self.slots = [Slot(self, spec) for spec in specs]
        self._hopeless = asyncio.Event()

    def start(self) -> None:
        """Lay all workers into the fleet and begin to start them."""
        for slot in self.slots:
            if self.fleet.by_url(slot.worker.url) is not None:
                raise BadConfig(
                    f"--worker-urls has {slot.worker.url}, where a worker of this launch listens: leave it out"
                )
            slot.start()

    async def stop(self) -> None:
        """Stop every engine for good; returns once all of their processes are gone."""
        await asyncio.gather(*(slot.stop() for slot in self.slots))

    async def hurry(self) -> None:
        """Let engines that are being stopped, or will be, have no more time for it."""
        self.stop_timeout = 0.0
        # Wanted first, killed second: else those that die first count as crashed, and are started again.
        await asyncio.gather(self.stop(), *(slot.kill_now() for slot in self.slots))

    async def hopeless(self) -> StartFailed:
        """Wait until it is certain that no worker ever becomes ready; returns the error that says so."""
        await self._hopeless.wait()
        slot = next(slot for slot in self.slots if slot.life.state is State.FAILED)
        end = logs.tail(slot.log)
        quoted = "\n".join(f"    {line}" for line in end)
        return StartFailed(
            f"no worker ever became ready; {slot.worker.id} {slot.life.reason}. "
            f"The end of its log, {slot.log}:\n{quoted or '    (nothing)'}{_hint(slot, end)}"
        )

    def judge(self) -> None:
        """Called by a slot whose state has changed."""
        states = {slot.life.state for slot in self.slots}
        if State.FAILED in states <= {State.FAILED, State.STOPPED} and not any(s.life.ever_ready for s in self.slots):
            self._hopeless.set()

    def compare(self) -> None:
        """Workers of one launch should serve the same: then any of them may get any request."""
        served = {slot.worker.models: slot.worker.id for slot in self.slots if slot.worker.models}
        if len(served) > 1:
            names = "; ".join(f"{worker}: {', '.join(models)}" for models, worker in served.items())
            logger.warning("the workers report different models (%s): a request that names one goes there only", names)


class Slot:
    """One worker: its place in the plan, its present process, its mailbox. Is the worker's router.fleet.Handle."""

    def __init__(self, supervisor: Supervisor, spec: WorkerSpec):
        self.spec = spec
        self.log: Path | None = None
        self.life, self._first_actions = lifecycle.begin(supervisor.tools.clock())
        self._supervisor = supervisor
        self._tools = supervisor.tools
        self._fleet = supervisor.fleet
        engine = supervisor.engine
        self.worker = Worker(
            supervisor.fleet.next_id(),
            spec.url,
            devices=spec.devices,
            native_generate=engine.native_generate,
            ready_path=engine.ready_path,
            handle=self,
            key=spec.key,
        )
        # Mail about a process carries a number that each kill changes, so that what was said of a dead process is not
        # taken for news of its successor; mail from people carries None.
        self._mailbox: asyncio.Queue[tuple[int | None, lifecycle.Event]] = asyncio.Queue()
        self._number = 0
        self._process: Running | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self._asked: list[asyncio.Future[None]] = []  # restarts that lie in the mailbox
        self._awaited: list[asyncio.Future[None]] = []  # restarts under way
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._freeing: asyncio.Future[None] | None = None  # the wait for a dead engine's device memory

    def start(self) -> None:
        self._fleet.add(self.worker)
        self._task = asyncio.get_running_loop().create_task(self._run())

    # -- router.fleet.Handle

    async def restart(self) -> None:
        """Stop the engine and start it again; returns once it is ready. Raises RuntimeError if it did not become so."""
        if self._task is None or self._task.done():
            raise RuntimeError(f"{self.worker.id} is stopped")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(ready)
        self._mailbox.put_nowait((None, RestartAsked()))
        await ready

    async def stop(self) -> None:
        """Stop the engine for good; returns once all of its processes are gone."""
        self._stopping = True
        if self._freeing is not None:
            self._freeing.cancel()
        self._mailbox.put_nowait((None, StopAsked()))
        if self._task is not None:
            await asyncio.shield(self._task)

    def written(self, lines: int, after: str | None) -> tuple[list[str], str]:
        """What its engine wrote: the last lines, or all since the mark `after`; and the next mark."""
        return logs.end(self.log, lines) if after is None else logs.since(self.log, after)

    def first_to_say(self, line: str) -> bool:
        """Whether no worker of this launch has died with this line before."""
        new = line not in self._supervisor.last_words
        self._supervisor.last_words.add(line)
        return new

    async def kill_now(self) -> None:
        if self._process is not None:
            await self._process.stop(0.0)

    # -- the task

    async def _run(self) -> None:
        try:
            await self._enter(self.life, self._first_actions)
            while self.life.state is not State.STOPPED:
                number, event = await self._mailbox.get()
                if isinstance(event, RestartAsked):
                    self._awaited, self._asked = self._awaited + self._asked, []
                if number in (None, self._number):
                    now, rng = self._tools.clock(), self._tools.rng
                    await self._enter(*lifecycle.step(self.life, event, now, rng, self._supervisor.rules))
        except Exception as error:
            known = isinstance(error, LaunchError)
            logger.error("%s is given up: %s", self.worker.id, error, exc_info=None if known else error)
            await self._enter(replace(self.life, state=State.FAILED, reason=str(error)), ())
        finally:
            await self._kill()
            await self._tools.leave(self.spec)
            self._awaited += self._asked
            self._answer(RuntimeError(f"{self.worker.id} is stopped"))

    async def _enter(self, life: Life, actions: Sequence[lifecycle.Action]) -> None:
        before, self.life = self.life, life
        self._announce(before, actions)
        for action in actions:
            await self._do(action)

    async def _do(self, action: lifecycle.Action) -> None:
        match action:
            case lifecycle.Kill():
                await self._kill()
            case lifecycle.Move():
                self._move()
            case lifecycle.Spawn():
                await self._spawn()
            case lifecycle.Wait(delay):
                self._watch(self._wait(delay))
            case lifecycle.Try():
                self._watch(self._try(self._number))

    def _announce(self, before: Life, actions: Sequence[lifecycle.Action]) -> None:
        """Tell the fleet, the log and whoever waits for a restart."""
        life, worker = self.life, self.worker
        worker.restarted = dict(life.restarted)
        if life.state in _TROUBLE:
            worker.last_error = life.reason
        if life is not before:
            _report(self, before, actions)
        if worker.lifecycle is not life.state:
            self._fleet.set_lifecycle(worker, life.state, life.reason)
        if life.state is State.READY:
            self._answer(None)
        elif life.state in (State.BACKOFF, State.FAILED, State.STOPPED):
            self._answer(RuntimeError(life.reason))
        self._supervisor.judge()

    def _answer(self, error: RuntimeError | None) -> None:
        for ready in self._awaited:
            if not ready.done():
                ready.set_exception(error) if error else ready.set_result(None)
        self._awaited.clear()

    # -- actions

    async def _spawn(self) -> None:
        if not self._tools.port_free(self.spec.port):
            self._move()
        self.log = None
        try:
            self.log = logs.next_file(self._supervisor.folder, self.worker.id)
            self._process = await self._tools.spawn(self._supervisor.command, self.spec, self.log)
        except OSError as error:
            self._post(self._number, NotStarted(str(error)))
            return
        self._place(self._process)
        logger.info("%s starting%s, log %s", self.worker.id, _where(self.spec), self.log)
        self._watch(self._await_exit(self._process, self._number))
        self._watch(self._probe(self._process, self._number))

    async def _kill(self) -> None:
        self._number += 1
        for task in self._watchers:
            task.cancel()
        self._watchers.clear()
        if self._process is None:
            return
        process = self._process
        await process.stop(self._supervisor.stop_timeout)
        self._process = None
        self.worker.pid = self.worker.waiting = None
        self._fleet.forget(self.worker)
        if self.spec.devices and not self._stopping:
            self._freeing = asyncio.ensure_future(self._tools.memory_freed(process.members))
            await asyncio.wait([self._freeing])

    def _place(self, process: Running) -> None:
        self.spec, worker = process.spec, self.worker
        worker.url, worker.devices, worker.node = self.spec.url, self.spec.devices, self.spec.node
        worker.pid = process.pid

    def _move(self) -> None:
        old = self.spec.port
        self.spec = replace(self.spec, port=self._tools.next_port(old))
        self.worker.url = self.spec.url
        logger.warning("%s: port %d is taken: trying %d", self.worker.id, old, self.spec.port)

    # -- what happens to the worker

    def _watch(self, watcher: Coroutine[Any, Any, None]) -> None:
        self._watchers.append(asyncio.get_running_loop().create_task(watcher))

    def _post(self, number: int, event: lifecycle.Event) -> None:
        self._mailbox.put_nowait((number, event))

    async def _wait(self, delay: float) -> None:
        await self._tools.sleep(delay)
        self._post(self._number, BackoffOver())

    async def _await_exit(self, process: Running, number: int) -> None:
        try:
            code = await process.wait()
        except Ended as end:
            self._post(number, end.event)
            return
        said = "\n".join(logs.tail(self.log, 40)).lower()
        self._post(number, Exited(code, any(phrase in said for phrase in hints.PORT_TAKEN)))

    async def _probe(self, process: Running, number: int) -> None:
        """Often until it answers, then at the user's interval; one probe at a time."""
        tools, worker = self._tools, self.worker
        await self._settle(process, number)
        answered = known = False
        gauge = _Gauge(process)
        while True:
            began = tools.clock()
            reason = await self._ask()
            if reason is None and not answered:
                reason = await process.outsider(self.spec.port)
            answered = answered or reason is None
            known = known or (reason is None and await self._learn())
            if reason != NO_SOCKET:
                working = worker.inflight > 0 and worker.heard < began and await gauge.working(began)
                self._post(number, Probed(reason, worker.heard, worker.inflight > 0, working))
            pause = self._supervisor.rules.interval if answered else STARTING_PROBE_INTERVAL
            await tools.sleep(max(0.0, began + pause - tools.clock()))

    async def _settle(self, process: Running, number: int) -> None:
        def waits(reason: str) -> None:
            if self.worker.waiting != reason:
                logger.warning("%s waits for a place: %s", self.worker.id, reason)
            self.worker.waiting = reason
            self._post(number, Unplaced())

        await process.settled(waits)
        self.worker.waiting = None
        if self.spec != process.spec:
            self._place(process)
            logger.info("%s runs%s", self.worker.id, _where(self.spec))

    async def _try(self, number: int) -> None:
        try:
            reason = await self._tools.token(self.worker, self._supervisor.rules.probe_window)
        except Exception as error:  # that says nothing of the worker
            logger.warning("%s could not be asked for a token: %s", self.worker.id, error)
            reason = None
        self._post(number, Tried(reason))

    async def _learn(self) -> bool:
        """Ask what it serves; whether that need not be asked again."""
        try:
            reason = await self._tools.learn(self.worker)
        except Exception as error:  # it answers its ready path: only what it serves is not known
            logger.warning("%s: %s", self.worker.id, error)
            return True
        self._supervisor.compare()
        return reason is None

    async def _ask(self) -> str | None:
        try:
            return await self._tools.probe(self.worker)
        except Exception as error:  # whatever breaks a probe, the worker has not answered it
            return f"{type(error).__name__}: {error}"


class _Gauge:
    """How much an engine's processes compute."""

    def __init__(self, process: Running):
        self._process = process
        self._last: tuple[float, float] | None = None  # when, and CPU seconds by then

    async def working(self, now: float) -> bool:
        """Whether they have computed since this was last asked; when that was not lately, they are believed to."""
        before, self._last = self._last, (now, await self._process.cpu())
        return before is None or self._last[1] - before[1] >= WORKS * (now - before[0])


_TROUBLE = (State.UNHEALTHY, State.BACKOFF, State.FAILED)


def _report(slot: Slot, before: Life, actions: Sequence[lifecycle.Action]) -> None:
    """One line about a change, and the end of the engine's log when it died before it was ready."""
    life, worker = slot.life, slot.worker
    if life.state is State.READY and before.state is not State.READY:
        logger.info("%s ready after %.1f s", worker.id, life.since - before.since)
    elif life.state is State.UNHEALTHY and before.state is not State.UNHEALTHY:
        logger.warning("%s unhealthy: %s", worker.id, life.reason)
    elif life.state is State.BACKOFF:
        delay = next(action.delay for action in actions if isinstance(action, lifecycle.Wait))
        logger.warning("%s %s; starting again in %.1f s%s", worker.id, life.reason, delay, _excerpt(slot, before))
    elif life.state is State.FAILED:
        excerpt = _excerpt(slot, before)
        logger.error("%s failed: %s; it is not started again%s", worker.id, life.reason, excerpt)
    elif life.state is State.STOPPED:
        logger.info("%s stopping", worker.id)


def _excerpt(slot: Slot, before: Life) -> str:
    """Where its log is, and its end if it died before it was ready: later lines may quote prompts.

    Workers that die of the same are quoted once.
    """
    end = logs.tail(slot.log) if before.state is State.STARTING else []
    if not end or not slot.first_to_say(end[-1]):
        return f" (log: {slot.log})" if slot.log else ""
    return f". The end of its log, {slot.log}:" + "".join(f"\n    {line}" for line in end) + _hint(slot, end)


def _hint(slot: Slot, shown: Sequence[str]) -> str:
    """What would help, where the log names a known cause, in the lines that are shown or before them."""
    known = hints.hint(logs.tail(slot.log, hints.READ))
    return f"\n  Hint: {known.told(shown)}" if known else ""


def _where(spec: WorkerSpec) -> str:
    if not spec.placed:
        return ""
    gpus = f" on GPU {','.join(spec.devices)}" if spec.devices else ""
    return f"{gpus} of {spec.node}, at {spec.url}" if spec.node else f"{gpus}, port {spec.port}"
