"""LMDeploy's dialect."""

from __future__ import annotations

from launcher.config import LaunchConfig
from launcher.engines import Load
from launcher.engines.lmdeploy import LMDeploy
from launcher.plan import WorkerSpec


def test_it_is_started_with_its_documented_flags_and_the_users_last():
    config = LaunchConfig("org/m", tp_size=2, engine_python="/v/python", engine_args=("--session-len", "4096"))
    command = LMDeploy().command(WorkerSpec(0, 31000, ("0", "1")), config)
    assert " ".join(command.argv) == (
        "/v/python -m lmdeploy serve api_server org/m --server-name 127.0.0.1 --server-port 31000 --tp 2 "
        "--enable-prefix-caching --session-len 4096"
    )


def test_requests_wait_in_its_engine_and_before_it():
    metrics = (
        'lmdeploy:num_requests_running{model_name="m"} 6\n'
        "lmdeploy:num_requests_waiting 2\n"
        "lmdeploy:num_api_requests_waiting 3\n"
        "lmdeploy:gpu_cache_usage_perc 0.5\n"
        "lmdeploy:prefix_cache_hit_rate 0.25\n"
    )
    assert LMDeploy().load(metrics) == Load(running=6, waiting=5, kv_usage=0.5, prefix_hit_rate=0.25)
    assert LMDeploy().load("") == Load()


def test_sglangs_generate_is_translated_for_it():
    assert LMDeploy().native_generate is False
