"""How the control plane answers: JSON and text bodies, request arguments, and errors as OpenAI-shaped JSON."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from router.errors import BadRequest, RouterError, Unauthorized
from router.parts import PARTS, Parts
from router.request import INFERENCE_PATHS

log = logging.getLogger(__name__)

T = TypeVar("T")
SHOWN_PATH = 200  # characters of an unknown path that an error text repeats


def parts_of(request: web.Request) -> Parts:
    return request.app[PARTS]


def json_reply(data: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(data)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def error_reply(error: RouterError) -> web.Response:
    """The error as the client sees it."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(body=error.body(), status=error.status, content_type="application/json", headers=headers)


async def read_json(request: web.Request, type: type[T]) -> T:
    """The request's body as `type`. Raises BadRequest."""
    try:
        return msgspec.json.decode(await request.read(), type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request body is not what {request.path} takes: {error}") from None


def flag(request: web.Request, name: str, default: bool) -> bool:
    """A boolean query parameter. Raises BadRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise BadRequest(f"{name} must be true or false", param=name)
    return known[text.lower()]


def number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    """A query parameter that is a whole number. Raises BadRequest."""
    text = request.query.get(name, str(default))
    if not (text.isdecimal() and len(text) < 19 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be a number from {low} to {high}", param=name)
    return int(text)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong in a handler becomes one OpenAI-shaped answer; no traceback and no body leaves."""
    try:
        return await handler(request)
    except RouterError as error:
        return error_reply(error)
    except web.HTTPException as error:
        return _http_reply(request, error)
    except Exception:
        log.exception("%s %.200s failed", request.method, request.path)
        return error_reply(RouterError("internal error: the router's log says more"))


def _http_reply(request: web.Request, error: web.HTTPException) -> web.Response:
    if error.status == 404 and request.path in INFERENCE_PATHS:  # POST goes another way, and is never seen here
        error = web.HTTPMethodNotAllowed(request.method, ["POST"])
    path = request.path[:SHOWN_PATH]
    told: dict[int, tuple[str, str]] = {
        404: ("not_found", f"no such path: {path}; GET /docs lists what there is"),
        405: ("method_not_allowed", f"{request.method[:20]} is not allowed on {path}"),
        413: ("payload_too_large", "the request body is too large for a control request"),
    }
    code, message = told.get(error.status, ("bad_request", error.reason))
    body: dict[str, Any] = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
    kept = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return json_reply({"error": body}, error.status, kept)
