"""GPUs x dp x tp -> WorkerSpecs: which devices, port and CPU share each replica gets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from launcher.config import LaunchConfig
from launcher.errors import BadConfig, NoGpu

if TYPE_CHECKING:
    from launcher.engines import Engine

# Engines derive more ports from their own (SGLang's NCCL and ZMQ ports, vLLM's band of 10): neighbours keep away.
PORT_STEP = 100
LAST_PORT = 65_535
EPHEMERAL = (32_768, 60_999)  # Linux's default net.ipv4.ip_local_port_range: outgoing connections take ports from it

# A simulated engine takes no GPU. What --tp-size means to a command is the command's own business.
WITHOUT_GPUS = ("sim",)
ANY_TP = ("sim", "command")

# OpenMP's variable; MKL and OpenBLAS go by it too. torch takes all cores where it is not set, and replicas that all do
# so load 15 times slower (vLLM issue 52330).
THREADS = "OMP_NUM_THREADS"

NOWHERE = ".invalid"  # names no host, and never will (RFC 2606)


@dataclass(frozen=True)
class Gpu:
    """One visible device. `index` counts in PCI order, as under CUDA_DEVICE_ORDER=PCI_BUS_ID."""

    index: int
    uuid: str
    name: str
    memory: int  # bytes; 0 where it is the host's
    token: str | None = None  # the user's name for it in the inherited CUDA_VISIBLE_DEVICES
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
    node: str | None = None  # of a cluster; None: this machine, or not decided
    key: str | None = field(default=None, repr=False)  # what its clients must show; None: nothing

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def placed(self) -> bool:
        return not self.host.endswith(NOWHERE)

    def unplaced(self) -> WorkerSpec:
        """The same without a place in its cluster: at an address that is nobody's."""
        return replace(self, host=f"replica-{self.replica}{NOWHERE}", devices=(), node=None)


def plan(
    config: LaunchConfig,
    gpus: Sequence[Gpu],
    engine: Engine,
    cores: Sequence[int],
    port_free: Callable[[int], bool],
    ephemeral: tuple[int, int] = EPHEMERAL,
) -> list[WorkerSpec]:
    """Replica r gets GPUs [r * tp, (r + 1) * tp), or without GPUs its share of `cores`, and a port of its own.

    Raises NoGpu when there are fewer GPUs than dp * tp, BadConfig when tensor parallelism cannot work on those there
    are, or when no port is left.
    """
    if engine.name in WITHOUT_GPUS:
        gpus = ()
    dp = config.dp_size or max(1, len(gpus) // config.tp_size)
    ports = _ports(config.worker_base_port, dp, port_free, ephemeral)
    if gpus:
        return _on_gpus(config.tp_size, dp, gpus, engine, cores, ports)
    if config.tp_size > 1 and engine.name not in ANY_TP:
        raise NoGpu(f"--tp-size {config.tp_size} needs GPUs, but none is visible: on a CPU only --tp-size 1 works")
    return _on_cpus(dp, cores, ports)


def next_port(after: int, port_free: Callable[[int], bool], ephemeral: tuple[int, int] = EPHEMERAL) -> int:
    """The first free port above `after` that no outgoing connection may take. Raises BadConfig when there is none."""
    low, high = ephemeral
    port = after + 1
    while port <= LAST_PORT:
        # A range that reaches to the top has no ports beyond it: then one inside is better than none.
        if low <= port <= high < LAST_PORT:
            port = high + 1
        elif port_free(port):
            return port
        else:
            port += 1
    raise BadConfig(f"no port is free from {after + 1} to {LAST_PORT}: choose a lower --worker-base-port")


def cuda_env(spec: WorkerSpec) -> dict[str, str]:
    """What pins an engine to its devices. Nothing for a replica without: what it may see is not ours to hide."""
    if not spec.devices:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(spec.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def thread_env(spec: WorkerSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """What holds an engine to its share of the cores; a count that the user has set in `inherited` stands."""
    return {} if spec.threads is None or THREADS in inherited else {THREADS: str(spec.threads)}


def _ports(base: int, count: int, port_free: Callable[[int], bool], ephemeral: tuple[int, int]) -> list[int]:
    ports = [next_port(base - 1, port_free, ephemeral)]
    while len(ports) < count:
        ports.append(next_port(ports[-1] + PORT_STEP - 1, port_free, ephemeral))
    return ports


def _on_gpus(
    tp: int, dp: int, gpus: Sequence[Gpu], engine: Engine, cores: Sequence[int], ports: Sequence[int]
) -> list[WorkerSpec]:
    if dp * tp > len(gpus):
        raise NoGpu(_too_few(dp, tp, gpus))
    if tp > 1 and any(gpu.mig for gpu in gpus[: dp * tp]):
        raise BadConfig(f"--tp-size {tp} cannot join MIG slices: one process sees one slice, so use --tp-size 1")
    names = [_device(gpu, engine) for gpu in gpus]
    threads = max(1, len(cores) // (dp * tp))  # each GPU has a process of its own
    return [WorkerSpec(r, ports[r], tuple(names[r * tp : (r + 1) * tp]), threads=threads) for r in range(dp)]


def _on_cpus(dp: int, cores: Sequence[int], ports: Sequence[int]) -> list[WorkerSpec]:
    shares = [_share(r, dp, cores) for r in range(dp)]
    return [WorkerSpec(r, ports[r], cpus=share, threads=len(share)) for r, share in enumerate(shares)]


def _share(replica: int, dp: int, cores: Sequence[int]) -> tuple[int, ...]:
    """Neighbouring cores, each used once; with more replicas than cores, one core each, in turn."""
    if dp > len(cores):
        return (cores[replica % len(cores)],)
    return tuple(cores[replica * len(cores) // dp : (replica + 1) * len(cores) // dp])


def _device(gpu: Gpu, engine: Engine) -> str:
    if gpu.mig:
        return gpu.uuid
    if gpu.token is not None and engine.uuid_devices:
        return gpu.token
    return str(gpu.index)


def _too_few(dp: int, tp: int, gpus: Sequence[Gpu]) -> str:
    there = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus[:4]) + (", ..." if len(gpus) > 4 else "")
    count = "1 is" if len(gpus) == 1 else f"{len(gpus)} are"
    fit = f"--dp-size {len(gpus) // tp}" if tp <= len(gpus) else f"--tp-size {len(gpus)} with --dp-size 1"
    return f"--dp-size {dp} x --tp-size {tp} needs {dp * tp} GPUs, but {count} visible ({there}): {fit} would fit"
