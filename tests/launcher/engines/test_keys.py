"""How each engine is told the key that its clients must show: never in argv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.config import LaunchConfig
from launcher.engines import ENGINES, keyed
from launcher.plan import WorkerSpec

VARIABLES = {
    "sglang": "ENGINE_API_KEY",
    "vllm": "VLLM_API_KEY",
    "lmdeploy": "ENGINE_API_KEY",
    "llama.cpp": "LLAMA_API_KEY",
    "sim": "SIM_API_KEY",
    "command": "ENGINE_API_KEY",
}


def command(name: str, key: str | None):
    template = "serve --port {port}" if name == "command" else None
    config = LaunchConfig("m", engine=name, engine_command=template)
    return ENGINES[name].command(WorkerSpec(0, 31000, ("0",), key=key), config)


@pytest.mark.parametrize("name", ENGINES)
def test_the_key_is_in_the_environment_and_not_in_argv(name: str):
    with_key = command(name, "s3cret")
    assert with_key.env[VARIABLES[name]] == "s3cret"
    assert "s3cret" not in " ".join(with_key.argv)
    assert VARIABLES[name] not in command(name, None).env


def test_a_spec_does_not_show_its_key():
    assert "s3cret" not in repr(WorkerSpec(0, 31000, key="s3cret"))


def test_a_server_that_wants_its_key_as_an_option_gets_it_there(tmp_path: Path):
    (tmp_path / "server.py").write_text(
        "import os, pathlib, sys\n"
        "assert __name__ == '__main__'\n"
        "shown = pathlib.Path('/proc/self/cmdline').read_text()\n"
        "print(sys.argv[1:], 's3cret' in shown, 'ENGINE_API_KEY' in os.environ)"
    )
    argv = [sys.executable, keyed.__file__, "server", "--api-key", "--port", "1"]
    done = subprocess.run(
        argv, cwd=tmp_path, env={"ENGINE_API_KEY": "s3cret"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "['--port', '1', '--api-key', 's3cret'] False False"


@pytest.mark.parametrize(
    ("name", "module"), [("sglang", "sglang.launch_server --api-key"), ("lmdeploy", "lmdeploy --api-keys")]
)
def test_such_a_server_is_started_by_way_of_that(name: str, module: str):
    assert f"{keyed.__file__} {module} " in " ".join(command(name, "s3cret").argv)
