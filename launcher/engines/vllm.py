"""vLLM's dialect: https://docs.vllm.ai, `vllm serve` and its metrics. Pure, but for check()."""

from __future__ import annotations

import sys

from launcher.config import LaunchConfig
from launcher.engines import Command, Load, installed, prometheus_text
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
            env,
        )

    def load(self, metrics: str) -> Load:
        samples = prometheus_text.read(metrics)
        return Load(
            running=prometheus_text.total(samples, "vllm:num_requests_running"),
            waiting=prometheus_text.total(samples, "vllm:num_requests_waiting"),
            kv_usage=prometheus_text.mean(samples, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            prefix_hit_rate=_hit_rate(samples),
        )


def _hit_rate(samples: prometheus_text.Samples) -> float | None:
    for cache in ("vllm:prefix_cache", "vllm:gpu_prefix_cache"):  # counters in tokens; the second until release 0.9
        hits, queries = (prometheus_text.total(samples, f"{cache}_{what}_total") for what in ("hits", "queries"))
        if queries is not None:
            return prometheus_text.ratio(hits, queries)
    return prometheus_text.mean(samples, "vllm:gpu_prefix_cache_hit_rate")  # the V0 engine's gauge
