"""A launch of two sim engines behind a key, for as long as the checks take."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEY = "ecosystem"
MODEL = "sim"
STOP = 30  # seconds that the launch may take to end


@dataclass(frozen=True)
class Deployment:
    """Where it listens, and a folder for what the checks write."""

    url: str
    folder: Path

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """On a free port, both engines ready. Raises CalledProcessError when none gets ready."""
    engines = ("--engine", "sim", "--model-path", MODEL, "--dp-size", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", *engines, "--port", "0", "--log-dir", str(folder / "logs")],
        env={**os.environ, "LAUNCH_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Deployment(address(process), folder)
    finally:
        process.terminate()
        process.communicate(timeout=STOP)


def address(process: subprocess.Popen[str]) -> str:
    """What it says of its dashboard is where it listens."""
    assert process.stdout is not None
    told = []
    url = ""
    for line in process.stdout:
        told.append(line)
        if found := re.search(r"Dashboard +(http://\S+?)/", line):
            url = found[1]
        if "2 of 2 workers ready" in line:
            return url
    raise SystemExit("the launch ended:\n" + "".join(told))
