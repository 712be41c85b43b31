"""What people open in a browser: the dashboard, Swagger UI, and their files, all served from this package."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from router.api import openapi
from router.api.replies import json_reply

STATIC = Path(__file__).resolve().parent.parent / "static"
# The browser itself makes sure that these pages load nothing from, send nothing to, and are framed by no other host.
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, answered 304 while unchanged
}
# Swagger UI sets inline styles.
DOCS_HEADERS = {**PAGE_HEADERS, "Content-Security-Policy": f"{POLICY}; style-src 'self' 'unsafe-inline'"}


async def dashboard(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


async def docs(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "docs.html", headers=DOCS_HEADERS)


async def describe(request: web.Request) -> web.Response:
    return json_reply(openapi.document())


ROUTES: list[web.AbstractRouteDef] = [
    web.get("/", dashboard),
    web.get("/docs", docs),
    web.get("/openapi.json", describe),
    web.static("/static", STATIC),
]
