"""How the router and its workers are: liveness, readiness, one generated token, loads, metrics."""

from __future__ import annotations

import asyncio

from aiohttp import web

from router import exposition
from router.api import engine_metrics
from router.api.replies import json_reply, parts_of
from router.ask import Unreachable, ask
from router.errors import NoWorker
from router.fleet import Role, State, Worker
from router.health import generate
from router.parts import Parts

GENERATE_TIMEOUT = 30.0  # seconds for one token, behind whatever the worker is busy with
SCRAPE_TIMEOUT = 5.0  # seconds; Prometheus gives up after 10


async def health(request: web.Request) -> web.Response:
    return web.Response(text="OK")


async def readiness(request: web.Request) -> web.Response:
    parts = parts_of(request)
    counts = {"healthy_workers": len(ready_workers(parts)), "total_workers": len(parts.fleet.workers)}
    reason = _not_ready(parts)
    if reason:
        return json_reply({"status": "not ready", "reason": reason, **counts}, 503)
    return json_reply({"status": "ready", **counts})


def ready_workers(parts: Parts) -> list[Worker]:
    """Workers that take new requests, least busy first."""
    ready = [worker for worker in parts.fleet.workers.values() if worker.state is State.READY]
    return sorted(ready, key=lambda worker: worker.inflight)


def _not_ready(parts: Parts) -> str | None:
    if parts.draining:
        return "draining"
    if not parts.fleet.workers:
        return "no workers"
    ready = {worker.role for worker in ready_workers(parts)}
    return next((f"no healthy {_named(role)}" for role in _needed(parts) if role not in ready), None)


def _needed(parts: Parts) -> tuple[Role, ...]:
    """The roles without which no request can be served."""
    return (Role.PREFILL, Role.DECODE) if parts.config.pd_disaggregation else (Role.REGULAR,)


def _named(role: Role) -> str:
    return "worker" if role is Role.REGULAR else f"{role.value} worker"


async def health_generate(request: web.Request) -> web.Response:
    """200 when some worker generates a token; asked one after the other, least busy first."""
    parts = parts_of(request)
    for role in _needed(parts):
        if not await _some_generates(parts, role):
            raise NoWorker(f"no {_named(role)} generated a token")
    return web.Response(text="OK")


async def _some_generates(parts: Parts, role: Role) -> bool:
    for worker in ready_workers(parts):
        if worker.role is role and await _generates(parts, worker):
            return True
    return False


async def _generates(parts: Parts, worker: Worker) -> bool:
    try:
        if worker.role is Role.REGULAR:
            return await generate(parts.members.session, worker, GENERATE_TIMEOUT)
        # A request to one of a pair would wait for the other; SGLang's own check does not.
        reply = await ask(parts.members.session, "GET", worker.url + "/health_generate", timeout=GENERATE_TIMEOUT)
        return reply.status == 200
    except Unreachable:
        return False


async def get_loads(request: web.Request) -> web.Response:
    """Load is the number of requests that the router has in flight on the worker."""
    workers = parts_of(request).fleet.workers.values()
    return json_reply({"workers": [{"worker": worker.url, "load": worker.inflight} for worker in workers]})


async def router_metrics(request: web.Request) -> web.Response:
    body, content_type = exposition.scrape(parts_of(request))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def all_engine_metrics(request: web.Request) -> web.Response:
    """Workers that have no metrics, or do not answer in time, are left out."""
    parts = parts_of(request)
    workers = list(parts.fleet.workers.values())
    pages = await asyncio.gather(*(_scrape(parts, worker) for worker in workers))
    text = engine_metrics.merge({worker.url: page for worker, page in zip(workers, pages, strict=True) if page})
    return web.Response(text=text, content_type="text/plain", charset="utf-8")


async def _scrape(parts: Parts, worker: Worker) -> str | None:
    try:
        reply = await ask(parts.members.session, "GET", worker.url + "/metrics", timeout=SCRAPE_TIMEOUT)
    except Unreachable:
        return None
    return reply.body.decode("utf-8", "replace") if reply.status == 200 else None


ROUTES = [
    web.get("/health", health),
    web.get("/liveness", health),
    web.get("/readiness", readiness),
    web.get("/health_generate", health_generate),
    web.get("/get_loads", get_loads),
    web.get("/metrics", router_metrics),
    web.get("/engine_metrics", all_engine_metrics),
]
