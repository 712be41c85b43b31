"""vLLM's dialect."""

from __future__ import annotations

import pytest

from launcher.config import LaunchConfig
from launcher.engines import Load
from launcher.engines.vllm import VLLM
from launcher.plan import WorkerSpec

NOW = """\
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.125
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 400.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 100.0
"""
EARLIER = """\
vllm:num_requests_running 0.0
vllm:gpu_cache_usage_perc 0.5
vllm:gpu_prefix_cache_queries_total 10
vllm:gpu_prefix_cache_hits_total 5
"""
V0 = "vllm:gpu_prefix_cache_hit_rate 0.75\n"


def test_it_is_started_as_a_module_with_its_documented_flags_and_the_users_last():
    config = LaunchConfig("org/m", tp_size=2, engine_python="/v/python", engine_args=("--max-model-len", "8192"))
    command = VLLM().command(WorkerSpec(0, 31000, ("0", "1")), config)
    assert " ".join(command.argv) == (
        "/v/python -m vllm.entrypoints.cli.main serve org/m --host 127.0.0.1 --port 31000 "
        "--tensor-parallel-size 2 --enable-prompt-tokens-details --max-model-len 8192"
    )
    assert command.env == {}


def test_on_a_cpu_it_must_not_bind_its_threads_itself():
    command = VLLM().command(WorkerSpec(0, 31000, cpus=(0, 1)), LaunchConfig("m"))
    assert command.env == {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.mark.parametrize(
    ("metrics", "load"),
    [
        (NOW, Load(running=2, waiting=1, kv_usage=0.125, prefix_hit_rate=0.25)),
        (EARLIER, Load(running=0, kv_usage=0.5, prefix_hit_rate=0.5)),
        (V0, Load(prefix_hit_rate=0.75)),
        ("vllm:prefix_cache_queries_total 0\nvllm:prefix_cache_hits_total 0\n", Load()),
        ("", Load()),
    ],
)
def test_its_load_is_read_by_new_and_old_names(metrics: str, load: Load):
    assert VLLM().load(metrics) == load


def test_generate_is_translated_and_devices_are_integers():
    assert VLLM().native_generate is False
    assert VLLM().uuid_devices is False
