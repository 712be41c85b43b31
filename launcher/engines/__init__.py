"""The engines' dialects, by name: how each is started, asked and read. Pure, but for check() and choose()."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from launcher.config import LaunchConfig
from launcher.engines import keyed
from launcher.errors import EngineMissing
from launcher.plan import Gpu, WorkerSpec


@dataclass(frozen=True)
class Command:
    """A process to start: argv, and what its environment has beyond the launcher's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


KEYED = keyed.VARIABLE


def key_env(name: str, spec: WorkerSpec) -> dict[str, str]:
    """What tells an engine, by a variable of its own, which key its clients must show."""
    return {} if spec.key is None else {name: spec.key}


def module(name: str, key_option: str, spec: WorkerSpec) -> tuple[str, ...]:
    """What runs a server's module that can be given its key only by an option; goes with key_env(KEYED, spec)."""
    return ("-m", name) if spec.key is None else (keyed.__file__, name, key_option)


class Engine(Protocol):
    """One inference server's dialect."""

    name: str
    ready_path: str  # answers 200 once the engine serves
    uuid_devices: bool  # whether CUDA_VISIBLE_DEVICES may hold UUIDs

    @property
    def native_generate(self) -> bool | None:
        """Whether /generate is its own; else it is translated to /v1/completions. None: ask the worker."""

    def check(self, config: LaunchConfig) -> None:
        """Raise EngineMissing when the engine is not installed, or the model is not there; say what would be right."""

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        """How to start `spec`. Affinity, plan.cuda_env and plan.thread_env are the launcher's; the rest is here."""


# The dialects import what is above.
from launcher.engines import installed  # noqa: E402
from launcher.engines.command import CommandEngine  # noqa: E402
from launcher.engines.llama_cpp import LlamaCpp, LlamaServer, can_serve, model_file  # noqa: E402
from launcher.engines.lmdeploy import LMDeploy  # noqa: E402
from launcher.engines.sglang import SGLang  # noqa: E402
from launcher.engines.sim import Sim  # noqa: E402
from launcher.engines.vllm import VLLM  # noqa: E402

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (SGLang(), VLLM(), LMDeploy(), LlamaCpp(), Sim(), CommandEngine())
}
GPU_ENGINES = ("sglang", "vllm", "lmdeploy")  # in the order in which `auto` prefers them


def choose(config: LaunchConfig, gpus: Sequence[Gpu]) -> Engine:
    """The engine that `config` names or, for `auto`, the one that suits the model and is installed.

    Raises EngineMissing, which says what to install, when none suits.
    """
    name = config.engine
    if name == "auto":
        name = _auto(config, gpus)
    return _llama_cpp(config, gpus) if name == "llama.cpp" else ENGINES[name]


def _auto(config: LaunchConfig, gpus: Sequence[Gpu]) -> str:
    if config.model_path == "demo" or config.model_path.endswith(".gguf"):
        return "llama.cpp"
    if gpus:
        for name in GPU_ENGINES:
            if installed.has_module(name, config.engine_python):
                return name
    if can_serve(config.model_path):
        return "llama.cpp"
    installed.require_model(config.model_path)
    if gpus:
        raise EngineMissing(
            f"no engine for {config.model_path} is installed in {config.engine_python or sys.executable}: "
            "pip install sglang, vllm or lmdeploy, or point --engine-python at its environment"
        )
    raise EngineMissing(
        f"no GPU is visible, and llama.cpp cannot serve {config.model_path} on the CPU: give a .gguf file or 'demo', "
        "or name an engine with --engine"
    )


def _llama_cpp(config: LaunchConfig, gpus: Sequence[Gpu]) -> Engine:
    """Our server, or a llama-server on PATH: with GPUs, since xllamacpp's common build has no CUDA, or without ours."""
    program = shutil.which("llama-server")
    if program is None or not (gpus or not installed.has_module("xllamacpp", config.engine_python)):
        return ENGINES["llama.cpp"]
    return LlamaServer(program, str(model_file(config.model_path, os.environ)))
