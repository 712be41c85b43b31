"""vLLM's dialect."""

from __future__ import annotations

from launcher.config import LaunchConfig
from launcher.engines.vllm import VLLM
from launcher.plan import WorkerSpec


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


def test_generate_is_translated_and_devices_are_integers():
    assert VLLM().native_generate is False
    assert VLLM().uuid_devices is False
