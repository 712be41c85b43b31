"""The simulated engine's HTTP: SGLang's, OpenAI's and Anthropic's paths, and /fault to make it misbehave."""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec
from aiohttp import web

from launcher.engines import sim_faults, sim_shapes
from launcher.engines.sim_driver import Driver, Exchange
from launcher.engines.sim_engine import Stats
from launcher.engines.sim_faults import Desk, Faults
from launcher.engines.sim_shapes import DIALECTS, IMMEDIATE, BadBody, Body, Dialect, Job, Reply

_JSON = "application/json"
_MAX_BODY = 1 << 30  # bytes


@dataclass
class Parts:
    """What the handlers share. `ready` is written by the server process, `stop` is set by /terminate."""

    driver: Driver
    model: str  # the name it is served under
    model_path: str
    desk: Desk = field(default_factory=Desk)
    ready: bool = True
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    die: Callable[[str], None] = sim_faults.die
    key: str | None = None  # what clients must show, but for /health; None: nothing
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds, in whole blocks."""
        engine = self.driver.engine
        return engine.kv.capacity * engine.config.block_size

    @property
    def context(self) -> int:
        """Tokens that a request may have, its answer included: it may fill the cache alone."""
        return self.kv_tokens


PARTS: web.AppKey[Parts] = web.AppKey("parts")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(parts: Parts) -> web.Application:
    """The application; it advances the engine while it runs. Serve it with handler_cancellation=True."""
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_locked, _errors])
    app[PARTS] = parts
    app.on_response_prepare.append(_sign)
    app.cleanup_ctx.append(_drive)
    for path, dialect in DIALECTS.items():
        app.router.add_post(path, _computed(dialect))
    for path, answer in IMMEDIATE.items():
        app.router.add_post(path, _immediate(answer))
    for path, handler in _GETS.items():
        app.router.add_get(path, handler)
    for path, handler in _POSTS.items():
        app.router.add_post(path, handler)
    app.router.add_delete("/fault", _disarm)
    return app


async def _drive(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[PARTS].driver.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer says which worker gave it, by its port."""
    if request.transport is not None:
        response.headers["x-sim-worker"] = str(request.transport.get_extra_info("sockname")[1])


@web.middleware
async def _locked(request: web.Request, handler: Handler) -> web.StreamResponse:
    key = request.app[PARTS].key
    shown = request.headers.get("Authorization", "")
    if key is None or request.path == "/health" or hmac.compare_digest(shown.encode(), f"Bearer {key}".encode()):
        return await handler(request)
    return _json({"error": {"message": "Unauthorized", "type": "authentication_error"}}, 401)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadBody as error:
        return _json(error.body(), 400)


def _json(payload: object, status: int = 200) -> web.Response:
    return web.Response(body=sim_shapes.encode_json(payload), status=status, content_type=_JSON)


async def _body(request: web.Request) -> Body:
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the request body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadBody("the request body is not a JSON object")
    return body


# -- inference


def _computed(dialect: Dialect) -> Handler:
    """The handler of a path whose answer the engine computes."""

    async def answer(request: web.Request, faults: Faults, deadly: bool) -> web.StreamResponse:
        parts, body = request.app[PARTS], await _body(request)
        job = dialect.job(body)
        reply = _reply(parts, body, job)
        exchange = parts.driver.start(reply.choices, reply.id)
        try:
            if job.stream:
                return await _stream(request, dialect, reply, exchange, faults, deadly)
            if deadly:
                await exchange.until(lambda: any(choice.generated or choice.finished for choice in reply.choices))
                parts.die(faults.die_by)
            await exchange.until(lambda: exchange.finished)
            return _json(dialect.whole(reply))
        finally:
            parts.driver.drop(exchange)

    return _inference(answer)


def _immediate(answer: Callable[[Body], object]) -> Handler:
    async def handler(request: web.Request, faults: Faults, deadly: bool) -> web.StreamResponse:
        return _json(answer(await _body(request)))

    return _inference(handler)


def _inference(answer: Callable[[web.Request, Faults, bool], Awaitable[web.StreamResponse]]) -> Handler:
    """Count the request, apply the faults that come before an answer, then answer."""

    async def handler(request: web.Request) -> web.StreamResponse:
        parts = request.app[PARTS]
        if not parts.ready:
            return _json(sim_shapes.error_body("the model is still loading", "server_error", "loading"), 503)
        faults, death = parts.desk.arrival()
        if death == "arrival":
            parts.die(faults.die_by)
        if faults.drop:
            return await _cut(request, faults)
        try:
            if faults.hang != "none":
                await _for_ever()
            response = _refusal(faults) if faults.status else await answer(request, faults, death == "first-token")
        except asyncio.CancelledError:
            parts.desk.aborted += 1
            raise
        except _Broken:
            return await _cut(request, faults)
        parts.desk.answered += 1
        return response

    return handler


def _reply(parts: Parts, body: Body, job: Job) -> Reply:
    choices = sim_shapes.choices_of(job, parts.context)
    return Reply(job.rid or uuid.uuid4().hex, parts.model, int(time.time()), body, job, choices)


class _Broken(Exception):
    """The stream is to be broken here."""


async def _stream(
    request: web.Request, dialect: Dialect, reply: Reply, exchange: Exchange, faults: Faults, deadly: bool
) -> web.StreamResponse:
    """Status and headers at once, the first event with the first token, as the real ones do."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.headers["Cache-Control"] = "no-cache"
    await response.prepare(request)
    events = _Events(dialect, reply, faults.break_after)
    while not events.over:
        await exchange.moved()
        await response.write(events.take())
        if deadly:
            request.app[PARTS].die(faults.die_by)
        if events.broken:
            raise _Broken
    await response.write(dialect.ending(reply))
    await response.write_eof()
    return response


class _Events:
    """Which events of a stream are still to be sent."""

    def __init__(self, dialect: Dialect, reply: Reply, break_after: int):
        self._dialect = dialect
        self._reply = reply
        self._sent = [0] * len(reply.choices)  # tokens
        self._open = set(range(len(reply.choices)))
        self._break_after = break_after
        self._begun = False

    @property
    def over(self) -> bool:
        return not self._open

    @property
    def broken(self) -> bool:
        return bool(self._break_after) and sum(self._sent) >= self._break_after

    def take(self) -> bytes:
        """All events that are due now."""
        parts: list[bytes] = []
        if not self._begun:
            self._begun = True
            parts.append(self._dialect.opening(self._reply))
        for index in sorted(self._open):
            self._take(index, parts)
        return b"".join(parts)

    def _take(self, index: int, parts: list[bytes]) -> None:
        choice = self._reply.choices[index]
        while self._sent[index] < choice.generated and not self.broken:
            self._sent[index] += 1
            parts.append(self._dialect.token(self._reply, choice, self._sent[index]))
        if choice.finished and not self.broken:
            self._open.discard(index)
            parts.append(self._dialect.closing(self._reply, choice))


def _refusal(faults: Faults) -> web.Response:
    response = _json(sim_shapes.error_body("this is the armed fault", "server_error", "fault"), faults.status)
    if faults.retry_after:
        response.headers["Retry-After"] = str(faults.retry_after)
    return response


async def _cut(request: web.Request, faults: Faults) -> web.StreamResponse:
    """End the connection; its end then cancels this handler."""
    sim_faults.cut(request, faults.cut_by)
    await _for_ever()


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future that nobody knows was resolved")


# -- control


async def _health(request: web.Request) -> web.StreamResponse:
    parts = request.app[PARTS]
    if parts.desk.faults.hang == "all":
        await _for_ever()
    return web.Response(status=200 if parts.ready else 503)


async def _health_generate(request: web.Request) -> web.StreamResponse:
    """One token, through the engine like any other."""
    parts = request.app[PARTS]
    if not parts.ready or parts.desk.faults.hang == "all":
        return await _health(request)
    reply = _reply(parts, {}, Job([b"health"], max_tokens=1))
    exchange = parts.driver.start(reply.choices, reply.id)
    try:
        await exchange.until(lambda: exchange.finished)
    finally:
        parts.driver.drop(exchange)
    return web.Response()


async def _models(request: web.Request) -> web.StreamResponse:
    parts = request.app[PARTS]
    card = {
        "id": parts.model,
        "object": "model",
        "created": parts.created,
        "owned_by": "sim",
        "root": parts.model_path,
        "max_model_len": parts.context,
    }
    return _json({"object": "list", "data": [card]})


async def _model_info(request: web.Request) -> web.StreamResponse:
    parts = request.app[PARTS]
    return _json(
        {
            "model_path": parts.model_path,
            "tokenizer_path": parts.model_path,
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": "default",
        }
    )


async def _server_info(request: web.Request) -> web.StreamResponse:
    parts = request.app[PARTS]
    config = parts.driver.engine.config
    return _json(
        {
            "model_path": parts.model_path,
            "served_model_name": parts.model,
            "status": "ready" if parts.ready else "starting",
            "max_total_num_tokens": parts.kv_tokens,
            "max_running_requests": config.max_num_seqs,
            "chunked_prefill_size": config.max_step_tokens,
            "page_size": config.block_size,
            "internal_states": [msgspec.to_builtins(parts.driver.engine.stats())],
            "version": "sim",
        }
    )


async def _flush_cache(request: web.Request) -> web.StreamResponse:
    """As in SGLang, refused while requests are running or waiting."""
    if request.app[PARTS].driver.engine.flush():
        return web.Response(text="Cache flushed.\n")
    return web.Response(text="Cache not flushed: requests are running or waiting.\n", status=400)


async def _abort(request: web.Request) -> web.StreamResponse:
    body = await _body(request)
    rid = body.get("rid")
    if body.get("abort_all") is True:
        rid = None
    elif not isinstance(rid, str) or not rid:
        raise BadBody("rid must be a request's id", "rid")
    request.app[PARTS].driver.abort(rid)
    return web.Response()


async def _get_load(request: web.Request) -> web.StreamResponse:
    stats = request.app[PARTS].driver.engine.stats()
    load = {
        "dp_rank": 0,
        "num_reqs": stats.running + stats.waiting,
        "num_waiting_reqs": stats.waiting,
        "num_tokens": stats.kv_tokens,
    }
    return _json([load])


async def _terminate(request: web.Request) -> web.StreamResponse:
    """LMDeploy's way to stop a server from afar."""
    request.app[PARTS].stop.set()
    return web.Response()


# SGLang's names; each with its type, its help and where the value comes from.
_METRICS: tuple[tuple[str, str, str, Callable[[Stats], float]], ...] = (
    ("num_running_reqs", "gauge", "Requests in the batch.", lambda s: s.running),
    ("num_queue_reqs", "gauge", "Requests waiting for admission.", lambda s: s.waiting),
    ("num_used_tokens", "gauge", "KV cache tokens held by running requests.", lambda s: s.kv_tokens),
    ("token_usage", "gauge", "Share of the KV cache held by running requests.", lambda s: s.kv_usage),
    ("cache_hit_rate", "gauge", "Share of prompt tokens found in the prefix cache.", lambda s: s.hit_rate),
    ("prompt_tokens_total", "counter", "Prompt tokens of admitted requests.", lambda s: s.prompt_tokens),
    ("cached_tokens_total", "counter", "Prompt tokens found in the prefix cache.", lambda s: s.hit_tokens),
    ("generation_tokens_total", "counter", "Tokens generated.", lambda s: s.generated_tokens),
    ("num_requests_total", "counter", "Requests finished.", lambda s: s.finished),
    ("num_aborted_requests_total", "counter", "Requests cancelled.", lambda s: s.cancelled),
    ("num_retracted_requests_total", "counter", "Preemptions for want of KV cache.", lambda s: s.preempted),
)


async def _metrics(request: web.Request) -> web.StreamResponse:
    parts = request.app[PARTS]
    stats = parts.driver.engine.stats()
    label = parts.model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = [
        f"# HELP sglang:{name} {help}\n# TYPE sglang:{name} {kind}\n"
        f'sglang:{name}{{model_name="{label}"}} {value(stats)}\n'
        for name, kind, help, value in _METRICS
    ]
    return web.Response(text="".join(lines), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


# -- faults


async def _report(request: web.Request) -> web.StreamResponse:
    return _json(request.app[PARTS].desk.report())


async def _arm(request: web.Request) -> web.StreamResponse:
    try:
        request.app[PARTS].desk.arm(dict(await _body(request)))
    except BadBody:
        raise
    except ValueError as error:
        raise BadBody(str(error)) from None
    return await _report(request)


async def _disarm(request: web.Request) -> web.StreamResponse:
    request.app[PARTS].desk.disarm()
    return await _report(request)


_GETS: dict[str, Handler] = {
    "/health": _health,
    "/health_generate": _health_generate,
    "/v1/models": _models,
    "/get_model_info": _model_info,
    "/model_info": _model_info,
    "/get_server_info": _server_info,
    "/server_info": _server_info,
    "/flush_cache": _flush_cache,
    "/get_load": _get_load,
    "/metrics": _metrics,
    "/terminate": _terminate,
    "/fault": _report,
}
_POSTS: dict[str, Handler] = {
    "/flush_cache": _flush_cache,
    "/abort_request": _abort,
    "/terminate": _terminate,
    "/fault": _arm,
}
