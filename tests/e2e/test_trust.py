"""What SECURITY.md promises, shown on the real commands: nothing gets past the front door, and no secret comes out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from router.request import INFERENCE_PATHS
from tests.e2e.commands import Command
from tests.e2e.fault_worker import JSON, Connection, FaultWorker, Garbage, Request, Status, counted

pytestmark = pytest.mark.e2e

KEY, ADMIN_KEY = "s3same-user", "s3same-admin"
WITH_KEY = f"X-Api-Key: {KEY}\r\n".encode()
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
REFUSED = (400, 401, 404, 405)

# What the engines' servers have beside inference: it stops them, changes their weights, reads and writes their files.
ADMINISTRATION = (
    "/shutdown", "/abort_request", "/update_weights_from_disk", "/update_weights_from_tensor",
    "/init_weights_update_group", "/release_memory_occupation", "/load_lora_adapter", "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter", "/start_profile", "/set_internal_state", "/open_session", "/collective_rpc", "/sleep",
    "/wake_up", "/reset_prefix_cache", "/pause", "/slots/0?action=save", "/lora-adapters", "/models/load",
    "/terminate", "/distserve/p2p_connect",
)  # fmt: skip
CONTROL = ("/add_worker?url=http://127.0.0.1:9", "/workers", "/flush_cache", "/nodes/terminate_all", "/workers/restart")

# Ways to write a path so that one reader takes it for something harmless and another does not.
SPELLINGS = (
    "{}", "/{}", "//v1{}", "/.{}", "/v1/..{}", "/generate/..{}", "/generate/%2e%2e{}", "/generate/.%2E{}",
    "/generate/..%2f{}", "/generate%2f..{}", "/generate;{}", "/generate;/..{}", "/generate/.;{}", "/generate\\..{}",
    "/generate%00{}", "/generate#{}", "/generate/{}", "/%67enerate/..{}", "/v1/chat/completions/../../..{}",
    "http://router{}", "http://router/generate/..{}", "generate/..{}", "*{}",
)  # fmt: skip


@pytest.fixture
async def worker() -> AsyncIterator[FaultWorker]:
    made = await FaultWorker.start()
    yield made
    await made.stop()


async def send(url: str, method: str, target: str, headers: bytes = b"", body: bytes = b"{}") -> bytes:
    """Send a request whose target is spelt exactly so; returns the whole answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode("latin-1") + headers + b"\r\n" + body)
    answer = await reader.read()
    writer.close()
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def guarded(start, worker: FaultWorker, *options: str) -> Command:
    """A router over the worker, with both keys."""
    keys = {"ROUTER_API_KEY": KEY, "ROUTER_ADMIN_API_KEY": ADMIN_KEY}
    router = await start("router", "--worker-urls", worker.url, *options, **keys)
    while (await router.ask("GET", "/readiness"))[0] != 200:
        await asyncio.sleep(0.02)
    return router


# -- the front door


async def test_no_spelling_of_a_path_reaches_an_engines_administration(start, worker):
    router = await guarded(start, worker)
    for target in (spelling.format(path) for spelling in SPELLINGS for path in ADMINISTRATION):
        for method in ("POST", "GET"):
            assert status(await send(router.url, method, target, WITH_KEY)) in REFUSED, (method, target)
    assert worker.requests == []
    assert not any(path in asked for path in ADMINISTRATION for asked in worker.probes)


async def test_no_spelling_of_a_path_opens_the_control_plane(start, worker):
    router = await guarded(start, worker)
    for target in (spelling.format(path) for spelling in SPELLINGS for path in CONTROL):
        for headers in (b"", WITH_KEY):
            assert status(await send(router.url, "POST", target, headers)) in REFUSED, target
    workers = json.loads((await router.ask("GET", "/workers", headers=AS_ADMIN))[1])["workers"]
    assert [worker["state"] for worker in workers] == ["ready"]


async def test_every_inference_path_needs_the_key_and_is_sent_on_as_it_was_written(start, worker):
    router = await guarded(start, worker)
    for path in INFERENCE_PATHS:
        assert status(await send(router.url, "POST", path + "?a=/../b")) == 401
    assert worker.requests == []
    for path in INFERENCE_PATHS:
        assert status(await send(router.url, "POST", path + "?a=/../b", WITH_KEY)) == 200
    assert [request.path for request in worker.requests] == [path + "?a=/../b" for path in INFERENCE_PATHS]


async def test_nothing_in_a_request_chooses_the_server_it_is_sent_to(start, worker):
    elsewhere = await FaultWorker.start()
    router = await guarded(start, worker)
    url = elsewhere.url.encode()
    names = b"X-Worker-Url X-Forwarded-Host X-Original-Url X-Rewrite-Url Forwarded Referer".split()
    headers = b"".join(b"%b: %b\r\n" % (name, url) for name in names)
    body = json.dumps({"text": "hi", "api_base": elsewhere.url, "base_url": elsewhere.url, "url": elsewhere.url})
    answer = await send(router.url, "POST", "/generate", headers + WITH_KEY, body.encode())
    assert status(answer) == 200
    assert (len(worker.requests), len(elsewhere.requests)) == (1, 0)
    await elsewhere.stop()


async def test_a_redirect_of_a_worker_is_passed_on_and_not_followed(start, worker):
    elsewhere = await FaultWorker.start()
    router = await guarded(start, worker)
    worker.default = Status(307, {"location": elsewhere.url + "/generate"})
    answer = await send(router.url, "POST", "/generate", WITH_KEY, b'{"text": "hi"}')
    assert status(answer) == 307
    assert elsewhere.requests == []
    await elsewhere.stop()


# -- whose answer is whose


class Echo:
    """Answers with the prompt, so that an answer tells whose it is."""

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(counted(200, JSON, request.body))


async def test_each_of_many_clients_gets_its_own_answer(start, worker):
    router = await guarded(start, worker)
    worker.default = Echo()

    async def client(number: int) -> None:
        host, _, port = router.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for turn in range(20):
            body = b'{"text": "%d of %d"}' % (turn, number)
            head = b"POST /generate HTTP/1.1\r\nHost: r\r\nX-Api-Key: %b\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (KEY.encode(), len(body)) + body)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(body)) == body
        writer.close()

    await asyncio.gather(*(client(number) for number in range(100)))


# -- secrets


async def test_no_key_and_no_prompt_shows_in_what_the_router_says(start, worker):
    router = await guarded(start, worker, "--log-level", "debug", "--max-total-retries", "1")
    secret = b'{"text": "pr1vate words", "model": "m", "user": "pr1vate user"}'
    said = [
        await send(router.url, "POST", "/generate", b"X-Api-Key: wr0ng-key\r\n", secret),
        await send(router.url, "POST", "/generate?key=pr1vate", WITH_KEY, secret[:-1]),
        await send(router.url, "POST", "/nowhere", b"Authorization: Bearer wr0ng-key\r\n", secret),
        await send(router.url, "POST", "/add_worker?url=http://me:pr1vate@w:1", f"X-Api-Key: {ADMIN_KEY}\r\n".encode()),
        await send(router.url, "BAD\x01", "/generate", b"Authorization: Bearer wr0ng-key\r\n", secret),
    ]
    worker.default = Garbage(b"pr1vate words\r\n\r\n")
    said.append(await send(router.url, "POST", "/generate", WITH_KEY, secret))
    assert [status(answer) for answer in said] == [401, 400, 404, 400, 400, 502]
    for page in ("/metrics", "/workers", "/list_workers", "/get_loads", "/nodes/status"):
        said.append((await router.ask("GET", page, headers=AS_ADMIN))[1].encode())
    everything = b"\n".join(said) + "\n".join(router.lines).encode()
    assert len(router.lines) > 4  # it does say something of the worker that answers garbage
    for word in (KEY, ADMIN_KEY, "wr0ng", "pr1vate"):
        assert word.encode() not in everything


async def test_what_a_client_sends_cannot_write_a_line_of_the_log(start, worker):
    router = await guarded(start, worker, "--log-level", "debug", "--max-total-retries", "1")
    for name in (b"a\x1b[2Jb", b"x" * 8000, b"\xff\xfe", b"id\tW w9 is ready"):
        key = b"%bX-Request-Id: %b\r\n" % (WITH_KEY, name)
        await send(router.url, "POST", "/generate", key, b'{"text": "hi"}')
        await send(router.url, "POST", "/generate?\x1b[31m", key, b'{"text": "hi"}')
    await send(router.url, "GET", "/\x1b[31m%0aw9%20is%20ready")
    await router.said(": 200, w0")
    assert all(re.fullmatch(r"[ -~]{0,500}", line) for line in router.lines), router.lines


async def test_paths_and_models_that_nobody_knows_add_nothing_to_the_metrics(start, worker):
    router = await guarded(start, worker)

    async def series() -> int:
        return (await router.ask("GET", "/metrics", headers=AS_ADMIN))[1].count("\n")

    ask = ("POST", "/generate", WITH_KEY)
    for number in range(2):
        await send(router.url, *ask, b'{"text": "hi", "model": "n%d"}' % number)
        await send(router.url, "POST", f"/n{number}")
    before = await series()
    for number in range(50):
        await send(router.url, *ask, b'{"text": "hi", "model": "m%d"}' % number)
        await send(router.url, "POST", f"/m{number}")
    assert await series() == before
