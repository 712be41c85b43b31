"""`router --otlp-endpoint`: one span for each request arrives at a collector, with nothing in it that is secret."""

from __future__ import annotations

import signal
import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.collector import Collector, values
from tests.e2e.fault_worker import FaultWorker
from tests.e2e.fault_worker import Status as Answered

pytestmark = pytest.mark.e2e

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
USAGE = b'{"usage":{"prompt_tokens":50,"prompt_tokens_details":{"cached_tokens":32}}}'


@pytest.fixture
async def collector():
    made = await Collector.start()
    yield made
    await made.stop()


@pytest.fixture
async def worker():
    made = await FaultWorker.start()
    yield made
    await made.stop()


async def test_a_collector_sees_one_span_for_each_request(start, collector, worker):
    router = await start("router", "--worker-urls", worker.url, "--otlp-endpoint", collector.url, "--api-key", "s3cret")
    await router.ready(1)
    worker.script(Answered(200, {}, USAGE), Answered(500), Answered(400))
    path, key = "/v1/chat/completions", {"authorization": "Bearer s3cret"}
    body = {"model": "m", "messages": [{"role": "user", "content": "an own affair"}]}
    parents = [{"traceparent": f"00-{TRACE}-{PARENT}-{flags}"} for flags in ("01", "00")]
    for headers in ({}, {}, {}, *parents):
        await router.ask("POST", path, json=body, headers={**key, **headers})
    await router.ask("GET", "/health")
    router.process.send_signal(signal.SIGTERM)
    assert await router.end() == 0  # and sends what it still has

    told = [values(span) for span in collector.spans]
    assert [each["http.response.status_code"] for each in told] == [200, 500, 400, 200]
    assert [span.status.code for span in collector.spans].count(Status.STATUS_CODE_ERROR) == 1
    assert told[0].pop("llm_router.time_to_first_byte") > 0
    assert told[0] == {
        "http.request.method": "POST",
        "http.route": path,
        "url.path": path,
        "http.response.status_code": 200,
        "gen_ai.request.model": "m",
        "llm_router.worker.id": "w0",
        "llm_router.attempts": 1,
        "llm_router.cached_tokens.predicted": 0,
        "llm_router.cached_tokens.reported": 32,
    }
    first, last = collector.spans[0], collector.spans[-1]
    assert {(span.name, span.kind) for span in collector.spans} == {(f"POST {path}", Span.SPAN_KIND_SERVER)}
    assert (first.parent_span_id, last.parent_span_id.hex(), last.trace_id.hex()) == (b"", PARENT, TRACE)
    assert first.end_time_unix_nano > first.start_time_unix_nano
    sent = [request.headers["traceparent"] for request in worker.requests]
    assert sent[0] == f"00-{first.trace_id.hex()}-{first.span_id.hex()}-01"
    assert sent[-2] == f"00-{TRACE}-{last.span_id.hex()}-01"
    assert sent[-1].endswith("-00")
    assert collector.resources[0]["service.name"] == "llm-router"
    assert not any(secret in body for body in collector.bodies for secret in (b"s3cret", b"own affair"))


async def test_a_collector_that_is_not_there_costs_a_line_and_no_answer(start, worker):
    options = ("--worker-urls", worker.url, "--otlp-endpoint", "http://127.0.0.1:1")
    router = await start("router", *options, OTEL_BSP_SCHEDULE_DELAY="10")
    await router.ready(1)
    for _ in range(4):
        assert (await router.ask("POST", "/generate", json={"text": "hi"}))[0] == 200
    await router.said("WARNING traces: ")
    router.process.send_signal(signal.SIGTERM)
    assert await router.end() == 0
    assert len([line for line in router.lines if "traces:" in line]) == 1
    assert "Traceback" not in "\n".join(router.lines)


async def test_without_the_sdk_it_says_what_to_install(start, tmp_path):
    (tmp_path / "opentelemetry").mkdir()  # stands before the one that is installed
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError('opentelemetry')")
    path = ":".join([str(tmp_path), *sys.path])
    router = await start("router", "--otlp-endpoint", "http://127.0.0.1:4318", PYTHONPATH=path)
    assert await router.end() == 2
    (line,) = router.lines
    assert line.endswith("pip install 'llm-launch[otel]'")
