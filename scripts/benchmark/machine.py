"""The machine and the versions of what ran on it, so that a figure can be judged later."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from scripts.benchmark.contestants import Contestant

TOOLS = {
    "wrk": "apt-get install wrk",
    "cc": "apt-get install gcc libc6-dev",
    "taskset": "apt-get install util-linux",
}


def missing(tools: Iterable[str]) -> dict[str, str]:
    """Those that are not here, each with how to get it."""
    return {tool: TOOLS[tool] for tool in tools if shutil.which(tool) is None}


def cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def describe(field: Iterable[Contestant]) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "versions": {contestant.name: contestant.version for contestant in field},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
