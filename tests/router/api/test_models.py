"""What the workers serve."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import unused_port

from router.fleet import State
from tests.router.api.conftest import message
from tests.router.engines import Engine

INFO = ["/get_model_info", "/model_info", "/get_server_info", "/server_info"]


def card(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm-launch", "root": name}


async def test_models_are_the_union_over_workers_each_once(control):
    plane = await control()
    plane.lay("http://w0", models=("a", "b/c"))
    plane.lay("http://w1", models=("b/c", "d"))
    plane.lay("http://w2")
    listing = {"object": "list", "data": [card("a"), card("b/c"), card("d")]}
    assert await plane.get("/v1/models") == (200, listing)


async def test_no_worker_no_models(control):
    plane = await control()
    assert await plane.get("/v1/models") == (200, {"object": "list", "data": []})


@pytest.mark.parametrize("path", ["/v1/models/b/c", "/v1/models/b%2Fc"])
async def test_one_model_is_shown(control, path):
    plane = await control()
    plane.lay(models=("a", "b/c"))
    assert await plane.get(path) == (200, card("b/c"))


async def test_a_model_that_nobody_serves_is_not_found(control):
    plane = await control()
    plane.lay(models=("a",))
    status, body = await plane.get("/v1/models/x")
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
    assert message(body) == "The model 'x' does not exist"


@pytest.mark.parametrize("path", INFO)
async def test_info_comes_from_a_ready_worker(control, path):
    plane = await control()
    async with Engine({path: {"model_path": "m"}}) as engine:
        plane.fleet.set_lifecycle(plane.lay("http://w0"), State.STARTING)
        plane.lay(engine.url)
        assert await plane.get(path) == (200, {"model_path": "m"})
        assert engine.asked == [f"GET {path}"]


@pytest.mark.parametrize(("asked", "known"), [("/get_model_info", "/model_info"), ("/server_info", "/get_server_info")])
async def test_info_is_found_under_the_engines_name_for_it(control, asked, known):
    plane = await control()
    async with Engine({known: {"model_path": "m"}}) as engine:
        plane.lay(engine.url)
        assert await plane.get(asked) == (200, {"model_path": "m"})


async def test_info_comes_from_another_worker_when_one_is_gone(control):
    plane = await control()
    async with Engine({"/model_info": {"model_path": "m"}}) as engine:
        plane.lay(f"http://127.0.0.1:{unused_port()}")
        plane.lay(engine.url)
        assert await plane.get("/model_info") == (200, {"model_path": "m"})


@pytest.mark.parametrize("path", INFO)
async def test_info_needs_a_ready_worker(control, path):
    plane = await control()
    plane.fleet.set_draining(plane.lay("http://w0"), True)
    async with plane.client.get(path) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
        assert message(await response.json()) == "no worker is ready"


async def test_an_engine_without_info_says_so(control):
    plane = await control()
    async with Engine({}) as engine:
        plane.lay(engine.url)
        status, body = await plane.get("/get_model_info")
        assert status == 404
        assert "the engine has no /get_model_info" in message(body)


async def test_info_from_a_worker_that_is_gone_is_a_bad_gateway(control):
    plane = await control()
    plane.lay(f"http://127.0.0.1:{unused_port()}")
    status, body = await plane.get("/model_info")
    assert (status, message(body)) == (502, "no worker answered")
