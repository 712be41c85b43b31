"""Looks around on this machine, as a launch with these settings would, and tells it: `launch doctor`."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import doctor, gpus, logs, plan, preview, run
from launcher.config import LaunchConfig
from launcher.doctor import Facts, Finding
from launcher.engines import installed
from launcher.errors import LaunchError
from launcher.ports import Ports, ephemeral

PACKAGES = ("sglang", "vllm", "lmdeploy", "xllamacpp")  # engine by engine, what pip calls it


@dataclass(frozen=True)
class Report:
    """What was found, and what would be started: for people and as data."""

    findings: list[Finding]
    workers: list[dict[str, object]]
    commands: str

    def data(self) -> dict[str, object]:
        found = [
            {"mark": finding.mark.value, "topic": finding.topic, "says": finding.says} for finding in self.findings
        ]
        return {"sound": doctor.sound(self.findings), "findings": found, "workers": self.workers}


def look(config: LaunchConfig, *, planned: bool) -> Report:
    """`planned`: whether a model is given, so that it can be told what would be started. Starts nothing."""
    facts = {**_gpus(), **_engines(config), **_ports(config), **_machine(config), **_logs(config)}
    workers: list[dict[str, object]] = []
    commands = ""
    if planned:
        try:
            title, workers, commands = _rehearse(config)
            facts["plan"] = title
        except LaunchError as error:
            facts["plan_error"] = str(error)
    return Report(doctor.findings(Facts(**facts)), workers, commands)


def _rehearse(config: LaunchConfig) -> tuple[str, list[dict[str, object]], str]:
    ports = Ports()
    try:
        with _silenced(run.logger):  # what a launch would warn of is a finding here
            engine, specs = run.prepare(config, ports)
    finally:
        ports.close()
    told = (config, engine, specs, os.environ)
    return run.title(config, engine, specs), preview.describe(*told), preview.text(*told)


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    logger.disabled, before = True, logger.disabled
    try:
        yield
    finally:
        logger.disabled = before


def _gpus() -> dict[str, Any]:
    try:
        return {"driver": gpus.survey(), "pool": os.environ.get("CUDA_VISIBLE_DEVICES")}
    except LaunchError as error:
        return {"driver_error": str(error)}


def _engines(config: LaunchConfig) -> dict[str, Any]:
    python = config.engine_python or sys.executable
    try:
        found = installed.versions(PACKAGES, python)
    except LaunchError as error:
        return {"python": python, "plan_error": str(error)}
    program = shutil.which("llama-server")
    return {"python": python, "engines": {**found, "llama-server": program} if program else found}


def _ports(config: LaunchConfig) -> dict[str, Any]:
    router, ports = config.router, Ports()
    facts: dict[str, Any] = {"router": f"{router.host}:{router.port}", "base_port": config.worker_base_port}
    facts["router_free"] = router.port == 0 or _can_bind(router.host, router.port)
    try:
        facts["first_port"] = plan.next_port(config.worker_base_port - 1, ports.free, ephemeral())
    except LaunchError:
        facts["first_port"] = None
    finally:
        ports.close()
    return facts


def _can_bind(host: str, port: int) -> bool:
    """Whether the router could listen there; an address that is none of ours is as good as taken."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError:
        return False
    return True


def _machine(config: LaunchConfig) -> dict[str, Any]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the router raises the soft limit to it
    return {
        "memory": _memory(),
        "cores": len(os.sched_getaffinity(0)),
        "files": sys.maxsize if hard == resource.RLIM_INFINITY else hard,
        "shm": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None,
        "tp_size": config.tp_size,
    }


def _memory() -> tuple[int, int]:
    """Bytes that can be had without swapping, and all there are."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}  # in KiB
    return sizes["MemAvailable"] << 10, sizes["MemTotal"] << 10


def _logs(config: LaunchConfig) -> dict[str, Any]:
    try:
        return {"logs": str(logs.folder(config.log_dir, config.router.port))}
    except OSError as error:
        return {"logs_error": f"{error.filename} cannot be used ({error.strerror}): give another --log-dir"}
