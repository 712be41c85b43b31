"""The log tells an operator who joined, who left, and why a worker gets no requests."""

from __future__ import annotations

import logging

import pytest

from router import journal
from router.fleet import Fleet, State, Worker
from tests.router.engines import Handle

URL = "http://worker1:30001"


@pytest.fixture
def fleet(caplog: pytest.LogCaptureFixture) -> Fleet:
    caplog.set_level(logging.INFO)
    made = Fleet(max_worker_retries=0)
    journal.keep(made)
    return made


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_a_worker_is_followed_from_its_coming_to_its_leaving(fleet: Fleet, caplog: pytest.LogCaptureFixture):
    worker = Worker("w0", URL)
    fleet.add(worker)
    fleet.set_lifecycle(worker, State.READY, "healthy")
    fleet.set_lifecycle(worker, State.UNHEALTHY, "connection refused")
    fleet.remove(worker)
    assert lines(caplog) == [
        f"INFO w0 added: {URL}",
        "INFO w0 is ready (healthy)",
        "WARNING w0 is unhealthy (connection refused)",
        f"INFO w0 removed: {URL}",
    ]


def test_a_worker_that_its_requests_made_unavailable_is_told_whoever_launched_it(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
):
    worker = Worker("w0", URL, lifecycle=State.READY, handle=Handle())
    fleet.add(worker)
    fleet.failed(worker, "HTTP 500")
    fleet.succeeded(worker)
    assert lines(caplog) == ["WARNING w0 is unhealthy (HTTP 500)", "INFO w0 is ready (a request succeeded)"]


def test_a_drain_is_told_once(fleet: Fleet, caplog: pytest.LogCaptureFixture):
    worker = Worker("w0", URL, lifecycle=State.READY, handle=Handle())
    fleet.add(worker)
    fleet.set_draining(worker, True)
    fleet.set_draining(worker, False)
    assert lines(caplog) == ["INFO w0 is draining", "INFO w0 is ready (drain cancelled)"]


def test_what_the_launcher_tells_of_its_workers_is_not_told_twice(fleet: Fleet, caplog: pytest.LogCaptureFixture):
    worker = Worker("w0", URL, handle=Handle())
    fleet.add(worker)
    fleet.set_lifecycle(worker, State.READY)
    fleet.set_lifecycle(worker, State.BACKOFF, "killed by SIGKILL")
    assert lines(caplog) == []
