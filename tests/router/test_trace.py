"""Trace Context as the W3C has it, and what an exchange tells of a request when somebody wants to know."""

from __future__ import annotations

import random

import pytest

from router import trace
from router.prefix import PrefixIndex
from router.trace import SAMPLED, Span, begin, parse
from tests.e2e.fault_worker import BreakStream, Hang, ResetBeforeHead, Status
from tests.router.test_exchange import USAGE

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


def test_a_traceparent_is_read() -> None:
    assert parse(GIVEN.encode()) == (int(TRACE, 16), int(PARENT, 16), SAMPLED)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"01-{TRACE}-{PARENT}-01more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{'g' * 32}-{PARENT}-01",
    ],
)
def test_what_is_no_traceparent_is_as_if_there_was_none(value: str) -> None:
    assert parse(value.encode()) is None


@pytest.mark.parametrize("value", [f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-comes"])
def test_versions_to_come_are_read_as_far_as_they_are_known(value: str) -> None:
    assert parse(value.encode()) == (int(TRACE, 16), int(PARENT, 16), SAMPLED)


@pytest.mark.parametrize(("given", "kept"), [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("ff", 3), ("fc", 0)])
def test_of_the_flags_those_are_kept_that_are_known(given: str, kept: int) -> None:
    parent = parse(f"00-{TRACE}-{PARENT}-{given}".encode())
    assert parent is not None
    assert parent.flags == kept


def test_a_span_names_itself_as_it_is_read() -> None:
    span = Span(int(TRACE, 16), 0xABC, None, SAMPLED)
    assert span.traceparent() == f"00-{TRACE}-0000000000000abc-01".encode()
    assert parse(span.traceparent()) == (span.trace_id, span.span_id, SAMPLED)


def test_the_clients_span_is_the_parent_and_the_worker_is_told_ours() -> None:
    span, lines = begin(f"a: 1\r\nTraceParent:  {GIVEN} \r\ntracestate: v=1\r\n".encode(), random.Random(1))
    assert (span.trace_id, span.parent_id, span.sampled) == (int(TRACE, 16), int(PARENT, 16), True)
    assert lines == b"a: 1\r\ntracestate: v=1\r\ntraceparent: %b\r\n" % span.traceparent()


def test_a_client_that_does_not_sample_is_obeyed() -> None:
    span, lines = begin(f"traceparent: {GIVEN[:-2]}00\r\n".encode(), random.Random(1))
    assert not span.sampled
    assert lines.endswith(b"-00\r\n")


@pytest.mark.parametrize(
    "given", ["", "traceparent: nonsense\r\n", f"traceparent: {GIVEN}\r\nTraceparent: {GIVEN}\r\n"]
)
def test_without_one_valid_traceparent_a_trace_begins_and_the_vendors_state_is_dropped(given: str) -> None:
    span, lines = begin(f"a: 1\r\n{given}Tracestate: v=1\r\n".encode(), random.Random(1))
    assert span.parent_id is None
    assert span.trace_id not in (0, int(TRACE, 16))
    assert span.sampled
    assert lines == b"a: 1\r\ntraceparent: %b\r\n" % span.traceparent()


def test_no_id_is_zero() -> None:
    class Zero(random.Random):
        def getrandbits(self, k: int) -> int:
            return 0

    span, _ = begin(b"", Zero())
    assert (span.trace_id, span.span_id) == (1, 1)


# -- in an exchange


async def traced(world, workers=1, **settings):
    w = await world(workers, **settings)
    spans: list[trace.Span] = []
    w.plane.trace = spans.append
    return w, spans


async def test_the_worker_gets_the_routers_span_in_the_clients_trace(world):
    w, spans = await traced(world)
    assert (await w.post(path="/v1/chat/completions", traceparent=GIVEN)).status == 200
    (span,) = spans
    sent = w.workers[0].requests[0].headers["traceparent"]
    assert sent == span.traceparent().decode() != GIVEN
    assert TRACE in sent
    assert (span.path, span.code, span.worker, span.attempts) == ("/v1/chat/completions", 200, "w0", 1)
    assert 0 < span.first_byte <= span.seconds


async def test_while_nobody_traces_the_clients_header_goes_through(world):
    w = await world(1)
    await w.post(traceparent=GIVEN, tracestate="v=1")
    headers = w.workers[0].requests[0].headers
    assert (headers["traceparent"], headers["tracestate"]) == (GIVEN, "v=1")
    await w.post()
    assert "traceparent" not in w.workers[0].requests[1].headers


async def test_a_request_that_met_two_workers_is_one_span_of_two_attempts(world):
    w, spans = await traced(world, 2)
    w.workers[0].script(ResetBeforeHead())
    assert (await w.post()).status == 200
    (span,) = spans
    assert (span.worker, span.attempts, span.code) == ("w1", 2, 200)
    assert [worker.requests[0].headers["traceparent"] for worker in w.workers] == [span.traceparent().decode()] * 2


async def test_what_the_engine_had_cached_is_told_beside_what_was_predicted(world):
    w, spans = await traced(world)
    w.plane.policy = Knowing()
    w.workers[0].script(Status(200, {}, USAGE))
    await w.post({"prompt": "x" * 99, "model": "m"}, "/v1/completions")
    (span,) = spans
    assert (span.predicted, span.cached, span.model) == (25, 32, "m")


async def test_what_nobody_knows_is_not_told(world):
    w, spans = await traced(world)
    await w.post()
    (span,) = spans
    assert (span.predicted, span.cached, span.model) == (None, None, None)


async def test_a_request_that_no_worker_takes_has_a_span(world):
    w, spans = await traced(world, 0)
    assert (await w.post()).status == 503
    (span,) = spans
    assert (span.worker, span.attempts, span.code, span.first_byte) == (None, 0, 503, None)


async def test_a_broken_stream_and_a_client_that_left_have_theirs(world):
    w, spans = await traced(world)
    w.workers[0].script(BreakStream(1), Hang())
    await w.post({"text": "hi", "stream": True})
    client = await w.connect()
    client.post("/generate", {"text": "hi"})
    await w.until(lambda: len(w.workers[0].requests) == 2)
    client.close()
    await w.until(lambda: len(spans) == 2)
    assert [span.code for span in spans] == [502, 499]


class Knowing:
    """A policy that takes half of every prompt for cached."""

    index = PrefixIndex(1000)

    def pick(self, request, candidates, now, rng):
        request.matched = request.size // 2
        return candidates[0]

    def answered(self, request, worker, now): ...

    def done(self, request, worker): ...

    def forget(self, worker): ...

    def upkeep(self, now): ...
