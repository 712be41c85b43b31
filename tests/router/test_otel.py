"""The exporter: what a span becomes, and that neither requests nor the end wait for a collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from router import otel
from router.otel import Exporter, attributes, traces_url
from router.trace import SAMPLED, Span
from tests.e2e.collector import Collector


@pytest.fixture
async def collector():
    made = await Collector.start()
    yield made
    await made.stop()


def span(**known: object) -> Span:
    made = Span(1, 2, None, SAMPLED)
    made.path, made.code, made.attempts = "/generate", 200, 1
    for name, value in known.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp/traces", "https://c/otlp/traces"),
    ],
)
def test_an_endpoint_without_a_path_gets_that_of_otlp(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


def test_what_is_not_known_is_left_out() -> None:
    assert attributes(span()) == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "url.path": "/generate",
        "http.response.status_code": 200,
        "llm_router.attempts": 1,
    }


def test_an_error_of_the_servers_side_is_one() -> None:
    assert attributes(span(code=502))["error.type"] == "502"
    assert "error.type" not in attributes(span(code=499))


def test_a_models_name_is_told_up_to_a_length() -> None:
    assert attributes(span(model="m" * 1000))["gen_ai.request.model"] == "m" * otel.LONGEST


async def test_a_span_lasted_until_now(collector: Collector) -> None:
    exporter = Exporter(collector.url, clock=lambda: 10_000_000_000)
    exporter(span(seconds=1.5))
    await exporter.close()
    (got,) = collector.spans
    assert (got.start_time_unix_nano, got.end_time_unix_nano) == (8_500_000_000, 10_000_000_000)


async def test_the_end_does_not_wait_for_a_collector_that_hangs(collector: Collector, monkeypatch) -> None:
    monkeypatch.setattr(otel, "FLUSH", 0.01)
    collector.held.clear()
    exporter = Exporter(collector.url)
    exporter(span())
    await exporter.close()
    ending = [thread for thread in threading.enumerate() if "Otel" in thread.name]
    assert ending
    assert all(thread.daemon for thread in ending)
    collector.held.set()


def test_what_the_sdk_says_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    theirs = logging.getLogger("opentelemetry.any")
    otel._quieten(logging.getLogger("opentelemetry"))
    try:
        raise ValueError("its reason")
    except ValueError:
        for _ in range(3):
            theirs.exception("no connection\nto %s", "it")
    assert [record.getMessage() for record in caplog.records] == ["traces: no connection to it"]
    assert caplog.records[0].exc_info is None


def test_nothing_of_it_is_loaded_unless_it_is_wanted() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, launcher.cli; print([m for m in sys.modules if 'opentelemetry' in m])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "[]\n"
