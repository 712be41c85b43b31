"""Which llm-launch is measured: this checkout as it would be installed, or the one that some Python has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.py", "setup.cfg", "README.md", "LICENSE", "router", "launcher")

TELL = """
import importlib.metadata, router.exchange
source = router.exchange.__file__.endswith(".py")
print(importlib.metadata.version("llm-launch") + (", not compiled" if source else ", compiled"))
"""

HASH = """
import hashlib, pathlib, router
folder = pathlib.Path(router.__file__).parent
files = sorted(folder.rglob("*.py"))
print(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12])
"""


@dataclass(frozen=True)
class Program:
    """A Python and what it needs in its environment to import the router that is meant. Not to be run in ROOT."""

    python: str
    env: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [self.python, *arguments]

    def version(self, folder: Path) -> str:
        """And whether its hot modules are compiled. Raises RuntimeError when it cannot be imported."""
        told = _run(self.command("-c", TELL), folder, self.env)
        return told.strip()

    def fingerprint(self, folder: Path) -> str:
        """A hash of the router's sources. Raises RuntimeError when it cannot be imported."""
        return _run(self.command("-c", HASH), folder, self.env).strip()


def checkout(folder: Path) -> Program:
    """This checkout, built and installed into `folder` with what this Python has installed. Raises RuntimeError."""
    source, target = folder / "source", folder / "installed"
    source.mkdir()
    for name in SOURCES:  # a copy: a build leaves files behind
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--target", str(target), str(source)], folder, {})
    return Program(sys.executable, {"PYTHONPATH": str(target)})


def _run(command: Sequence[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"llm-launch cannot be had: {said[-1] if said else ' '.join(command)}")
    return done.stdout
