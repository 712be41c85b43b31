"""`router` as a whole, over workers that misbehave: it keeps serving, says what is wrong, and takes any input."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.e2e.commands import Load
from tests.e2e.fault_worker import FaultWorker, Garbage, Hang, Status

pytestmark = pytest.mark.e2e


@pytest.fixture
async def workers():
    made = [await FaultWorker.start() for _ in range(2)]
    yield made
    for worker in made:
        await worker.stop()


async def test_worker_urls_are_a_list_and_all_of_them_serve(start, workers):
    router = await start("router", "--worker-urls", *(w.url for w in workers), "--policy", "round_robin")
    await router.ready(2)
    for _ in range(4):
        assert (await router.ask("POST", "/v1/completions", json={"model": "m", "prompt": "hi"}))[0] == 200
    assert [len(w.requests) for w in workers] == [2, 2]


async def test_a_worker_that_is_not_up_yet_is_kept_and_taken_in_when_it_is(start):
    early = await FaultWorker.start()
    port = early.port
    await early.stop()
    router = await start("router", "--worker-urls", f"http://127.0.0.1:{port}")
    assert (await router.ask("POST", "/generate", json={"text": "hi"}))[0] == 503
    late = await FaultWorker.start(port)
    await router.ready(1)
    assert (await router.ask("POST", "/generate", json={"text": "hi"}))[0] == 200
    await late.stop()


async def test_a_worker_that_answers_garbage_is_taken_out_of_rotation_and_the_other_serves(start, workers):
    router = await start("router", "--worker-urls", *(w.url for w in workers), "--policy", "round_robin")
    await router.ready(2)
    workers[0].default = Garbage()
    for _ in range(20):
        assert (await router.ask("POST", "/generate", json={"text": "hi"}))[0] == 200
    assert len(workers[0].requests) <= 8  # four failures in a row, and a trial or two


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("ftp://x:1", 400, "http"),
        ("http://user:pw@x:1", 400, "user"),
        ("http://x:1/v1", 400, "leave out /v1"),
        ("", 400, "url"),
        ("http://127.0.0.1:99999", 400, "port"),
    ],
)
async def test_a_url_that_cannot_be_a_worker_is_refused_in_one_line(start, url, status, says):
    router = await start("router")
    answer = await router.ask("POST", "/add_worker", params={"url": url})
    assert answer[0] == status
    assert says in answer[1].lower()
    assert "pw" not in answer[1]


async def test_the_router_does_not_take_itself_for_a_worker(start):
    router = await start("router")
    status, text = await router.ask("POST", "/add_worker", params={"url": router.url})
    assert (status, "itself" in text) == (400, True)


async def test_a_server_that_is_no_inference_server_is_refused(start):
    web = await FaultWorker.start()
    web.gets = {"/health": Status(200, {}, b"<html>")}
    router = await start("router")
    status, text = await router.ask("POST", "/add_worker", params={"url": web.url})
    assert (status, "not an inference server" in text) == (400, True)
    await web.stop()


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b"\xff", b'{"text":'])
async def test_a_bad_body_gets_an_openai_shaped_error_and_harms_nobody(start, workers, body):
    router = await start("router", "--worker-urls", workers[0].url)
    await router.ready(1)
    load = Load(router.url, clients=2)
    for _ in range(20):
        status, text = await router.ask("POST", "/v1/chat/completions", data=body)
        assert (status, json.loads(text)["error"]["type"]) == (400, "invalid_request_error")
    await load.end()
    assert workers[0].aborts == 0


async def test_a_body_beyond_the_limit_is_413(start, workers):
    router = await start("router", "--worker-urls", workers[0].url, "--max-payload-size", "1000")
    await router.ready(1)
    status, text = await router.ask("POST", "/generate", data=b'{"text":"' + b"x" * 2000 + b'"}')
    assert (status, json.loads(text)["error"]["code"]) == (413, "payload_too_large")


async def test_a_signal_ends_it_with_exit_code_0(start, workers):
    router = await start("router", "--worker-urls", workers[0].url)
    await router.ready(1)
    router.process.send_signal(signal.SIGTERM)
    assert await router.end() == 0


async def test_two_signals_end_it_at_once(start, workers):
    router = await start("router", "--worker-urls", workers[0].url)
    await router.ready(1)
    workers[0].default = Hang()
    hanging = asyncio.create_task(router.ask("POST", "/generate", json={"text": "hi"}))
    await workers[0].until(lambda: workers[0].requests != [])
    router.process.send_signal(signal.SIGINT)
    await router.said("once more")
    router.process.send_signal(signal.SIGINT)
    assert await router.end() == 128 + signal.SIGINT
    with pytest.raises(Exception, match=r"."):
        await hanging


@pytest.mark.parametrize(("args", "says"), [
    (("--policy", "best"), "best"), (("--port", "70000"), "70000"), (("--nope",), "--nope"),
    (("--worker-urls", "ftp://x"), "ftp://x"), (("--host", "256.1.1.1"), "256.1.1.1"),
])  # fmt: skip
async def test_bad_input_is_one_clear_line(start, args, says):
    router = await start("router", *args)
    assert await router.end() == 2
    said = [line for line in router.lines if line and not line.startswith(("Usage:", "Try '"))]
    assert len(said) == 1, said
    assert says in said[0]
