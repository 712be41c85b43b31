"""Samples of the fleet, by the clock that the test gives."""

from __future__ import annotations

import msgspec

from router.fleet import Fleet, Worker
from router.history import KEPT, History
from router.metrics import Metrics
from router.usage import Usage

U = "http://worker1"


def test_a_sample_holds_what_is_and_what_was_summed_up():
    fleet, metrics = Fleet(), Metrics()
    worker = Worker("w0", U)
    fleet.add(worker)
    fleet.lease(worker, 30, 0.0, 100).told(Usage(90, 60, 8))
    metrics.inflight, metrics.queue_depth = 3, 2
    sample = History().add(fleet, metrics, 5.0)
    assert (sample.time, sample.inflight, sample.queued) == (5.0, 3, 2)
    assert msgspec.json.decode(msgspec.json.encode(sample.workers)) == {"w0": [1, 30, 100, 30, 90, 60, 8]}


def test_what_the_client_did_wrong_or_gave_up_is_no_failure():
    metrics = Metrics()
    for code in (200, 400, 404, 499, 429, 502, 504):
        metrics.finished("/generate", code, 0.1, 0.1)
    sample = History().add(Fleet(), metrics, 0.0)
    assert (sample.answered, sample.failed, sum(sample.first_byte)) == (7, 3, 7)


def test_a_sample_does_not_change_afterwards():
    fleet, metrics = Fleet(), Metrics()
    fleet.add(Worker("w0", U))
    sample = History().add(fleet, metrics, 0.0)
    metrics.finished("/generate", 200, 0.1, 0.1)
    fleet.lease(fleet.workers["w0"], 0, 0.0)
    assert sample.workers["w0"].inflight == sum(sample.first_byte) == 0


def test_the_oldest_samples_are_forgotten():
    history = History()
    for second in range(KEPT + 5):
        history.add(Fleet(), Metrics(), second)
    assert [len(history.samples), history.samples[0].time, history.samples[-1].time] == [KEPT, 5, KEPT + 4]
