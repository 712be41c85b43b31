"""SGLang's worker paths and their REST form: exact texts and shapes."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import unused_port

from router.fleet import Cause, State
from tests.router.api.conftest import message
from tests.router.engines import Engine, Handle, until

U = "http://worker1:30001"


async def test_add_worker_answers_once_the_worker_is_healthy(control):
    plane = await control()
    async with Engine() as engine:
        answer = await plane.post("/add_worker", params={"url": engine.url + "/"})
        assert answer == (200, f"Successfully added worker: {engine.url}")
        assert await plane.get("/list_workers") == (200, {"urls": [engine.url]})


async def test_add_worker_need_not_wait(control):
    plane = await control()
    assert await plane.post("/add_worker", params={"url": U, "wait": "false"}) == (202, f"Accepted worker: {U}")
    assert await plane.get("/list_workers") == (200, {"urls": [U]})


async def test_add_worker_needs_a_url(control):
    plane = await control()
    for path in ("/add_worker", "/add_worker?url="):
        status, body = await plane.post(path)
        assert (status, message(body)) == (400, "Worker URL required. Provide 'url' query parameter")


async def test_add_worker_refuses_what_is_no_url(control):
    plane = await control()
    status, body = await plane.post("/add_worker", params={"url": "file:///etc/passwd"})
    assert status == 400
    assert "must begin with http:// or https://" in message(body)


async def test_add_worker_refuses_a_worker_that_is_there(control):
    plane = await control()
    plane.lay(U)
    status, body = await plane.post("/add_worker", params={"url": U})
    assert (status, message(body)) == (400, f"Worker {U} already exists")


async def test_add_worker_gives_up_on_one_that_never_becomes_healthy(control):
    plane = await control(worker_startup_timeout=0.1)
    status, body = await plane.post("/add_worker", params={"url": f"http://127.0.0.1:{unused_port()}"})
    assert status == 504
    assert "did not become healthy within 0.1 s: connection refused" in message(body)
    assert await plane.get("/list_workers") == (200, {"urls": []})


async def test_add_worker_refuses_a_server_of_another_kind(control):
    plane = await control()
    async with Engine({"/health": 200}) as engine:
        status, body = await plane.post("/add_worker", params={"url": engine.url})
    assert status == 400
    assert "it is not an inference server" in message(body)
    assert plane.fleet.workers == {}


async def test_a_flag_is_true_or_false(control):
    plane = await control()
    status, body = await plane.post("/add_worker", params={"url": U, "wait": "maybe"})
    assert (status, message(body)) == (400, "wait must be true or false")


async def test_remove_worker_drains_and_removes(control):
    plane = await control()
    worker = plane.lay(U, handle=None)
    lease = plane.fleet.lease(worker, 0, 0.0)
    removing = asyncio.ensure_future(plane.post("/remove_worker", params={"url": U + "/"}))
    await until(lambda: worker.draining)
    lease.release(1.0)
    assert await removing == (200, f"Successfully removed worker: {U}")
    assert plane.fleet.workers == {}


async def test_remove_worker_by_force_does_not_drain(control):
    plane = await control()
    plane.fleet.lease(plane.lay(U, handle=None), 0, 0.0)
    answer = await plane.post("/remove_worker", params={"url": U, "force": "true"})
    assert answer == (200, f"Successfully removed worker: {U}")


async def test_remove_worker_does_not_know_strangers(control):
    plane = await control()
    status, body = await plane.post("/remove_worker", params={"url": U})
    assert (status, message(body)) == (404, f"Worker {U} not found")
    assert (await plane.post("/remove_worker"))[0] == 400


async def test_workers_are_shown_with_all_that_is_known(control):
    plane = await control()
    worker = plane.lay(U, devices=("0", "1"), models=("m",), speed=1.5)
    worker.pid, worker.last_error = 4711, "HTTP 500"
    worker.restarted = {Cause.KILLED: 1, Cause.ASKED: 1}
    worker.node, worker.waiting = "gpu-2", "needs 2 GPUs on one node"
    plane.fleet.set_cache(worker, 4096)
    plane.fleet.lease(worker, 512, 0.0)
    shown = {
        "id": "w0",
        "url": U,
        "worker_type": "regular",
        "state": "ready",
        "healthy": True,
        "inflight": 1,
        "prefill_outstanding": 512,
        "node": "gpu-2",
        "devices": ["0", "1"],
        "pid": 4711,
        "restarts": 2,
        "models": ["m"],
        "speed": 1.5,
        "kv_tokens": 4096,
        "bootstrap_port": None,
        "waiting": "needs 2 GPUs on one node",
        "last_error": "HTTP 500",
    }
    assert await plane.get("/workers") == (200, {"workers": [shown], "total": 1})
    assert await plane.get("/workers/w0") == (200, shown)
    assert await plane.get("/workers/http%3A%2F%2Fworker1%3A30001") == (200, shown)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/workers/w7"),
        ("DELETE", "/workers/w7"),
        ("POST", "/workers/w7/drain"),
        ("POST", "/workers/w7/undrain"),
        ("POST", "/workers/w7/restart"),
        ("GET", "/workers/w7/logs"),
    ],
)
async def test_an_unknown_worker_is_not_found(control, method, path):
    plane = await control()
    status, body = await plane.ask(method, path)
    assert (status, message(body)) == (404, "Worker w7 not found")


async def test_a_worker_is_created_and_deleted(control):
    plane = await control()
    async with Engine() as engine:
        async with plane.client.post("/workers", json={"url": engine.url, "speed": 2}) as response:
            created = await response.json()
            assert (response.status, response.headers["Location"]) == (201, "/workers/w0")
        assert (created["url"], created["state"], created["speed"]) == (engine.url, "ready", 2)
        text = f"Successfully removed worker: {engine.url}"
        assert await plane.ask("DELETE", "/workers/w0") == (200, {"status": "success", "message": text})
        assert await plane.get("/workers") == (200, {"workers": [], "total": 0})


async def test_the_halves_of_a_pair_are_added_by_their_type(control):
    plane = await control(pd_disaggregation=True)
    query = {"url": U, "wait": "false", "worker_type": "prefill", "bootstrap_port": "9000"}
    assert (await plane.post("/add_worker", params=query))[0] == 202
    status, body = await plane.post("/workers", json={"url": "http://d", "worker_type": "decode", "wait": False})
    assert (status, body["worker_type"], body["bootstrap_port"]) == (202, "decode", None)
    _, body = await plane.get("/workers/w0")
    assert (body["worker_type"], body["bootstrap_port"]) == ("prefill", 9000)
    _, nodes = await plane.get("/nodes/status")
    assert [node["role"] for node in nodes.values()] == [2, 3]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"worker_type": "both"}, "one of regular, prefill, decode"),
        ({"worker_type": "prefill", "bootstrap_port": "0"}, "from 1 to 65535"),
        ({"worker_type": "prefill", "bootstrap_port": "x"}, "from 1 to 65535"),
        ({"worker_type": "decode", "bootstrap_port": "9000"}, "only those have a bootstrap_port"),
        ({}, "needs a worker_type here"),
    ],
)
async def test_what_is_no_half_of_a_pair_is_refused(control, query, says):
    plane = await control(pd_disaggregation=True)
    status, body = await plane.post("/add_worker", params={"url": U, **query})
    assert status == 400
    assert says in message(body)
    assert plane.fleet.workers == {}


async def test_creating_a_worker_need_not_wait(control):
    plane = await control()
    status, body = await plane.post("/workers", json={"url": U, "wait": False})
    assert (status, body["state"], body["kv_tokens"]) == (202, "starting", None)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"link": "http://a"}', b'{"url": 7}', b"\xff", b"[" * 5000])
async def test_a_body_that_cannot_be_read_is_refused(control, body):
    plane = await control()
    status, answer = await plane.post("/workers", data=body)
    assert status == 400
    assert message(answer).startswith("the request body is not what /workers takes")


async def test_a_worker_is_drained_and_undrained(control):
    plane = await control()
    worker = plane.lay(U)
    status, body = await plane.post("/workers/w0/drain")
    assert (status, body["state"], worker.draining) == (200, "draining", True)
    status, body = await plane.post("/workers/w0/undrain")
    assert (status, body["state"], worker.draining) == (200, "ready", False)


async def test_a_worker_launched_here_is_restarted(control):
    plane = await control()
    handle = Handle()
    plane.lay(U, handle=handle)
    status, body = await plane.post("/workers/w0/restart")
    assert (status, body["state"], handle.calls) == (200, "ready", ["restart"])


async def test_a_worker_started_elsewhere_is_not_restarted(control):
    plane = await control()
    plane.lay(U, handle=None)
    status, body = await plane.post("/workers/w0/restart")
    assert status == 400
    assert message(body) == f"worker {U} was not launched here: restart it where it was started"


async def test_the_log_of_a_worker_launched_here_is_shown_and_followed(control):
    plane = await control()
    plane.lay(U, handle=Handle())
    shown = {"worker": "w0", "lines": ["100 lines", "after None"], "next": "w0.1.log:7"}
    assert await plane.get("/workers/w0/logs") == (200, shown)
    _, body = await plane.get("/workers/w0/logs", params={"lines": "5", "after": shown["next"]})
    assert body["lines"] == ["5 lines", "after w0.1.log:7"]


@pytest.mark.parametrize("lines", ["0", "1001", "-1", "many", "9" * 40, ""])
async def test_the_log_takes_a_sensible_number_of_lines(control, lines: str):
    plane = await control()
    plane.lay(U, handle=Handle())
    status, body = await plane.get("/workers/w0/logs", params={"lines": lines})
    assert (status, message(body)) == (400, "lines must be a number from 1 to 1000")


async def test_the_log_of_a_worker_started_elsewhere_is_there(control):
    plane = await control()
    plane.lay(U, handle=None)
    status, body = await plane.get("/workers/w0/logs")
    assert (status, message(body)) == (400, f"worker {U} was not launched here: its log is where it was started")


async def test_all_workers_launched_here_are_restarted(control):
    plane = await control()
    handles = [Handle(), Handle()]
    for number, handle in enumerate(handles):
        plane.lay(f"http://w{number}", handle=handle)
    plane.lay(U, handle=None)
    answer = {"restarted": ["http://w0", "http://w1"], "skipped": [U]}
    assert await plane.post("/workers/restart") == (200, answer)
    assert [handle.calls for handle in handles] == [["restart"], ["restart"]]


async def test_a_restart_that_fails_is_reported(control):
    plane = await control()
    plane.lay(U, handle=Handle(fails=True))
    status, body = await plane.post("/workers/restart")
    assert (status, message(body)) == (502, f"worker {U} did not come back: it exited with code 1")


@pytest.mark.parametrize(
    ("answers", "status", "word"),
    [((200, 200), 200, "success"), ((200, 500), 206, "partial_success"), ((404, 500), 502, "error")],
)
async def test_flush_cache_says_how_many_did(control, answers, status, word):
    plane = await control()
    async with Engine({"/flush_cache": answers[0]}) as one, Engine({"/flush_cache": answers[1]}) as two:
        plane.lay(one.url)
        plane.lay(two.url)
        done = [engine.url for engine, answer in zip((one, two), answers, strict=True) if answer == 200]
        failed = [
            {"worker": engine.url, "error": f"HTTP {answer}"}
            for engine, answer in zip((one, two), answers, strict=True)
            if answer != 200
        ]
        assert await plane.post("/flush_cache") == (
            status,
            {
                "status": word,
                "message": f"flushed {len(done)} of 2 workers, and the router's prefix index",
                "workers_flushed": len(done),
                "total_workers": 2,
                "successful": done,
                "failed": failed,
            },
        )


async def test_a_worker_added_over_http_is_watched(control):
    plane = await control()
    async with Engine() as engine:
        await plane.post("/add_worker", params={"url": engine.url})
        engine.answers["/health"] = 500
        worker = plane.fleet.workers["w0"]
        await until(lambda: worker.state is State.UNHEALTHY)
        _, body = await plane.get("/workers/w0")
        assert (body["state"], body["healthy"], body["last_error"]) == ("unhealthy", False, "HTTP 500")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_rolling_restart_is_no_worker(control, method):
    plane = await control()
    async with plane.client.request(method, "/workers/restart") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
