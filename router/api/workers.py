"""Membership as SGLang's router has it (/add_worker, /remove_worker, /list_workers, /flush_cache) and as REST."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from router.api.replies import flag, json_reply, number, parts_of, read_json
from router.errors import BadRequest
from router.fleet import Role, Worker


class NewWorker(msgspec.Struct):
    """Body of POST /workers."""

    url: str
    models: list[str] = []
    speed: float | None = None
    worker_type: Role = Role.REGULAR
    bootstrap_port: int | None = None  # of a prefill worker
    wait: bool = True


def describe(worker: Worker) -> dict[str, object]:
    """A worker as /workers shows it."""
    return {
        "id": worker.id,
        "url": worker.url,
        "worker_type": worker.role.value,
        "state": worker.state.value,
        "healthy": worker.healthy,
        "inflight": worker.inflight,
        "prefill_outstanding": worker.prefill_outstanding,
        "node": worker.node,
        "devices": worker.devices,
        "pid": worker.pid,
        "restarts": sum(worker.restarted.values()),
        "models": worker.models,
        "speed": worker.speed,
        "kv_tokens": worker.kv_tokens,
        "bootstrap_port": worker.bootstrap_port,
        "waiting": worker.waiting,
        "last_error": worker.last_error,
    }


async def add_worker(request: web.Request) -> web.Response:
    wait = flag(request, "wait", True)
    port = number(request, "bootstrap_port", 0, 1, 65_535) if "bootstrap_port" in request.query else None
    worker = await parts_of(request).members.add(_url(request), wait=wait, role=_role(request), bootstrap_port=port)
    if wait:
        return web.Response(text=f"Successfully added worker: {worker.url}")
    return web.Response(text=f"Accepted worker: {worker.url}", status=202)


async def remove_worker(request: web.Request) -> web.Response:
    members = parts_of(request).members
    worker = members.find(_url(request))
    await members.remove(worker, force=flag(request, "force", False))
    return web.Response(text=f"Successfully removed worker: {worker.url}")


async def list_workers(request: web.Request) -> web.Response:
    return json_reply({"urls": [worker.url for worker in parts_of(request).fleet.workers.values()]})


async def flush_cache(request: web.Request) -> web.Response:
    """200 all, 206 some, 502 none; shaped as SGLang's router does."""
    results = await parts_of(request).members.flush()
    failed = [{"worker": url, "error": reason} for url, reason in results.items() if reason]
    done = [url for url, reason in results.items() if not reason]
    status, word = (200, "success") if not failed else (206, "partial_success") if done else (502, "error")
    data = {
        "status": word,
        "message": f"flushed {len(done)} of {len(results)} workers, and the router's prefix index",
        "workers_flushed": len(done),
        "total_workers": len(results),
        "successful": done,
        "failed": failed,
    }
    return json_reply(data, status)


async def index(request: web.Request) -> web.Response:
    workers = [describe(worker) for worker in parts_of(request).fleet.workers.values()]
    return json_reply({"workers": workers, "total": len(workers)})


async def show(request: web.Request) -> web.Response:
    return json_reply(describe(_named(request)))


async def create(request: web.Request) -> web.Response:
    new = await read_json(request, NewWorker)
    worker = await parts_of(request).members.add(
        new.url,
        wait=new.wait,
        models=new.models,
        speed=new.speed,
        role=new.worker_type,
        bootstrap_port=new.bootstrap_port,
    )
    return json_reply(describe(worker), 201 if new.wait else 202, {"Location": f"/workers/{worker.id}"})


async def delete(request: web.Request) -> web.Response:
    worker = _named(request)
    await parts_of(request).members.remove(worker, force=flag(request, "force", False))
    return json_reply({"status": "success", "message": f"Successfully removed worker: {worker.url}"})


async def drain(request: web.Request) -> web.Response:
    worker = _named(request)
    parts_of(request).members.drain(worker)
    return json_reply(describe(worker))


async def undrain(request: web.Request) -> web.Response:
    worker = _named(request)
    parts_of(request).members.undrain(worker)
    return json_reply(describe(worker))


async def restart(request: web.Request) -> web.Response:
    worker = _named(request)
    await parts_of(request).members.restart(worker)
    return json_reply(describe(worker))


async def logs(request: web.Request) -> web.Response:
    """What the engine wrote; `next` of one answer as `after` of the next one follows it."""
    worker = _named(request)
    lines = number(request, "lines", 100, 1, 1000)
    if worker.handle is None:
        raise BadRequest(f"worker {worker.url} was not launched here: its log is where it was started")
    said, mark = await asyncio.to_thread(worker.handle.written, lines, request.query.get("after"))
    return json_reply({"worker": worker.id, "lines": said, "next": mark})


async def restart_all(request: web.Request) -> web.Response:
    """Workers launched elsewhere cannot be restarted from here and are listed as skipped."""
    restarted = [worker.url for worker in await parts_of(request).members.restart_all()]
    rest = [worker.url for worker in parts_of(request).fleet.workers.values() if worker.url not in restarted]
    return json_reply({"restarted": restarted, "skipped": rest})


def _url(request: web.Request) -> str:
    url = request.query.get("url")
    if not url:
        raise BadRequest("Worker URL required. Provide 'url' query parameter", param="url")
    return url


def _role(request: web.Request) -> Role:
    given = request.query.get("worker_type", Role.REGULAR.value)
    try:
        return Role(given)
    except ValueError:
        raise BadRequest(
            f"worker_type is {given[:50]!r}: it must be one of {', '.join(role.value for role in Role)}",
            param="worker_type",
        ) from None


def _named(request: web.Request) -> Worker:
    return parts_of(request).members.find(request.match_info["id"])


ONE = "/workers/{id:(?!restart$)[^{}/]+}"  # /workers/restart is no worker: only POST is allowed there

ROUTES = [
    web.post("/add_worker", add_worker),
    web.post("/remove_worker", remove_worker),
    web.get("/list_workers", list_workers),
    web.post("/flush_cache", flush_cache),
    web.get("/workers", index),
    web.post("/workers", create),
    web.post("/workers/restart", restart_all),
    web.get(ONE, show),
    web.delete(ONE, delete),
    web.post("/workers/{id}/drain", drain),
    web.post("/workers/{id}/undrain", undrain),
    web.post("/workers/{id}/restart", restart),
    web.get("/workers/{id}/logs", logs),
]
