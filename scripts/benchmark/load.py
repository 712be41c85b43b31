"""Load: wrk, told by load.lua what to send, and the streaming client. Both run on the load's CPU."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.contestants import Running
from scripts.benchmark.processes import LOAD_CPU, Child, Meter

SCRIPT = Path(__file__).parent / "load.lua"
CONNECTIONS = 64


@dataclass(frozen=True)
class Load:
    """What wrk saw. `failed` requests got no answer, `refused` ones a status of 400 or more."""

    requests: int
    seconds: float
    p50_us: int
    p99_us: int
    failed: int
    refused: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def wrk(
    port: int, kind: str, seconds: float, *, connections: int = CONNECTIONS, header: str | None = None, salt: int = 1
) -> Load:
    """Closed loop: each connection sends its next request when it has the answer to the last. Kinds: load.lua."""
    env = {"KIND": kind, "SALT": str(salt)}
    if header:
        env["HEADER"] = header
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "--latency"]
    child = Child(
        [*command, "-s", str(SCRIPT), f"http://127.0.0.1:{port}"],
        LOAD_CPU, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
    )  # fmt: skip
    try:
        told = child.process.communicate()[0].decode(errors="replace")
    finally:
        child.stop()
    _, found, result = told.rpartition("RESULT ")
    if not found:
        raise RuntimeError(f"wrk did not report: {told.strip()[-200:]}")
    return Load(**json.loads(result))


def measure(router: Running, kind: str, seconds: float, *, warmup: float, **options: Any) -> dict[str, Any]:
    """One run of wrk against a router, after a warm-up, with the CPU time of the router's whole process tree meanwhile.

    `busy` is the share of its CPU that the router used: near 1, it was the router that limited `rate`.
    """
    if warmup:
        wrk(router.port, kind, warmup, header=router.header, **{**options, "salt": 0})
    meter = Meter(router.child)
    load = wrk(router.port, kind, seconds, header=router.header, **options)
    used = meter.read()
    return {
        **asdict(load),
        **used,
        "rate": load.rate,
        "cpu_us": used["cpu"] / max(1, load.requests) * 1e6,
        "per_core": load.requests / used["cpu"] if used["cpu"] else 0.0,
        "busy": used["cpu"] / load.seconds,
    }


class Streams:
    """The streaming client at work: `streams` streams of `events` events, one every `interval` seconds."""

    def __init__(
        self, program: Path, port: int, streams: int, events: int, interval: float, skip: int, header: str | None = None
    ):
        self.child = Child(
            [str(program), str(port), str(streams), str(events), f"{interval * 1000:g}", str(skip)],
            LOAD_CPU, stdout=subprocess.PIPE, env={"HEADER": header} if header else None,
        )  # fmt: skip

    def wait_open(self) -> float:
        """Returns when every stream has begun or failed: how long that took, in seconds."""
        began = time.monotonic()
        assert self.child.process.stdout is not None
        self.child.process.stdout.readline()
        return time.monotonic() - began

    def result(self) -> dict[str, int]:
        """Waits for the end. Counts of streams opened, refused and broken, and the age of events in ns."""
        told = self.child.process.communicate()[0]
        return json.loads(told.splitlines()[-1])
