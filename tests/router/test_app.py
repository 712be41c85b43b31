"""The router as a whole: inference and control plane on one socket, readiness, drain, TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.app import Router
from router.config import ConfigError, RouterConfig
from router.fleet import State, Worker
from tests.e2e.fault_worker import FaultWorker, Hang

Start = Callable[..., Awaitable[Router]]


@pytest.fixture
async def worker() -> AsyncIterator[FaultWorker]:
    made = await FaultWorker.start()
    yield made
    await made.stop()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    routers: list[Router] = []

    async def make(**settings: Any) -> Router:
        routers.append(Router(RouterConfig(port=0, **settings)))
        await routers[-1].start()
        return routers[-1]

    yield make
    for router in routers:
        await router.close()


async def get(router: Router, path: str, **kwargs: Any) -> tuple[int, str]:
    return await ask(router, "GET", path, **kwargs)


async def ask(router: Router, method: str, path: str, scheme: str = "http", **kwargs: Any) -> tuple[int, str]:
    url = f"{scheme}://127.0.0.1:{router.port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, **kwargs) as answer:
        return answer.status, await answer.text()


async def ready(router: Router) -> None:
    while (await get(router, "/readiness"))[0] != 200:
        await asyncio.sleep(0.01)


async def test_inference_and_control_plane_answer_on_one_connection_after_another(start, worker):
    router = await start(worker_urls=(worker.url,))
    await ready(router)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{router.port}") as session:
        for _ in range(2):
            async with session.get("/v1/models") as answer:
                assert [model["id"] for model in (await answer.json())["data"]] == ["m"]
            async with session.post("/generate", json={"text": "hi", "model": "m"}) as answer:
                assert (answer.status, answer.headers["x-worker-id"]) == (200, "w0")


async def test_the_router_listens_before_any_worker_is_up(start):
    router = await start(worker_urls=("http://127.0.0.1:9",))
    assert await get(router, "/health") == (200, "OK")
    status, body = await get(router, "/readiness")
    assert status == 503
    assert "reason" in json.loads(body)
    assert (await ask(router, "POST", "/generate", json={"text": "hi"}))[0] == 503


async def test_metrics_count_what_was_asked(start, worker):
    router = await start(worker_urls=(worker.url,))
    await ready(router)
    await ask(router, "POST", "/generate", json={"text": "hi"})
    _, text = await get(router, "/metrics")
    assert 'llm_router_requests_total{code="200",path="/generate"} 1.0' in text


async def test_draining_waits_for_what_is_in_flight_and_readiness_says_so(start, worker):
    router = await start(worker_urls=(worker.url,))
    await ready(router)
    worker.script(Hang())
    hanging = asyncio.create_task(ask(router, "POST", "/generate", json={"text": "hi"}))
    await worker.until(lambda: worker.requests != [])
    drain = asyncio.create_task(router.drain(60))
    while not router.parts.draining:
        await asyncio.sleep(0)
    assert (await get(router, "/readiness"))[0] == 503
    assert not drain.done()
    hanging.cancel()
    await drain
    assert router.metrics.inflight == 0


async def test_a_drain_ends_at_its_timeout_and_closing_cuts_the_rest(start, worker):
    router = await start(worker_urls=(worker.url,))
    await ready(router)
    worker.script(Hang())
    hanging = asyncio.create_task(ask(router, "POST", "/generate", json={"text": "hi"}))
    await worker.until(lambda: worker.requests != [])
    await router.drain(0)
    assert (await ask(router, "POST", "/generate", json={"text": "hi"}))[0] == 503
    router._gate.close()
    with pytest.raises(aiohttp.ClientError):
        await hanging
    await worker.until(lambda: worker.aborts == 1)


async def test_a_port_in_use_is_one_line(start):
    router = await start()
    with pytest.raises(ConfigError, match=f"port {router.port} on 127.0.0.1 is in use"):
        await Router(RouterConfig(port=router.port)).start()


async def test_tls_serves_inference_and_control_plane(start, worker, tmp_path):
    cert, key = certificate(tmp_path, "-nodes")
    router = await start(worker_urls=(worker.url,), ssl_certfile=cert, ssl_keyfile=key)
    trusted = ssl.create_default_context(cafile=cert)
    while (await get(router, "/readiness", scheme="https", ssl=trusted))[0] != 200:
        await asyncio.sleep(0.01)
    status, _ = await ask(router, "POST", "/generate", scheme="https", ssl=trusted, json={"text": "hi"})
    assert status == 200


def certificate(folder: Path, *options: str) -> tuple[str, str]:
    """Files with a certificate for 127.0.0.1 and its key."""
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", cert, *options]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, *subject], check=True, capture_output=True)
    return cert, key


async def refusal(cert: str, key: str) -> str:
    with pytest.raises(ConfigError) as error:
        await Router(RouterConfig(port=0, ssl_certfile=cert, ssl_keyfile=key)).start()
    assert "\n" not in str(error.value)
    return str(error.value)


async def test_a_certificate_or_key_that_cannot_be_read_is_named(tmp_path):
    there, missing = str(tmp_path / "there"), str(tmp_path / "missing")
    Path(there).touch()
    assert await refusal(missing, there) == f"--ssl-certfile {missing} cannot be read: No such file or directory"
    assert await refusal(there, missing) == f"--ssl-keyfile {missing} cannot be read: No such file or directory"


async def test_files_that_hold_no_certificate_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    assert "in PEM" in await refusal(str(tmp_path / "text"), str(tmp_path / "text"))


async def test_a_key_with_a_password_is_refused_and_not_asked_for(tmp_path):
    assert "without a password" in await refusal(*certificate(tmp_path, "-passout", "pass:secret"))


async def test_the_log_says_that_a_worker_takes_requests(start, worker, caplog):
    caplog.set_level("INFO")
    await ready(await start(worker_urls=(worker.url,)))
    assert "w0 is ready" in caplog.text


async def test_what_is_wrong_with_a_request_is_not_logged_for_it_may_hold_a_key(start, caplog):
    router = await start(admin_api_key="sesame")
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"GET /workers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\0\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    assert "sesame" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_an_unknown_path_is_a_404_in_openai_shape(start):
    router = await start()
    for method, path in [("POST", "/shutdown"), ("POST", "/v1/x"), ("GET", "/nope"), ("POST", "//generate")]:
        status, body = await ask(router, method, path)
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


async def test_the_router_collects_garbage_once_python_does_not(start, monkeypatch):
    swept = asyncio.Event()
    monkeypatch.setattr("router.app.sweep", swept.set)
    await start()
    await asyncio.wait_for(swept.wait(), 5)


async def test_upkeep_goes_on_after_it_has_failed_once(start):
    router = await start(eviction_interval=0.01)
    ticks: list[float] = []

    class Fails:
        def upkeep(self, now: float) -> None:
            ticks.append(now)
            raise RuntimeError("a bug")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    router.plane.policy = Fails()
    while len(ticks) < 2:
        await asyncio.sleep(0.01)


async def test_a_worker_that_wants_a_key_gets_its_own_and_never_a_clients(start, worker):
    router = await start()
    router.fleet.add(Worker("w0", worker.url, lifecycle=State.READY, key="s3cret"))
    shown = {"Authorization": "Bearer client", "x-api-key": "client"}
    await ask(router, "POST", "/v1/completions", json={"prompt": "hi"}, headers=shown)
    assert (await ask(router, "POST", "/flush_cache"))[0] in (200, 502)
    seen = [(request.path, request.headers) for request in worker.requests]
    assert {path for path, _ in seen} >= {"/v1/completions", "/flush_cache"}
    for _, headers in seen:
        assert headers["authorization"] == "Bearer s3cret"
        assert "x-api-key" not in headers
