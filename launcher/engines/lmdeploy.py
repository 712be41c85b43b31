"""LMDeploy's dialect: https://lmdeploy.readthedocs.io, `serve api_server` and its metrics. Pure, but for check()."""

from __future__ import annotations

import sys

from launcher.config import LaunchConfig
from launcher.engines import KEYED, Command, installed, key_env, module
from launcher.plan import WorkerSpec


class LMDeploy:
    """`lmdeploy serve api_server`, run as a module so that any interpreter can be given."""

    name = "lmdeploy"
    module = "lmdeploy"
    ready_path = "/health"
    native_generate = False  # it has a /generate, in a shape of its own: clients of this one send SGLang's
    uuid_devices = False  # nothing says that both of its backends take them

    def check(self, config: LaunchConfig) -> None:
        installed.require_module(self.module, self.name, "pip install lmdeploy", config.engine_python)
        installed.require_model(config.model_path)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        return Command(
            (
                *(
                    config.engine_python or sys.executable,
                    *module("lmdeploy", "--api-keys", spec),
                    "serve",
                    "api_server",
                ),
                config.model_path,
                *("--server-name", spec.host, "--server-port", str(spec.port)),
                *("--tp", str(config.tp_size)),
                "--enable-prefix-caching",  # off by default: a repeated prompt would be computed anew
                *config.engine_args,
            ),
            key_env(KEYED, spec),
        )
