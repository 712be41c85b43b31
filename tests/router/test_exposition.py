"""What Prometheus reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.exposition import scrape
from router.fleet import Cause, Fleet, Role, State, Worker
from router.metrics import Metrics
from router.usage import Usage

# Every name that the documentation promises, as a scrape shows it.
NAMES = [
    "requests_total",
    "request_duration_seconds_bucket",
    "request_duration_seconds_sum",
    "request_duration_seconds_count",
    "time_to_first_byte_seconds_bucket",
    "inflight",
    "queue_depth",
    "retries_total",
    "worker_up",
    "worker_inflight",
    "worker_prefill_outstanding",
    "worker_requests_total",
    "worker_failures_total",
    "worker_restarts_total",
    "worker_answer_tokens_total",
    "worker_state",
    "worker_type",
    "cache_hit_ratio",
    "cache_hits_total",
    "cache_misses_total",
    "reported_prompt_tokens_total",
    "reported_cached_tokens_total",
    "index_size",
    "index_evictions_total",
    "policy_decision_seconds_bucket",
    "event_loop_lag_seconds_bucket",
    "build_info",
]

W = "http://127.0.0.1:31000"


def parts(metrics: Metrics | None = None, *workers: Worker, index: Any = None) -> Any:
    fleet = Fleet()
    for worker in workers:
        fleet.add(worker)
    return SimpleNamespace(metrics=metrics or Metrics(), fleet=fleet, policy=SimpleNamespace(index=index))


def samples(parts: Any) -> dict[str, dict[tuple[str, ...], float]]:
    """Name without prefix -> label values, in the labels' alphabetical order -> value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(scrape(parts)[0].decode()):
        for sample in family.samples:
            assert sample.name.startswith("llm_router_")
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name.removeprefix("llm_router_"), {})[labels] = sample.value
    return found


def busy_metrics() -> Metrics:
    metrics = Metrics()
    metrics.finished("/generate", 200, 0.3, 0.02)
    metrics.retried("not_sent")
    return metrics


def test_every_promised_name_is_exposed():
    assert set(NAMES) <= samples(parts(busy_metrics(), Worker("w0", W))).keys()


def test_the_answer_is_prometheus_text():
    assert scrape(parts())[1].startswith("text/plain")


def test_buckets_are_exposed_cumulatively():
    metrics = Metrics()
    for seconds in (0.004, 0.3, 4000.0):
        metrics.finished("/generate", 200, seconds, None)
    found = samples(parts(metrics))
    buckets = found["request_duration_seconds_bucket"]
    assert [buckets[(le,)] for le in ("0.005", "0.25", "0.5", "1800", "+Inf")] == [1, 1, 2, 2, 3]
    assert found["request_duration_seconds_count"][()] == 3
    assert found["request_duration_seconds_sum"][()] == pytest.approx(4000.304)


def test_requests_are_counted_by_path_and_code():
    metrics = Metrics()
    for code in (200, 200, 502):
        metrics.finished("/v1/completions", code, 0.1, None)
    assert samples(parts(metrics))["requests_total"] == {("200", "/v1/completions"): 2, ("502", "/v1/completions"): 1}


def test_paths_that_strangers_make_up_add_no_labels():
    metrics = Metrics()
    for i in range(100):
        metrics.finished(f"/{i}", 404, 0.1, None)
    assert samples(parts(metrics))["requests_total"] == {("404", "other"): 100}


def test_a_request_without_a_byte_of_answer_has_no_time_to_first_byte():
    metrics = Metrics()
    metrics.finished("/generate", 504, 9.0, None)
    metrics.finished("/generate", 200, 9.0, 0.5)
    assert samples(parts(metrics))["time_to_first_byte_seconds_count"][()] == 1


def test_retries_are_counted_by_reason():
    metrics = Metrics()
    for reason in ("status_503", "status_503", "not_sent"):
        metrics.retried(reason)
    assert samples(parts(metrics))["retries_total"] == {("status_503",): 2, ("not_sent",): 1}


def test_predicted_hits_are_counted_and_weighed_by_bytes():
    metrics = Metrics()
    metrics.picked(1e-5, 300, 400)
    metrics.picked(1e-5, 0, 600)
    found = samples(parts(metrics))
    assert (found["cache_hits_total"][()], found["cache_misses_total"][()]) == (1, 1)
    assert found["cache_hit_ratio"][()] == 0.3
    assert found["policy_decision_seconds_count"][()] == 2


def test_what_engines_report_of_their_caches_is_counted_in_tokens():
    metrics = Metrics()
    metrics.told(Usage(100, 60))
    found = samples(parts(metrics))
    assert (found["reported_prompt_tokens_total"][()], found["reported_cached_tokens_total"][()]) == (100, 60)


def test_the_hit_ratio_is_zero_before_the_first_request():
    assert samples(parts())["cache_hit_ratio"][()] == 0


def test_gauges_show_what_is():
    metrics = Metrics()
    metrics.inflight, metrics.queue_depth = 3, 2
    metrics.lagged(0.02)
    found = samples(parts(metrics))
    assert (found["inflight"][()], found["queue_depth"][()]) == (3, 2)
    assert found["event_loop_lag_seconds_bucket"][("0.01",)] == 0
    assert found["event_loop_lag_seconds_bucket"][("0.025",)] == 1


def test_a_worker_is_shown_as_the_fleet_has_it():
    worker = Worker("w0", W, lifecycle=State.READY)
    given = parts(None, worker)
    given.fleet.lease(worker, 70, 0.0)
    given.fleet.failed(worker, "reset")
    found = samples(given)
    names = ("up", "inflight", "prefill_outstanding", "requests_total", "failures_total")
    assert [found[f"worker_{name}"][(W,)] for name in names] == [1, 1, 70, 1, 1]


def test_restarts_are_counted_by_cause():
    worker = Worker("w0", W)
    worker.restarted = {Cause.HUNG: 2}
    told = samples(parts(None, worker))["worker_restarts_total"]
    assert told == {(cause.value, W): 2 if cause is Cause.HUNG else 0 for cause in Cause}


def test_a_workers_tokens_are_summed_up():
    worker = Worker("w0", W, lifecycle=State.READY)
    given = parts(None, worker)
    given.fleet.lease(worker, 70, 0.0, 100).told(Usage(90, 20, 8))
    found = samples(given)
    names = ("prompt", "uncached", "reported_prompt", "reported_cached", "answer")
    assert [found[f"worker_{name}_tokens_total"][(W,)] for name in names] == [100, 70, 90, 20, 8]


def test_a_worker_is_in_exactly_one_state():
    worker = Worker("w0", W, lifecycle=State.READY)
    given = parts(None, worker)
    given.fleet.set_draining(worker, True)
    found = samples(given)
    assert {state for (state, _), value in found["worker_state"].items() if value} == {"draining"}
    assert len(found["worker_state"]) == len(State)
    assert found["worker_up"][(W,)] == 0


def test_a_removed_worker_is_no_longer_shown():
    worker = Worker("w0", W)
    given = parts(None, worker)
    given.fleet.remove(worker)
    assert "worker_up" not in samples(given)


def test_the_prefix_index_is_shown_where_the_policy_has_one():
    found = samples(parts(index=SimpleNamespace(size=70, evictions=3)))
    assert (found["index_size"][()], found["index_evictions_total"][()]) == (70, 3)
    assert samples(parts())["index_size"][()] == 0


def test_scrapes_do_not_disturb_each_other():
    given = parts(busy_metrics(), Worker("w0", W))
    assert scrape(given) == scrape(given)


def test_each_worker_is_of_one_type():
    found = samples(parts(None, Worker("w0", W), Worker("w1", W + "1", role=Role.DECODE)))
    assert found["worker_type"] == {("regular", W): 1, ("decode", W + "1"): 1}
