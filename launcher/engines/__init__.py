"""The engines' dialects, by name: how each is started, asked and read. Pure, but for check(), which looks around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from launcher.config import LaunchConfig
from launcher.plan import WorkerSpec


@dataclass(frozen=True)
class Command:
    """A process to start: argv, and what its environment has beyond the launcher's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """An engine's own word on its load; None where it does not tell."""

    running: float | None = None  # requests
    waiting: float | None = None  # requests
    kv_usage: float | None = None  # share of the KV cache in use, 0..1
    prefix_hit_rate: float | None = None  # 0..1


class Engine(Protocol):
    """One inference server's dialect."""

    name: str
    ready_path: str  # answers 200 once the engine serves
    native_generate: bool  # whether /generate is its own; else it is translated to /v1/completions
    uuid_devices: bool  # whether CUDA_VISIBLE_DEVICES may hold UUIDs

    def check(self, config: LaunchConfig) -> None:
        """Raise EngineMissing when the engine is not installed, or the model is not there; say what would be right."""

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        """How to start `spec`. CUDA_VISIBLE_DEVICES and CPU affinity are the launcher's, thread counts are ours."""

    def load(self, metrics: str) -> Load:
        """Read the engine's Prometheus text: old and new names, labels summed or averaged, None for what is absent."""
