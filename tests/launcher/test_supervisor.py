"""The supervisor with processes and a clock of paper: what it does about what happens, without waiting for it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import logs
from launcher.config import LaunchConfig
from launcher.engines import Command
from launcher.errors import BadConfig
from launcher.lifecycle import Event, Exited, Lost, Probed
from launcher.plan import WorkerSpec
from launcher.supervisor import Ended, Supervisor, Tools
from router.config import RouterConfig
from router.fleet import Cause, Fleet, State, Worker


class Clock:
    """Virtual time: sleepers wake when the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    async def sleep(self, delay: float) -> None:
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + delay, next(self._order), waker))
        await waker

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, waker = heapq.heappop(self._sleepers)
            if not waker.done():
                waker.set_result(None)
            await settle()
        self.now = end


async def settle() -> None:
    """Let all that can happen at this moment happen."""
    for _ in range(50):
        await asyncio.sleep(0)


class Paper:
    """A process that does as the test says."""

    pids = itertools.count(100)

    def __init__(self, spec: WorkerSpec, log: Path, world: World):
        self.world = world
        self.spec = spec
        self.log = log
        self.pid = next(Paper.pids)
        self.members = {self.pid}
        self.computed = 0.0  # CPU seconds
        self.stops: list[float] = []
        self.stubborn = asyncio.Event()
        self.stubborn.set()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def is_lost(self, cause: Cause, reason: str) -> None:
        self._exit.set_exception(Ended(Lost(cause, reason)))

    def dies(self, code: int = 1, saying: str = "") -> None:
        self.log.write_text(saying)
        self._exit.set_result(code)

    async def settled(self, waits: Callable[[str], None]) -> None:
        while (reason := self.world.full) is not None:
            waits(reason)
            await self.world.clock.sleep(1)
        self.spec = self.world.placed(self.spec)

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, timeout: float) -> None:
        self.stops.append(timeout)
        await self.stubborn.wait()

    async def cpu(self) -> float:
        return self.computed

    async def outsider(self, port: int) -> str | None:
        return self.world.held


class Dialect:
    """An engine."""

    name = "paper"
    ready_path = "/health"
    native_generate: bool | None = None
    uuid_devices = False

    def check(self, config: LaunchConfig) -> None: ...

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        return Command(("serve", str(spec.port)))


class World:
    """A supervised fleet; every worker answers its probes unless the test gives a reason."""

    def __init__(self, folder: Path, workers: int, devices: tuple[str, ...], **settings: object):
        self.clock = Clock()
        self.fleet = Fleet()
        self.spawned: list[Paper] = []
        self.commands: list[tuple[str, ...]] = []
        self.reasons: dict[str, str | None] = {}  # by worker id: why its probes fail
        self.taken: set[int] = set()
        self.learnt: list[str] = []
        self.tried: list[tuple[str, float]] = []
        self.full: str | None = None  # why a worker has no place
        self.placed: Callable[[WorkerSpec], WorkerSpec] = lambda spec: spec
        self.left: list[int] = []  # replicas that need their places no more
        self.held: str | None = None  # who has the workers' ports instead
        self.tokenless: str | None = None  # why no token comes
        self.models: dict[str, tuple[str, ...]] = {}
        self.unlearnable: str | None = None
        self.freed: list[set[int]] = []
        self.forgotten: list[str] = []
        self.history: list[tuple[str, State, str]] = []
        self.fleet.on_forget.append(lambda worker: self.forgotten.append(worker.id))
        self.fleet.on_state.append(lambda worker, _, new, reason: self.history.append((worker.id, new, reason)))
        specs = [WorkerSpec(n, 31000 + 100 * n, devices=devices) for n in range(workers)]
        config = LaunchConfig(model_path="m", **settings)  # type: ignore[arg-type]
        tools = Tools(
            spawn=self.spawn,
            probe=self.probe,
            learn=self.learn,
            token=self.token,
            port_free=lambda port: port not in self.taken,
            next_port=self.next_port,
            memory_freed=self.memory_freed,
            leave=self.leave,
            clock=lambda: self.clock.now,
            sleep=self.clock.sleep,
            rng=random.Random(1),
        )
        self.supervisor = Supervisor(config, Dialect(), specs, self.fleet, folder, tools)

    async def spawn(self, make: Callable[[WorkerSpec], Command], spec: WorkerSpec, log: Path) -> Paper:
        self.commands.append(make(spec).argv)
        self.spawned.append(Paper(spec, log, self))
        return self.spawned[-1]

    async def probe(self, worker: Worker) -> str | None:
        return self.reasons.get(worker.id)

    async def learn(self, worker: Worker) -> str | None:
        self.learnt.append(worker.id)
        self.fleet.set_models(worker, self.models.get(worker.id, ()))
        return self.unlearnable

    async def token(self, worker: Worker, patience: float) -> str | None:
        self.tried.append((worker.id, patience))
        return self.tokenless

    async def memory_freed(self, pids: set[int]) -> None:
        self.freed.append(pids)

    async def leave(self, spec: WorkerSpec) -> None:
        self.left.append(spec.replica)

    def next_port(self, after: int) -> int:
        return next(port for port in itertools.count(after + 1) if port not in self.taken)

    async def starts(self) -> None:
        self.supervisor.start()
        await settle()

    def worker(self, number: int = 0) -> Worker:
        return self.fleet.workers[f"w{number}"]

    def states(self) -> list[State]:
        return [worker.state for worker in self.fleet.workers.values()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    worlds: list[World] = []

    def world(workers: int = 1, devices: tuple[str, ...] = (), **settings: object) -> World:
        worlds.append(World(tmp_path, workers, devices, **settings))
        return worlds[-1]

    yield world
    for each in worlds:
        for process in each.spawned:
            process.stubborn.set()
        await each.supervisor.stop()


Make = Callable[..., World]


async def test_workers_are_in_the_fleet_before_they_are_ready(world: Make):
    it = world(2)
    it.reasons = {"w0": "refused", "w1": "refused"}
    await it.starts()
    assert it.states() == [State.STARTING, State.STARTING]
    assert it.fleet.candidates(None) == ()
    assert it.worker().pid == it.spawned[0].pid


async def test_a_worker_that_answers_is_ready_and_known(world: Make):
    it = world()
    it.reasons["w0"] = "refused"
    await it.starts()
    it.reasons["w0"] = None
    await it.clock.advance(0.2)
    assert it.states() == [State.READY]
    assert it.learnt == ["w0"]


async def test_a_worker_that_cannot_say_what_it_serves_is_ready_all_the_same(world: Make):
    it = world()

    async def fails(worker: Worker) -> str | None:
        raise ValueError("no models")

    it.supervisor.tools.learn = fails
    await it.starts()
    assert it.states() == [State.READY]


async def test_what_a_worker_serves_is_asked_once_but_until_it_answers(world: Make):
    it = world()
    it.unlearnable = "/v1/models answers HTTP 500"
    await it.starts()
    await it.clock.advance(5)
    assert it.learnt == ["w0", "w0"]
    it.unlearnable = None
    await it.clock.advance(50)
    assert it.learnt == ["w0", "w0", "w0"]


async def test_workers_that_serve_different_models_are_warned_of(world: Make, caplog: pytest.LogCaptureFixture):
    it = world(2)
    it.models = {"w0": ("llama",), "w1": ("qwen",)}
    await it.starts()
    assert "different models (w0: llama; w1: qwen)" in caplog.text


async def test_the_one_that_is_ready_serves_while_the_other_loads(world: Make):
    it = world(2)
    it.reasons["w1"] = "refused"
    await it.starts()
    assert it.fleet.candidates(None) == (it.worker(0),)


async def test_a_worker_that_dies_is_out_at_once_and_back_after_the_delay(world: Make):
    it = world()
    await it.starts()
    it.spawned[0].dies(-9)
    await settle()
    worker = it.worker()
    assert worker.state is State.BACKOFF
    assert "SIGKILL" in (worker.last_error or "")
    assert worker.pid is None
    assert it.spawned[0].stops != []
    await it.clock.advance(0.7)
    assert worker.state is State.READY
    assert worker.restarted == {Cause.KILLED: 1}
    assert worker.pid == it.spawned[1].pid


async def test_what_a_dead_worker_had_cached_is_forgotten(world: Make):
    it = world(2)
    await it.starts()
    it.spawned[1].dies()
    await settle()
    assert it.forgotten == ["w1"]


async def test_a_worker_is_not_started_before_the_tree_of_its_predecessor_is_gone(world: Make):
    it = world()
    await it.starts()
    it.spawned[0].stubborn.clear()
    it.spawned[0].dies()
    await it.clock.advance(60)
    assert len(it.spawned) == 1
    it.spawned[0].stubborn.set()
    await settle()
    await it.clock.advance(1)
    assert len(it.spawned) == 2


async def test_a_worker_is_not_started_before_its_device_memory_is_free(world: Make):
    it = world(devices=("0",))
    free = asyncio.Event()

    async def memory_freed(pids: set[int]) -> None:
        it.freed.append(pids)
        await free.wait()

    it.supervisor.tools.memory_freed = memory_freed
    await it.starts()
    it.spawned[0].dies()
    await it.clock.advance(60)
    assert it.freed == [it.spawned[0].members]
    assert len(it.spawned) == 1
    free.set()
    await settle()
    await it.clock.advance(1)
    assert len(it.spawned) == 2


async def test_a_stop_does_not_wait_for_device_memory(world: Make):
    it = world(devices=("0",))

    async def never(pids: set[int]) -> None:
        await asyncio.Event().wait()

    it.supervisor.tools.memory_freed = never
    await it.starts()
    it.spawned[0].dies()
    await settle()
    await it.supervisor.stop()
    assert it.states() == [State.STOPPED]


async def test_without_devices_nobody_waits_for_memory(world: Make):
    it = world()
    await it.starts()
    it.spawned[0].dies()
    await it.clock.advance(1)
    assert it.freed == []


async def test_a_death_while_starting_is_told_with_the_end_of_the_log(world: Make, caplog: pytest.LogCaptureFixture):
    it = world()
    it.reasons["w0"] = "refused"
    await it.starts()
    it.spawned[0].dies(1, "loading\nCUDA out of memory\n")
    await settle()
    assert "exited with code 1 while starting" in caplog.text
    assert "    CUDA out of memory\n  Hint: the GPU's memory is full" in caplog.text


async def test_the_log_of_a_worker_that_served_is_not_quoted(world: Make, caplog: pytest.LogCaptureFixture):
    it = world()
    await it.starts()
    it.spawned[0].dies(1, "prompt: my secret\n")
    await settle()
    assert "exited with code 1" in caplog.text
    assert "my secret" not in caplog.text


async def test_workers_that_die_of_the_same_are_quoted_once(world: Make, caplog: pytest.LogCaptureFixture):
    it = world(2, max_restarts=0)
    it.reasons = {"w0": "refused", "w1": "refused"}
    await it.starts()
    for process in it.spawned:
        process.dies(1, "no such model: nonsense\n")
    await settle()
    assert it.states() == [State.FAILED, State.FAILED]
    assert caplog.text.count("no such model: nonsense") == 1


async def test_every_start_has_a_log_of_its_own(world: Make):
    it = world()
    await it.starts()
    it.spawned[0].dies()
    await it.clock.advance(1)
    assert [process.log.name for process in it.spawned] == ["w0.1.log", "w0.2.log"]


async def test_a_crash_loop_ends_in_failed_while_the_others_serve(world: Make):
    it = world(2, max_restarts=3)
    await it.starts()
    for _ in range(4):
        next(p for p in reversed(it.spawned) if p.spec.replica == 0).dies()
        await it.clock.advance(30)
    assert it.states() == [State.FAILED, State.READY]
    assert it.worker(0).restarted == {Cause.EXITED: 3}
    await it.clock.advance(10_000)
    assert sum(p.spec.replica == 0 for p in it.spawned) == 4


async def test_a_failed_worker_is_revived_by_a_restart(world: Make):
    it = world(max_restarts=0)
    await it.starts()
    it.spawned[0].dies()
    await settle()
    assert it.states() == [State.FAILED]
    await it.worker().handle.restart()
    assert it.states() == [State.READY]


async def test_no_worker_that_ever_became_ready_ends_the_launch_with_the_log(world: Make):
    it = world(2, max_restarts=0)
    it.reasons = {"w0": "refused", "w1": "refused"}
    await it.starts()
    hopeless = asyncio.create_task(it.supervisor.hopeless())
    it.spawned[0].dies(1, "no such model: nonsense\nRepository Not Found\n")
    await settle()
    assert not hopeless.done()
    it.spawned[1].dies(1, "no such model: nonsense\n")
    error = await hopeless
    assert error.exit_code == 5
    assert "exited with code 1" in str(error)
    assert "no such model: nonsense" in str(error)
    assert "Hint: no such model on the hub" in str(error)


async def test_a_launch_that_once_served_is_not_hopeless(world: Make):
    it = world(max_restarts=0)
    await it.starts()
    hopeless = asyncio.create_task(it.supervisor.hopeless())
    it.spawned[0].dies()
    await settle()
    assert it.states() == [State.FAILED]
    assert not hopeless.done()
    hopeless.cancel()


async def test_a_worker_that_never_answers_is_given_up_after_the_startup_timeout(world: Make):
    it = world(worker_startup_timeout=30, max_restarts=0)
    it.reasons["w0"] = "refused"
    await it.starts()
    await it.clock.advance(29)
    assert it.states() == [State.STARTING]
    await it.clock.advance(2)
    assert it.states() == [State.FAILED]
    assert it.spawned[0].stops != []


async def test_a_port_that_is_taken_is_left_before_the_start(world: Make):
    it = world()
    it.taken.add(31000)
    await it.starts()
    assert it.commands == [("serve", "31001")]
    assert it.worker().url == "http://127.0.0.1:31001"


async def test_a_port_stolen_from_the_engine_is_answered_by_another(world: Make):
    it = world(max_restarts=0)
    it.reasons["w0"] = "refused"
    await it.starts()
    it.spawned[0].dies(1, "OSError: [Errno 98] Address already in use\n")
    it.reasons["w0"] = None
    await settle()
    assert it.commands == [("serve", "31000"), ("serve", "31001")]
    assert it.worker().url == "http://127.0.0.1:31001"
    assert it.states() == [State.READY]


async def test_when_no_port_is_left_the_worker_fails_and_says_why(world: Make):
    it = world()
    it.taken.add(31000)

    def no_port(after: int) -> int:
        raise BadConfig("no port is free")

    it.supervisor.tools.next_port = no_port
    await it.starts()
    assert it.states() == [State.FAILED]
    assert it.worker().last_error == "no port is free"


async def test_a_worker_that_fails_its_probes_is_unhealthy_then_killed_then_back(world: Make):
    it = world()
    await it.starts()
    it.reasons["w0"] = "timed out"
    await it.clock.advance(15)
    assert it.states() == [State.UNHEALTHY]
    assert it.worker().last_error == "timed out"
    await it.clock.advance(5)
    assert it.states() == [State.BACKOFF]
    assert it.spawned[0].stops != []
    it.reasons["w0"] = None
    await it.clock.advance(1)
    assert it.states() == [State.READY]


async def test_a_worker_in_a_long_prefill_is_left_alone(world: Make):
    it = world()
    await it.starts()
    it.fleet.lease(it.worker(), 100_000, it.clock.now)
    it.reasons["w0"] = "timed out"
    await it.clock.advance(90)
    assert it.spawned[0].stops == []


async def test_a_worker_that_computes_without_a_word_is_left_alone(world: Make):
    w = world()
    await w.starts()
    lease = w.fleet.lease(w.worker(), 100, w.clock.now)
    w.reasons["w0"] = "no answer within 5 s"
    for _ in range(60):  # five minutes
        w.spawned[0].computed += 5
        await w.clock.advance(5)
    assert w.states() == [State.UNHEALTHY]
    await w.clock.advance(130)  # now it does nothing
    assert len(w.spawned) == 2
    lease.release(w.clock.now)


async def test_a_worker_whose_health_lies_is_asked_for_a_token_and_started_again(world: Make):
    w = world()
    await w.starts()
    lease = w.fleet.lease(w.worker(), 100, w.clock.now)
    await w.clock.advance(130)
    assert (w.tried, w.states()) == ([("w0", 15.0)], [State.READY])
    w.tokenless = "no token came within 15 s"
    await w.clock.advance(121)
    assert len(w.spawned) == 2
    assert "no token" in (w.worker().last_error or "")
    lease.release(w.clock.now)


async def test_probes_begin_an_interval_apart_however_long_they_take(world: Make):
    w = world()
    await w.starts()
    began: list[float] = []

    async def slow(worker: Worker) -> str:
        began.append(w.clock.now)
        await w.clock.sleep(4)
        return "no answer within 4 s"

    w.supervisor.tools.probe = slow
    await w.clock.advance(16)
    assert [round(b - began[0]) for b in began] == [0, 5, 10]


async def test_one_that_answers_on_the_port_of_a_worker_that_still_loads_is_not_that_worker(world: Make):
    w = world()
    w.held = "another program holds port 31000 (pid 7)"
    await w.starts()
    await w.clock.advance(10)
    assert w.states() == [State.STARTING]
    w.spawned[0].dies(1, "OSError: [Errno 98] Address already in use")
    w.held = None
    await w.clock.advance(1)
    assert w.states() == [State.READY]
    assert (w.worker().url, w.worker().restarted) == ("http://127.0.0.1:31001", {})


async def test_a_worker_whose_bytes_arrive_stays_ready_whatever_its_probes_say(world: Make):
    it = world()
    await it.starts()
    it.reasons["w0"] = "HTTP 503"
    for _ in range(100):
        it.worker().heard = it.clock.now
        await it.clock.advance(4)
    assert it.states() == [State.READY]


async def test_a_probe_that_breaks_is_a_failed_probe(world: Make):
    it = world()

    async def breaks(worker: Worker) -> str | None:
        raise ValueError("oops")

    it.supervisor.tools.probe = breaks
    await it.starts()
    assert it.states() == [State.STARTING]


async def test_a_restart_returns_once_the_new_process_is_ready(world: Make):
    it = world()
    await it.starts()
    it.reasons["w0"] = "refused"
    restart = asyncio.create_task(it.worker().handle.restart())
    await settle()
    assert it.states() == [State.STARTING]
    assert len(it.spawned) == 2
    assert not restart.done()
    it.reasons["w0"] = None
    await it.clock.advance(0.2)
    await restart
    assert it.states() == [State.READY]
    assert it.worker().restarted == {Cause.ASKED: 1}


async def test_a_restart_that_fails_says_so_to_whoever_asked(world: Make):
    it = world()
    await it.starts()
    it.reasons["w0"] = "refused"
    restart = asyncio.create_task(it.worker().handle.restart())
    await settle()
    it.spawned[1].dies()
    with pytest.raises(RuntimeError, match="exited with code 1"):
        await restart


@pytest.mark.parametrize("news", [Probed(), Exited(-9)])
async def test_what_happened_before_a_restart_does_not_answer_whoever_asked_for_it(world: Make, news: Event):
    it = world()
    await it.starts()
    it.reasons["w0"] = "refused"
    slot = it.supervisor.slots[0]
    restart = asyncio.create_task(slot.restart())
    slot._post(slot._number, news)  # it lies in the mailbox when the wish comes
    await settle()
    assert not restart.done()
    it.reasons["w0"] = None
    await it.clock.advance(0.2)
    await restart
    assert len(it.spawned) == 2


@pytest.mark.parametrize("ticks", range(8))
async def test_what_is_heard_of_a_dead_process_is_not_taken_for_news_of_the_next(world: Make, ticks: int):
    """Death and a failed probe, `ticks` turns of the loop apart: in one of these cases the slot finds both at once."""
    it = world()
    await it.starts()
    answer = asyncio.Event()

    async def probe(worker: Worker) -> str | None:
        await answer.wait()
        return "refused"

    it.supervisor.tools.probe = probe
    await it.clock.advance(5)
    it.spawned[0].dies()
    for _ in range(ticks):
        await asyncio.sleep(0)
    answer.set()
    await settle()
    assert it.states() == [State.BACKOFF]


async def test_a_stopped_worker_cannot_be_restarted(world: Make):
    it = world()
    await it.starts()
    await it.worker().handle.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        await it.worker().handle.restart()


async def test_a_restart_is_answered_even_when_the_worker_is_stopped_meanwhile(world: Make):
    it = world()
    await it.starts()
    it.reasons["w0"] = "refused"
    restart = asyncio.create_task(it.worker().handle.restart())
    await settle()
    await it.worker().handle.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        await restart


async def test_a_restart_asked_of_a_worker_that_is_being_stopped_is_refused(world: Make):
    it = world()
    await it.starts()
    it.spawned[0].stubborn.clear()
    stop = asyncio.create_task(it.worker().handle.stop())
    await settle()
    restart = asyncio.create_task(it.worker().handle.restart())
    await settle()
    it.spawned[0].stubborn.set()
    with pytest.raises(RuntimeError, match="stopped"):
        await asyncio.wait_for(restart, 5)
    await stop


async def test_stop_returns_when_every_tree_is_gone(world: Make):
    it = world(2, stop_timeout=7)
    await it.starts()
    it.spawned[1].stubborn.clear()
    stop = asyncio.create_task(it.supervisor.stop())
    await settle()
    assert not stop.done()
    it.spawned[1].stubborn.set()
    await stop
    assert it.states() == [State.STOPPED, State.STOPPED]
    assert [process.stops for process in it.spawned] == [[7], [7]]


async def test_hurrying_leaves_no_time_to_those_that_are_being_stopped(world: Make):
    it = world(stop_timeout=3600)
    await it.starts()
    it.spawned[0].stubborn.clear()
    stop = asyncio.create_task(it.supervisor.stop())
    await settle()
    hurry = asyncio.create_task(it.supervisor.hurry())
    await settle()
    assert it.spawned[0].stops == [3600, 0]
    it.spawned[0].stubborn.set()
    await asyncio.gather(stop, hurry)


async def test_after_hurrying_no_engine_gets_time_to_stop(world: Make):
    it = world(stop_timeout=3600)
    await it.starts()
    await it.supervisor.hurry()
    await it.supervisor.stop()
    assert it.spawned[0].stops == [0, 0]


async def test_an_engine_that_ends_in_the_hurry_is_not_taken_for_crashed(world: Make, caplog: pytest.LogCaptureFixture):
    it = world(2)
    await it.starts()
    it.spawned[1].stubborn.clear()  # while one takes its time, the other is long gone
    hurry = asyncio.create_task(it.supervisor.hurry())
    await asyncio.sleep(0)
    it.spawned[0].dies(-15)
    await it.clock.advance(1)
    assert it.worker(0).state is State.STOPPED
    assert len(it.spawned) == 2
    it.spawned[1].stubborn.set()
    await hurry
    assert "killed by" not in caplog.text


async def test_a_worker_can_be_stopped_while_it_waits_for_its_next_start(world: Make):
    it = world()
    await it.starts()
    it.spawned[0].dies()
    await settle()
    await it.supervisor.stop()
    await it.clock.advance(100)
    assert len(it.spawned) == 1


async def test_a_process_that_cannot_be_made_is_a_failed_start(world: Make):
    it = world(max_restarts=0)

    async def spawn(command: Command, spec: WorkerSpec, log: Path) -> Paper:
        raise OSError("too many processes")

    it.supervisor.tools.spawn = spawn
    await it.starts()
    assert it.states() == [State.FAILED]


async def test_a_log_that_cannot_be_made_is_a_failed_start(
    world: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    it = world()
    await it.starts()

    def full(folder: Path, worker_id: str) -> Path:
        raise OSError(28, "No space left on device")

    it.spawned[0].dies()
    await settle()
    with monkeypatch.context() as disk:
        disk.setattr(logs, "next_file", full)
        await it.clock.advance(0.7)
    assert it.states() == [State.BACKOFF]
    assert "No space left on device" in (it.worker().last_error or "")
    assert "Traceback" not in caplog.text
    assert "None" not in caplog.text
    await it.clock.advance(2)
    assert it.states() == [State.READY]


# -- on a cluster


def on(node: str, host: str = "10.0.0.2") -> Callable[[WorkerSpec], WorkerSpec]:
    return lambda spec: replace(spec, host=host, port=31100, devices=("2", "3"), node=node)


async def test_a_worker_without_a_place_waits_for_one_as_long_as_it_takes(
    world: Make, caplog: pytest.LogCaptureFixture
):
    it = world(worker_startup_timeout=10)
    it.full, it.placed = "needs 2 GPUs on one node; none is free", on("gpu-2")
    await it.starts()
    await it.clock.advance(100)
    worker = it.worker()
    assert (worker.state, worker.waiting) == (State.STARTING, "needs 2 GPUs on one node; none is free")
    assert caplog.text.count("w0 waits for a place: needs 2 GPUs") == 1
    assert worker.restarted == {}
    it.full = None
    await it.clock.advance(2)
    assert (worker.state, worker.waiting) == (State.READY, None)
    assert (worker.url, worker.node, worker.devices) == ("http://10.0.0.2:31100", "gpu-2", ("2", "3"))
    assert worker.pid == it.spawned[0].pid


async def test_nobody_is_probed_before_it_has_a_place(world: Make):
    it = world()
    asked: list[str] = []

    async def probe(worker: Worker) -> str | None:
        asked.append(worker.url)
        return None

    it.supervisor.tools.probe = probe
    it.full, it.placed = "no room", on("gpu-2")
    await it.starts()
    await it.clock.advance(10)
    assert asked == []
    it.full = None
    await it.clock.advance(2)
    assert asked[0] == "http://10.0.0.2:31100"


async def test_a_worker_of_a_lost_node_is_back_on_another(world: Make):
    it = world()
    it.placed = on("gpu-2")
    await it.starts()
    it.placed = on("gpu-5", host="10.0.0.5")
    it.spawned[0].is_lost(Cause.NODE_LOST, "its node gpu-2 is lost")
    await settle()
    worker = it.worker()
    assert (worker.state, worker.last_error) == (State.BACKOFF, "its node gpu-2 is lost")
    await it.clock.advance(1)
    assert (worker.state, worker.node, worker.url) == (State.READY, "gpu-5", "http://10.0.0.5:31100")
    assert worker.restarted == {Cause.NODE_LOST: 1}
    assert it.forgotten == ["w0"]


async def test_a_worker_that_waits_for_a_place_can_be_stopped_and_its_place_is_given_back(world: Make):
    it = world(2)
    it.full = "no room"
    await it.starts()
    await it.supervisor.slots[1].stop()
    assert it.states()[1] is State.STOPPED
    assert it.left == [1]


async def test_an_engine_is_not_told_the_routers_keys(world: Make):
    it = world(router=RouterConfig(api_key="s3cret", admin_api_key="adm1n"))
    assert "s3cret" not in str(vars(it.supervisor.command.keywords["config"].router))
