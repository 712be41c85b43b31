"""Active health: probes of workers started elsewhere, and of any worker that failures have made unavailable.

One task per worker does all of its probing, so no worker is ever asked twice at once. Workers launched here are watched
by whoever can restart them; here they are only probed while their breaker is open.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import aiohttp
import msgspec

from router import capacity
from router.ask import NO_SOCKET, Reply, TimedOut, Unreachable, ask
from router.config import RouterConfig
from router.errors import BadRequest, NotFound, RouterError
from router.fleet import Breaker, Fleet, State, Worker

log = logging.getLogger(__name__)

FIRST_DELAY = 0.5  # seconds between probes of a worker that is not up, doubling ...
SLOWEST = 5.0  # ... up to this for an unavailable one, up to the check interval for one that is not up
NO_SUCH_PATH = "HTTP 404"


class NotInference(BadRequest):
    """The server is up, and is no inference server: asking again will not help."""


async def probe(session: aiohttp.ClientSession, url: str, path: str, timeout: float) -> str | None:
    """GET `url + path` within `timeout` seconds. Returns None when healthy, else why not; never raises."""
    try:
        status = (await ask(session, "GET", url + path, timeout=timeout)).status
    except Unreachable as error:
        return str(error)
    return None if status == 200 else f"HTTP {status}"


async def generate(session: aiohttp.ClientSession, worker: Worker, timeout: float) -> bool:
    """Ask the worker for one token; whether it made one. Raises Unreachable, in `timeout` seconds at most.

    The engine's own dialect is tried first, then OpenAI's: LMDeploy's /generate takes other fields than SGLang's.
    """
    native = {"text": "Hi", "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
    openai = {"model": worker.models[0] if worker.models else "default", "prompt": "Hi", "max_tokens": 1}
    for path, body in (("/generate", native), ("/v1/completions", openai)):
        if path == "/generate" and worker.native_generate is False:
            continue
        if (await ask(session, "POST", worker.url + path, json=body, timeout=timeout)).status == 200:
            return True
    return False


async def learn(session: aiohttp.ClientSession, fleet: Fleet, worker: Worker, timeout: float = 5.0) -> str | None:
    """Ask what the worker serves, whether /generate is its own, and what its KV cache holds.

    Returns why that failed, if asking again may help; that a worker does not tell the last is no failure.
    Raises NotInference.
    """
    try:
        listing = await ask(session, "GET", worker.url + "/v1/models", timeout=timeout)
        if listing.status >= 500:
            return f"/v1/models answers HTTP {listing.status}"
        models = models_of(listing)
        if models:
            fleet.set_models(worker, [model.id for model in models])
        generate = (await ask(session, "GET", worker.url + "/generate", timeout=timeout)).status
        if worker.native_generate is None:
            worker.native_generate = speaks_generate(generate, models or [])
        # A locked list is a list: the worker wants a key of its own. 405: the path is there, for POST.
        if models is None and listing.status not in (401, 403) and generate != 405:
            await _require_info(session, worker, timeout)
    except Unreachable as error:
        return str(error)
    fleet.set_cache(worker, *await _cache(session, worker, timeout))
    return None


async def _cache(session: aiohttp.ClientSession, worker: Worker, timeout: float) -> tuple[int | None, int | None]:
    """The tokens and prompts of its KV cache, from the first answer that tells.

    None as soon as a question is not answered, which would hold the worker up.
    """
    try:
        for path, source in capacity.SOURCES.items():
            reply = await ask(session, "GET", worker.url + path, timeout=timeout)
            tokens = source.tokens(reply.body) if reply.status == 200 else None
            if tokens is not None:
                return tokens, source.prompts(reply.body)
    except Unreachable as error:
        log.info("%s does not tell what its KV cache holds: %s", worker.url, error)
    return None, None


class Model(msgspec.Struct):
    id: str
    owned_by: object = None


class _Models(msgspec.Struct):
    data: list[Model]


def models_of(listing: Reply) -> list[Model] | None:
    """What an answer to GET /v1/models lists; None when it is no such list."""
    if listing.status != 200:
        return None
    try:
        return msgspec.json.decode(listing.body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def speaks_generate(status: int, models: list[Model]) -> bool:
    """Whether a worker's /generate is SGLang's, by the status of GET /generate and the models it lists.

    SGLang and LMDeploy route the path for POST (405), vLLM and llama.cpp do not have it (404). LMDeploy's takes
    `prompt` and `max_tokens`, no `text` and no `sampling_params`.
    """
    return status != 404 and not any(model.owned_by == "lmdeploy" for model in models)


async def _require_info(session: aiohttp.ClientSession, worker: Worker, timeout: float) -> None:
    for path in ("/get_model_info", "/model_info"):
        info = await ask(session, "GET", worker.url + path, timeout=timeout)
        if info.status in (200, 401, 403) and info.content_type == "application/json":
            return
    raise NotInference(
        f"{worker.url} answers {worker.ready_path}, but neither /v1/models nor /get_model_info: "
        "it is not an inference server"
    )


class Tally:
    """Consecutive probe results -> up or down: `rise` good ones in a row bring it up, `fall` bad ones down. Pure."""

    def __init__(self, rise: int, fall: int, up: bool = False):
        self._needed = {True: rise, False: fall}
        self.up = up
        self._streak = 0

    def note(self, good: bool) -> bool:
        """Count one result; returns whether `up` has changed."""
        self._streak = 0 if good is self.up else self._streak + 1
        if self._streak < self._needed[good]:
            return False
        self.up, self._streak = good, 0
        return True


@dataclass
class _Watch:
    """What the prober knows of one worker. Written only by its task."""

    worker: Worker
    tally: Tally
    delay: float  # seconds until the next probe, while it is not well
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    alarm: bool = False  # woken because the breaker opened
    began: float = 0.0  # the last look, in the loop's time
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # it was up once, or was refused
    refusal: RouterError | None = None
    heard: float = 0.0  # the worker's `heard`, when last looked
    task: asyncio.Task[None] | None = None

    def settle(self, refusal: RouterError | None = None) -> None:
        self.refusal = refusal
        self.settled.set()

    def progressed(self) -> bool:
        """Whether a byte of some answer has come from it since this was last asked."""
        before, self.heard = self.heard, self.worker.heard
        return self.heard > before


class Prober:
    """Watches every worker of the fleet, from the moment it is added until it is removed."""

    def __init__(self, config: RouterConfig, fleet: Fleet, session: aiohttp.ClientSession):
        self._config = config
        self._fleet = fleet
        self._session = session
        self._watches: dict[str, _Watch] = {}
        self._first = min(FIRST_DELAY, config.health_check_interval)

    def start(self) -> None:
        """Watch the workers that are there and all that come. Needs a running event loop."""
        self._fleet.on_add.append(self._begin)
        self._fleet.on_remove.append(self._end)
        self._fleet.on_state.append(self._noticed)
        for worker in self._fleet.workers.values():
            self._begin(worker)

    async def close(self) -> None:
        """Stop all probing."""
        self._fleet.on_add.remove(self._begin)
        self._fleet.on_remove.remove(self._end)
        self._fleet.on_state.remove(self._noticed)
        tasks = [watch.task for watch in self._watches.values() if watch.task]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def up(self, worker: Worker) -> None:
        """Wait until the worker was up once. Raises NotInference, or NotFound when it was removed meanwhile."""
        watch = self._watches[worker.id]
        await watch.settled.wait()
        if watch.refusal is not None:
            raise watch.refusal

    def _begin(self, worker: Worker) -> None:
        config = self._config
        up = worker.lifecycle is State.READY
        tally = Tally(config.health_success_threshold, config.health_failure_threshold, up)
        watch = self._watches[worker.id] = _Watch(worker, tally, self._first)
        watch.task = asyncio.get_running_loop().create_task(self._run(watch))

    def _end(self, worker: Worker) -> None:
        watch = self._watches.pop(worker.id, None)
        if watch is not None and watch.task is not None:
            task, watch.task = watch.task, None  # which hold each other, and nobody else would let go
            task.cancel()
            watch.settle(NotFound(f"worker {worker.url} was removed"))

    def _noticed(self, worker: Worker, old: State, new: State, reason: str) -> None:
        watch = self._watches.get(worker.id)
        if watch is not None and worker.breaker is Breaker.OPEN:
            watch.alarm = True
            watch.wake.set()

    async def _run(self, watch: _Watch) -> None:
        while self._watches.get(watch.worker.id) is watch:
            watch.began = asyncio.get_running_loop().time()
            try:
                await self._look(watch)
            except Exception:  # a watch must outlive its own bugs: an unwatched worker never comes back
                log.exception("health check of %s", watch.worker.url)
            await self._rest(watch)

    async def _look(self, watch: _Watch) -> None:
        worker = watch.worker
        ours = worker.handle is not None
        if ours and worker.breaker is not Breaker.OPEN:
            return
        reason = await self._probe(watch)
        if not ours:
            self._judge(watch, reason)
        if reason is None:
            self._fleet.half_open(worker)

    async def _probe(self, watch: _Watch) -> str | None:
        worker, timeout = watch.worker, self._config.health_check_timeout
        reason = await probe(self._session, worker.url, worker.ready_path, timeout)
        if reason == NO_SUCH_PATH and worker.ready_path == "/health":
            reason = await probe(self._session, worker.url, "/v1/models", timeout)
            if reason is None:
                worker.ready_path = "/v1/models"
        if reason is None and not watch.tally.up and worker.handle is None:
            return await self._learn(watch)
        return reason

    async def _learn(self, watch: _Watch) -> str | None:
        try:
            return await learn(self._session, self._fleet, watch.worker, self._config.health_check_timeout)
        except NotInference as refusal:
            watch.settle(refusal)
            return refusal.message

    def _judge(self, watch: _Watch, reason: str | None) -> None:
        worker, progressed = watch.worker, watch.progressed()
        if reason == NO_SOCKET:
            return
        if reason is not None:
            if reason.startswith(TimedOut.prefix) and progressed:
                return  # slow to answer probes because it is busy answering requests
            worker.last_error = reason
        if not watch.tally.note(reason is None):
            return
        if reason is None:
            self._came_up(watch)
        else:
            self._fleet.set_lifecycle(worker, State.UNHEALTHY, reason)

    def _came_up(self, watch: _Watch) -> None:
        worker = watch.worker
        if worker.lifecycle is State.UNHEALTHY:
            self._fleet.forget(worker)  # it was away, most likely for a restart: its cache is gone
        worker.last_error = None
        self._fleet.set_lifecycle(worker, State.READY, "healthy")
        watch.settle()

    async def _rest(self, watch: _Watch) -> None:
        loop, delay = asyncio.get_running_loop(), self._delay(watch)
        if delay is not None and watch.tally.up:  # probes begin an interval apart, however long they take
            delay = max(0.0, watch.began + delay - loop.time())
        # No wait_for(): cancelled, it leaves a cycle that is never collected, for each worker that is removed.
        timer = None if delay is None else loop.call_later(delay, watch.wake.set)
        try:
            await watch.wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        watch.wake.clear()
        if watch.alarm:
            watch.alarm = False
            watch.delay = self._first
            await asyncio.sleep(watch.delay)

    def _delay(self, watch: _Watch) -> float | None:
        """Seconds until the next look; None: until the breaker opens."""
        worker, interval = watch.worker, self._config.health_check_interval
        ours, unavailable = worker.handle is not None, worker.breaker is not Breaker.CLOSED
        if not unavailable and (ours or watch.tally.up):
            watch.delay = self._first
            return None if ours else interval
        delay = watch.delay
        watch.delay = min(2 * delay, interval, SLOWEST if unavailable else interval)
        return delay
