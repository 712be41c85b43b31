"""GPUs x dp x tp -> WorkerSpecs: which devices, port and CPU share each replica gets. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One visible device. `index` counts in PCI order (CUDA_DEVICE_ORDER=PCI_BUS_ID); `token` is the user's name for it."""

    index: int
    uuid: str
    name: str
    memory: int  # bytes
    token: str | None = None  # its entry in the inherited CUDA_VISIBLE_DEVICES, None without one
    mig: bool = False  # a MIG slice: can only be pinned by its UUID, and serves one process


@dataclass(frozen=True)
class WorkerSpec:
    """All that is decided about one replica before its process exists. The port may be replaced when it is taken."""

    replica: int
    port: int
    devices: tuple[str, ...] = ()  # entries for CUDA_VISIBLE_DEVICES; () on a CPU
    cpus: tuple[int, ...] = ()  # cores it may run on; () means all
    threads: int | None = None  # compute threads; None leaves the engine's default
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"
