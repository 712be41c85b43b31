"""Liveness, readiness, generated tokens, loads and metrics."""

from __future__ import annotations

import json

import pytest
from aiohttp.test_utils import unused_port

from router.fleet import Role, State
from tests.router.api.conftest import message
from tests.router.engines import Engine

U = "http://worker1:30001"


@pytest.mark.parametrize("path", ["/health", "/liveness"])
async def test_the_router_is_alive_without_workers(control, path):
    plane = await control()
    assert await plane.get(path) == (200, "OK")


async def test_readiness_counts_the_workers_that_take_requests(control):
    plane = await control()
    for number in range(3):
        plane.lay(f"http://w{number}")
    plane.fleet.set_lifecycle(plane.fleet.workers["w2"], State.FAILED)
    answer = {"status": "ready", "healthy_workers": 2, "total_workers": 3}
    assert await plane.get("/readiness") == (200, answer)


@pytest.mark.parametrize("state", [State.STARTING, State.UNHEALTHY, State.BACKOFF, State.FAILED, State.STOPPED])
async def test_without_a_ready_worker_the_router_is_not_ready(control, state):
    plane = await control()
    plane.fleet.set_lifecycle(plane.lay(), state)
    answer = {"status": "not ready", "reason": "no healthy worker", "healthy_workers": 0, "total_workers": 1}
    assert await plane.get("/readiness") == (503, answer)


async def test_without_any_worker_the_router_is_not_ready(control):
    plane = await control()
    answer = {"status": "not ready", "reason": "no workers", "healthy_workers": 0, "total_workers": 0}
    assert await plane.get("/readiness") == (503, answer)


async def test_with_all_workers_drained_the_router_is_not_ready(control):
    plane = await control()
    plane.fleet.set_draining(plane.lay(), True)
    status, body = await plane.get("/readiness")
    assert (status, body["reason"]) == (503, "no healthy worker")


@pytest.mark.parametrize(("there", "lacking"), [(Role.PREFILL, "decode"), (Role.DECODE, "prefill")])
async def test_a_router_of_pairs_is_ready_with_one_of_each_role(control, there, lacking):
    plane = await control(pd_disaggregation=True)
    plane.lay("http://w0", role=there)
    status, body = await plane.get("/readiness")
    assert (status, body["reason"]) == (503, f"no healthy {lacking} worker")
    plane.lay("http://w1", role=Role(lacking))
    assert (await plane.get("/readiness"))[0] == 200


async def test_each_role_of_a_pair_has_to_generate_by_its_own_check(control):
    plane = await control(pd_disaggregation=True)
    async with Engine({"/health_generate": 200}) as good, Engine({"/health_generate": 503}) as bad:
        plane.lay(good.url, role=Role.PREFILL)
        decode = plane.lay(bad.url, role=Role.DECODE)
        status, body = await plane.get("/health_generate")
        assert (status, message(body)) == (503, "no decode worker generated a token")
        plane.fleet.remove(decode)
        async with Engine({"/health_generate": 200}) as other:
            plane.lay(other.url, role=Role.DECODE)
            assert await plane.get("/health_generate") == (200, "OK")


async def test_a_router_that_shuts_down_is_not_ready(control):
    plane = await control()
    plane.lay()
    plane.parts.draining = True
    answer = {"status": "not ready", "reason": "draining", "healthy_workers": 1, "total_workers": 1}
    assert await plane.get("/readiness") == (503, answer)


@pytest.mark.parametrize(
    ("native", "path", "wanted"),
    [
        (True, "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 1, "temperature": 0}}),
        (False, "/v1/completions", {"model": "m", "prompt": "Hi", "max_tokens": 1}),
    ],
)
async def test_health_generate_has_a_worker_generate_one_token(control, native, path, wanted):
    plane = await control()
    async with Engine({f"POST {path}": 200}) as engine:
        plane.lay(engine.url, models=("m",), native_generate=native)
        assert await plane.get("/health_generate") == (200, "OK")
        assert engine.asked == [f"POST {path}"]
        assert json.loads(engine.bodies[0]) == wanted


async def test_health_generate_tries_openais_dialect_when_the_engines_own_differs(control):
    plane = await control()
    async with Engine({"/generate": 422, "/v1/completions": 200}) as engine:
        plane.lay(engine.url, native_generate=True)
        assert (await plane.get("/health_generate"))[0] == 200


async def test_health_generate_needs_only_one_worker_that_can(control):
    plane = await control()
    async with Engine({"/generate": 500}) as broken, Engine({"/generate": 200}) as good:
        plane.lay(f"http://127.0.0.1:{unused_port()}")
        plane.lay(broken.url)
        plane.lay(good.url)
        assert (await plane.get("/health_generate"))[0] == 200


async def test_health_generate_fails_when_no_worker_can(control):
    plane = await control()
    async with Engine({"/generate": 500}) as broken, Engine({"/generate": 200}) as good:
        plane.lay(broken.url)
        plane.fleet.set_lifecycle(plane.lay(good.url), State.UNHEALTHY)
        async with plane.client.get("/health_generate") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "2"
            assert message(await response.json()) == "no worker generated a token"


async def test_loads_are_requests_in_flight(control):
    plane = await control()
    worker = plane.lay(U)
    plane.lay("http://worker2")
    plane.fleet.lease(worker, 0, 0.0)
    loads = [{"worker": U, "load": 1}, {"worker": "http://worker2", "load": 0}]
    assert await plane.get("/get_loads") == (200, {"workers": loads})


async def test_metrics_are_prometheus_text(control):
    plane = await control()
    plane.lay(U)
    async with plane.client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert f'llm_router_worker_up{{worker="{U}"' in (await response.text()).replace('id="w0",', "")


async def test_engine_metrics_are_those_of_all_workers_that_have_some(control):
    plane = await control()
    page = "# TYPE running gauge\nrunning 1\n"
    async with Engine({"/metrics": page}) as one, Engine({"/metrics": page}) as two, Engine({}) as none:
        for url in (one.url, two.url, none.url, f"http://127.0.0.1:{unused_port()}"):
            plane.lay(url)
        status, text = await plane.get("/engine_metrics")
        assert status == 200
        assert text == (f'# TYPE running gauge\nrunning{{worker="{one.url}"}} 1\nrunning{{worker="{two.url}"}} 1\n')


async def test_an_unexpected_error_is_answered_in_shape_and_without_detail(control, monkeypatch, caplog):
    plane = await control()
    monkeypatch.setitem(plane.fleet.workers, "w0", None)
    status, body = await plane.get("/get_loads")
    assert (status, message(body)) == (500, "internal error: the router's log says more")
    assert "GET /get_loads failed" in caplog.text
