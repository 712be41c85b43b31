"""SGLang's dialect: https://docs.sglang.io, server arguments and production metrics. Pure, but for check()."""

from __future__ import annotations

import sys

from launcher.config import LaunchConfig
from launcher.engines import KEYED, Command, installed, key_env, module
from launcher.plan import WorkerSpec


class SGLang:
    """`python -m sglang.launch_server`."""

    name = "sglang"
    module = "sglang"
    ready_path = "/health"  # generates one token: it tells a hung scheduler from a busy one
    native_generate = True
    uuid_devices = False  # its custom all-reduce reads the entries as integers (SGLang pull request 25996)

    def check(self, config: LaunchConfig) -> None:
        installed.require_module(self.module, self.name, "pip install sglang", config.engine_python)
        installed.require_model(config.model_path)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        return Command(
            (
                *(config.engine_python or sys.executable, *module("sglang.launch_server", "--api-key", spec)),
                *("--model-path", config.model_path),
                *("--host", spec.host, "--port", str(spec.port)),
                *("--tp-size", str(config.tp_size)),
                "--enable-metrics",
                "--enable-cache-report",  # without it usage has no cached_tokens
                *config.engine_args,
            ),
            key_env(KEYED, spec),
        )
