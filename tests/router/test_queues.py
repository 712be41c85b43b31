"""What engines of every dialect say of their queues."""

from __future__ import annotations

import pytest

from router.queues import Queues, read

SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m",tp_rank="0"} 3.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 4.0
sglang:num_running_reqs{model_name="m",tp_rank="1"} 2.0
sglang:token_usage 0.25
"""
VLLM = """\
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 1.0
"""
LMDEPLOY = (
    'lmdeploy:num_requests_running{model_name="m"} 6\n'
    "lmdeploy:num_requests_waiting 2\n"
    "lmdeploy:num_api_requests_waiting 3\n"
)
LLAMA_CPP = "llamacpp:requests_processing 4\nllamacpp:requests_deferred 12\n"


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (SGLANG, Queues(4, 5)),
        (VLLM, Queues(1, 2)),
        (LMDEPLOY, Queues(5, 6)),
        (LLAMA_CPP, Queues(12, 4)),
        ("vllm:num_requests_running 0", Queues(0, 0)),
        ("vllm:num_requests_running -1\nvllm:num_requests_waiting -1", Queues(0, 0)),
    ],
)
def test_every_dialect_is_read(metrics: str, told: Queues):
    assert read(metrics) == told


@pytest.mark.parametrize(
    "metrics", ["", "vllm:num_requests_waiting 3", "vllm:num_requests_running NaN", "<html>", "x" * 100_000]
)
def test_what_does_not_tell_is_not_taken_for_none(metrics: str):
    assert read(metrics) is None
