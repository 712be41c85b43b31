"""Which GPUs there are for us, and who still holds their memory: the only file that imports pynvml.

CUDA and NVML number the same devices differently. Here an index counts in PCI order, which is what CUDA does as well
under CUDA_DEVICE_ORDER=PCI_BUS_ID. A GPU in MIG mode is not a device of its own: its slices are listed instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from launcher.errors import NoGpu
from launcher.plan import Gpu
from router.parts import DeviceUse

HIDE_ALL = ("", "-1", "NoDevFiles")  # the last is what Slurm writes for a job without GPUs


@dataclass(frozen=True)
class _Board:
    """One physical GPU and what of it can be used: itself, or its MIG slices."""

    uuid: str
    devices: tuple[Gpu, ...]


def visible(environ: Mapping[str, str], nvml: Any = pynvml) -> list[Gpu]:
    """The GPUs that an engine started with `environ` may use, in the order in which CUDA would count them.

    An inherited CUDA_VISIBLE_DEVICES is the pool: its entries (indices, UUIDs, unique beginnings of UUIDs) are kept as
    tokens. Without NVML, a driver or a GPU there are none. Raises NoGpu when the pool names what is not there, and when
    there is a driver but it does not answer: falling back to the CPU would hide what is broken.
    """
    pool = environ.get("CUDA_VISIBLE_DEVICES")
    if pool is not None and pool.strip() in HIDE_ALL:
        return []
    try:
        with _opened(nvml):
            boards = _boards(nvml)
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return []
    except nvml.NVMLError as error:
        raise NoGpu(
            f"the NVIDIA driver does not answer (NVML: {error}): repair it, often by a reboot after an update, "
            "or set CUDA_VISIBLE_DEVICES to the empty string to run without GPUs"
        ) from error
    if pool is None or not boards:
        return [gpu for board in boards for gpu in board.devices]
    return _chosen(boards, pool)


@dataclass(frozen=True)
class Memory:
    """One GPU's memory. Bytes; 0 where it is the host's. `pids`: who holds some, as far as this user may know."""

    gpu: Gpu
    free: int
    total: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, the newest CUDA it can serve, and all GPUs that it shows us."""

    version: str
    cuda: str  # 12.8
    memories: tuple[Memory, ...] = ()


def survey(nvml: Any = pynvml) -> Driver | None:
    """The driver and how its GPUs are; None without one. Raises NoGpu when it does not answer."""
    try:
        with _opened(nvml):
            cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()  # 12080 is 12.8
            memories = tuple(_memory_of(nvml, index, handle) for index, handle in _in_order(nvml))
            return Driver(nvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}", memories)
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return None
    except nvml.NVMLError as error:
        raise NoGpu(f"the NVIDIA driver does not answer (NVML: {error}): repair it, often by a reboot") from error


def _memory_of(nvml: Any, index: int, handle: Any) -> Memory:
    gpu = _gpu(nvml, index, handle)
    free = int(nvml.nvmlDeviceGetMemoryInfo(handle).free) if gpu.memory else 0
    return Memory(gpu, free, gpu.memory, tuple(process.pid for process in _processes(nvml, handle)))


def holding(pids: Collection[int], nvml: Any = pynvml) -> set[int]:
    """Those of `pids` that still hold memory on some GPU. Never raises: when NVML fails, nobody is known to.

    A killed process keeps its GPU memory until the driver has torn its context down, seconds after the kernel let go.
    """
    try:
        with _opened(nvml):
            return {p.pid for handle in _everything(nvml) for p in _processes(nvml, handle)} & set(pids)
    except nvml.NVMLError:
        return set()


def usage(names: Collection[str], nvml: Any = pynvml) -> dict[str, DeviceUse]:
    """What of these devices, named as in WorkerSpec.devices, is in use.

    Never raises: what NVML does not tell is absent. It counts all processes; of a MIG slice it tells the memory only.
    """
    found = {}
    try:
        with _opened(nvml):
            boards = _boards(nvml)
            for name in names:
                for gpu in _named(boards, name):
                    found[name] = _use(nvml, nvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
    except nvml.NVMLError:
        pass
    return found


def _use(nvml: Any, handle: Any) -> DeviceUse:
    used = total = share = None
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used, total = int(memory.used), int(memory.total)
    with suppress(nvml.NVMLError):
        share = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    return DeviceUse(used, total, share)


@contextmanager
def _opened(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _boards(nvml: Any) -> list[_Board]:
    return [_board(nvml, index, handle) for index, handle in _in_order(nvml)]


def _in_order(nvml: Any) -> list[tuple[int, Any]]:
    return list(enumerate(sorted(_handles(nvml), key=lambda handle: _pci_order(nvml, handle))))


def _handles(nvml: Any) -> Iterator[Any]:
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            yield nvml.nvmlDeviceGetHandleByIndex(number)
        except nvml.NVMLError_NoPermission:
            # NVML counts GPUs that a cgroup (Slurm, a container) keeps from us; CUDA does not see them at all.
            continue


def _pci_order(nvml: Any, handle: Any) -> tuple[int, int, int]:
    pci = nvml.nvmlDeviceGetPciInfo(handle)
    return pci.domain, pci.bus, pci.device


def _board(nvml: Any, index: int, handle: Any) -> _Board:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    if not _in_mig_mode(nvml, handle):
        return _Board(uuid, (_gpu(nvml, index, handle),))
    return _Board(uuid, tuple(replace(_gpu(nvml, index, part), mig=True) for part in _slices(nvml, handle)))


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    return Gpu(index, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), _memory(nvml, handle))


def _memory(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:
        return 0  # a GPU that shares the host's memory (GB10, Jetson) has no figure of its own


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False  # the GPU, or the driver, is older than MIG
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _slices(nvml: Any, handle: Any) -> Iterator[Any]:
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
            continue  # places of which no slice has been made


def _everything(nvml: Any) -> Iterator[Any]:
    for handle in _handles(nvml):
        yield handle
        if _in_mig_mode(nvml, handle):
            yield from _slices(nvml, handle)


def _processes(nvml: Any, handle: Any) -> list[Any]:
    try:
        return list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError:
        return []  # one GPU that has fallen off the bus must not hide the others


def _chosen(boards: list[_Board], pool: str) -> list[Gpu]:
    """Resolve the pool by CUDA's rules, but say what CUDA would pass over in silence.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars: an invalid entry hides itself and all after it.
    """
    gpus: list[Gpu] = []
    for entry in (part.strip() for part in pool.split(",")):
        if entry == "-1":
            break  # CUDA's own word for "no more"
        matches = _named(boards, entry)
        problem = _problem(matches, gpus)
        if problem:
            raise NoGpu(
                f"CUDA_VISIBLE_DEVICES={pool}: '{entry}' {problem}, and CUDA would hide it and all that follow it; "
                f"there are: {_inventory(boards)}"
            )
        gpus.append(replace(matches[0], token=entry))
    return gpus


def _named(boards: list[_Board], entry: str) -> list[Gpu]:
    """The devices that `entry` may mean. Of a GPU in MIG mode that is named as a whole, CUDA uses the first slice."""
    if entry.isdecimal():
        return list(boards[int(entry)].devices[:1]) if int(entry) < len(boards) else []
    if not entry.startswith(("GPU-", "MIG-")):
        return []
    whole = [gpu for board in boards if board.uuid.startswith(entry) for gpu in board.devices[:1]]
    return whole or [gpu for board in boards for gpu in board.devices if gpu.uuid.startswith(entry)]


def _problem(matches: list[Gpu], chosen: list[Gpu]) -> str | None:
    if not matches:
        return "names no GPU here"
    if len(matches) > 1:
        return f"is the beginning of {len(matches)} UUIDs"
    if any(gpu.uuid == matches[0].uuid for gpu in chosen):
        return "names a GPU for the second time"
    return None


def _inventory(boards: list[_Board]) -> str:
    return ", ".join(f"{index}: {board.uuid}" for index, board in enumerate(boards))
