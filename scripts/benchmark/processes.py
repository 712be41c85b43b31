"""Processes that are measured or that measure: each pinned to one CPU, its whole tree accounted for and stopped."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

ROUTER_CPU = 0  # the router under test, alone
LOAD_CPU = 1  # load generator, stand-in workers, and the benchmark itself
PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL


class Child:
    """A process and its descendants, in a session of its own so that a Ctrl-C is ours to handle."""

    def __init__(
        self,
        command: Sequence[str],
        cpu: int,
        *,
        stdout: int | IO[bytes] | None = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ):
        self.process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )

    def tree(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """User and system time of the tree so far."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def stop(self) -> None:
        """Returns when the whole tree is gone."""
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        tree = self.tree()
        for kill in (psutil.Process.terminate, psutil.Process.kill):
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            _, tree = psutil.wait_procs(tree, PATIENCE)
            if not tree:
                return


class Meter:
    """CPU time of a child from the meter's making on, and who else was on the router's CPU meanwhile."""

    def __init__(self, child: Child):
        self._child = child
        self._began = time.monotonic()
        self._cpu = child.cpu_seconds()
        self._busy, self._stolen = _busy_and_stolen()

    def read(self) -> dict[str, float]:
        """`cpu` and `wall` in seconds; `others` and `stolen` as shares of the CPU: other processes, the hypervisor."""
        cpu = self._child.cpu_seconds() - self._cpu
        wall = time.monotonic() - self._began
        busy, stolen = _busy_and_stolen()
        others = max(0.0, busy - self._busy - cpu)
        return {"cpu": cpu, "wall": wall, "others": others / wall, "stolen": (stolen - self._stolen) / wall}


def _busy_and_stolen() -> tuple[float, float]:
    """Seconds since the machine's start on the router's CPU."""
    times = psutil.cpu_times(percpu=True)[ROUTER_CPU]
    return times.user + times.nice + times.system + times.irq + times.softirq, times.steal


def raise_file_limit() -> None:
    """Use all open files that the hard limit allows; what is started from here on inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_limit() -> int:
    """Open files of one process; unlimited is a large number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt within the block, so that all it started is stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
