"""`router --pd-disaggregation` as a whole, over stand-ins of SGLang's prefill and decode workers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.e2e.commands import Command
from tests.e2e.fault_worker import CloseBeforeHead, Hang, Status
from tests.e2e.pair_workers import Half, Pairs

pytestmark = pytest.mark.e2e

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def pairs():
    made = await Pairs.start(2, 2)
    yield made
    await made.stop()


@pytest.fixture
async def router(start, pairs):
    prefills = [word for worker in pairs.prefills for word in (worker.url, "9000")]
    decodes = [worker.url for worker in pairs.decodes]
    options = ("--prefill", *prefills, "--decode", *decodes, "--policy", "round_robin")
    router = await start("router", "--pd-disaggregation", *options, "--health-check-interval", "0.2")
    await router.ready(4)
    return router


async def ask(router: Command, body: Any, path: str = "/generate") -> Any:
    status, text = await router.ask("POST", path, json=body)
    assert status == 200, text
    return json.loads(text)


async def stream(router: Command, body: Any, path: str = "/generate") -> tuple[bytes, bool]:
    """What came, and whether it came to its end."""
    said = b""
    async with (
        aiohttp.ClientSession() as session,
        session.post(router.url + path, json={**body, "stream": True}) as answer,
    ):
        try:
            async for data in answer.content.iter_any():
                said += data
        except aiohttp.ClientError:
            return said, False
    return said, True


async def idle(router: Command) -> None:
    """Nothing is in flight any more."""
    while any(worker["inflight"] for worker in await router.workers()):
        await asyncio.sleep(0.02)


async def test_pairs_serve_texts_lists_of_them_chats_and_streams(router):
    assert (await ask(router, {"text": "hi"}))["text"] == "decode 0"
    assert [each["text"] for each in await ask(router, {"text": ["a", "b"]})] == ["decode 0"] * 2
    assert "choices" in await ask(router, {"model": "m", "prompt": ["a", "b"]}, "/v1/completions")
    assert "choices" in await ask(router, {**CHAT, "n": 2}, "/v1/chat/completions")
    said, whole = await stream(router, CHAT, "/v1/chat/completions")
    assert (b"decode 2" in said, b"[DONE]" in said, whole) == (True, True, True)
    await idle(router)


async def test_all_workers_are_used_and_told_apart(router, pairs):
    for _ in range(4):
        await ask(router, {"text": "hi"})
    assert [len(worker.requests) for worker in (*pairs.prefills, *pairs.decodes)] == [2] * 4
    told = [(worker["worker_type"], worker["bootstrap_port"]) for worker in await router.workers()]
    assert told == [("prefill", 9000)] * 2 + [("decode", None)] * 2
    _, metrics = await router.ask("GET", "/metrics")
    assert f'llm_router_worker_type{{type="decode",worker="{pairs.decodes[0].url}"}} 1.0' in metrics


async def test_facts_and_models_come_from_any_worker(router, pairs):
    for worker in (*pairs.prefills, *pairs.decodes):
        worker.gets["/get_model_info"] = Status(200, {"content-type": "application/json"}, b'{"model_path": "m"}')
    assert json.loads((await router.ask("GET", "/v1/models"))[1])["data"][0]["id"] == "m"
    assert (await router.ask("GET", "/get_model_info")) == (200, '{"model_path": "m"}')
    assert (await router.ask("GET", "/health_generate"))[0] == 200


@pytest.mark.parametrize("role", ["prefills", "decodes"])
async def test_when_one_dies_before_the_answer_another_pair_answers(router, pairs, role):
    getattr(pairs, role)[0].script(CloseBeforeHead())
    for _ in range(2):
        assert (await ask(router, {"text": "hi"}))["text"] == "decode 0"
    assert [worker.requests != [] for worker in getattr(pairs, role)] == [True, True]
    await idle(router)


async def test_when_the_decode_worker_dies_within_the_answer_the_stream_ends_as_broken(router, pairs):
    for worker in pairs.decodes:
        worker.script(Half(pairs.rooms, "decode", breaks=True))
    said, whole = await stream(router, {"text": "hi"})
    assert (b"decode 0" in said, b"worker_broke_off" in said, b"[DONE]" in said, whole) == (True, True, False, False)
    await idle(router)


async def test_when_the_prefill_worker_dies_within_the_answer_the_stream_goes_on(router, pairs):
    gate = asyncio.Event()
    for worker in pairs.prefills:
        worker.script(Half(pairs.rooms, "prefill", 9000, holds=asyncio.Event()))
    for worker in pairs.decodes:
        worker.script(Half(pairs.rooms, "decode", pauses=gate))
    body = {"text": "hi", "stream": True}
    async with aiohttp.ClientSession() as session, session.post(router.url + "/generate", json=body) as answer:
        said = await answer.content.readuntil(b"\n\n")
        for worker in pairs.prefills:
            await worker.stop()
        gate.set()
        said += await answer.content.read()
    assert (b"decode 0" in said, b"decode 2" in said, b"[DONE]" in said) == (True, True, True)


async def test_a_client_that_leaves_ends_both_requests(router, pairs):
    workers = (*pairs.prefills, *pairs.decodes)
    for worker in workers:
        worker.default = Hang()
    asked = asyncio.create_task(ask(router, {"text": "hi"}))
    taken = [pairs.prefills[0], pairs.decodes[0]]
    for worker in taken:
        await worker.until(lambda worker=worker: bool(worker.requests))
    asked.cancel()
    for worker in taken:
        await worker.until(lambda worker=worker: worker.aborts == 1)
    await idle(router)


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_role_is_drained_one_by_one_and_the_last_is_missed_by_name(router, pairs, role):
    first, last = (worker["id"] for worker in await router.workers() if worker["worker_type"] == role)
    await router.ask("POST", f"/workers/{first}/drain")
    for _ in range(3):
        await ask(router, {"text": "hi"})
    assert (await router.ask("DELETE", f"/workers/{last}"))[0] == 200
    status, text = await router.ask("POST", "/generate", json={"text": "hi"})
    assert (status, json.loads(text)["error"]["message"]) == (503, f"no {role} worker is ready")
    status, text = await router.ask("GET", "/readiness")
    assert (status, json.loads(text)["reason"]) == (503, f"no healthy {role} worker")
    await router.ask("POST", f"/workers/{first}/undrain")
    await ask(router, {"text": "hi"})


async def test_workers_of_either_role_are_added_while_it_runs(start, pairs):
    router = await start("router", "--pd-disaggregation")
    prefill, decode = pairs.prefills[0], pairs.decodes[0]
    status, text = await router.ask("POST", "/generate", json={"text": "hi"})
    assert (status, "there is no prefill worker" in text) == (503, True)
    query = {"url": prefill.url, "worker_type": "prefill", "bootstrap_port": "9000"}
    assert (await router.ask("POST", "/add_worker", params=query))[0] == 200
    status, text = await router.ask("POST", "/generate", json={"text": "hi"})
    assert (status, "there is no decode worker" in text) == (503, True)
    status, _ = await router.ask("POST", "/workers", json={"url": decode.url, "worker_type": "decode"})
    assert status == 201
    await ask(router, {"text": "hi"})
    status, text = await router.ask("POST", "/add_worker", params={"url": pairs.prefills[1].url})
    assert (status, "needs a worker_type here, prefill or decode" in text) == (400, True)


async def test_half_a_worker_is_refused_by_a_router_of_whole_ones(start, pairs):
    router = await start("router")
    for query in ({"worker_type": "prefill"}, {"worker_type": "decode"}):
        status, text = await router.ask("POST", "/add_worker", params={"url": pairs.decodes[0].url, **query})
        assert (status, "--pd-disaggregation" in text) == (400, True)
    status, text = await router.ask("POST", "/add_worker", params={"url": pairs.decodes[0].url, "worker_type": "both"})
    assert (status, "one of regular, prefill, decode" in text) == (400, True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--prefill", "http://a"), "needs --pd-disaggregation"),
        (("--pd-disaggregation", "--prefill", "9000"), "9000 without a URL"),
        (("--pd-disaggregation", "--prefill", "http://a", "9000", "9001"), "9001 without a URL"),
        (("--pd-disaggregation", "--prefill", "http://a", "70000"), "70000"),
        (("--pd-disaggregation", "--prefill", "http://a", "--decode", "http://a"), "already exists"),
        (("--pd-disaggregation", "--decode", "ftp://a"), "--decode"),
        (("--pd-disaggregation", "--worker-urls", "http://a"), "--worker-urls"),
        (("--pd-disaggregation", "--decode-policy", "best"), "best"),
    ],
)
async def test_what_does_not_go_together_is_one_clear_line(start, args, says):
    router = await start("router", *args)
    assert await router.end() == 2
    said = [line for line in router.lines if line and not line.startswith(("Usage:", "Try '", "router over"))]
    assert any(says in line for line in said), said
    assert not any("Traceback" in line for line in said)
