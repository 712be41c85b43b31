"""What is on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launcher.engines import installed
from launcher.errors import BadConfig, EngineMissing


@pytest.mark.parametrize("python", [None, sys.executable])
def test_a_module_is_looked_for_in_the_interpreter_that_is_meant(python: str | None):
    assert installed.has_module("json", python)
    assert not installed.has_module("no_such_module_here", python)


@pytest.mark.parametrize("python", [None, sys.executable])
def test_a_folder_that_has_the_engines_name_is_not_the_engine(python: str | None, tmp_path: Path, monkeypatch):
    (tmp_path / "an_engine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not installed.has_module("an_engine", python)


@pytest.mark.parametrize(("python", "why"), [("/no/such/python", "No such file"), ("/", "Permission denied")])
def test_an_interpreter_that_cannot_be_run_is_a_bad_setting(python: str, why: str):
    with pytest.raises(BadConfig, match=rf"--engine-python {python} cannot be run \({why}"):
        installed.has_module("json", python)


def test_a_missing_engine_says_where_and_how_to_install_it():
    with pytest.raises(EngineMissing) as caught:
        installed.require_module("no_such_module_here", "vllm", "pip install vllm", None)
    assert str(caught.value) == (
        f"engine vllm is not installed in {sys.executable}: pip install vllm, "
        "or point --engine-python at its environment"
    )


@pytest.mark.parametrize("path", ["/no/model", "./no", "../no", "no.gguf", "a/b.gguf"])
def test_what_can_only_be_a_path_must_be_there(path: str):
    with pytest.raises(EngineMissing, match=f"--model-path {path} does not exist"):
        installed.require_model(path)


def test_a_home_folder_that_the_shell_left_alone_is_named():
    with pytest.raises(EngineMissing, match="the shell has not replaced ~"):
        installed.require_model("~/model")


def test_a_model_id_may_be_anywhere(tmp_path: Path):
    installed.require_model("org/model")
    installed.require_model(str(tmp_path))
