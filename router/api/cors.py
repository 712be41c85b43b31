"""Cross-origin browsers: preflight answers and headers for --cors-allowed-origins, and for nobody else."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from router.api.replies import parts_of
from router.config import RouterConfig
from router.errors import Forbidden
from router.request import INFERENCE_PATHS

PREFLIGHT_AGE = "600"  # seconds a browser may remember the answer


def allowed(origin: str | None, path: str, config: RouterConfig) -> bool:
    """Whether a page from `origin` may use `path`. `*` opens inference and /v1/*, never the control plane."""
    if origin is None:
        return False
    names = config.cors_allowed_origins
    return origin in names or ("*" in names and (path in INFERENCE_PATHS or path.startswith("/v1/")))


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's question whether it may send a request; it carries no key, so it comes before the guard."""
    wanted = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or wanted is None:
        return await handler(request)
    if not allowed(request.headers.get("Origin"), request.path, parts_of(request).config):
        raise Forbidden("this origin is not among --cors-allowed-origins")
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": PREFLIGHT_AGE,
    }
    return web.Response(status=204, headers=headers)


async def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Let an allowed origin's page read the answer."""
    origin = request.headers.get("Origin")
    if origin is not None and allowed(origin, request.path, parts_of(request).config):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"
