"""One request on two workers: what each of them gets, what the client sees, and what is left when one of them fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from router import pairs as module
from router.fleet import Role, State, Worker
from tests.e2e.fault_worker import (
    Answer,
    CloseBeforeHead,
    CloseIdleKeepAlive,
    Garbage,
    Hang,
    SlowHead,
    Status,
)
from tests.e2e.pair_workers import Half, Rooms
from tests.router.world import World, left_to_collect

PLAIN = {"text": "hi there"}
STREAM = {"text": "hi there", "stream": True}
LOGPROBS = {"text": "hi there", "return_logprob": True}
both = pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["whole", "stream"])
either = pytest.mark.parametrize("number", [0, 2], ids=["prefill", "decode"])

Make = Callable[..., Awaitable[World]]


@pytest.fixture
def pairs(world: Any, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`await pairs(2, 1)`: a data plane over two prefill workers and a decode worker, w0, w1 and w2.

    It never tires of waiting for a prefill worker's answer.
    """
    monkeypatch.setattr(module, "GRACE", 1e6)

    async def make(prefills: int = 1, decodes: int = 1, **settings: Any) -> World:
        w: World = await world(0, pd_disaggregation=True, **settings)
        rooms = Rooms()
        for _ in range(prefills):
            await w.add(role=Role.PREFILL, bootstrap_port=9000)
            w.workers[-1].default = Half(rooms, "prefill", 9000)
        for _ in range(decodes):
            await w.add(role=Role.DECODE)
            w.workers[-1].default = Half(rooms, "decode")
        return w

    return make


def served(answer: Any, body: Any) -> None:
    """The answer is whole, and the decode worker's."""
    assert (answer.status, answer.complete) == (200, True)
    assert b"decode 0" in answer.body
    assert b"prefill" not in answer.body
    assert (b"[DONE]" in answer.body) is (body is STREAM)


def got(w: World, number: int) -> list[Any]:
    """The bodies of the requests that a worker got."""
    return [json.loads(request.body) for request in w.workers[number].requests]


# -- both get it


@both
async def test_both_workers_get_the_request_and_the_decode_workers_answer_is_the_clients(pairs, body):
    w = await pairs()
    answer = await w.post(body)
    served(answer, body)
    assert answer.headers["x-worker-id"] == "w1"
    assert got(w, 0) == got(w, 1)
    host, port, room = (got(w, 0)[0][f"bootstrap_{name}"] for name in ("host", "port", "room"))
    assert (host, port) == ("127.0.0.1", 9000)
    assert got(w, 0) == [{**body, "bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}]
    await w.quiet()


async def test_both_get_the_clients_headers_and_path(pairs):
    w = await pairs()
    await w.post({"model": "m", "prompt": "hi"}, "/v1/completions?x=1", **{"X-Own": "yes"})
    for worker in w.workers:
        (request,) = worker.requests
        assert (request.path, request.headers["x-own"]) == ("/v1/completions?x=1", "yes")
        assert request.headers["host"] == worker.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": ["a", "b", "c"]}),
        ("/generate", {"input_ids": [[1], [2, 3]]}),
        ("/v1/completions", {"model": "m", "prompt": ["a", "b"]}),
        ("/v1/completions", {"model": "m", "prompt": [1, 2]}),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}),
    ],
)
async def test_every_kind_of_request_meets_in_its_rooms(pairs, path, body):
    w = await pairs()
    answer = await w.post(body, path)
    assert (answer.status, answer.complete) == (200, True)
    await w.quiet()


async def test_each_request_has_rooms_of_its_own(pairs):
    w = await pairs()
    for _ in range(3):
        served(await w.post(), PLAIN)
    assert len({body["bootstrap_room"] for body in got(w, 0)}) == 3


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages", "/tokenize"])
async def test_a_path_that_engines_do_not_serve_in_pairs_is_refused(pairs, path):
    w = await pairs()
    answer = await w.post({"input": "hi"}, path)
    assert answer.status == 404
    assert answer.json()["error"]["message"].startswith(f"{path} is not served by pairs of workers")
    assert w.tried() == [0, 0]
    await w.quiet()


async def test_a_request_for_too_many_answers_is_refused(pairs):
    w = await pairs()
    answer = await w.post({"messages": [], "n": 10**8}, "/v1/chat/completions")
    assert (answer.status, w.tried()) == (400, [0, 0])
    await w.quiet()


# -- who is chosen, and what is counted


async def test_each_policy_sees_the_workers_of_its_role_and_only_one_the_prompt(pairs):
    w = await pairs(2, 2)
    seen: list[tuple[list[str], bytes]] = []

    def watch(policy: Any) -> None:
        pick = policy.pick

        def note(request: Any, candidates: Any, now: float, rng: Any) -> Worker:
            seen.append(([worker.id for worker in candidates], request.key))
            return pick(request, candidates, now, rng)

        policy.pick = note

    watch(w.plane.policy)
    watch(w.plane.decode_policy)
    await w.post(PLAIN)
    assert seen == [(["w0", "w1"], b'"hi there'), (["w2", "w3"], b"")]
    await w.quiet()


async def test_the_prompt_is_to_be_computed_by_one_and_kept_by_the_other(pairs):
    w = await pairs()
    gate = asyncio.Event()
    for worker in w.workers:
        worker.default = SlowHead(gate, worker.default)
    post = asyncio.create_task(w.post({"text": "x" * 400}))
    await w.until(lambda: w.tried() == [1, 1])
    prefill, decode = w.worker(0), w.worker(1)
    assert (prefill.inflight, prefill.prefills, prefill.prefill_outstanding, prefill.context) == (1, 1, 100, 0)
    assert (decode.inflight, decode.prefills, decode.prefill_outstanding, decode.context) == (1, 0, 0, 100)
    gate.set()
    await post
    await w.quiet()
    assert (len(prefill.latencies), len(decode.latencies)) == (1, 1)
    assert (w.plane.policy.answers, w.plane.decode_policy.answers) == (1, 0)


async def test_what_was_cached_counts_for_the_prefill_worker_and_the_answer_for_the_other(pairs):
    w = await pairs()
    await w.post()
    await w.quiet()
    prefill, decode = w.worker(0), w.worker(1)
    assert (prefill.reported_prompt_tokens, prefill.reported_cached_tokens) == (4, 2)
    assert (decode.reported_prompt_tokens, decode.answer_tokens) == (0, 1)
    assert [(usage.prompt, usage.cached) for usage in w.plane.policy.usages] == [(4, 2)]
    assert (w.metrics.prompt_tokens, w.metrics.cached_tokens) == (4, 2)


@pytest.mark.parametrize(("prefills", "decodes", "lacking"), [(0, 1, "prefill"), (1, 0, "decode"), (0, 0, "prefill")])
async def test_a_request_without_one_of_the_roles_is_told_which(pairs, prefills, decodes, lacking):
    w = await pairs(prefills, decodes)
    answer = await w.post()
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["message"] == f"there is no {lacking} worker: add one with POST /workers"
    await w.quiet()


@either
async def test_a_drained_worker_gets_nothing_and_the_last_of_its_role_is_missed(pairs, number):
    w = await pairs(2, 2)
    w.fleet.set_draining(w.worker(number), True)
    served(await w.post(), PLAIN)
    assert w.tried()[number] == 0
    w.fleet.set_draining(w.worker(number + 1), True)
    answer = await w.post()
    assert (answer.status, answer.json()["error"]["message"]) == (
        503,
        f"no {w.worker(number).role.value} worker is ready",
    )
    await w.quiet()


async def test_a_model_that_is_not_served_is_said_to_be(pairs):
    w = await pairs()
    assert (await w.post({"model": "other", "prompt": "hi"}, "/v1/completions")).status == 404


# -- one fails before the first byte of the answer


@both
@either
@pytest.mark.parametrize(
    "fault", [CloseBeforeHead(), Garbage(), Status(500), Status(503), Status(429)], ids=lambda f: repr(f)[:12]
)
async def test_when_one_fails_another_pair_is_tried_in_another_room(pairs, body, number, fault):
    w = await pairs(2, 2)
    other = 2 - number  # the one that did not fail
    w.workers[number].script(fault)
    served(await w.post(body), body)
    assert w.tried()[number : number + 2] == [1, 1]
    assert w.tried()[other] == 2
    assert len({body["bootstrap_room"] for body in got(w, other)}) == 2
    await w.workers[other].until(lambda: w.workers[other].aborts == 1)
    assert w.worker(number).failures == (0 if fault == Status(429) else 1)
    assert w.worker(other).failures == 0
    await w.quiet()


@either
async def test_a_worker_that_cannot_be_reached_is_passed_over(pairs, number):
    w = await pairs(1 if number == 0 else 2, 1)
    worker = w.worker(number if number == 2 else 0)
    worker.url = "http://127.0.0.1:1"
    await w.add(role=worker.role, bootstrap_port=9000)
    w.workers[-1].default = Half(w.workers[0].default.rooms, worker.role.value, 9000)
    served(await w.post(), PLAIN)
    assert worker.failures == 1
    await w.quiet()


@either
async def test_the_last_of_its_role_is_tried_again_where_that_may_help(pairs, number):
    w = await pairs(1 if number == 0 else 2, 1)
    failing = w.workers[number if number == 2 else 0]
    failing.script(Status(503))
    served(await w.post(), PLAIN)
    await w.quiet()


@either
async def test_retries_end(pairs, number):
    w = await pairs(2, 2, max_total_retries=3)
    for worker in w.workers[number : number + 2]:
        worker.default = Garbage()
    answer = await w.post()
    assert answer.status == 502
    assert w.tried()[number] + w.tried()[number + 1] == 4
    await w.quiet()


@both
@either
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_the_error_of_either_that_is_the_clients_own_is_the_answer(pairs, body, number, status):
    w = await pairs(2, 2)
    w.workers[number].script(Status(status, {"x-own": "yes"}, b'{"error": "too long"}'))
    answer = await w.post(body)
    assert (answer.status, answer.body, answer.headers["x-own"]) == (status, b'{"error": "too long"}', "yes")
    assert answer.headers["x-worker-id"] == f"w{number}"
    other = w.workers[2 - number]
    await other.until(lambda: other.aborts == 1)
    assert w.tried() == [1, 0, 1, 0]
    assert all(worker.failures == 0 for worker in w.fleet.workers.values())
    await w.quiet()


@either
async def test_an_error_with_no_retry_left_is_passed_on_as_the_worker_put_it(pairs, number):
    w = await pairs(2, 2)
    for worker in w.workers[number : number + 2]:
        worker.default = Status(500, {}, b"no memory")
    answer = await w.post()
    assert (answer.status, answer.body) == (500, b"no memory")
    await w.quiet()


async def test_a_refusal_of_the_prefill_worker_that_breaks_off_is_broken_off(pairs):
    w = await pairs()

    class Torn:
        async def answer(self, connection: Any, request: Any) -> None:
            await connection.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 50\r\n\r\nhalf")
            connection.end()

    w.workers[0].script(Torn())
    answer = await w.post()
    assert (answer.status, answer.body, answer.complete) == (400, b"half", False)
    await w.quiet()


@either
async def test_a_stale_connection_costs_the_same_pair_another_room(pairs, number):
    w = await pairs(1 if number == 0 else 2, 1)
    stale = w.workers[number if number == 2 else 0]

    class Once(CloseIdleKeepAlive):
        async def answer(self, connection: Any, request: Any) -> None:
            await stale.default.answer(connection, request)
            connection.end_on_next = "close"

    stale.script(Once())
    served(await w.post(), PLAIN)
    served(await w.post(), PLAIN)
    assert all(worker.failures == 0 for worker in w.fleet.workers.values())
    assert w.metrics.retries == {"stale": 1}
    await w.quiet()


async def test_a_pair_that_does_not_answer_in_time_is_the_prefill_workers_fault(pairs):
    w = await pairs(request_timeout=0.05)
    w.workers[0].default = Hang()
    post = asyncio.create_task(w.post())
    await w.until(lambda: w.tried() == [1, 1])
    w.plane.tick(w.plane.clock() + 1)
    assert (await post).status == 504
    assert (w.worker(0).failures, w.worker(1).failures) == (1, 0)
    await w.quiet()


async def test_a_decode_worker_that_does_not_answer_what_was_prefilled_is_to_blame(pairs):
    w = await pairs(request_timeout=60)
    w.workers[0].default = Answer()
    w.workers[1].default = Hang()
    post = asyncio.create_task(w.post())
    await w.until(lambda: w.tried() == [1, 1] and w.worker(0).inflight == 0)
    w.plane.tick(w.plane.clock() + 100)
    assert (await post).status == 504
    assert (w.worker(0).failures, w.worker(1).failures) == (0, 1)
    await w.quiet()


@pytest.mark.parametrize(("prefills", "decodes"), [(2, 2), (3, 1)])
async def test_a_request_that_killed_a_prefill_worker_is_alone_on_both_of_its_next(pairs, prefills, decodes):
    w = await pairs(prefills, decodes)
    deadly, gate = asyncio.Event(), asyncio.Event()
    w.workers[0].default = SlowHead(deadly, CloseBeforeHead())
    for worker in w.workers[1:]:
        worker.default = SlowHead(gate, worker.default)
    posts = [asyncio.create_task(w.post()) for _ in range(2)]
    await w.until(lambda: w.tried()[0] == 2)
    before = sum(w.tried())
    w.worker(0).lifecycle = State.BACKOFF
    w.fleet.touch()
    deadly.set()
    await w.until(lambda: sum(w.tried()) == before + 2)
    w.plane.tick(w.plane.clock())
    await asyncio.sleep(0)
    assert len(w.plane.suspects._queue) == 1
    assert sum(w.tried()) == before + 2
    gate.set()
    for post in posts:
        served(await post, PLAIN)
    await w.quiet()


@pytest.mark.parametrize("refused", [False, True], ids=["made", "refused"])
@pytest.mark.parametrize(("late", "fails"), [("w2", 0), ("w0", 2)], ids=["decode", "prefill"])
async def test_a_connection_that_comes_when_its_attempt_was_called_off_is_closed(pairs, late, fails, refused):
    w = await pairs(2, 2)
    connect, held, made = w.plane.connect, [], []

    async def connect_all_the_same(worker: Worker) -> Any:
        """As before Python 3.12, where a cancellation that meets the result was lost."""
        if worker.id != late or held:
            return await connect(worker)
        held.append(worker)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if refused:
            raise OSError("refused")
        made.append(await connect(worker))
        return made[0]

    w.plane.connect = connect_all_the_same
    w.workers[fails].script(Status(503))
    served(await w.post(), PLAIN)
    assert [connection.transport.is_closing() for connection in made] == [True] * (not refused)
    assert w.tried()[int(late[1:])] == 1
    assert w.worker(int(late[1:])).failures == 0
    await w.quiet()


async def test_a_prefill_worker_that_was_not_reached_is_not_asked_for_an_answer_that_is_there(pairs):
    w = await pairs()
    connect, gate = w.plane.connect, asyncio.Event()

    async def late(worker: Worker) -> Any:
        if worker.id == "w0":
            await gate.wait()
        return await connect(worker)

    w.plane.connect = late
    w.workers[1].default = Answer()
    assert (await w.post()).status == 200
    await w.quiet()
    gate.set()
    w.workers[1].default = Half(w.workers[0].default.rooms, "decode")
    served(await w.post(), PLAIN)
    assert w.tried() == [1, 2]


@either
async def test_the_last_of_its_role_that_dies_is_not_asked_again(pairs, number):
    w = await pairs(1 if number == 0 else 2, 2 if number == 0 else 1)
    dies = w.workers[number]
    dies.default = CloseBeforeHead()
    answer = await w.post()
    assert (answer.status, len(dies.requests)) == (502, 1)
    await w.quiet()


# -- one fails afterwards


async def test_a_decode_worker_that_breaks_off_ends_the_stream_as_broken(pairs):
    w = await pairs(2, 2)
    w.workers[2].default = Half(w.workers[0].default.rooms, "decode", breaks=True)
    answer = await w.post(STREAM)
    assert b"decode 0" in answer.body
    assert b'"code":"worker_broke_off"' in answer.body
    assert (b"[DONE]" in answer.body, answer.complete) == (False, False)
    assert w.tried() == [1, 0, 1, 0]
    assert (w.worker(0).failures, w.worker(2).failures) == (0, 1)
    await w.quiet()


async def test_a_prefill_worker_that_dies_once_the_answer_has_begun_costs_the_client_nothing(pairs):
    w = await pairs()
    rooms, gate, never = w.workers[0].default.rooms, asyncio.Event(), asyncio.Event()
    w.workers[0].default = Half(rooms, "prefill", 9000, holds=never)
    w.workers[1].default = Half(rooms, "decode", pauses=gate)
    client = await w.connect()
    client.post("/generate", STREAM)
    await client.reader.readuntil(b"decode 0")
    await w.workers[0].stop()
    await w.until(lambda: w.worker(0).failures == 1)
    gate.set()
    rest = await client.reader.readuntil(b"0\r\n\r\n")
    assert b"decode 2" in rest
    assert b"[DONE]" in rest
    assert w.worker(1).failures == 0
    await w.quiet()


@both
async def test_a_prefill_worker_that_never_ends_its_answer_is_not_waited_for(pairs, body, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.01)
    w = await pairs()
    w.workers[0].default = Half(w.workers[0].default.rooms, "prefill", 9000, holds=asyncio.Event())
    served(await w.post(body), body)
    await w.workers[0].until(lambda: w.workers[0].aborts == 1)
    await w.quiet()


async def test_a_prefill_workers_answer_that_comes_after_the_other_leaves_its_connection_for_the_next(pairs):
    w = await pairs()
    late = asyncio.Event()
    rooms = w.workers[0].default.rooms
    w.workers[0].default = Half(rooms, "prefill", 9000, holds=late)
    served(await w.post(), PLAIN)
    assert (w.worker(0).inflight, w.worker(1).inflight) == (1, 0)
    late.set()
    await w.quiet_workers()
    served(await w.post(), PLAIN)
    assert [worker.connections for worker in w.workers] == [1, 1]
    await w.quiet()
    assert [each for each in gc.get_objects() if isinstance(each, module.Prefill)] == []


# -- the client


@both
async def test_both_connections_end_when_the_client_leaves(pairs, body):
    w = await pairs()
    for worker in w.workers:
        worker.default = Hang()
    client = await w.connect()
    client.post("/generate", body)
    await w.until(lambda: w.tried() == [1, 1])
    client.close()
    for worker in w.workers:
        await worker.until(lambda worker=worker: worker.aborts == 1)
    assert all(worker.failures == 0 for worker in w.fleet.workers.values())
    await w.quiet()


async def test_a_client_that_leaves_while_a_refusal_is_passed_on_leaves_nothing(pairs):
    w = await pairs()

    class Slow:
        async def answer(self, connection: Any, request: Any) -> None:
            await connection.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 50\r\n\r\nhalf")
            await asyncio.Event().wait()

    w.workers[0].default = Slow()
    client = await w.connect()
    client.post("/generate", PLAIN)
    await client.reader.readuntil(b"half")
    client.close()
    await w.workers[0].until(lambda: w.workers[0].aborts == 1)
    await w.quiet()


# -- log probabilities of the prompt


async def test_an_answer_with_log_probabilities_has_those_of_the_prompt_from_the_prefill_worker(pairs):
    w = await pairs()
    answer = await w.post(LOGPROBS, **{"Accept-Encoding": "gzip"})
    assert (answer.status, answer.complete) == (200, True)
    meta = answer.json()["meta_info"]
    assert (meta["input_token_logprobs"], meta["output_token_logprobs"]) == ([[-1.5, 7, None]], [[-0.25, 9, None]])
    assert all("accept-encoding" not in worker.requests[0].headers for worker in w.workers)
    await w.quiet()


async def test_it_waits_for_both_answers(pairs):
    w = await pairs()
    late = asyncio.Event()
    w.workers[0].default = Half(w.workers[0].default.rooms, "prefill", 9000, holds=late)
    post = asyncio.create_task(w.post(LOGPROBS))
    await w.until(lambda: w.workers[1].connections == 1 and w.plane.pool._idle.get("w1"))
    assert not post.done()
    late.set()
    assert (await post).json()["meta_info"]["input_token_logprobs"] == [[-1.5, 7, None]]
    await w.quiet()


async def test_a_prefill_worker_that_dies_before_its_answer_is_there_costs_another_pair(pairs):
    w = await pairs(2, 1)

    class Dies(CloseBeforeHead):
        async def answer(self, connection: Any, request: Any) -> None:
            half = Half(w.workers[0].default.rooms, "prefill", 9000)
            for key in half.checked(json.loads(request.body), connection):
                half.rooms.enter("prefill", key, json.loads(request.body)).computed.set()
            while not w.plane.pool._idle.get("w2"):
                await asyncio.sleep(0.002)
            connection.end()

    w.workers[0].script(Dies())
    answer = await w.post(LOGPROBS)
    assert answer.json()["meta_info"]["input_token_logprobs"] == [[-1.5, 7, None]]
    assert w.tried() == [1, 1, 2]
    await w.quiet()


async def test_a_prefill_answer_that_cannot_be_merged_costs_another_pair(pairs):
    w = await pairs(2, 1)

    class Nonsense:
        async def answer(self, connection: Any, request: Any) -> None:
            half = Half(w.workers[0].default.rooms, "prefill", 9000)
            for key in half.checked(json.loads(request.body), connection):
                half.rooms.enter("prefill", key, json.loads(request.body)).computed.set()
            await Status(200, {}, b"nonsense").answer(connection, request)

    w.workers[0].script(Nonsense())
    answer = await w.post(LOGPROBS)
    assert answer.json()["meta_info"]["input_token_logprobs"] == [[-1.5, 7, None]]
    await w.quiet()


async def test_the_log_probabilities_of_a_stream_are_the_decode_workers(pairs):
    w = await pairs()
    answer = await w.post({**STREAM, "return_logprob": True})
    served(answer, STREAM)
    await w.quiet()


# -- what is left


async def test_nothing_is_left_for_the_collector(pairs):
    w = await pairs()

    async def some(times: int) -> None:
        for _ in range(times):
            for body in (PLAIN, LOGPROBS):
                await w.post(body)
            await w.quiet()

    assert await left_to_collect(some) == 0
