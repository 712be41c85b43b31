"""A stand-in for NVML, for processes that find it first on their path; its errors are the real module's own.

The folder that STAND_IN_DRIVER names is the driver: gpus.json lists GPUs in PCI order as {"uuid", "mig": [uuids of
slices] or absent}; fails.json maps the functions that fail to NVML's error codes; a file held/UUID.PID says that this
process has memory of that GPU, whether it lives or not.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
GIB = 1 << 30

_found = PathFinder.find_spec("pynvml", [entry for entry in sys.path if Path(entry or ".").resolve() != HERE])
assert _found is not None
assert _found.origin is not None
_spec = importlib.util.spec_from_file_location("pynvml_itself", _found.origin)
assert _spec is not None
assert _spec.loader is not None
_real = sys.modules["pynvml_itself"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_real)
globals().update({name: value for name, value in vars(_real).items() if name.startswith(("NVMLError", "NVML_"))})


def folder() -> Path:
    return Path(os.environ["STAND_IN_DRIVER"])


def told(name: str) -> Any:
    return json.loads((folder() / name).read_text())


def may_fail(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        code = told("fails.json").get(function.__name__)
        if code is not None:
            raise _real.NVMLError(code)
        return function(*args)

    return wrapped


@may_fail
def nvmlInit() -> None: ...


def nvmlShutdown() -> None: ...


@may_fail
def nvmlSystemGetDriverVersion() -> str:
    return "570.86.10"


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    return 12080


@may_fail
def nvmlDeviceGetCount() -> int:
    return len(told("gpus.json"))


@may_fail
def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    return {**told("gpus.json")[index], "bus": index}


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:
    return {"uuid": uuid}


def nvmlDeviceGetPciInfo(handle: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(domain=0, bus=handle["bus"], device=0)


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    return handle["uuid"]


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    return "stand-in"


@may_fail
def nvmlDeviceGetMemoryInfo(handle: dict[str, Any]) -> SimpleNamespace:
    used = GIB * len(holders(handle))
    return SimpleNamespace(total=80 * GIB, used=used, free=80 * GIB - used)


def nvmlDeviceGetUtilizationRates(handle: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(gpu=0)


def nvmlDeviceGetMigMode(handle: dict[str, Any]) -> tuple[int, int]:
    return int("mig" in handle), 0


def nvmlDeviceGetMaxMigDeviceCount(handle: dict[str, Any]) -> int:
    return len(handle["mig"])


def nvmlDeviceGetMigDeviceHandleByIndex(handle: dict[str, Any], index: int) -> dict[str, Any]:
    return {"uuid": handle["mig"][index], "bus": handle["bus"]}


@may_fail
def nvmlDeviceGetComputeRunningProcesses(handle: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid) for pid in holders(handle)]


def holders(handle: dict[str, Any]) -> list[int]:
    return [int(file.suffix[1:]) for file in (folder() / "held").glob(f"{handle['uuid']}.*")]
