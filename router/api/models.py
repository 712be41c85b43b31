"""What the workers serve: the union of their models, and an engine's own account of its model and settings."""

from __future__ import annotations

from aiohttp import web

from router.api.replies import json_reply, parts_of
from router.api.status import ready_workers
from router.ask import Unreachable, ask
from router.errors import ModelNotFound, NotFound, NoWorker, WorkersFailed

INFO_TIMEOUT = 5.0  # seconds
CREATED = 0  # OpenAI clients insist on a time; when the weights were made is not known

# SGLang renamed both: an engine may know either name.
INFO_PATHS = {
    "/get_model_info": ("/get_model_info", "/model_info"),
    "/model_info": ("/model_info", "/get_model_info"),
    "/get_server_info": ("/get_server_info", "/server_info"),
    "/server_info": ("/server_info", "/get_server_info"),
}


def card(model: str) -> dict[str, object]:
    """A model as OpenAI's API lists it."""
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "llm-launch", "root": model}


async def models(request: web.Request) -> web.Response:
    return json_reply({"object": "list", "data": [card(model) for model in parts_of(request).fleet.models()]})


async def model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    if name not in parts_of(request).fleet.models():
        raise ModelNotFound(f"The model '{name[:200]}' does not exist", param="model")
    return json_reply(card(name))


async def info(request: web.Request) -> web.Response:
    """Relay the answer of the first ready worker that gives one."""
    parts = parts_of(request)
    workers = ready_workers(parts)
    if not workers:
        raise NoWorker("no worker is ready")
    answered = False
    for url in [worker.url + path for worker in workers for path in INFO_PATHS[request.path]]:
        try:
            reply = await ask(parts.members.session, "GET", url, timeout=INFO_TIMEOUT)
        except Unreachable:
            continue
        if reply.status == 200:
            return web.Response(body=reply.body, content_type=reply.content_type)
        answered = True
    if answered:
        raise NotFound(f"the engine has no {request.path}; GET /v1/models tells what it serves")
    raise WorkersFailed("no worker answered")


ROUTES = [
    web.get("/v1/models", models),
    web.get("/v1/models/{model:.+}", model),
    *(web.get(path, info) for path in INFO_PATHS),
]
