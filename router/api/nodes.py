"""Membership as LMDeploy's proxy has it: /nodes/*, so that `lmdeploy serve api_server --proxy-url` registers here."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from router import urls
from router.api.replies import json_reply, parts_of, read_json
from router.errors import BadRequest, RouterError, WorkersFailed, WorkerTimeout
from router.fleet import Role, Worker

HYBRID = 1  # LMDeploy's role of a worker that does both prefill and decode
ROLES = {Role.REGULAR: HYBRID, Role.PREFILL: 2, Role.DECODE: 3}  # LMDeploy's EngineRole


class NodeStatus(msgspec.Struct):
    """What a node says of itself; its `unfinished` and `latency` are skipped, the router counts these."""

    models: list[str] = []
    speed: float | None = None
    role: int = HYBRID


class Node(msgspec.Struct):
    url: str
    status: NodeStatus | None = None


async def status(request: web.Request) -> web.Response:
    return json_reply({worker.url: describe(worker) for worker in parts_of(request).fleet.workers.values()})


def describe(worker: Worker) -> dict[str, object]:
    """A worker as /nodes/status shows it; latencies are seconds, newest last."""
    return {
        "role": ROLES[worker.role],
        "models": worker.models,
        "unfinished": worker.inflight,
        "latency": list(worker.latencies),
        "speed": worker.speed,
    }


async def add(request: web.Request) -> web.Response:
    node = await read_json(request, Node)
    await _add(request, urls.registered(node.url, request.remote), node.status or NodeStatus())
    return json_reply("Added successfully")


async def _add(request: web.Request, url: str, told: NodeStatus) -> None:
    """A node that names its models registers itself while it starts: it is taken at its word and watched.

    One that names none must answer now. A known one has been restarted.
    """
    parts = parts_of(request)
    if told.role != HYBRID:  # LMDeploy's prefill and decode workers meet in another way than SGLang's
        raise BadRequest(
            f"role {told.role} is not supported: LMDeploy's workers do both prefill and decode here, role {HYBRID}",
            param="role",
        )
    known = parts.fleet.by_url(parts.members.normalise(url))
    if known is not None:
        parts.members.update(known, told.models, told.speed)
        return
    limit = parts.config.health_check_timeout
    try:
        await parts.members.add(url, wait=not told.models, timeout=limit, models=told.models, speed=told.speed)
    except WorkerTimeout as error:
        raise BadRequest(error.message, param="url") from None


async def remove(request: web.Request) -> web.Response:
    worker = await _named(request)
    await parts_of(request).members.remove(worker)
    return json_reply("Deleted successfully")


async def terminate(request: web.Request) -> web.Response:
    worker = await _named(request)
    await parts_of(request).members.terminate(worker)
    return json_reply("Terminated successfully")


async def terminate_all(request: web.Request) -> web.Response:
    parts = parts_of(request)
    work = [parts.members.terminate(worker) for worker in list(parts.fleet.workers.values())]
    failures = [error for error in await asyncio.gather(*work, return_exceptions=True) if error is not None]
    if failures:
        told = "; ".join(error.message for error in failures if isinstance(error, RouterError))
        raise WorkersFailed(f"Failed to terminate all nodes: {told or 'see the log'}")
    return json_reply("All nodes terminated successfully")


async def _named(request: web.Request) -> Worker:
    """The worker meant by the older ?node_url=, by ?url=, or by a JSON body {"url"}."""
    url = request.query.get("node_url") or request.query.get("url")
    if url is None and not request.can_read_body:
        raise BadRequest('Worker URL required. Send {"url": ...} or the query parameter node_url', param="url")
    if url is None:
        url = (await read_json(request, Node)).url
    return parts_of(request).members.find(urls.registered(url, request.remote))


ROUTES = [
    web.get("/nodes/status", status),
    web.post("/nodes/add", add),
    web.post("/nodes/remove", remove),
    web.post("/nodes/terminate", terminate),
    web.get("/nodes/terminate_all", terminate_all),
]
