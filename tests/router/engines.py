"""A fake inference server: real sockets, canned answers, a record of what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.test_utils import TestServer

MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}

Answer = int | str | dict | Callable[[], web.Response]


class Engine:
    """`answers` maps a path to a status, a text or a JSON object; other paths are 404. `asked` records "GET /path"."""

    def __init__(self, answers: dict[str, Answer] | None = None):
        self.answers: dict[str, Answer] = {"/health": 200, "/v1/models": MODELS} if answers is None else answers
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app)

    async def __aenter__(self) -> Engine:
        await self._server.start_server()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        self.bodies.append(await request.read())
        answer = self.answers.get(f"{request.method} {request.path}", self.answers.get(request.path, 404))
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, str):
            return web.Response(text=answer)
        return web.json_response(answer) if isinstance(answer, dict) else answer()


class Handle:
    """What the launcher gives a worker it has started; `fails` makes restart() raise."""

    def __init__(self, fails: bool = False):
        self.calls: list[str] = []
        self.seen: list[tuple[bool, int]] = []  # (draining, in flight) at each call
        self.worker = None
        self.fails = fails

    async def restart(self) -> None:
        self._note("restart")
        await asyncio.sleep(0)
        if self.fails:
            raise RuntimeError("it exited with code 1")

    async def stop(self) -> None:
        self._note("stop")

    def written(self, lines: int, after: str | None) -> tuple[list[str], str]:
        return [f"{lines} lines", f"after {after}"], "w0.1.log:7"

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.worker is not None:
            self.seen.append((self.worker.draining, self.worker.inflight))


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that other tasks and sockets bring about."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen in time")
