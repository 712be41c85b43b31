"""The launcher's settings: a LaunchConfig that exists is valid, and every CLI default is read from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.errors import BadConfig
from router.config import RouterConfig

CLUSTERS = ("ray",)
ENGINE_NAMES = ("auto", "sglang", "vllm", "lmdeploy", "llama.cpp", "sim", "command")


@dataclass(frozen=True)
class LaunchConfig:
    """Settings of one launch. Times are seconds. Raises BadConfig when a value cannot be used."""

    model_path: str
    dp_size: int | None = None  # None: visible GPUs // tp_size, or 1 on a CPU
    tp_size: int = 1
    engine: str = "auto"
    engine_command: str | None = None
    engine_python: str | None = None  # None: the interpreter that runs this
    engine_args: tuple[str, ...] = ()  # what follows -- on the command line, passed on as it is
    worker_base_port: int = 31000
    worker_startup_timeout: float = 1800.0
    max_restarts: int = 5
    restart_window: float = 600.0
    stop_timeout: float = 10.0
    drain_timeout: float = 180.0
    cluster: str | None = None  # None: this machine
    ray_address: str = "auto"  # of the head; auto: of the cluster that this machine belongs to
    log_dir: str | None = None  # None: the platform's state folder
    router: RouterConfig = field(default_factory=RouterConfig)

    def __post_init__(self) -> None:
        if not self.model_path.strip():
            raise BadConfig("--model-path is empty: give a model id, a folder, a .gguf file, or 'demo'")
        if self.engine not in ENGINE_NAMES:
            raise BadConfig(f"--engine {self.engine} is not known: choose one of {', '.join(ENGINE_NAMES)}")
        if (self.engine == "command") != (self.engine_command is not None):
            raise BadConfig("--engine command and --engine-command belong together: give both, or neither")
        if self.cluster not in (None, *CLUSTERS):
            raise BadConfig(f"--cluster {self.cluster} is not known: choose one of {', '.join(CLUSTERS)}")
        if self.cluster != "ray" and self.ray_address != "auto":
            raise BadConfig("--ray-address is for --cluster ray: give both, or neither")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = "--" + name.replace("_", "-")
                raise BadConfig(f"{flag} is {value}: it must lie between {low:g} and {high:g}")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("dp_size", 1, 1024),
    ("tp_size", 1, 1024),
    ("worker_base_port", 1024, 65_000),
    ("worker_startup_timeout", 0.1, 86_400),
    ("max_restarts", 0, 1_000_000),
    ("restart_window", 1, 7 * 86_400),
    ("stop_timeout", 0, 3_600),
    ("drain_timeout", 0, 7 * 86_400),
)
