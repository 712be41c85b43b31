"""scripts/health_check as people and service managers run it, against a small router made of canned answers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

SCRIPT = Path(__file__).parent.parent / "scripts" / "health_check"
KEY = "k3y-of-the-admin"
WORKER = {
    "id": "w0",
    "url": "http://127.0.0.1:31000",
    "state": "ready",
    "healthy": True,
    "inflight": 3,
    "devices": ["0"],
    "restarts": 0,
    "last_error": None,
}


class Router:
    """What the fake one answers; tests change it."""

    def __init__(self) -> None:
        self.url = ""
        self.readiness: list[tuple[int, Any]] = [(200, {"status": "ready"})]  # the last one stays
        self.workers: tuple[int, Any] = (200, {"workers": [WORKER], "total": 1})
        self.authorization: list[str | None] = []

    async def ready(self, request: web.Request) -> web.Response:
        status, body = self.readiness.pop(0) if len(self.readiness) > 1 else self.readiness[0]
        return web.json_response(body, status=status)

    async def list(self, request: web.Request) -> web.Response:
        self.authorization.append(request.headers.get("Authorization"))
        status, body = self.workers
        return web.json_response(body, status=status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    fake = Router()
    app = web.Application()
    app.router.add_get("/readiness", fake.ready)
    app.router.add_get("/workers", fake.list)
    async with TestServer(app, host="127.0.0.1") as server:
        fake.url = f"http://127.0.0.1:{server.port}"
        yield fake


Check = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def check() -> Check:
    async def run(*args: str, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr. A proxy that is not there stands in the environment: it must not be asked."""
        given = {**os.environ, "http_proxy": f"http://127.0.0.1:{unused_port()}", "no_proxy": "", **env}
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPT),
            *args,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=given,
        )
        out, err = await child.communicate()
        return child.returncode or 0, out.decode(), err.decode()

    return run


async def test_a_ready_router_is_healthy_and_its_workers_are_listed(router: Router, check: Check):
    code, out, err = await check(router.url)
    assert (code, err) == (0, "")
    first, last = out.splitlines()
    assert first == "w0  ready      http://127.0.0.1:31000  gpu 0  in-flight 3  restarts 0"
    assert last == f"healthy: {router.url}"


async def test_workers_stand_in_columns_and_a_sick_one_says_why(router: Router, check: Check):
    sick = {**WORKER, "id": "w1", "state": "failed", "healthy": False, "devices": [], "last_error": "out of\nmemory"}
    router.workers = (200, {"workers": [WORKER, sick]})
    _, out, _ = await check("--url", router.url)
    first, second, _ = out.splitlines()
    assert second.endswith("restarts 0  out of memory")
    assert first.index("in-flight") == second.index("in-flight")


async def test_no_ready_worker_is_unhealthy_with_the_reason(router: Router, check: Check):
    router.readiness = [(503, {"status": "not ready", "reason": "draining"})]
    code, out, _ = await check(router.url)
    assert code == 1
    assert out.splitlines()[-1] == f"unhealthy: {router.url}: not ready: draining"


async def test_another_server_at_that_address_is_unhealthy(router: Router, check: Check):
    router.readiness = [(404, "?")]
    code, out, _ = await check(router.url)
    assert (code, out.splitlines()[-1]) == (1, f"unhealthy: {router.url}: /readiness answered HTTP 404")


async def test_nobody_there_is_one_line(check: Check):
    code, out, err = await check(f"http://127.0.0.1:{unused_port()}")
    assert (code, err) == (1, "")
    assert "cannot be reached: Connection refused" in out
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_closed_control_plane_still_lets_readiness_decide(router: Router, check: Check, status: int):
    router.workers = (status, {"error": {}})
    code, out, _ = await check(router.url)
    assert code == 0
    assert out == f"healthy: {router.url} (workers not shown: the router wants its admin key (HTTP {status}))\n"


async def test_waiting_ends_as_soon_as_the_router_is_ready(router: Router, check: Check):
    router.readiness = [(503, {}), (503, {}), (200, {})]
    code, _, _ = await check(router.url, "--wait", "60")
    assert code == 0


async def test_waiting_ends_when_the_time_is_over(router: Router, check: Check):
    router.readiness = [(503, {})]
    code, _, _ = await check(router.url, "--wait", "0.01")
    assert code == 1


async def test_json_is_one_object(router: Router, check: Check):
    code, out, _ = await check(router.url, "--json")
    found = json.loads(out)
    assert (code, found["healthy"], found["reason"], found["workers"]) == (0, True, None, [WORKER])


async def test_json_of_a_router_that_is_not_there_is_one_object_too(check: Check):
    code, out, _ = await check(f"http://127.0.0.1:{unused_port()}", "--json")
    assert (code, json.loads(out)["healthy"], json.loads(out)["workers"]) == (1, False, None)


async def test_the_admin_key_comes_from_a_file_or_from_the_environment(router: Router, check: Check, tmp_path: Path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    await check(router.url, "--admin-key-file", str(tmp_path / "key"))
    await check(router.url, LLM_LAUNCH_ADMIN_KEY=KEY)
    await check(router.url)
    assert router.authorization == [f"Bearer {KEY}", f"Bearer {KEY}", None]


async def test_the_key_does_not_follow_a_redirect(router: Router, check: Check):
    router.workers = (302, {})
    code, out, _ = await check(router.url, LLM_LAUNCH_ADMIN_KEY=KEY)
    assert (code, out) == (0, f"healthy: {router.url} (workers not shown: /workers answered HTTP 302)\n")


@pytest.mark.parametrize(
    "args",
    [
        ["ftp://127.0.0.1"],
        ["127.0.0.1:30000"],
        ["http://127.0.0.1:port"],
        ["http://user:pw@127.0.0.1"],
        ["http://a", "--url", "http://b"],
        ["--wait", "long"],
        ["--wait", "-1"],
        ["--timeout", "0"],
        ["--admin-key-file", "/does/not/exist"],
        ["--what"],
    ],
)
async def test_bad_usage_is_exit_code_2_without_a_traceback(check: Check, args: list[str]):
    code, out, err = await check(*args)
    assert (code, out) == (2, "")
    assert err.startswith("usage:")
    assert "Traceback" not in err


async def test_a_broken_key_is_refused_without_printing_it(check: Check):
    code, _, err = await check(LLM_LAUNCH_ADMIN_KEY=f"{KEY}\nX-Other: 1")
    assert code == 2
    assert KEY not in err
