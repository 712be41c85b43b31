"""LMDeploy's /nodes paths: exact strings and shapes."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import unused_port

from tests.router.api.conftest import message
from tests.router.engines import Engine, Handle

U = "http://worker1:23333"


async def test_node_status_has_lmdeploys_shape(control):
    plane = await control()
    worker = plane.lay(U, models=("m",), speed=120)
    plane.fleet.lease(worker, 0, 10.0).release(11.5, latency=True)
    plane.fleet.lease(worker, 0, 20.0)
    node = {"role": 1, "models": ["m"], "unfinished": 1, "latency": [1.5], "speed": 120}
    assert await plane.get("/nodes/status") == (200, {U: node})


async def test_a_new_node_has_no_speed_and_no_latency(control):
    plane = await control()
    plane.lay(U)
    node = {"role": 1, "models": [], "unfinished": 0, "latency": [], "speed": None}
    assert await plane.get("/nodes/status") == (200, {U: node})


async def test_a_node_that_names_its_models_is_taken_at_its_word(control):
    plane = await control()
    told = {"url": U + "/", "status": {"models": ["m"], "speed": 120, "role": 1, "unfinished": 3, "latency": [9]}}
    assert await plane.post("/nodes/add", json=told) == (200, "Added successfully")
    node = {"role": 1, "models": ["m"], "unfinished": 0, "latency": [], "speed": 120}
    assert await plane.get("/nodes/status") == (200, {U: node})


async def test_a_node_that_registers_the_wildcard_address_is_the_peer_and_goes_by_it_too(control):
    plane = await control()
    wildcard = {"url": "http://0.0.0.0:23333", "status": {"models": ["m"]}}
    assert await plane.post("/nodes/add", json=wildcard) == (200, "Added successfully")
    assert [worker.url for worker in plane.fleet.workers.values()] == ["http://127.0.0.1:23333"]
    assert await plane.post("/nodes/remove", json=wildcard) == (200, "Deleted successfully")
    assert plane.fleet.workers == {}


@pytest.mark.parametrize("name", ["w9", "nowhere", "http://", "http://w:1/v1"])
async def test_a_name_that_is_no_nodes_is_not_found_however_it_is_written(control, name):
    plane = await control()
    plane.lay(U, handle=None)
    assert (await plane.post("/nodes/remove", json={"url": name}))[0] == 404
    assert await plane.post("/nodes/remove", json={"url": "w0"}) == (200, "Deleted successfully")


async def test_a_node_that_names_no_model_is_asked(control):
    plane = await control()
    async with Engine() as engine:
        assert await plane.post("/nodes/add", json={"url": engine.url}) == (200, "Added successfully")
        assert plane.fleet.workers["w0"].models == ("m",)


async def test_a_node_that_names_no_model_and_does_not_answer_is_refused(control):
    plane = await control(health_check_timeout=0.1)
    status, body = await plane.post("/nodes/add", json={"url": f"http://127.0.0.1:{unused_port()}"})
    assert status == 400
    assert "connection refused" in message(body)
    assert plane.fleet.workers == {}


async def test_a_node_that_registers_again_is_updated(control):
    plane = await control()
    plane.lay(U, models=("old",))
    told = {"url": U, "status": {"models": ["new"], "speed": 3}}
    assert await plane.post("/nodes/add", json=told) == (200, "Added successfully")
    worker = plane.fleet.workers["w0"]
    assert (worker.models, worker.speed) == (("new",), 3)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"url": "ftp://worker1"}, "must begin with http"),
        ({"link": U}, "missing required field `url`"),
        ({"url": U, "status": {"speed": 0}}, "speed is 0"),
        ({"url": U, "status": {"speed": "fast"}}, "Expected `float | null`"),
        ({"url": U, "status": {"role": 2, "models": ["m"]}}, "role 2 is not supported"),
    ],
)
async def test_a_node_that_makes_no_sense_is_refused_with_the_reason(control, told, why):
    plane = await control()
    status, body = await plane.post("/nodes/add", json=told)
    assert status == 400
    assert why in message(body)
    assert plane.fleet.workers == {}


@pytest.mark.parametrize("asked", [{"json": {"url": U}}, {"params": {"node_url": U}}, {"params": {"url": U}}])
async def test_a_node_is_removed_however_it_is_named(control, asked):
    plane = await control()
    plane.lay(U, handle=None)
    assert await plane.post("/nodes/remove", **asked) == (200, "Deleted successfully")
    assert plane.fleet.workers == {}


async def test_which_node_is_meant_must_be_said(control):
    plane = await control()
    status, body = await plane.post("/nodes/remove")
    assert status == 400
    assert "Worker URL required" in message(body)


@pytest.mark.parametrize("path", ["/nodes/remove", "/nodes/terminate"])
async def test_an_unknown_node_is_not_found(control, path):
    plane = await control()
    status, body = await plane.post(path, json={"url": U})
    assert (status, message(body)) == (404, f"Worker {U} not found")


async def test_terminate_stops_the_engine_and_removes_the_node(control):
    plane = await control()
    handle = Handle()
    plane.lay(U, handle=handle)
    assert await plane.post("/nodes/terminate", json={"url": U}) == (200, "Terminated successfully")
    assert (handle.calls, plane.fleet.workers) == (["stop"], {})


async def test_terminate_all_stops_every_engine(control):
    plane = await control()
    handles = [Handle(), Handle()]
    for number, handle in enumerate(handles):
        plane.lay(f"http://w{number}", handle=handle)
    assert await plane.get("/nodes/terminate_all") == (200, "All nodes terminated successfully")
    assert [handle.calls for handle in handles] == [["stop"], ["stop"]]
    assert plane.fleet.workers == {}


async def test_terminate_all_names_the_engines_that_could_not_be_told(control):
    plane = await control()
    async with Engine({"/terminate": 200}) as can, Engine({}) as cannot:
        plane.lay(can.url, handle=None)
        plane.lay(cannot.url, handle=None)
        status, body = await plane.get("/nodes/terminate_all")
        assert status == 502
        assert message(body) == (
            f"Failed to terminate all nodes: Failed to terminate node {cannot.url}: HTTP 404; it was removed"
        )
    assert plane.fleet.workers == {}
