from __future__ import annotations

import sys

import pytest

from launcher.config import LaunchConfig
from launcher.engines.sim import Sim
from launcher.errors import BadConfig
from launcher.plan import WorkerSpec


def test_it_is_always_installed():
    Sim().check(LaunchConfig(model_path="no/such-model"))


def test_an_interpreter_that_is_not_there_is_told_before_anything_starts():
    with pytest.raises(BadConfig, match="--engine-python /no/python cannot be run"):
        Sim().check(LaunchConfig(model_path="m", engine_python="/no/python"))


def test_the_command_names_the_address_the_model_and_what_the_user_adds():
    config = LaunchConfig(model_path="m", engine_args=("--time-scale", "0"))
    argv = Sim().command(WorkerSpec(0, 31_005), config).argv
    assert argv[:3] == (sys.executable, "-m", "launcher.engines.sim_server")
    assert argv[3:] == ("--host", "127.0.0.1", "--port", "31005", "--model", "m", "--time-scale", "0")


def test_another_interpreter_can_run_it():
    config = LaunchConfig(model_path="m", engine_python="/opt/python")
    assert Sim().command(WorkerSpec(0, 31_000), config).argv[0] == "/opt/python"
