"""What `launch doctor` makes of what it finds on this machine: facts -> findings. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from router.sockets import most_clients

if TYPE_CHECKING:
    from launcher.gpus import Driver, Memory

GIB = 1 << 30
# vLLM takes 0.9 of a GPU's memory and refuses to start when that is not free; SGLang's share is about the same.
ENGINES_SHARE = 0.9
FEW_CLIENTS = 1000  # below which the limit on open files is worth a word
SMALL_SHM = GIB  # bytes; what the processes of a tensor-parallel engine exchange goes through /dev/shm


class Mark(str, enum.Enum):
    OK = "ok"
    NOTE = "note"
    BAD = "bad"  # a launch would fail


@dataclass(frozen=True)
class Finding:
    mark: Mark
    topic: str
    says: str


@dataclass(frozen=True)
class Facts:
    """What was found. Sizes are bytes. An error is one line that says what would be right."""

    driver: Driver | None = None
    driver_error: str | None = None
    pool: str | None = None  # CUDA_VISIBLE_DEVICES
    engines: Mapping[str, str | None] = field(default_factory=dict)  # versions; None: not installed
    python: str = "python"  # where they were looked for
    router: str = "127.0.0.1:30000"
    router_free: bool = True
    base_port: int = 31000
    first_port: int | None = 31000  # the first that a worker can have; None: none
    files: int = 1 << 20  # that may be open
    memory: tuple[int, int] = (GIB, GIB)  # free, all
    cores: int = 1
    shm: int | None = None  # free in /dev/shm; None: there is none
    tp_size: int = 1
    logs: str = ""
    logs_error: str | None = None
    plan: str | None = None  # None: there is none, for want of a model or because of `plan_error`
    plan_error: str | None = None


def findings(facts: Facts) -> list[Finding]:
    """What is worth a line, in the order in which a launch would meet it."""
    return [
        *_driver(facts),
        *_engines(facts),
        *_ports(facts),
        _files(facts.files),
        Finding(Mark.OK, "machine", f"{facts.cores} cores, {_gib(*facts.memory)} memory free"),
        *_shm(facts),
        _logs(facts),
        _plan(facts),
    ]


def sound(found: list[Finding]) -> bool:
    """Whether a launch can be expected to start."""
    return all(finding.mark is not Mark.BAD for finding in found)


def _driver(facts: Facts) -> Iterator[Finding]:
    if facts.driver_error:
        yield Finding(Mark.BAD, "driver", facts.driver_error)
    elif facts.driver is None:
        yield Finding(Mark.NOTE, "driver", "no NVIDIA driver: engines run on the CPU")
    else:
        yield Finding(Mark.OK, "driver", f"{facts.driver.version}, for CUDA up to {facts.driver.cuda}")
        if not facts.driver.memories:
            yield Finding(Mark.NOTE, "GPUs", "the driver shows none: in a container, give it --gpus all")
        yield from map(_gpu, facts.driver.memories)
    if facts.pool is not None:
        yield Finding(Mark.NOTE, "GPUs", f"CUDA_VISIBLE_DEVICES={facts.pool!r} is the pool they are taken from")


def _gpu(memory: Memory) -> Finding:
    topic, name = f"GPU {memory.gpu.index}", memory.gpu.name
    if not memory.total:
        return Finding(Mark.OK, topic, f"{name}, shares the machine's memory")
    says = f"{name}, {_gib(memory.free, memory.total)} free"
    if memory.free >= ENGINES_SHARE * memory.total:
        return Finding(Mark.OK, topic, says)
    holders = f" (pids {', '.join(map(str, memory.pids))})" if memory.pids else ""
    return Finding(Mark.NOTE, topic, f"{says}: others hold the rest{holders}, and an engine may want more than is left")


def _engines(facts: Facts) -> Iterator[Finding]:
    there = [f"{name} {version}" for name, version in facts.engines.items() if version]
    missing = [name for name, version in facts.engines.items() if not version]
    if there:
        yield Finding(Mark.OK, "engines", ", ".join(there))
    if missing:
        text = f"not installed in {facts.python}: {', '.join(missing)}"
        yield Finding(Mark.OK if there else Mark.NOTE, "engines", text)


def _ports(facts: Facts) -> Iterator[Finding]:
    if facts.router_free:
        yield Finding(Mark.OK, "port", f"{facts.router} is free for the router")
    else:
        text = f"{facts.router} is in use: choose another --port (of a node that runs there: launch status)"
        yield Finding(Mark.BAD, "port", text)
    if facts.first_port is None:
        yield Finding(Mark.BAD, "ports", f"none is free from {facts.base_port}: choose a lower --worker-base-port")
    elif facts.first_port != facts.base_port:
        yield Finding(Mark.NOTE, "ports", f"{facts.base_port} cannot be had: workers begin at {facts.first_port}")
    else:
        yield Finding(Mark.OK, "ports", f"workers begin at {facts.first_port}")


def _files(limit: int) -> Finding:
    clients = most_clients(limit)
    says = f"{limit} may be open: {clients} clients at once"
    if clients >= FEW_CLIENTS:
        return Finding(Mark.OK, "files", says)
    return Finding(Mark.NOTE, "files", f"{says}; more need ulimit -n 65536 (in a unit file LimitNOFILE)")


def _shm(facts: Facts) -> Iterator[Finding]:
    if facts.tp_size > 1 and facts.shm is not None and facts.shm < SMALL_SHM:
        text = (
            f"{facts.shm / GIB:.2g} GiB free: too little for --tp-size {facts.tp_size}; in a container --shm-size 16g"
        )
        yield Finding(Mark.NOTE, "/dev/shm", text)


def _logs(facts: Facts) -> Finding:
    return Finding(Mark.BAD, "logs", facts.logs_error) if facts.logs_error else Finding(Mark.OK, "logs", facts.logs)


def _plan(facts: Facts) -> Finding:
    if facts.plan_error:
        return Finding(Mark.BAD, "plan", facts.plan_error)
    if facts.plan is None:
        return Finding(Mark.NOTE, "plan", "give --model-path, and what else you would, to see what would be started")
    return Finding(Mark.OK, "plan", facts.plan)


def _gib(free: int, total: int) -> str:
    return f"{free / GIB:.1f} of {total / GIB:.1f} GiB"
