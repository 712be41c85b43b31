"""Which engine is chosen, by interpreters that hold some engines and not others."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.config import ENGINE_NAMES, LaunchConfig
from launcher.engines import ENGINES, choose
from launcher.engines.llama_cpp import LlamaCpp, LlamaServer
from launcher.errors import EngineMissing
from launcher.plan import Gpu

GPUS = [Gpu(0, "GPU-0", "H100", 80 << 30)]


@pytest.fixture(autouse=True)
def no_llama_server(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def python_with(folder: Path, *modules: str) -> str:
    """A stand-in for an interpreter in which only these modules can be found."""
    python = folder / "python"
    cases = "|".join(modules) or "none"
    python.write_text(f'#!/bin/sh\ncase "$3" in {cases}) exit 0;; *) exit 1;; esac\n')
    python.chmod(0o755)
    return str(python)


def program(folder: Path, name: str) -> str:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def chosen(model: str, python: str, gpus: list[Gpu] = GPUS) -> str:
    return choose(LaunchConfig(model, engine_python=python), gpus).name


def test_every_engine_of_the_command_line_has_a_dialect():
    assert set(ENGINES) == set(ENGINE_NAMES) - {"auto"}
    assert all(name == engine.name for name, engine in ENGINES.items())


def test_a_named_engine_is_taken_installed_or_not(tmp_path: Path):
    config = LaunchConfig("org/m", engine="vllm", engine_python=python_with(tmp_path))
    assert choose(config, []) is ENGINES["vllm"]


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (("lmdeploy", "vllm", "sglang"), "sglang"),
        (("lmdeploy", "vllm", "xllamacpp"), "vllm"),
        (("lmdeploy",), "lmdeploy"),
    ],
)
def test_with_gpus_the_first_installed_one_is_taken(tmp_path: Path, there: tuple[str, ...], name: str):
    assert chosen("org/m", python_with(tmp_path, *there)) == name


@pytest.mark.parametrize("model", ["demo", "some/model.gguf"])
def test_a_model_for_llama_cpp_goes_there_even_with_gpus(tmp_path: Path, model: str):
    assert chosen(model, python_with(tmp_path, "sglang", "xllamacpp")) == "llama.cpp"


def test_a_folder_with_one_gguf_is_served_where_there_is_no_gpu(tmp_path: Path):
    python = python_with(tmp_path, "vllm", "xllamacpp")
    (tmp_path / "m.gguf").touch()
    assert chosen(str(tmp_path), python, []) == "llama.cpp"
    assert chosen(str(tmp_path), python, GPUS) == "vllm"


def test_with_gpus_and_no_engine_it_says_what_to_install(tmp_path: Path):
    with pytest.raises(EngineMissing, match="pip install sglang, vllm or lmdeploy"):
        chosen("org/m", python_with(tmp_path, "xllamacpp"))


def test_without_gpus_it_says_what_can_be_served(tmp_path: Path):
    with pytest.raises(EngineMissing, match=r"llama.cpp cannot serve org/m on the CPU: give a \.gguf file or 'demo'"):
        chosen("org/m", python_with(tmp_path, "vllm"), [])


def test_a_model_that_is_not_there_is_said_first(tmp_path: Path):
    with pytest.raises(EngineMissing, match="does not exist"):
        chosen(str(tmp_path / "gone"), python_with(tmp_path), [])


def test_a_llama_server_on_path_serves_gpus_and_stands_in_for_xllamacpp(tmp_path: Path):
    found = program(tmp_path, "llama-server")
    model = tmp_path / "m.gguf"
    model.touch()
    ours = LaunchConfig(str(model), engine_python=python_with(tmp_path, "xllamacpp"))
    assert choose(ours, GPUS) == LlamaServer(found, str(model))
    assert isinstance(choose(ours, []), LlamaCpp)
    assert not isinstance(choose(ours, []), LlamaServer)
    without = LaunchConfig(str(model), engine_python=python_with(tmp_path))
    assert choose(without, []) == LlamaServer(found, str(model))
