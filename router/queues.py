"""How many requests an engine says are with it, from the metrics of any dialect. Pure."""

from __future__ import annotations

from typing import NamedTuple

from router import prometheus_text

RUNNING = (
    "sglang:num_running_reqs", "vllm:num_requests_running", "lmdeploy:num_requests_running",
    "llamacpp:requests_processing",
)  # fmt: skip
WAITING = (
    "sglang:num_queue_reqs", "vllm:num_requests_waiting", "lmdeploy:num_requests_waiting",
    "lmdeploy:num_api_requests_waiting", "llamacpp:requests_deferred",
)  # fmt: skip


class Queues(NamedTuple):
    """Requests. All data-parallel ranks of an engine together."""

    waiting: float
    running: float


def read(metrics: str) -> Queues | None:
    """What a metrics page tells; None where it does not tell how many run."""
    samples = prometheus_text.read(metrics)
    running = prometheus_text.total(samples, *RUNNING)
    if running is None:
        return None
    return Queues(max(0.0, prometheus_text.total(samples, *WAITING) or 0.0), max(0.0, running))
