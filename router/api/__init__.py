"""The control plane as an aiohttp application: everything but inference, which has a faster way through the router."""

from __future__ import annotations

from aiohttp import web

from router.api import board, cors, models, nodes, pages, replies, status, trust, workers
from router.parts import PARTS, Parts

MAX_BODY = 1024 * 1024  # bytes; control requests are a URL and a few names


def build(parts: Parts) -> web.Application:
    """All routes over `parts`, guarded; no module globals, so that two routers can live in one process."""
    app = web.Application(middlewares=[replies.errors, cors.preflight, trust.guard], client_max_size=MAX_BODY)
    app[PARTS] = parts
    for module in (workers, nodes, status, models, board, pages):
        app.add_routes(module.ROUTES)
    board.attach(app, parts)
    app.on_response_prepare.extend([cors.mark, _finish])
    return app


async def _finish(request: web.Request, response: web.StreamResponse) -> None:
    # A connection that was handed to aiohttp stays with it until it ends. One request each: when the client connects
    # again, the router's own protocol reads its next request, which may be inference.
    # By now aiohttp has settled the headers, so its force_close() alone would close without a word.
    response.force_close()
    response.headers.pop("Server", None)  # which version of what runs here is not for strangers
    response.headers["Connection"] = "close"
