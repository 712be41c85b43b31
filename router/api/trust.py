"""Who may use what: keys, loopback, and browsers that another site drives.

A path's level is looked up by the route that will answer it, so what is checked and what is done cannot differ. A route
that is not in the table is the administrator's.
"""

from __future__ import annotations

import base64
import enum
import hmac
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from router import urls
from router.api.cors import allowed
from router.api.replies import parts_of
from router.config import RouterConfig
from router.errors import Forbidden, Unauthorized


class Level(enum.Enum):
    OPEN = "anyone"
    INFERENCE = "whoever has the --api-key, or anyone if there is none"
    ADMIN = "whoever has the --admin-api-key, or loopback peers if there is none"


LEVELS: dict[str, Level] = {
    # Probes come without keys.
    "/health": Level.OPEN,
    "/liveness": Level.OPEN,
    "/readiness": Level.OPEN,
    # These pages hold no data: they fetch it from guarded paths.
    "/": Level.OPEN,
    "/docs": Level.OPEN,
    "/openapi.json": Level.OPEN,
    "/static": Level.OPEN,
    # It makes a worker compute.
    "/health_generate": Level.INFERENCE,
    "/v1/models": Level.INFERENCE,
    "/v1/models/{model}": Level.INFERENCE,
    "/get_model_info": Level.INFERENCE,
    "/model_info": Level.INFERENCE,
    "/get_server_info": Level.INFERENCE,
    "/server_info": Level.INFERENCE,
}


@dataclass(frozen=True)
class Caller:
    """What is known of who sent a request. X-Forwarded-For and its kin are anybody's word and not part of it."""

    peer: str | None  # IP address of the other end of the connection
    host: str | None = None  # headers, None when absent
    origin: str | None = None
    fetch_site: str | None = None
    authorization: str | None = None
    x_api_key: str | None = None


def check(level: Level, path: str, caller: Caller, config: RouterConfig) -> None:
    """Return if the caller may use a path of this level. Raises Unauthorized or Forbidden."""
    if level is Level.INFERENCE and config.api_key is not None:
        _check_key(caller, config.api_key, "--api-key")
    if level is Level.ADMIN:
        _check_browser(path, caller, config)
        if config.admin_api_key is not None:
            _check_key(caller, config.admin_api_key, "--admin-api-key")
        else:
            _check_local(caller, config)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what the caller may not use; an unknown path is left to be answered 404."""
    resource = request.match_info.route.resource
    if resource is not None:
        level = LEVELS.get(resource.canonical, Level.ADMIN)
        check(level, request.path, _caller(request), parts_of(request).config)
    return await handler(request)


def _caller(request: web.Request) -> Caller:
    headers = request.headers
    return Caller(
        request.remote,
        headers.get("Host"),
        headers.get("Origin"),
        headers.get("Sec-Fetch-Site"),
        headers.get("Authorization"),
        headers.get("x-api-key"),
    )


def _check_key(caller: Caller, key: str, option: str) -> None:
    given = (_token(caller.authorization or ""), caller.x_api_key or "")
    # As bytes, because compare_digest refuses text beyond ASCII.
    if not any(hmac.compare_digest(_bytes(text), _bytes(key)) for text in given):
        raise Unauthorized(f"a valid key is needed: send the router's {option} as 'Authorization: Bearer KEY'")


def _token(authorization: str) -> str:
    """The key in an Authorization header; "" if there is none.

    As the password of Basic, too: `--proxy-url http://node:KEY@router` is the one way that lmdeploy can send a key.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(token.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return token.strip() if scheme.lower() == "bearer" else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check_browser(path: str, caller: Caller, config: RouterConfig) -> None:
    """Pages of other sites can make a browser on this machine send requests; it then says where they come from."""
    if allowed(caller.origin, path, config):
        return
    elsewhere = caller.fetch_site not in (None, "same-origin", "none")
    if caller.origin is not None:
        elsewhere |= caller.origin.partition("://")[2].lower() != (caller.host or "").lower()
    if elsewhere:
        raise Forbidden("a page from another origin may not use the control plane; see --cors-allowed-origins")


def _check_local(caller: Caller, config: RouterConfig) -> None:
    peer = urls.address(caller.peer or "")
    if peer is None or not peer.is_loopback:
        raise Forbidden(
            "without --admin-api-key the control plane answers this machine only; set one to use it from here"
        )
    # A name that somebody else controls can be made to resolve to loopback, and then a browser sees one origin.
    host = urls.host_of(caller.host or "localhost")
    if host not in ("localhost", config.host.lower()) and urls.address(host) is None:
        raise Forbidden("the Host header names another machine; use localhost or an IP address, or set --admin-api-key")
