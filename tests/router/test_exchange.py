"""The retry table, row by row: a real fault on a real socket, what the client saw, who was tried, what is left."""

from __future__ import annotations

import asyncio
import json

import pytest

from router.fleet import Breaker, State
from tests.e2e.fault_worker import (
    BreakStream,
    CloseAfterHead,
    CloseBeforeHead,
    CloseIdleKeepAlive,
    Garbage,
    Hang,
    HangAfterHead,
    Raw,
    ResetBeforeHead,
    SlowHead,
    Status,
    Stream,
    TruncateBody,
    answer_events,
    chunk,
)
from tests.router.world import InOrder

PLAIN = {"text": "hi"}
STREAM = {"text": "hi", "stream": True}
both = pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["whole", "stream"])


def served(answer, body):
    """The answer is whole, and the default one of a worker."""
    assert answer.status == 200
    assert answer.complete
    assert (b"[DONE]" in answer.body) is (body is STREAM)


# -- not sent


@both
async def test_a_worker_that_cannot_be_reached_is_passed_over(world, body):
    w = await world(0)
    dead = w.dead()
    await w.add()
    served(await w.post(body), body)
    assert w.tried() == [1]
    assert dead.failures == 1
    await w.quiet()


@both
async def test_when_no_worker_can_be_reached_the_error_is_502_after_all_retries(world, body):
    w = await world(0, max_total_retries=2)
    dead = w.dead()
    answer = await w.post(body)
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "workers_failed"
    assert dead.failures == 3
    await w.quiet()


# -- a reused connection, closed


@both
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stale_connection_costs_one_resend_to_the_same_worker(world, body, how):
    w = await world(2)
    w.workers[0].script(CloseIdleKeepAlive("next request", how))
    await w.post()
    served(await w.post(body), body)
    assert w.tried() == [2, 0]
    assert w.workers[0].connections == 2
    assert w.worker(0).failures == 0
    await w.quiet()


async def test_a_resend_goes_out_on_a_fresh_connection_though_others_are_idle(world):
    w = await world(1)
    w.workers[0].default = CloseIdleKeepAlive("next request")
    clients = [await w.connect() for _ in range(3)]
    for client in clients:
        client.post("/generate", PLAIN)
    for client in clients:
        assert (await client.answer()).status == 200
    answer = await w.post()
    assert answer.status == 200
    assert w.workers[0].connections == 4


async def test_each_worker_tried_may_have_its_resend(world):
    w = await world(2)
    w.workers[0].script(CloseIdleKeepAlive("next request"), Status(503, {"retry-after": "1"}))
    w.workers[1].script(CloseIdleKeepAlive("next request"))
    w.worker(0).draining = True
    w.fleet.touch()
    await w.post()
    w.worker(0).draining = False
    w.fleet.touch()
    await w.post()
    served(await w.post(), PLAIN)
    assert w.tried() == [2, 2]
    await w.quiet()


async def test_a_resend_that_is_refused_is_a_death(world):
    w = await world(2)
    w.workers[0].script(CloseIdleKeepAlive("next request"))
    await w.post()
    w.workers[0]._server.close()  # its connection stays; a new one is refused
    served(await w.post(), PLAIN)
    assert w.tried() == [1, 1]
    assert w.worker(0).failures == 1


# -- died before the first body byte


@both
@pytest.mark.parametrize(
    "fault", [CloseBeforeHead(), ResetBeforeHead(), CloseAfterHead()], ids=lambda f: type(f).__name__
)
async def test_a_worker_that_dies_before_its_first_body_byte_is_replaced(world, body, fault):
    w = await world(2)
    w.workers[0].script(fault)
    served(await w.post(body), body)
    assert w.tried() == [1, 1]
    assert w.worker(0).failures == 1
    await w.quiet()


@both
async def test_an_unavailable_worker_is_tried_when_no_other_is_left(world, body):
    w = await world(2)
    w.workers[0].script(CloseBeforeHead())
    w.worker(1).breaker = Breaker.OPEN
    served(await w.post(body), body)
    assert w.tried() == [1, 1]
    await w.quiet()


@both
async def test_requests_whose_worker_died_are_alone_on_their_next_one(world, body):
    w = await world(2)
    deadly, gate = asyncio.Event(), asyncio.Event()
    w.workers[0].default = SlowHead(deadly, CloseBeforeHead())
    w.workers[1].default = SlowHead(gate)
    posts = [asyncio.create_task(w.post(body)) for _ in range(3)]
    await w.until(lambda: w.tried()[0] == 3)
    w.worker(0).lifecycle = State.BACKOFF
    w.fleet.touch()
    deadly.set()
    await w.until(lambda: w.tried()[1] == 1)
    w.plane.tick(w.plane.clock())
    fourth = asyncio.create_task(w.post(body))  # of which nothing is suspected
    await w.until(lambda: w.tried()[1] == 2)
    assert w.tried() == [3, 2]
    gate.set()
    for post in (*posts, fourth):
        served(await post, body)
    assert w.tried() == [3, 4]
    await w.quiet()


@both
async def test_a_suspect_whose_client_leaves_makes_room_for_the_next(world, body):
    w = await world(2)
    deadly = asyncio.Event()
    w.workers[0].default = SlowHead(deadly, CloseBeforeHead())
    w.workers[1].script(Hang())
    clients = {name: await w.connect() for name in ("one", "other")}
    for name, client in clients.items():
        client.post("/generate", {**body, "text": name})
    await w.until(lambda: w.tried()[0] == 2)
    deadly.set()
    await w.until(lambda: w.tried()[1] == 1)
    clients.pop(json.loads(w.workers[1].requests[0].body)["text"]).close()
    for client in clients.values():
        served(await client.answer(), body)
    await w.quiet()


@both
async def test_a_request_that_kills_its_workers_meets_two_of_them_at_most(world, body):
    w = await world(4)
    for worker in w.workers:
        worker.default = ResetBeforeHead()
    answer = await w.post(body)
    assert answer.status == 502
    assert w.tried() == [1, 1, 0, 0]
    await w.quiet()


# -- no room


@both
@pytest.mark.parametrize("busy", [Status(429), Status(503, {"retry-after": "7"})], ids=["429", "503"])
async def test_a_busy_worker_is_passed_over_and_not_blamed(world, body, busy):
    w = await world(2)
    w.workers[0].script(busy)
    served(await w.post(body), body)
    assert w.tried() == [1, 1]
    assert w.worker(0).failures == 0
    await w.quiet()


@both
async def test_when_all_are_busy_the_last_answer_is_relayed_as_it_is(world, body):
    w = await world(2)
    for worker in w.workers:
        worker.default = Status(429, {"retry-after": "7"}, b'{"error":"full"}')
    answer = await w.post(body)
    assert (answer.status, answer.headers["retry-after"], answer.body) == (429, "7", b'{"error":"full"}')
    assert w.tried() == [1, 1]
    assert all(worker.failures == 0 for worker in w.fleet.workers.values())
    await w.quiet()


# -- 502, 503, 504 and garbage


@both
@pytest.mark.parametrize("code", [502, 503, 504])
async def test_a_gateway_error_goes_to_another_worker_after_a_pause(world, body, code):
    w = await world(2)
    w.workers[0].script(Status(code))
    served(await w.post(body), body)
    assert w.tried() == [1, 1]
    assert w.worker(0).failures == 1
    await w.quiet()


@both
async def test_gateway_errors_everywhere_are_relayed_after_all_retries(world, body):
    w = await world(2, max_total_retries=3, max_worker_retries=10)
    for worker in w.workers:
        worker.default = Status(503, {}, b"down")
    answer = await w.post(body)
    assert (answer.status, answer.body) == (503, b"down")
    assert sum(w.tried()) == 4
    await w.quiet()


@both
@pytest.mark.parametrize("bytes_", [b"220 smtp ready\r\n", b"HTTP/1.1 200 OK\nbare: lf\n\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_an_answer_that_is_not_http_counts_as_a_gateway_error(world, body, bytes_):
    w = await world(2)
    w.workers[0].script(Garbage(bytes_))
    served(await w.post(body), body)
    assert w.worker(0).failures == 1
    await w.quiet()


async def test_garbage_everywhere_is_a_502_that_says_so(world):
    w = await world(1, max_total_retries=1)
    w.workers[0].default = Garbage(b"hello\r\n\r\n")
    answer = await w.post()
    assert answer.status == 502
    assert "not valid HTTP" in answer.json()["error"]["message"]


async def test_retries_of_gateway_errors_are_held_to_the_budget(world):
    w = await world(2)
    for worker in w.workers:
        worker.default = Status(503)
    w.plane.retrying = 3  # as if three others were at it
    answer = await w.post()
    assert answer.status == 503
    assert sum(w.tried()) == 1
    w.plane.retrying = 0


# -- 500


@both
async def test_a_500_is_tried_on_one_other_worker_and_then_relayed(world, body):
    w = await world(3)
    for worker in w.workers:
        worker.default = Status(500, {}, b"boom")
    answer = await w.post(body)
    assert (answer.status, answer.body) == (500, b"boom")
    assert w.tried() == [1, 1, 0]
    assert [w.worker(n).failures for n in range(3)] == [1, 1, 0]
    await w.quiet()


# -- the client's own errors


@both
@pytest.mark.parametrize("code", [400, 401, 404, 413, 422])
async def test_a_4xx_is_relayed_and_blames_nobody(world, body, code):
    w = await world(2)
    w.workers[0].script(Status(code, {"x-engine": "yes"}, b"no"))
    answer = await w.post(body)
    assert (answer.status, answer.headers["x-engine"], answer.body) == (code, "yes", b"no")
    assert w.tried() == [1, 0]
    assert w.worker(0).failures == 0
    await w.quiet()


# -- timeouts


@both
@pytest.mark.parametrize("fault", [Hang(), HangAfterHead()], ids=["no head", "no body"])
async def test_no_body_byte_within_the_request_timeout_is_a_504_without_retry(world, body, fault):
    w = await world(2, request_timeout=30)
    w.workers[0].script(fault)
    client = await w.connect()
    client.post("/generate", body)
    await w.workers[0].until(lambda: w.workers[0].requests != [])
    w.plane.tick(w.plane.clock() + 31)
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (504, "worker_timeout")
    assert w.tried() == [1, 0]
    assert w.worker(0).failures == 1
    await w.workers[0].until(lambda: w.workers[0].aborts == 1)
    await w.quiet()


async def test_a_stream_that_has_begun_has_no_timeout(world):
    w = await world(1, request_timeout=30)
    w.workers[0].script(Stream([b"data: 1\n\n", b"data: 2\n\n"], framing="chunked", gate=(gate := permits(1))))
    client = await w.connect()
    client.post("/generate", STREAM)
    await client.head()
    w.plane.tick(w.plane.clock() + 1e6)
    gate.release()
    assert b"data: 2" in await client.reader.readuntil(b"0\r\n\r\n")


def permits(count):
    return asyncio.Semaphore(count)


# -- after the first body byte


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("torn", [False, True], ids=["whole events", "torn event"])
async def test_a_broken_stream_ends_with_one_error_event_and_no_proper_end(world, how, torn):
    w = await world(2)
    w.workers[0].script(BreakStream(after_events=2, torn=torn, how=how))
    answer = await w.post(STREAM)
    assert not answer.complete
    *events, last = answer.body.removesuffix(b"\n\n").split(b"\n\n")
    assert [event + b"\n\n" for event in events] == answer_events(w.workers[0].port, 2)
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "upstream_error"
    assert b"[DONE]" not in answer.body
    assert w.tried() == [1, 0]
    assert w.worker(0).failures == 1
    await w.quiet()


async def test_a_whole_body_that_breaks_off_never_looks_complete(world):
    w = await world(2)
    w.workers[0].script(TruncateBody(sent=10, declared=100))
    answer = await w.post()
    assert (answer.body, answer.complete) == (b"x" * 10, False)
    assert w.tried() == [1, 0]
    assert w.worker(0).failures == 1
    await w.quiet()


async def test_a_stream_torn_in_its_first_event_is_still_retried(world):
    w = await world(2)
    w.workers[0].script(BreakStream(after_events=0, torn=True))
    served(await w.post(STREAM), STREAM)
    assert w.tried() == [1, 1]
    await w.quiet()


async def test_bytes_after_the_end_of_a_chunked_answer_never_reach_the_client(world):
    w = await world(1)
    smuggled = b"HTTP/1.1 200 OK\r\nx-evil: 1\r\ncontent-length: 0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    w.workers[0].default = Raw(head + chunk(b"ok") + b"0\r\n\r\n" + smuggled)
    answer = await w.post()
    assert b"evil" not in answer.body
    assert answer.status == 502


async def test_bytes_after_a_sized_answer_are_dropped_with_the_connection(world):
    w = await world(1)
    w.workers[0].script(Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"))
    client = await w.connect()
    for _ in range(2):
        client.post("/generate", PLAIN)
        assert (await client.answer()).status == 200
    assert w.workers[0].connections == 2


# -- the client leaves


@pytest.mark.parametrize("fault", [Hang(), HangAfterHead(), Stream([b"data: 1\n\n"] * 2, gate=None, framing="raw")])
@both
async def test_a_client_that_leaves_closes_the_workers_connection_and_counts_for_nothing(world, body, fault):
    w = await world(2)
    if isinstance(fault, Stream):
        fault = Stream([chunk(b"data: 1\n\n"), b""], gate=permits(1), framing="raw")
    w.workers[0].script(fault)
    client = await w.connect()
    client.post("/generate", body)
    await w.workers[0].until(lambda: w.workers[0].requests != [])
    client.close()
    await w.workers[0].until(lambda: w.workers[0].aborts == 1)
    assert w.tried() == [1, 0]
    assert w.worker(0).failures == 0
    await w.quiet()


async def test_a_client_that_leaves_just_as_its_connection_is_made_is_never_sent_on(world):
    w = await world(1)
    real = w.plane.connect

    async def connect(worker):
        connection = await real(worker)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # as wait_for() does before Python 3.12 when both come at once
            return connection

    w.plane.connect = connect
    client = await w.connect()
    client.post("/generate", PLAIN)
    await w.until(lambda: w.workers[0].connections == 1)
    client.close()
    await w.until(lambda: w.workers[0].open_connections == 0)
    assert w.tried() == [0]
    await w.quiet()


async def test_a_client_that_leaves_while_queued_is_never_sent_on(world):
    w = await world(1, max_concurrent_requests=1)
    w.workers[0].script(Hang())
    first, second = await w.connect(), await w.connect()
    first.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [1])
    second.post("/generate", PLAIN)
    await w.until(lambda: len(w.plane.admission) == 1)
    second.close()
    await w.until(lambda: len(w.plane.admission) == 0)
    first.close()
    await w.quiet()
    assert w.tried() == [1]


# -- availability


async def test_too_many_failures_in_a_row_take_a_worker_out_of_rotation(world):
    w = await world(2, max_worker_retries=1)
    w.workers[0].script(ResetBeforeHead(), ResetBeforeHead())
    for _ in range(4):
        served(await w.post(), PLAIN)
    assert w.worker(0).breaker is Breaker.OPEN
    assert w.tried() == [2, 4]


async def test_one_trial_request_brings_a_worker_back(world):
    w = await world(2)
    w.worker(0).breaker = Breaker.OPEN
    w.fleet.half_open(w.worker(0))
    await w.post()
    assert w.worker(0).breaker is Breaker.CLOSED
    assert w.tried() == [1, 0]


async def test_the_last_living_worker_is_never_ejected(world):
    w = await world(1, max_worker_retries=0)
    w.workers[0].script(Status(500))
    assert (await w.post()).status == 500
    served(await w.post(), PLAIN)


async def test_without_a_ready_worker_the_answer_is_503_with_retry_after(world):
    w = await world(0)
    answer = await w.post()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "no_worker")
    assert int(answer.headers["retry-after"]) > 0
    await w.quiet()


# -- models


async def test_a_request_goes_to_a_worker_that_serves_its_model(world):
    w = await world(1)
    await w.add(models=("other",))
    await w.post({"text": "hi", "model": "other"})
    assert w.tried() == [0, 1]


async def test_a_model_that_nobody_serves_is_404_model_not_found(world):
    w = await world(1)
    answer = await w.post({"text": "hi", "model": "nope"})
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert w.tried() == [0]


async def test_a_worker_that_has_not_told_its_models_does_not_hide_that_nobody_serves_one(world):
    w = await world(1)
    w.dead().lifecycle = State.STARTING
    w.fleet.touch()
    answer = await w.post({"text": "hi", "model": "nope"})
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_every_request_is_logged_by_its_id_and_never_by_its_prompt(world, caplog):
    caplog.set_level("DEBUG", "router")
    w = await world(1)
    await w.post({"text": "my secret"}, **{"X-Request-Id": "abc"})
    assert "request abc: 200, w0" in caplog.text
    assert "my secret" not in caplog.text


# -- admission


async def test_beyond_the_limit_requests_wait_in_line_and_the_rest_get_429(world):
    w = await world(1, max_concurrent_requests=1, queue_size=1)
    w.workers[0].script(Stream([b"data: 1\n\n"], gate=(gate := permits(0))))
    clients = [await w.connect() for _ in range(3)]
    clients[0].post("/generate", STREAM)
    await w.until(lambda: w.tried() == [1])
    clients[1].post("/generate", PLAIN)
    await w.until(lambda: len(w.plane.admission) == 1)
    clients[2].post("/generate", PLAIN)
    refused = await clients[2].answer()
    assert (refused.status, refused.json()["error"]["code"]) == (429, "queue_full")
    assert "retry-after" in refused.headers
    gate.release()
    assert (await clients[0].answer()).complete
    served(await clients[1].answer(), PLAIN)
    await w.quiet()


async def test_waiting_too_long_in_line_is_a_503_with_retry_after(world):
    w = await world(1, max_concurrent_requests=1, queue_timeout=10)
    w.workers[0].script(Hang())
    first, second = await w.connect(), await w.connect()
    first.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [1])
    second.post("/generate", PLAIN)
    await w.until(lambda: len(w.plane.admission) == 1)
    w.plane.tick(w.plane.clock() + 11)
    answer = await second.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "queue_timeout")
    first.close()
    await w.quiet()


# -- what a policy is told


async def test_a_policy_hears_once_that_an_answer_began_and_that_each_attempt_is_over(world):
    w = await world(2)
    w.workers[0].script(Status(503))
    served(await w.post(STREAM), STREAM)
    assert w.tried() == [1, 1]
    assert w.plane.policy.answers == 1
    await w.quiet()


async def test_each_event_of_an_answer_is_a_token_of_its_workers_context(world):
    w = await world(1)
    gate = asyncio.Semaphore(5)
    w.workers[0].script(Stream([b"data: {}\n\n"] * 9, gate))
    client = await w.connect()
    client.post("/generate", STREAM)
    await w.until(lambda: w.worker(0).context == 5)
    assert w.worker(0).prefills == 0
    client.close()
    await w.quiet()


async def test_a_prompt_of_which_nothing_is_heard_is_taken_for_computed_when_the_policy_said(world):
    class Early(InOrder):
        def pick(self, request, candidates, now, rng):
            request.computed_by = 0.0
            return super().pick(request, candidates, now, rng)

    w = await world(1)
    w.plane.policy = Early()
    w.workers[0].script(Hang())
    silent = await w.connect()
    silent.post("/generate", {"text": "a prompt of some tokens"})
    await w.until(lambda: w.worker(0).prefills == 1)
    served(await w.post(PLAIN), PLAIN)
    assert (w.worker(0).prefills, w.worker(0).context > 0) == (0, True)
    silent.close()
    await w.quiet()


USAGE = b'{"choices":[],"usage":{"prompt_tokens":50,"prompt_tokens_details":{"cached_tokens":32}}}'


@pytest.mark.parametrize(("spaces", "told"), [(0, [(32, 50)]), (8000, [])], ids=["at the end", "far from it"])
async def test_what_the_worker_says_of_a_prompt_reaches_the_policy_and_the_counters(world, spaces, told):
    w = await world(1)
    w.workers[0].script(Status(200, {}, USAGE + b" " * spaces))
    await w.post()
    await w.quiet()
    assert [(usage.cached, usage.prompt) for usage in w.plane.policy.usages] == told
    assert [(w.metrics.cached_tokens, w.metrics.prompt_tokens)] == (told or [(0, 0)])


@pytest.mark.parametrize("together", [1, 3])
async def test_what_it_says_in_a_stream_is_read_though_the_last_event_comes_after_it(world, together):
    w = await world(1)
    gate = asyncio.Semaphore(0)
    events = [b"data: {}\n\n", b"data: " + USAGE + b"\n\n", b"data: [DONE]\n\n"]
    w.workers[0].script(Stream([b"".join(events)] if together == 3 else events, gate))
    client = await w.connect()
    client.post("/generate", STREAM)
    for event in events[-1:] if together == 3 else events:
        gate.release()
        await client.reader.readuntil(event)
    await w.quiet()
    assert [(usage.cached, usage.prompt) for usage in w.plane.policy.usages] == [(32, 50)]


async def test_what_an_answer_that_came_whole_held_is_counted_for_its_worker(world):
    w = await world(1)
    w.workers[0].script(Status(200, {}, USAGE.replace(b'"usage":{', b'"usage":{"completion_tokens":7,')))
    await w.post()
    await w.quiet()
    worker = w.worker(0)
    assert (worker.answer_tokens, worker.reported_prompt_tokens, worker.reported_cached_tokens) == (7, 50, 32)


async def test_what_an_error_says_of_a_prompt_is_not_taken_for_usage(world):
    w = await world(1)
    w.workers[0].script(Status(400, {}, b'{"usage":{"prompt_tokens":50}}'))
    await w.post()
    assert w.plane.policy.usages == []
