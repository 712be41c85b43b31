"""vLLM's dialect: https://docs.vllm.ai, `vllm serve` and its metrics. Pure, but for check()."""

from __future__ import annotations

import sys

from launcher.config import LaunchConfig
from launcher.engines import Command, installed, key_env
from launcher.plan import WorkerSpec


class VLLM:
    """`vllm serve`, run as a module so that any interpreter can be given."""

    name = "vllm"
    module = "vllm"
    ready_path = "/health"
    native_generate = False
    uuid_devices = False  # reads the entries as integers (vLLM issues 6551, 13815, 20939)

    def check(self, config: LaunchConfig) -> None:
        installed.require_module(self.module, self.name, "pip install vllm", config.engine_python)
        installed.require_model(config.model_path)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        # On a CPU it binds its threads to cores of its own choice, the same ones in every replica; ours are chosen.
        env = {} if spec.devices else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        return Command(
            (
                *(config.engine_python or sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"),
                config.model_path,
                *("--host", spec.host, "--port", str(spec.port)),
                *("--tensor-parallel-size", str(config.tp_size)),
                "--enable-prompt-tokens-details",  # without it usage has no cached_tokens
                *config.engine_args,
            ),
            {**env, **key_env("VLLM_API_KEY", spec)},
        )
