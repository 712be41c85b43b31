"""The dialect of `sim`: the inference server without a model that comes with this package. Pure, but for check()."""

from __future__ import annotations

import sys

from launcher.config import LaunchConfig
from launcher.engines import Command, installed, key_env
from launcher.plan import WorkerSpec


class Sim:
    """Speaks SGLang's protocol and metrics; what follows `--` on the command line are its own options."""

    name = "sim"
    ready_path = "/health"
    native_generate = True
    uuid_devices = True

    def check(self, config: LaunchConfig) -> None:
        """Any model name will do. Raises BadConfig or EngineMissing when another interpreter cannot run it."""
        installed.require_module("launcher", self.name, "pip install llm-launch there", config.engine_python)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        python = config.engine_python or sys.executable
        listen = ("--host", spec.host, "--port", str(spec.port))
        model = ("--model", config.model_path)
        argv = (python, "-m", "launcher.engines.sim_server", *listen, *model, *config.engine_args)
        return Command(argv, key_env("SIM_API_KEY", spec))
