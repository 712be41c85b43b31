"""HTTP/1.1 on the client's side, and what passes between it and the worker's."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager, suppress

import pytest

from router import front
from router.app import Router
from router.config import RouterConfig
from tests.e2e.fault_worker import FaultWorker, Hang, Raw, Status, Stream, chunk
from tests.router.test_app import certificate
from tests.router.wire import Transport, Wire
from tests.router.world import Client

PLAIN = {"text": "hi"}
BODY = json.dumps(PLAIN).encode()
HEAD = b"POST /generate HTTP/1.1\r\nHost: r\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


# -- framing


async def test_a_connection_serves_one_request_after_another(world):
    w = await world(1)
    client = await w.connect()
    for _ in range(3):
        client.post("/generate", PLAIN)
        assert (await client.answer()).status == 200
    assert w.workers[0].connections == 1


async def test_pipelined_requests_are_answered_in_order(world):
    w = await world(1)
    client = await w.connect()
    for number in range(50):
        client.post("/generate", PLAIN, {"x-request-id": f"r{number}"})
    for number in range(50):
        assert (await client.answer()).headers["x-request-id"] == f"r{number}"


async def test_a_thousand_pipelined_bad_requests_are_each_answered(world):
    w = await world(1)
    client = await w.connect()
    client.send((HEAD + b"Content-Length: 1\r\n\r\nx") * 1000)
    for _ in range(1000):
        assert (await client.answer()).status == 400
    assert w.tried() == [0]


async def test_a_request_may_come_byte_by_byte(world):
    w = await world(1)
    client = await w.connect()
    for byte in HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY:
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.answer()).status == 200
    assert w.workers[0].requests[0].body == BODY


async def test_a_chunked_request_reaches_the_worker_whole(world):
    w = await world(1)
    client = await w.connect()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(BODY[:4]))
    client.send(b"%x;ext=1\r\n" % len(BODY[4:]) + BODY[4:] + b"\r\n0\r\nTrailer: dropped\r\n\r\n")
    assert (await client.answer()).status == 200
    request = w.workers[0].requests[0]
    assert (request.body, request.headers["content-length"]) == (BODY, str(len(BODY)))
    assert "trailer" not in request.headers
    client.post("/generate", PLAIN)
    assert (await client.answer()).status == 200


async def test_what_follows_a_chunked_request_in_one_piece_is_refused_not_mixed(world):
    w = await world(1)
    client = await w.connect()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(BODY) + b"0\r\n\r\n" + HEAD + b"\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.closed()
    assert w.tried() == [1]


async def test_expect_100_continue_is_answered_once_and_not_sent_on(world):
    w = await world(1)
    client = await w.connect()
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)
    assert (await client.answer()).status == 200
    assert "expect" not in w.workers[0].requests[0].headers


async def test_expect_behind_another_request_is_answered_when_it_is_its_turn(world):
    w = await world(1)
    client = await w.connect()
    client.send(REQUEST + HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert (await client.answer()).status == 200
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)
    assert (await client.answer()).status == 200


async def test_a_refused_request_is_not_asked_for_its_body(world):
    w = await world(1, api_key="s3cret")
    client = await w.connect()
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (401, "close")


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /generate HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Expect: 100-continue\r\n\r\n",
    ],
    ids=["HTTP/1.0", "no body"],
)
async def test_who_does_not_wait_for_100_continue_does_not_get_it(request_):
    wire = Wire()
    client = wire.client()
    client.arrive(request_)
    assert b" 100 " not in client.written
    wire.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_http_1_0_client_gets_no_chunks_and_a_closed_connection(world, stream):
    w = await world(1)
    client = await w.connect()
    body = json.dumps({"text": "hi", "stream": stream}).encode()
    client.send(b"POST /generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = await client.answer()
    assert answer.headers["connection"] == "close"
    assert "transfer-encoding" not in answer.headers
    assert answer.body.endswith(b"data: [DONE]\n\n" if stream else b"}")
    assert await client.closed()


async def test_an_http_1_0_client_that_would_stay_is_told_that_it_cannot(world):
    w = await world(1)
    client = await w.connect()
    client.send(b"POST /generate HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.closed()


async def test_connection_close_is_honoured(world):
    w = await world(1)
    client = await w.connect()
    client.post("/generate", PLAIN, {"Connection": "close"})
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.closed()


async def test_interim_answers_of_a_worker_are_skipped(world):
    w = await world(1)
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + b"HTTP/1.1 100 Continue\r\n\r\n" * 2000
    w.workers[0].script(Raw(early + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
    answer = await w.post()
    assert (answer.status, answer.body) == (200, b"ok")


async def test_a_workers_trailers_are_passed_on(world):
    w = await world(1)
    w.workers[0].script(
        Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"ok") + b"0\r\nX-Sum: 1\r\n\r\n")
    )
    client = await w.connect()
    client.post("/generate", PLAIN)
    await client.head()
    assert await client.reader.readuntil(b"\r\n\r\n") == b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    client.post("/generate", PLAIN)
    assert (await client.answer()).status == 200


async def test_a_streams_trailers_end_at_the_router_which_frames_it_anew(world):
    w = await world(1)
    w.workers[0].script(Stream([chunk(b"data: 1\n\n"), b"0\r\nX-Sum: 1\r\n\r\n"], framing="raw"))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    await client.head()
    assert await client.reader.readuntil(b"0\r\n\r\n") == chunk(b"data: 1\n\n") + b"0\r\n\r\n"
    client.post("/generate", PLAIN)
    assert (await client.answer()).status == 200


async def test_a_body_that_ends_with_its_connection_is_framed_anew(world):
    w = await world(1)
    w.workers[0].script(Stream([b"data: 1\n\n", b"data: 2\n\n"], framing="close"))
    answer = await w.post({"text": "hi", "stream": True})
    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    assert answer.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_ends_at_its_head(world, status):
    w = await world(1)
    w.workers[0].script(Raw(b"HTTP/1.1 %d Nothing\r\n\r\n" % status))
    client = await w.connect()
    client.post("/generate", PLAIN)
    assert (await client.head()).status == status


# -- bytes


EVENTS = [
    b": a comment\n\n",
    b"event: message_start\ndata: {}\n\n",
    b"data: crlf\r\n\r\n",
    "data: \U0001f600 smile\n\n".encode()[:8],
    "data: \U0001f600 smile\n\n".encode()[8:],
    b"data: " + b"x" * 1_000_000 + b"\n\n",
    b"data: [DONE]\n\n",
]


async def test_an_event_stream_passes_byte_for_byte(world):
    w = await world(1)
    w.workers[0].script(Stream(EVENTS))
    answer = await w.post({"text": "hi", "stream": True})
    assert (answer.body, answer.complete) == (b"".join(EVENTS), True)


async def test_each_event_is_passed_on_as_soon_as_it_is_whole(world):
    w = await world(1)
    gate = asyncio.Semaphore(0)
    w.workers[0].script(Stream([b"data: %d\n\n" % n for n in range(5)], gate=gate))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    for number in range(5):
        gate.release()
        assert await client.reader.readuntil(b"\n\n\r\n") is not None
        assert number < 4 or await client.reader.readuntil(b"0\r\n\r\n")


async def test_the_body_reaches_the_worker_byte_for_byte(world):
    w = await world(1)
    body = b'{ "text" : "\\u00e9\\ud83d\\ude00",\n "unknown": [1e400, {"a": null}], "text2":""}'
    await w.post(body)
    assert w.workers[0].requests[0].body == body


async def test_a_compressed_answer_is_passed_on_as_it_is(world):
    w = await world(1)
    w.workers[0].script(Status(200, {"content-encoding": "gzip"}, b"\x1f\x8bnot really"))
    answer = await w.post(**{"Accept-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.body) == ("gzip", b"\x1f\x8bnot really")
    assert w.workers[0].requests[0].headers["accept-encoding"] == "gzip"


# -- headers


async def test_hop_by_hop_headers_end_at_the_router_both_ways(world):
    w = await world(1)
    w.workers[0].script(
        Status(200, {"connection": "x-secret", "x-secret": "1", "keep-alive": "timeout=5", "x-kept": "2"})
    )
    answer = await w.post(
        **{"Connection": "X-Private", "X-Private": "1", "TE": "trailers", "Proxy-Authorization": "x", "X-Kept": "2"}
    )
    seen = w.workers[0].requests[0].headers
    assert seen["x-kept"] == answer.headers["x-kept"] == "2"
    assert not {"x-private", "te", "proxy-authorization", "connection"} & set(seen)
    assert not {"x-secret", "keep-alive", "connection"} & set(answer.headers)


async def test_very_long_headers_pass_both_ways(world):
    w = await world(1)
    w.workers[0].script(Status(200, {"x-long": "a" * 60_000}))
    answer = await w.post(**{"X-Long": "b" * 60_000})
    assert answer.headers["x-long"] == "a" * 60_000
    assert w.workers[0].requests[0].headers["x-long"] == "b" * 60_000


async def test_the_host_header_is_the_workers(world):
    w = await world(1)
    await w.post()
    assert w.workers[0].requests[0].headers["host"] == w.workers[0].url.removeprefix("http://")


async def test_a_request_id_is_taken_over_sent_on_and_returned(world):
    w = await world(1, request_id_headers=("x-request-id", "x-trace"))
    answer = await w.post(**{"X-Trace": "abc"})
    assert answer.headers["x-request-id"] == w.workers[0].requests[0].headers["x-request-id"] == "abc"


@pytest.mark.parametrize("name", ["", "two words", "a\tb", "\xe9", "x" * 129])
async def test_a_request_id_that_is_not_one_short_word_is_not_taken_over(world, name):
    w = await world(1)
    made = (await w.post(**{"x-request-id": name})).headers["x-request-id"]
    assert made not in ("", name)
    assert w.workers[0].requests[0].headers["x-request-id"] == made


async def test_a_request_id_is_made_where_there_is_none(world):
    w = await world(1)
    ids = {(await w.post()).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert {request.headers["x-request-id"] for request in w.workers[0].requests} == ids


async def test_the_answer_names_its_worker(world):
    w = await world(1)
    w.workers[0].default = Status(200, {"x-worker-id": "forged", "x-request-id": "forged"})
    answer = await w.post()
    assert answer.headers["x-worker-id"] == "w0"
    assert answer.headers["x-request-id"] != "forged"


async def test_a_query_string_is_sent_on(world):
    w = await world(1)
    await w.post(path="/generate?x=1")
    assert w.workers[0].requests[0].path == "/generate?x=1"


async def test_a_page_of_an_allowed_origin_may_read_the_answer(world):
    w = await world(1, cors_allowed_origins=("http://ours",))
    assert (await w.post(Origin="http://ours")).headers["access-control-allow-origin"] == "http://ours"
    assert "access-control-allow-origin" not in (await w.post(Origin="http://theirs")).headers
    anybody = await world(1, cors_allowed_origins=("*",))
    assert (await anybody.post(Origin="http://x")).headers["access-control-allow-origin"] == "http://x"
    assert (await w.post(b"bad", Origin="http://ours")).headers["access-control-allow-origin"] == "http://ours"


# -- refusals


@pytest.mark.parametrize("body", [b"", b"nope", b"[1]", b'"text"', b'{"text":', b"\xff\xfe{\x00}\x00", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused_and_the_connection_lives(world, body):
    w = await world(1)
    client = await w.connect()
    client.post("/generate", body)
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "x-request-id" in answer.headers
    client.post("/generate", PLAIN)
    assert (await client.answer()).status == 200
    assert w.tried() == [1]


async def test_a_declared_body_beyond_the_limit_is_refused_before_it_is_read(world):
    w = await world(1, max_payload_size=100)
    client = await w.connect()
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 101\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_a_chunked_body_beyond_the_limit_is_refused(world):
    w = await world(1, max_payload_size=100)
    client = await w.connect()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 60) * 2)
    assert (await client.answer()).status == 413
    assert w.tried() == [0]


async def test_headers_without_end_are_refused(world):
    w = await world(1)
    client = await w.connect()
    client.send(HEAD + b"X: " + b"y" * front.MAX_HEAD)
    assert (await client.answer()).status == 431


async def test_a_refusal_before_a_head_is_complete_names_no_earlier_request(world):
    w = await world(1, cors_allowed_origins=("*",))
    client = await w.connect()
    client.post("/generate", PLAIN, {"X-Request-Id": "first", "Origin": "http://x"})
    assert (await client.answer()).headers["x-request-id"] == "first"
    client.send(HEAD + b"X: " + b"y" * front.MAX_HEAD)
    answer = await client.answer()
    assert answer.status == 431
    assert answer.headers["x-request-id"] != "first"
    assert "access-control-allow-origin" not in answer.headers


async def test_inference_needs_the_key_if_there_is_one(world):
    w = await world(1, api_key="s3cret")
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer s3cret\xe9"},
        {"Authorization": "s3cret"},
    ):
        answer = await w.post(**headers)
        assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert w.tried() == [0]
    assert (await w.post(Authorization="Bearer s3cret")).status == 200


async def test_the_key_may_come_as_anthropics_clients_send_it(world):
    w = await world(1, api_key="s3cret")
    assert (await w.post(path="/v1/messages", **{"x-api-key": "s3cret"})).status == 200
    assert (await w.post(path="/v1/messages", **{"x-api-key": "wrong"})).status == 401


async def test_a_refused_request_that_is_here_in_full_does_not_cost_the_connection(world):
    w = await world(1, api_key="s3cret")
    client = await w.connect()
    client.post("/generate", PLAIN)
    assert (await client.answer()).status == 401
    client.post("/generate", PLAIN, {"Authorization": "Bearer s3cret"})
    assert (await client.answer()).status == 200


# -- all else


@pytest.mark.parametrize(
    "request_",
    [b"GET /health HTTP/1.1\r\n\r\n", b"POST /workers HTTP/1.1\r\n\r\n", b"POST //generate HTTP/1.1\r\n\r\n",
     b"POST /v1/../generate HTTP/1.1\r\n\r\n", b"POST /update_weights HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n"],
)  # fmt: skip
async def test_whatever_is_not_inference_goes_to_aiohttp_with_all_that_was_read(world, request_):
    w = await world(1)
    client = await w.connect()
    client.send(request_[:9])
    client.send(request_[9:])
    await w.until(lambda: w.handed_over and w.handed_over[0].data == request_)
    assert w.tried() == [0]


async def test_after_inference_the_connection_may_still_go_to_aiohttp(world):
    w = await world(1)
    client = await w.connect()
    client.post("/generate", PLAIN)
    await client.answer()
    client.send(b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n")
    await w.until(lambda: w.handed_over and w.handed_over[0].data != b"")


@asynccontextmanager
async def connected(host, port, **options):
    client = Client(*await asyncio.open_connection(host, port, **options))
    yield client
    client.close()
    with suppress(OSError):
        await client.writer.wait_closed()


@pytest.fixture
async def router():
    """A whole router over one worker, which is ready."""
    worker = await FaultWorker.start()
    made = Router(RouterConfig(port=0, worker_urls=(worker.url,), cors_allowed_origins=("http://ours",)))
    await made.start()
    while not made.fleet.candidates(None):
        await asyncio.sleep(0.002)
    yield made, worker
    await made.close()
    await worker.stop()


LOCAL = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PREFLIGHT = b"OPTIONS /generate" + LOCAL + b"Origin: http://ours\r\nAccess-Control-Request-Method: POST\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "start"),
    [
        (b"GET /generate" + LOCAL + b"\r\n", b"HTTP/1.1 405 "),
        (b"HEAD /generate" + LOCAL + b"\r\n", b"HTTP/1.1 405 "),
        (b"OPTIONS /generate" + LOCAL + b"\r\n", b"HTTP/1.1 405 "),
        (PREFLIGHT, b"HTTP/1.1 204 "),
        (b"HEAD /health" + LOCAL + b"\r\n", b"HTTP/1.1 200 "),
    ],
)
async def test_other_methods_are_answered_once_and_end_the_connection(router, request_, start):
    """So that what follows is read by the router's own protocol, which knows inference, on another one."""
    made, worker = router
    async with connected("127.0.0.1", made.port) as client:
        client.send(request_ + REQUEST)
        answer = await client.reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(start)
    assert b"\r\nConnection: close" in head
    assert (body == b"") == (request_.startswith(b"HEAD") or b" 204 " in start)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert worker.requests == []


async def test_pipelined_requests_are_answered_in_order_up_to_the_first_that_is_not_inference(router):
    made, worker = router
    async with connected("127.0.0.1", made.port) as client:
        client.send(REQUEST * 3 + b"GET /health" + LOCAL + b"\r\n" + REQUEST)
        for _ in range(3):
            assert (await client.answer()).json()["text"] == "ok"
        assert (await client.answer()).body == b"OK"
        assert await client.closed()
    assert len(worker.requests) == 3


# -- in pieces, and too much at once


def statuses(client: Transport) -> list[int]:
    return [int(part[:3]) for part in bytes(client.written).split(b"HTTP/1.1 ")[1:]]


async def test_what_comes_just_as_an_answer_ends_waits_behind_what_was_pipelined():
    wire = Wire()
    client = wire.client()
    client.arrive(REQUEST * 2)
    wire.loop.turn()
    wire.upstreams[0].arrive(FINE)  # the second request is due, and has not begun
    client.arrive(REQUEST)
    for _ in range(2):
        wire.loop.turn()
        wire.upstreams[0].arrive(FINE)
    wire.loop.turn()
    assert statuses(client) == [200] * 3
    assert wire.upstreams[0].written.count(b"POST /generate") == 3
    assert wire.upstreams[0].written.count(BODY) == 3
    wire.close()


async def test_a_megabyte_may_come_byte_by_byte():
    """In quadratic time this would not end within the test's own time limit."""
    wire = Wire()
    client = wire.client()
    client.arrive(REQUEST)
    wire.loop.turn()
    pipelined = HEAD + b"X: " + b"y" * 60_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    count = front.MAX_PIPELINED // len(pipelined)
    for byte in pipelined * count:
        client.arrive(bytes((byte,)))
    for number in range(1 + count):
        wire.upstreams[0].arrive(FINE)
        wire.loop.turn()
        assert statuses(client) == [200] * (1 + number)
    wire.close()


async def test_ten_thousand_pipelined_requests_are_served_in_order():
    wire = Wire()
    client = wire.client()
    client.arrive(REQUEST)
    for number in range(10_000):
        client.arrive(REQUEST.replace(b"Host: r", b"x-request-id: %d\r\nHost: r" % number))
    wire.loop.turn()
    for _ in range(10_001):
        wire.upstreams[0].arrive(FINE)
        wire.loop.turn()
    answers = bytes(client.written).split(b"HTTP/1.1 200 OK\r\n")[2:]
    assert [int(each.partition(b"x-request-id: ")[2].partition(b"\r")[0]) for each in answers] == list(range(10_000))
    wire.close()


async def test_beyond_a_megabyte_nothing_pipelined_is_served():
    wire = Wire()
    client = wire.client()
    client.arrive(REQUEST)
    wire.loop.turn()
    for _ in range(5):
        client.arrive(REQUEST * (front.MAX_PIPELINED // 4 // len(REQUEST)) * 2)
    wire.upstreams[0].arrive(FINE)
    wire.loop.turn()
    assert statuses(client) == [200]
    assert b"connection: close" in client.written
    assert client.closing
    wire.close()


async def test_who_pipelines_too_much_is_still_seen_leaving(world):
    w = await world(1)
    w.workers[0].script(Hang())
    client = await w.connect()
    client.send(REQUEST)
    await w.until(lambda: w.tried() == [1])
    client.send(b"x" * 3 * front.MAX_PIPELINED)
    await client.writer.drain()
    client.close()
    await w.workers[0].until(lambda: w.workers[0].aborts == 1)
    await w.quiet()


@pytest.mark.parametrize("following", [REQUEST, b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n", HEAD + b"\r\n"])
async def test_who_does_not_read_an_answer_gets_no_other(following):
    wire = Wire()
    client = wire.client()
    client.arrive(REQUEST)
    wire.loop.turn()
    client.room = 0
    wire.upstreams[0].arrive(FINE)
    client.arrive(following)
    wire.loop.turn()
    assert statuses(client) == [200]
    assert wire.upstreams[0].written.count(b"POST ") == 1
    assert not wire.handed_over
    client.drain()
    wire.loop.turn()
    if wire.handed_over:
        assert wire.handed_over[0].data == following
    else:
        assert wire.upstreams[0].written.count(b"POST ") == 2 or statuses(client) == [200, 400]
    wire.close()


# -- listening


@asynccontextmanager
async def listener(world, host, **options):
    """The address of one more listener of a world."""
    server = await asyncio.get_running_loop().create_server(world.gate, host, 0, **options)
    yield server.sockets[0].getsockname()[:2]
    server.close()


async def test_clients_come_over_ipv6_too(world):
    w = await world(1)
    try:
        async with listener(w, "::1") as address, connected(*address) as client:
            for _ in range(2):
                client.post("/generate", PLAIN)
                assert (await client.answer()).status == 200
    except OSError:
        pytest.skip("no IPv6 here")


async def test_over_tls_connections_are_kept_and_streams_flow(world, tmp_path):
    w = await world(1)
    cert, key = certificate(tmp_path, "-nodes")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    trusted = ssl.create_default_context(cafile=cert)
    gate = asyncio.Semaphore(0)
    w.workers[0].script(Stream([b"data: %d\n\n" % n for n in range(5)], gate=gate))
    async with listener(w, "127.0.0.1", ssl=context) as address, connected(*address, ssl=trusted) as client:
        client.post("/generate", {"text": "hi", "stream": True})
        for number in range(5):
            gate.release()
            assert b"data: %d\n\n" % number in await client.reader.readuntil(b"\n\n\r\n")
        await client.reader.readuntil(b"0\r\n\r\n")
        client.send(REQUEST * 2)
        for _ in range(2):
            assert (await client.answer()).status == 200


# -- time and pressure


async def test_a_head_that_never_ends_is_cut(world, monkeypatch):
    monkeypatch.setattr(front, "HEAD_TIMEOUT", 0.05)
    w = await world(1)
    client = await w.connect()
    client.send(HEAD)
    assert (await client.answer()).status == 408


async def test_a_body_that_stops_growing_is_cut(world, monkeypatch):
    monkeypatch.setattr(front, "BODY_TIMEOUT", 0.05)
    w = await world(1)
    client = await w.connect()
    client.send(HEAD + b"Content-Length: 9\r\n\r\n{")
    assert (await client.answer()).status == 408
    assert w.tried() == [0]


async def test_a_chunked_body_that_never_begins_is_cut(world, monkeypatch):
    monkeypatch.setattr(front, "BODY_TIMEOUT", 0.05)
    w = await world(1)
    client = await w.connect()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    assert (await client.answer()).status == 408


async def test_a_connection_that_says_nothing_is_closed(world, monkeypatch):
    monkeypatch.setattr(front, "HEAD_TIMEOUT", 0.05)
    w = await world(1)
    assert await (await w.connect()).closed()


async def test_a_client_that_does_not_read_holds_the_worker_up(world):
    w = await world(1)
    sent = 0

    def events():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"data: " + b"x" * 100_000 + b"\n\n"

    w.workers[0].script(Stream(events()))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    await client.head()
    stuck = -1
    while sent != stuck:  # the sockets' buffers fill up, then nothing moves
        stuck = sent
        await asyncio.sleep(0.05)
    assert sent < 300  # of 1000: 100 MB would not fit into any buffer here
    client.close()
    await w.quiet()


async def test_when_a_slow_client_reads_on_the_stream_goes_on_to_its_end(world):
    w = await world(1)
    event = b"data: " + b"x" * 100_000 + b"\n\n"
    w.workers[0].script(Stream([event] * 100))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    answer = await client.answer()
    assert (len(answer.body), answer.complete) == (100 * len(event), True)
    assert (await w.post()).status == 200
    assert w.workers[0].connections == 1


async def test_while_shutting_down_new_requests_are_refused_and_old_ones_end(world):
    w = await world(1)
    gate = asyncio.Semaphore(0)
    w.workers[0].script(Stream([b"data: 1\n\n"], gate=gate))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    await w.until(lambda: w.tried() == [1])
    w.plane.refusing = "the server is shutting down"
    assert (await w.post()).status == 503
    gate.release()
    answer = await client.answer()
    assert answer.complete
    assert answer.headers["connection"] == "close"


# -- engines without /generate


async def test_generate_is_translated_for_an_engine_that_has_none(world):
    w = await world(0)
    await w.add(native_generate=False)
    reply = {"id": "c", "choices": [{"index": 0, "text": " Paris", "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 5, "completion_tokens": 1}}  # fmt: skip
    w.workers[0].script(Status(200, {"content-type": "application/json"}, json.dumps(reply).encode()))
    answer = await w.post({"text": "hi", "sampling_params": {"max_new_tokens": 8}})
    assert answer.complete
    assert answer.json()["text"] == " Paris"
    sent = w.workers[0].requests[0]
    assert (sent.path, sent.headers["content-type"]) == ("/v1/completions", "application/json")
    assert json.loads(sent.body)["max_tokens"] == 8


async def test_a_translated_stream_breaks_off_as_any_other(world):
    w = await world(0)
    await w.add(native_generate=False)
    event = b'data: {"id":"c","choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
    gate = asyncio.Semaphore(1)
    w.workers[0].script(Stream([chunk(event), b"no chunk\r\n"], gate=gate, framing="raw"))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    answer = await client.head()
    assert b'"text":"a"' in await client.reader.readuntil(b"\n\n\r\n")
    gate.release()
    await client._chunks(answer)
    assert b"upstream_error" in answer.body
    assert not answer.complete


async def test_what_follows_an_answer_that_was_given_up_never_reaches_the_client(world):
    w = await world(0)
    for _ in range(2):
        await w.add(native_generate=False)
    late = b'data: {"id":"c","choices":[{"index":0,"text":"LATE","finish_reason":null}]}\n\n'
    gate, second = asyncio.Semaphore(1), asyncio.Semaphore(0)
    w.workers[0].script(Stream([b"data: {garbled\n\n", late, late], gate=gate))
    fine = late.replace(b"LATE", b"fine")
    w.workers[1].script(Stream([fine, b"data: [DONE]\n\n"], gate=second))
    client = await w.connect()
    client.post("/generate", {"text": "hi", "stream": True})
    await w.until(lambda: w.tried() == [1, 1])
    gate.release()
    gate.release()
    await w.workers[0].until(lambda: w.workers[0].open_connections == 0)
    second.release()
    second.release()
    answer = await client.answer()
    assert b"fine" in answer.body
    assert b"LATE" not in answer.body


async def test_a_translated_answer_that_cannot_be_read_is_tried_elsewhere(world):
    w = await world(0)
    for _ in range(2):
        await w.add(native_generate=False)
    w.workers[0].script(Status(200, {}, b"<html>"))
    assert (await w.post()).status == 200
    assert w.tried() == [1, 1]


async def test_a_hung_client_is_no_reason_to_lose_another(world):
    w = await world(1)
    w.workers[0].script(Hang())
    hung = await w.connect()
    hung.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [1])
    assert (await w.post()).status == 200
    hung.close()
