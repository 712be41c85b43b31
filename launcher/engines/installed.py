"""What is on this machine: whether an interpreter holds a module, and whether a local model is there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import BadConfig, EngineMissing

# A folder of that name in the working directory looks like a package without origin; it is not the engine.
_PROBE = "import importlib.util as u, sys; s = u.find_spec(sys.argv[1]); sys.exit(not (s and s.origin))"
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_PROBE_TIMEOUT = 30.0  # seconds; a first start from a network file system takes several


def has_module(name: str, python: str | None = None) -> bool:
    """Whether `python` (None: this interpreter) can import `name`; nothing is imported.

    Raises BadConfig when `python` cannot be run.
    """
    if python is None:
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None
    return _run(python, "-c", _PROBE, name).returncode == 0


def _run(python: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([python, *args], capture_output=True, timeout=_PROBE_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not answer"
        raise BadConfig(f"--engine-python {python} cannot be run ({reason}): give a Python interpreter") from error


def versions(names: Sequence[str], python: str | None = None) -> dict[str, str | None]:
    """The versions of the distributions that `python` (None: this interpreter) has; None: it has not.

    Raises BadConfig when `python` cannot be run.
    """
    done = _run(python or sys.executable, "-c", _VERSIONS, *names)
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return {name: found.get(name) for name in names}


def require_module(name: str, engine: str, install: str, python: str | None) -> None:
    """Raises EngineMissing, with the command that installs it, when `python` lacks the module `name`."""
    if not has_module(name, python):
        raise EngineMissing(
            f"engine {engine} is not installed in {python or sys.executable}: {install}, "
            "or point --engine-python at its environment"
        )


def require_model(model_path: str) -> None:
    """Raises EngineMissing when `model_path` can only be a path, and nothing is there."""
    if model_path.startswith("~"):
        raise EngineMissing(f"--model-path {model_path}: the shell has not replaced ~, so give the full path")
    if looks_local(model_path) and not Path(model_path).exists():
        raise EngineMissing(f"--model-path {model_path} does not exist: give a folder or file, or a model id")


def looks_local(model_path: str) -> bool:
    """Whether this is a path, not a model id such as org/name."""
    return model_path.startswith(("/", "./", "../")) or model_path in (".", "..") or model_path.endswith(".gguf")
